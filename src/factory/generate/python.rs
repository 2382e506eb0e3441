//! A project in Python: one file that runs by itself, and what makes a package of it without a tool from elsewhere.

use serde_json::Value;

use super::{Files, table, words};
use crate::spec::ServerSpec;

/// The runtime, in the order in which its parts follow each other.
pub(crate) const RUNTIME: &str = concat!(
    include_str!("../python/server_runtime.py"),
    "\n\n",
    include_str!("../python/server_calls.py"),
    "\n\n",
    include_str!("../python/server_builtins.py"),
    "\n\n",
    include_str!("../python/server_protocol.py"),
);

pub(super) fn project(spec: &ServerSpec) -> Files {
    // A literal of JSON is one of Python, too, as long as it is plain text.
    let table = Value::from(table(spec).to_string()).to_string();
    let server = format!(
        "#!/usr/bin/env python3\n{RUNTIME}\n\nSERVER = json.loads({table})\n\n\ndef run():\n    main(SERVER)\n\n\nif __name__ == \"__main__\":\n    run()\n"
    );
    // What the description says is checked: one line without quotes that could end the text.
    let description = Value::from(spec.description.as_str()).to_string();
    let project = format!(
        "[build-system]\nrequires = []\nbuild-backend = \"build_wheel\"\nbackend-path = [\".\"]\n\n[project]\nname = \"{}\"\nversion = \"{}\"\n\
         description = {description}\nrequires-python = \">=3.10\"\nlicense = {{ text = \"MIT\" }}\n",
        spec.name, spec.version
    );
    let info = format!("Metadata-Version: 2.1\nName: {}\nVersion: {}\nRequires-Python: >=3.10\n", spec.name, spec.version);
    let all = [
        ("server.py", server),
        ("pyproject.toml", project),
        ("PKG-INFO", info),
        ("build_wheel.py", include_str!("../python/build_wheel.py").to_owned()),
        ("test/test_server.py", include_str!("../python/test_server.py").to_owned()),
        (".env.example", words::env_example(spec)),
        ("README.md", words::readme(spec, "    python3 server.py\n\nIt needs Python 3.10 or newer, and nothing else.", CHECK, LAYOUT)),
    ];
    all.into_iter().map(|(name, text)| (name.to_owned(), text.into_bytes())).collect()
}

const CHECK: &str =
    "    python3 test/test_server.py   # starts it and lists its tools\n    pip install .                 # as a program of its own";
const LAYOUT: &str = "`server.py` is all of it: the runtime first, and then what this server offers, as data.";
