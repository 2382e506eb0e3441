//! What people and programs are shown.

use std::{
    fmt::Display,
    io::{self, Write as _},
};

use serde_json::Value;

/// Prints a line. A reader that has gone (`| head`) is no reason to stop.
pub(super) fn say(line: impl Display) {
    writeln!(io::stdout(), "{line}").ok();
}

/// Prints to standard error what went wrong.
pub(super) fn complain(error: impl Display) {
    writeln!(io::stderr(), "mcp-fabric: {error}").ok();
}

/// Prints JSON.
pub(super) fn json(value: &Value) {
    say(serde_json::to_string_pretty(value).unwrap_or_default());
}

/// Prints rows under headings, in columns as wide as they need to be.
pub(super) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([headings[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: [&str; N]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    say(line(headings));
    for row in rows {
        say(line(std::array::from_fn(|column| row[column].as_str())));
    }
}

/// The text of a member, or nothing.
pub(super) fn text(value: &Value, key: &str) -> String {
    let text = match &value[key] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    // What a stranger wrote must not steer the terminal.
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `text`, cut to `limit` characters.
pub(super) fn clipped(text: &str, limit: usize) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.chars().count() <= limit { text } else { text.chars().take(limit - 1).chain(['…']).collect() }
}
