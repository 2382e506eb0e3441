use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

platform::id! {
    /// A credential.
    pub struct CredentialId;
}

platform::id! {
    /// A rotation of the master key.
    pub struct RotationId;
}

platform::words! {
    /// What a credential is.
    pub enum Kind {
        /// An environment variable.
        Env = "env",
        /// A key of an API.
        ApiKey = "api_key",
        /// An access token of OAuth.
        OauthAccess = "oauth_access",
        /// A refresh token of OAuth.
        OauthRefresh = "oauth_refresh",
    }
}

/// It cannot be used for this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(pub &'static str);

/// Whose credential it is: any text, and for accounts their id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRef(String);

const LONGEST_USER: usize = 255;

impl UserRef {
    /// 1 to 255 characters on one line.
    pub fn parse(text: &str) -> Result<Self, Unfit> {
        let is_short = !text.is_empty() && text.chars().count() <= LONGEST_USER;
        if is_short && !text.chars().any(is_confusing) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Unfit("must be 1 to 255 visible characters"))
        }
    }

    /// As rows keep it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Controls, and what turns the direction of text.
fn is_confusing(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

/// The name of an environment variable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EnvVar(String);

const LONGEST_NAME: usize = 128;
/// Names that change which program runs or what it loads.
const HIJACKING: &[&str] = &[
    "PATH",
    "NODE_OPTIONS",
    "NODE_PATH",
    "NODE_EXTRA_CA_CERTS",
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONSTARTUP",
    "PYTHONINSPECT",
    "BASH_ENV",
    "ENV",
    "IFS",
    "SHELLOPTS",
    "PS4",
    "PROMPT_COMMAND",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_EXEC_PATH",
    "GIT_PROXY_COMMAND",
    "PERL5LIB",
    "PERL5OPT",
    "RUBYLIB",
    "RUBYOPT",
    "JAVA_TOOL_OPTIONS",
    "_JAVA_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "CLASSPATH",
    "DATABASE_URL",
    "JWT_SECRET_KEY",
];
const HIJACKING_PREFIXES: &[&str] = &["LD_", "DYLD_", "FABRIC_", "CREDENTIAL_ENCRYPTION_KEY", "NPM_CONFIG_", "UV_", "PIP_"];

impl EnvVar {
    /// A letter or underscore, then up to 127 letters, digits and underscores; no name that would change which
    /// program runs.
    pub fn parse(text: &str) -> Result<Self, Unfit> {
        let mut bytes = text.bytes();
        let begins = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
        if !begins || text.len() > LONGEST_NAME || !bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(Unfit("must be a letter or underscore and then letters, digits and underscores, 128 at most"));
        }
        let upper = text.to_ascii_uppercase();
        if HIJACKING.contains(&upper.as_str()) || HIJACKING_PREFIXES.iter().any(|prefix| upper.starts_with(prefix)) {
            return Err(Unfit("is a name that changes which program runs or what it loads, and is not for credentials"));
        }
        Ok(Self(text.to_owned()))
    }

    /// As rows keep it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What there is of a credential to see: everything but its value.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Metadata {
    /// The name of the variable.
    pub env_var: String,
    /// What it is.
    pub kind: Kind,
    /// When it was first stored.
    pub created_at: DateTime<Utc>,
    /// When its value last changed.
    pub updated_at: DateTime<Utc>,
    /// When it was last given to a server, to the minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// When it stops to be given out.
    pub expires_at: Option<DateTime<Utc>>,
    /// Which master key it is sealed with.
    pub key_version: Option<i32>,
    /// Counts changes of the value; for `If-Match`.
    pub revision: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_hijack_processes_are_refused() {
        for name in [
            "LD_PRELOAD",
            "ld_preload",
            "PATH",
            "Path",
            "NODE_OPTIONS",
            "A=B",
            "a b",
            "1X",
            "",
            "X\n",
            "É",
            "FABRIC_TOKEN",
            "CREDENTIAL_ENCRYPTION_KEYS",
            &"x".repeat(129),
        ] {
            assert!(EnvVar::parse(name).is_err(), "{name}");
        }
        for name in ["NOTION_API_KEY", "_x", "github_token", "PATHS", &"x".repeat(128)] {
            assert!(EnvVar::parse(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn users_are_any_visible_text() {
        for user in ["ada", "a|b", "42", "ada@example.com", "\u{6f22}\u{5b57}", "a b", &"x".repeat(255)] {
            assert!(UserRef::parse(user).is_ok(), "{user}");
        }
        for user in ["", "a\0", "a\nb", "\u{202e}ada", "\u{feff}ada", &"x".repeat(256)] {
            assert!(UserRef::parse(user).is_err(), "{user:?}");
        }
    }
}
