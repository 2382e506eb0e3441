//! Files of environment variables, as `.env` files are written: `NAME=value`, a comment after `#`, an `export` in front,
//! quotes around what has spaces. Nothing is put in for `$NAME`: the file says what its values are.

/// A line cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadLine(pub(crate) usize);

/// The variables in the order of the file.
pub(crate) fn parse(text: &str) -> Result<Vec<(String, String)>, BadLine> {
    let mut found = Vec::new();
    let mut rest = text.trim_start_matches('\u{feff}');
    let mut line = 1;
    while !rest.is_empty() {
        let skipped = rest.len() - rest.trim_start().len();
        line += rest[..skipped].matches('\n').count();
        rest = &rest[skipped..];
        if rest.is_empty() {
            break;
        }
        if rest.starts_with('#') {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
            continue;
        }
        let (name, after) = name(rest).ok_or(BadLine(line))?;
        let (value, after) = value(after).ok_or(BadLine(line))?;
        line += rest[..rest.len() - after.len()].matches('\n').count();
        rest = after;
        found.push((name.to_owned(), value));
    }
    Ok(found)
}

fn name(text: &str) -> Option<(&str, &str)> {
    let text = text.strip_prefix("export ").map_or(text, str::trim_start);
    let (name, after) = text.split_once('=')?;
    let name = name.trim_end_matches([' ', '\t']);
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_name.then_some((name, after.trim_start_matches([' ', '\t'])))
}

/// The value, and what comes after its line.
fn value(text: &str) -> Option<(String, &str)> {
    let (value, after) = match text.chars().next() {
        Some('\'') => {
            let (value, after) = text[1..].split_once('\'')?;
            (value.to_owned(), after)
        }
        Some('"') => quoted(&text[1..])?,
        _ => {
            let end = text.find(['\n', '\r']).unwrap_or(text.len());
            let plain = &text[..end];
            let plain = plain.find(" #").map_or(plain, |comment| &plain[..comment]);
            return Some((plain.trim_end().to_owned(), &text[end..]));
        }
    };
    let (left, next) = after.split_at(after.find('\n').unwrap_or(after.len()));
    let left = left.trim();
    (left.is_empty() || left.starts_with('#')).then_some((value, next))
}

fn quoted(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((out, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => out.push('\n'),
                'r' => out.push('\r'),
                't' => out.push('\t'),
                other => out.push(other),
            },
            c => out.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn files_are_read_as_people_write_them() {
        let text = "\u{feff}# keys\nA=1\nexport B = two words # said so\r\n\nC=\"x\\n\\\"y\\\"\"\nD='$HOME # kept'\nE=\nF=a=b#c\nG=\"two\nlines\" # end\n  H=$A";
        let found = parse(text).unwrap();
        let expected = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "x\n\"y\""),
            ("D", "$HOME # kept"),
            ("E", ""),
            ("F", "a=b#c"),
            ("G", "two\nlines"),
            ("H", "$A"),
        ];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        for (text, line) in
            [("A", 1), ("A=1\nB", 2), ("\n\nA B=1", 3), ("A=\"x", 1), ("A='x", 1), ("A='x'y", 1), ("=x", 1), ("A=1\nB=\"1\n2\"\nC", 4)]
        {
            assert_eq!(parse(text), Err(BadLine(line)), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "(\\PC|[\n\r\"'#=\\\\]){0,60}") {
            parse(&text).ok();
        }

        #[test]
        fn what_is_quoted_comes_back(value in "[^\r]{0,40}") {
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
            prop_assert_eq!(parse(&format!("A=\"{escaped}\"")), Ok(vec![("A".to_owned(), value)]));
        }
    }
}
