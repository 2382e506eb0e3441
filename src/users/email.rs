use unicode_normalization::UnicodeNormalization as _;

/// An address of email, in the one form under which it is an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Email(String);

/// It is not one that we take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAnEmail;

const LONGEST: usize = 254;
const LONGEST_LOCAL: usize = 64;

impl Email {
    /// Trims, folds compatible characters (NFKC) and case, and takes what is a plain address of ASCII then: two
    /// spellings of one address are one account, and two addresses that look the same are not two.
    pub(crate) fn parse(text: &str) -> Result<Self, NotAnEmail> {
        if text.len() > 4 * LONGEST {
            return Err(NotAnEmail);
        }
        let folded = text.trim().nfkc().collect::<String>().to_lowercase();
        let (local, domain) = folded.split_once('@').ok_or(NotAnEmail)?;
        let is_local = !local.is_empty()
            && local.len() <= LONGEST_LOCAL
            && local.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+/=?^_`{|}~.-".contains(&b))
            && !local.starts_with('.')
            && !local.ends_with('.')
            && !local.contains("..");
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let is_domain = domain.contains('.') && domain.split('.').all(is_label);
        if is_local && is_domain && folded.len() <= LONGEST { Ok(Self(folded)) } else { Err(NotAnEmail) }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_address_are_one() {
        for text in ["ada@example.com", " Ada@Example.COM ", "\u{ff21}da@example.com", "ADA@EXAMPLE.COM\n"] {
            assert_eq!(Email::parse(text).unwrap().as_str(), "ada@example.com", "{text:?}");
        }
        assert_eq!(Email::parse("ada+tag@example.com").unwrap().as_str(), "ada+tag@example.com");
    }

    #[test]
    fn what_only_looks_like_an_address_is_refused() {
        let long = format!("{}@example.com", "a".repeat(65));
        for text in [
            "",
            "@",
            "ada",
            "ada@",
            "@example.com",
            "ada@example",
            "ada@-example.com",
            "ada@example..com",
            "a..b@example.com",
            ".a@example.com",
            "\"ada lovelace\"@example.com",
            "ada\u{131}@example.com",
            "AD\u{130}@example.com",
            "\u{430}da@example.com",
            "ada@ex\u{430}mple.com",
            "ada\u{0}@example.com",
            "ada @example.com",
            "ada@b@example.com",
            "ada\r\n@example.com",
            &long,
        ] {
            assert_eq!(Email::parse(text), Err(NotAnEmail), "{text:?}");
        }
    }
}
