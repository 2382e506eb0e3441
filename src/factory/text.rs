//! Text of documents: strangers wrote it, and models read it.

/// On one or more lines, without what is invisible or turns the direction of writing, of at most `longest` characters.
pub(crate) fn plain(text: &str, longest: usize) -> String {
    let mut clean = String::with_capacity(text.len().min(longest * 4));
    let mut blank = 0;
    for char in text.chars() {
        match char {
            '\n' => blank += 100,
            ' ' | '\t' | '\r' | '\u{a0}' => blank += 1,
            hidden if is_hidden(hidden) => {}
            shown => {
                if !clean.is_empty() && blank > 0 {
                    clean.push_str(match blank {
                        0..100 => " ",
                        100..200 => "\n",
                        _ => "\n\n",
                    });
                }
                blank = 0;
                clean.push(shown);
            }
        }
    }
    cut(&clean, longest)
}

/// The same on one line.
pub(crate) fn line(text: &str, longest: usize) -> String {
    cut(&plain(text, longest * 2).split_whitespace().collect::<Vec<_>>().join(" "), longest)
}

/// Cut at the end of a sentence or of a word, where there is one.
fn cut(text: &str, longest: usize) -> String {
    if text.chars().count() <= longest {
        return text.to_owned();
    }
    let kept: String = text.chars().take(longest.saturating_sub(1)).collect();
    let half = kept.len() / 2;
    if let Some(end) = kept.rfind(". ").filter(|end| *end > half) {
        return kept[..=end].to_owned();
    }
    let end = kept.rfind(char::is_whitespace).filter(|end| *end > half).unwrap_or(kept.len());
    format!("{}…", kept[..end].trim_end())
}

/// Control characters, marks of direction, what has no width, and the tags that hide text in text.
pub(crate) fn is_hidden(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden_goes_and_what_is_long_is_cut() {
        assert_eq!(plain("a\u{202e}b\u{0}  c\r\n\n\n\nd \u{e0041}", 100), "ab c\n\nd");
        assert_eq!(line("one\n two", 100), "one two");
        assert_eq!(plain("First part. Second part that is long", 25), "First part. Second part…");
        assert_eq!(plain("A sentence that is so long. Next", 30), "A sentence that is so long.");
        assert_eq!(plain("äöü".repeat(10).as_str(), 5).chars().count(), 5);
    }
}
