//! What people and programs are shown.

use std::fmt::Display;

use serde_json::Value;

/// Prints a line.
#[expect(clippy::print_stdout, reason = "this is where commands print")]
pub(super) fn say(line: impl Display) {
    println!("{line}");
}

/// Prints to standard error what went wrong.
#[expect(clippy::print_stderr, reason = "this is where commands print")]
pub(super) fn complain(error: impl Display) {
    eprintln!("mcp-fabric: {error}");
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
    match &value[key] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `text`, cut to `limit` characters.
pub(super) fn clipped(text: &str, limit: usize) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.chars().count() <= limit { text } else { text.chars().take(limit - 1).chain(['…']).collect() }
}
