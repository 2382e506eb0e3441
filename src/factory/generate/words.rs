//! What projects of every language say in words.

use std::fmt::Write as _;

use crate::{
    spec::{ServerSpec, Tool},
    text,
};

/// Text of a document inside of Markdown: it neither begins a link, nor code, nor HTML.
fn quiet(text: &str) -> String {
    let mut quiet = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '`' => quiet.push('\''),
            '[' | ']' | '<' | '>' | '*' | '_' | '|' | '\\' | '#' | '!' => quiet.extend(['\\', char]),
            '\n' => quiet.push(' '),
            other => quiet.push(other),
        }
    }
    quiet
}

/// README.md. `run` and `check` are commands.
pub(super) fn readme(spec: &ServerSpec, run: &str, check: &str, layout: &str) -> String {
    let title = quiet(spec.title.as_deref().unwrap_or(&spec.name));
    let mut readme = format!(
        "# {}\n\n{}\n\nAn MCP server for {title}, version {}, made by MCP Fabric.\n\n## Run it\n\n{run}\n",
        spec.name,
        quiet(&spec.description),
        spec.version
    );
    let variables = spec.variables();
    if !variables.is_empty() {
        readme.push_str("\n## Settings\n\n| Variable | | |\n|---|---|---|\n");
        for variable in &variables {
            let kind = match (variable.is_needed, variable.is_secret) {
                (true, _) => "needed",
                (false, true) => "secret",
                (false, false) => "",
            };
            let _ = writeln!(readme, "| `{}` | {} | {kind} |", variable.name, quiet(&variable.description));
        }
        readme.push_str("\nSecrets are read when they are needed: without them, the server starts and lists its tools.\n");
    }
    readme.push_str("\n## Tools\n\n");
    for tool in &spec.tools {
        readme.push_str(&line(tool));
    }
    if !spec.operations.is_empty() {
        let _ = write!(readme, "\n### Operations behind them ({})\n\n", spec.operations.len());
        for operation in spec.operations.iter().take(2000) {
            readme.push_str(&line(operation));
        }
    }
    let _ = write!(readme, "\n## Change it\n\n{layout}\n\n{check}\n");
    readme
}

fn line(tool: &Tool) -> String {
    let reads = if tool.annotations.read_only { "" } else { " (changes things)" };
    format!("- `{}` – {}{reads}\n", tool.name, quiet(&text::line(&tool.title, 100)))
}

/// .env.example.
pub(super) fn env_example(spec: &ServerSpec) -> String {
    let mut all = String::from("# Settings of this server. Copy what you need into the environment of what starts it.\n");
    for variable in spec.variables() {
        let needed = if variable.is_needed { " (needed)" } else { "" };
        let _ = write!(all, "\n# {}{needed}\n{}=\n", text::line(&variable.description, 200), variable.name);
    }
    all.push_str("\n# How long the API may take, in seconds (30)\nMCP_TIMEOUT_SECONDS=\n");
    all
}
