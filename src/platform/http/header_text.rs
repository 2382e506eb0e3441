//! Texts that headers of MCP repeat from a body (revision 2026-07-28): as they are where headers can carry them, else
//! `=?base64?…?=`.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};

const BEGIN: &str = "=?base64?";
const END: &str = "?=";

/// A text as a header carries it.
pub fn encode(text: &str) -> Cow<'_, str> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| (0x21..=0x7e).contains(&byte)) && !text.starts_with("=?");
    if is_plain { Cow::Borrowed(text) } else { Cow::Owned(format!("{BEGIN}{}{END}", STANDARD.encode(text))) }
}

/// The text that a header carries; `None` where it is encoded and cannot be read.
pub fn decode(said: &str) -> Option<Cow<'_, str>> {
    match said.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END)) {
        None => Some(Cow::Borrowed(said)),
        Some(encoded) => String::from_utf8(STANDARD.decode(encoded).ok()?).ok().map(Cow::Owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn every_text_comes_back(text in "\\PC*") {
            let encoded = encode(&text);
            proptest::prop_assert!(encoded.bytes().all(|byte| byte.is_ascii_graphic()));
            proptest::prop_assert_eq!(decode(&encoded), Some(Cow::Borrowed(text.as_str())));
        }
    }

    #[test]
    fn what_is_plain_stays_and_rubbish_is_none() {
        assert_eq!(encode("get_time"), "get_time");
        assert_eq!(encode("two words"), "=?base64?dHdvIHdvcmRz?=");
        assert_eq!(decode("=?base64?%%?="), None);
    }
}
