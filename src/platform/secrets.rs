//! What looks like a secret, by its name or by itself. It errs on the side of taking too much for one.

/// What stands in the place of a secret.
pub const SECRET: &str = "[secret]";

/// Whether what lies under this name is kept as a secret: `GITHUB_TOKEN`, `apiKey`, `db_pwd`.
pub fn is_named_secret(name: &str) -> bool {
    const WORDS: [&str; 18] = [
        "password",
        "passwd",
        "passphrase",
        "pwd",
        "secret",
        "token",
        "apikey",
        "accesskey",
        "accountkey",
        "privatekey",
        "signingkey",
        "encryptionkey",
        "credential",
        "authorization",
        "connectionstring",
        "dsn",
        "cookie",
        "cert",
    ];
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let upper = name.to_ascii_uppercase();
    plain == "pass"
        || plain == "pat"
        || WORDS.iter().any(|word| plain.contains(word))
        || ["_KEY", "_PAT", "_AUTH"].iter().any(|end| upper.ends_with(end))
}

/// Whether a text is of a form that only secrets have: keys in PEM, JSON Web Tokens, tokens of well-known services,
/// passwords in addresses.
pub fn is_secret_itself(text: &str) -> bool {
    const BEGINNINGS: [&str; 17] = [
        "sk-",
        "pk_live_",
        "sk_live_",
        "rk_live_",
        "ghp_",
        "gho_",
        "ghu_",
        "ghs_",
        "ghr_",
        "github_pat_",
        "glpat-",
        "xox",
        "AKIA",
        "AIza",
        "fpt_",
        "fst_",
        "fop_",
    ];
    let word = |word: &str| {
        let has_password = word.split_once("://").and_then(|(_, rest)| rest.split_once('@')).is_some_and(|(user, _)| user.contains(':'));
        let is_jwt = word.starts_with("eyJ") && word.matches('.').count() == 2;
        has_password || is_jwt || (word.len() >= 16 && BEGINNINGS.iter().any(|beginning| word.starts_with(beginning)))
    };
    let is_scheme = |word: &&str| word.eq_ignore_ascii_case("bearer") || word.eq_ignore_ascii_case("basic");
    text.contains("-----BEGIN ")
        || text.split_whitespace().any(word)
        || text.split_whitespace().next().is_some_and(|first| is_scheme(&first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_their_names() {
        for name in ["GITHUB_TOKEN", "api_key", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "GITHUB_PAT", "apiKey", "db-pwd", "pass", "SSH_KEY"]
        {
            assert!(is_named_secret(name), "{name}");
        }
        for name in ["KEYBOARD", "PATH", "compass", "patch", "HOST", "monkey", "author", ""] {
            assert!(!is_named_secret(name), "{name}");
        }
    }

    #[test]
    fn secrets_are_known_by_themselves() {
        for text in [
            "Bearer abc",
            "use sk-0123456789abcdef please",
            "eyJhbGciOiJub25lIn0.e30.x",
            "postgres://ada:lovelace@db/x",
            "-----BEGIN RSA PRIVATE KEY-----\n",
            "ghp_0123456789abcdef",
        ] {
            assert!(is_secret_itself(text), "{text}");
        }
        for text in ["", "the bearer of bad news", "sk-1", "https://example.com/a@b", "eyJ", "a.b.c", "https://ada@example.com/x:y"] {
            assert!(!is_secret_itself(text), "{text}");
        }
    }
}
