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

/// Tells people on standard error what goes on.
pub(super) fn note(as_json: bool, sentence: impl Display) {
    if !as_json {
        writeln!(io::stderr(), "{sentence}").ok();
    }
}

/// Prints what was done: a sentence for people, members for programs.
pub(super) fn done(as_json: bool, sentence: impl Display, members: &Value) {
    if as_json {
        json(members);
    } else {
        say(sentence);
    }
}

/// Below this a column is not cut any further.
const NARROWEST: usize = 8;

/// Takes from the widest column until the line fits.
fn fit<const N: usize>(mut widths: [usize; N], limit: usize) -> [usize; N] {
    while widths.iter().sum::<usize>() + 2 * (N - 1) > limit {
        match widths.iter_mut().max() {
            Some(widest) if *widest > NARROWEST => *widest -= 1,
            _ => break,
        }
    }
    widths
}

/// How many characters a line of the terminal has; programs get whole lines.
fn line_width() -> usize {
    rustix::termios::tcgetwinsize(io::stdout()).map_or(usize::MAX, |size| size.ws_col.into())
}

/// Prints rows under headings, in columns as wide as they need to be and as the terminal lets them.
pub(super) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([headings[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: [usize; N] = fit(std::array::from_fn(width), line_width());
    let line = |cells: [&str; N]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{:width$}", clipped(cell, width)));
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

#[cfg(test)]
mod tests {
    use super::fit;

    #[test]
    fn the_widest_column_gives_way() {
        assert_eq!(fit([10, 60, 20], 80), [10, 46, 20]);
        assert_eq!(fit([10, 20], usize::MAX), [10, 20]);
        assert_eq!(fit([9, 9], 3), [8, 8]);
    }
}
