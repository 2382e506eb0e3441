//! Documents as they come: JSON or YAML, bounded before they are looked at.

use serde_json::Value;

use crate::error::FactoryError;

/// What one document may measure, in bytes.
pub(crate) const LARGEST: usize = 64 << 20;
/// How many values are in it at most, once aliases stand for what they mean.
const MOST_VALUES: usize = 4_000_000;

/// Reads JSON, or else YAML.
pub(crate) fn read(text: &str) -> Result<Value, FactoryError> {
    if text.len() > LARGEST {
        return Err(FactoryError::TooLarge(format!("{} bytes, of at most {LARGEST}", text.len())));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if most_values(text) > MOST_VALUES {
        return Err(FactoryError::TooLarge(format!("it may have more than {MOST_VALUES} values in it")));
    }
    let starts_as_json = text.trim_start().starts_with(['{', '[']);
    if starts_as_json {
        // A YAML document may begin like this, too.
        return match serde_json::from_str(text) {
            Ok(value) => Ok(value),
            Err(error) if error.to_string().contains("recursion limit") => {
                Err(FactoryError::TooLarge("its values are nested more than 128 deep".into()))
            }
            Err(error) => yaml(text).map_err(|_| FactoryError::Unreadable(format!("it is not JSON: {error}"))),
        };
    }
    yaml(text)
}

/// A bound of how many values there are, by what parts them in either form.
fn most_values(text: &str) -> usize {
    let parts = text.bytes().filter(|b| matches!(b, b',' | b'[' | b'{')).count();
    let lines = if text.trim_start().starts_with(['{', '[']) { 0 } else { text.bytes().filter(|b| *b == b'\n').count() };
    parts + lines
}

fn yaml(text: &str) -> Result<Value, FactoryError> {
    // Aliases of aliases would grow without end: what they come to is counted, not what is written.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: MOST_VALUES,
            max_events: MOST_VALUES,
            max_depth: 128,
            max_total_scalar_bytes: LARGEST,
        },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let said: String = error.to_string().lines().next().unwrap_or_default().chars().take(300).collect();
        FactoryError::Unreadable(format!("it is neither JSON nor YAML: {said}"))
    })
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use serde_json::json;

    use super::*;

    #[test]
    fn both_forms_are_read_alike() {
        let wanted = json!({ "responses": { "200": { "x": [1, 2.5, "no", null, true] } } });
        assert_eq!(read(&wanted.to_string()).unwrap(), wanted);
        assert_eq!(read("responses:\n  200:\n    x: [1, 2.5, \"no\", null, true]\n").unwrap(), wanted);
        assert_eq!(read("\u{feff}{\"a\": 1}").unwrap(), json!({ "a": 1 }));
    }

    #[test]
    fn bombs_and_rubbish_are_refused() {
        let deep = "[".repeat(100_000);
        assert!(matches!(read(&deep), Err(FactoryError::TooLarge(_))));
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for n in 1..12 {
            let before = format!("*a{}", n - 1);
            let _ = writeln!(bomb, "a{n}: &a{n} [{}]", [before.as_str(); 10].join(","));
        }
        assert!(read(&bomb).is_err());
        for bad in ["{\"a\":", "\u{0}\u{1}", "- a\nb: c", "{{{{"] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
