//! A project in TypeScript. `src/runtime*` is the same in all of them; `dist/server.mjs` is all of it in one file, so that
//! it runs without an install.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Files, literal, table, words};
use crate::spec::ServerSpec;

/// The runtime, as it was written.
const RUNTIME: [(&str, &str); 15] = [
    ("src/node.d.ts", include_str!("../node/node.d.ts")),
    ("src/runtime.ts", include_str!("../node/runtime.ts")),
    ("src/runtime/auth.ts", include_str!("../node/runtime/auth.ts")),
    ("src/runtime/builtin.ts", include_str!("../node/runtime/builtin.ts")),
    ("src/runtime/builtin/calculator.ts", include_str!("../node/runtime/builtin/calculator.ts")),
    ("src/runtime/builtin/fetching.ts", include_str!("../node/runtime/builtin/fetching.ts")),
    ("src/runtime/builtin/files.ts", include_str!("../node/runtime/builtin/files.ts")),
    ("src/runtime/builtin/place.ts", include_str!("../node/runtime/builtin/place.ts")),
    ("src/runtime/builtin/records.ts", include_str!("../node/runtime/builtin/records.ts")),
    ("src/runtime/call.ts", include_str!("../node/runtime/call.ts")),
    ("src/runtime/meta.ts", include_str!("../node/runtime/meta.ts")),
    ("src/runtime/protocol.ts", include_str!("../node/runtime/protocol.ts")),
    ("src/runtime/request.ts", include_str!("../node/runtime/request.ts")),
    ("src/runtime/schema.ts", include_str!("../node/runtime/schema.ts")),
    ("src/runtime/types.ts", include_str!("../node/runtime/types.ts")),
];

/// The same as one module of JavaScript (`src/factory/node/bundle` writes it, and a test compares the two).
pub(crate) const BUNDLE: &str = include_str!("../node/runtime.bundle.mjs");

const INDEX: &str = "import { serve } from \"./runtime.js\";\nimport { server } from \"./tools.js\";\n\nserve(server);\n";

/// Says that a server answers: starts it as a client would, and lists its tools.
const SMOKE: &str = include_str!("../node/smoke.mjs");

pub(super) fn project(spec: &ServerSpec) -> Files {
    let table = table(spec);
    let mut files: Files = RUNTIME.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect();
    let bundle = format!(
        "#!/usr/bin/env node\n// The whole server in one file, written from src/.\n{BUNDLE}\nserve(JSON.parse({}));\n",
        quoted(&literal(&table, false))
    );
    let package = json!({
        "name": spec.name,
        "version": spec.version,
        "description": spec.description,
        "type": "module",
        "bin": { spec.name.clone(): "dist/server.mjs" },
        "files": ["dist", "src", "test", "tsconfig.json", "manifest.json", "server.json", ".env.example"],
        "scripts": {
            "check": "tsc --noEmit",
            "build": "esbuild src/index.ts --bundle --platform=node --format=esm --target=node20 --banner:js='#!/usr/bin/env node' --outfile=dist/server.mjs",
            "test": "node --test test/",
        },
        "engines": { "node": ">=20.3" },
        "license": "MIT",
        "devDependencies": { "esbuild": "0.28.2", "typescript": "7.0.2" },
    });
    let mut add = |name: &str, text: String| files.insert(name.to_owned(), text.into_bytes());
    add("package.json", format!("{package:#}\n"));
    add("tsconfig.json", include_str!("../node/tsconfig.json").to_owned());
    add("src/index.ts", INDEX.to_owned());
    add("src/tools.ts", tools(&table));
    add("dist/server.mjs", bundle);
    add("test/smoke.test.mjs", SMOKE.to_owned());
    add(".env.example", words::env_example(spec));
    add("README.md", words::readme(spec, "    node dist/server.mjs\n\nIt needs Node.js 20.3 or newer, and nothing else.", CHECK, LAYOUT));
    files
}

/// `src/tools.ts`: each tool by itself, since the compiler would look for the type of all of them together.
fn tools(table: &Value) -> String {
    let mut text = String::from(
        "// What this server offers, as data. Change it here, then build again.\n\n\
         import type { Server, Tool } from \"./runtime.js\";\n",
    );
    let mut server = table.clone();
    let mut lists = String::new();
    for list in ["tools", "operations"] {
        let Some(all) = server.as_object_mut().and_then(|members| members.remove(list)) else { continue };
        let mut names = Vec::new();
        for (at, tool) in all.as_array().into_iter().flatten().enumerate() {
            // Names of tools are checked; what else they may have, those of variables have not.
            let name = format!("{}_{at}_{}", list.trim_end_matches('s'), tool["name"].as_str().unwrap_or_default().replace('-', "_"));
            let _ = write!(text, "\nconst {name}: Tool = {};\n", literal(tool, true));
            names.push(name);
        }
        let names: Vec<String> = names.into_iter().map(|name| format!("    {name},\n")).collect();
        let _ = write!(lists, "  {list}: [\n{}  ],\n", names.concat());
    }
    let rest = literal(&server, true);
    let rest = rest.trim_start_matches('{').trim_end_matches('}').trim_end();
    let _ = write!(text, "\nexport const server: Server = {{{rest},\n{lists}}};\n");
    text
}

const CHECK: &str = "    npm install        # the compiler and the bundler\n    npm run check      # types\n    npm run build      # dist/server.mjs\n    npm test           # starts it and lists its tools";
const LAYOUT: &str = "`src/tools.ts` says what there is, `src/runtime.ts` and `src/runtime/` do it, `src/index.ts` puts both together.";

/// A text as a literal of JavaScript: parsing JSON is faster than parsing code, and cannot be code.
fn quoted(text: &str) -> String {
    literal(&serde_json::Value::String(text.to_owned()), false)
}
