//! Passwords: which are taken, and what is kept of them.

use std::{sync::Arc, time::Duration};

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher as _, PasswordVerifier as _, phc::PasswordHash},
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{sync::Semaphore, time::timeout};

use crate::error::UsersError;

/// Characters at least.
const SHORTEST: usize = 8;
/// Bytes at most: enough for any sentence, and hashing more of it is a way to keep us busy.
pub(crate) const LONGEST: usize = 1024;
/// What guessing looks at; the rest can only make it harder.
const LOOKED_AT: usize = 100;
/// `OWASP`'s second recommendation: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
/// How long a login may wait for its turn.
const WAIT_LIMIT: Duration = Duration::from_secs(10);
/// How many may wait; the others are told to come back.
const WAITING: usize = 64;
/// bcrypt hashes the first 72 bytes and ignores the rest.
const BCRYPT_LONGEST: usize = 72;
/// The highest cost of a foreign bcrypt hash that we work off: a second or two.
const BCRYPT_MOST: u32 = 15;

/// Hashes passwords, so many at once as there are processors.
#[derive(Clone)]
pub(crate) struct Passwords {
    places: Arc<Semaphore>,
    queue: Arc<Semaphore>,
    /// Verified when there is no account, so that both take the same time.
    nobody: Arc<str>,
}

/// What a comparison found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is another one.
    Wrong,
    /// It is the one.
    Right,
    /// It is the one, and its hash is of an older kind.
    Outdated,
}

impl Passwords {
    pub(crate) fn new() -> Result<Self, UsersError> {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let nobody = hash_now(&crate::token::opaque())?;
        Ok(Self {
            places: Arc::new(Semaphore::new(processors)),
            queue: Arc::new(Semaphore::new(processors + WAITING)),
            nobody: nobody.into(),
        })
    }

    /// What is kept of a password (a PHC string).
    pub(crate) async fn hash(&self, password: SecretString) -> Result<String, UsersError> {
        self.at_work(move || hash_now(&password)).await?
    }

    /// Compares with what is kept; without it, does the same work in vain.
    pub(crate) async fn verify(&self, password: SecretString, stored: Option<String>) -> Result<Verdict, UsersError> {
        let nobody = Arc::clone(&self.nobody);
        self.at_work(move || {
            let verdict = verify_now(&password, stored.as_deref().unwrap_or(&nobody));
            if stored.is_some() { verdict } else { Verdict::Wrong }
        })
        .await
    }

    async fn at_work<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, UsersError> {
        let _queued = self.queue.try_acquire().map_err(|_| UsersError::Busy)?;
        let place = timeout(WAIT_LIMIT, Arc::clone(&self.places).acquire_owned()).await;
        let place = place.map_err(|_| UsersError::Busy)?.map_err(|_| UsersError::Busy)?;
        let working = tokio::task::spawn_blocking(move || {
            let _place = place;
            work()
        });
        working.await.map_err(|_| UsersError::Busy)
    }
}

fn argon() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None).unwrap_or_default();
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

fn hash_now(password: &SecretString) -> Result<String, UsersError> {
    let hash = argon().hash_password(password.expose_secret().as_bytes());
    Ok(hash.map_err(|_| UsersError::Hashing)?.to_string())
}

fn verify_now(password: &SecretString, stored: &str) -> Verdict {
    let bytes = password.expose_secret().as_bytes();
    if let Some(cost) = bcrypt_cost(stored) {
        let is_it =
            cost <= BCRYPT_MOST && bytes.len() <= BCRYPT_LONGEST && !bytes.contains(&0) && bcrypt::verify(bytes, stored).unwrap_or(false);
        return if is_it { Verdict::Outdated } else { Verdict::Wrong };
    }
    let Ok(hash) = PasswordHash::new(stored) else { return Verdict::Wrong };
    let ours = format!("$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p=1$");
    match argon().verify_password(bytes, &hash) {
        Ok(()) if stored.starts_with(&ours) => Verdict::Right,
        Ok(()) => Verdict::Outdated,
        Err(_) => Verdict::Wrong,
    }
}

/// The cost of a hash in bcrypt's form: `$2b$12$` and 53 characters.
fn bcrypt_cost(stored: &str) -> Option<u32> {
    let rest = ["$2a$", "$2b$", "$2x$", "$2y$"].iter().find_map(|prefix| stored.strip_prefix(prefix))?;
    (stored.len() == 60).then(|| rest.split_once('$')?.0.parse().ok())?
}

/// Why a password is not taken, if it is not. `context` is what everybody would try first.
pub(crate) fn refusal(password: &SecretString, context: &[&str]) -> Option<&'static str> {
    let text = password.expose_secret();
    if text.chars().count() < SHORTEST {
        return Some("has fewer than 8 characters; 15 or more are better");
    }
    if text.len() > LONGEST {
        return Some("is longer than 1024 bytes");
    }
    let looked_at: String = text.chars().take(LOOKED_AT).collect();
    let mut words: Vec<&str> = vec!["mcp", "fabric", "mcp-fabric", "mcpfabric"];
    words.extend(context);
    let guess = zxcvbn::zxcvbn(&looked_at, &words);
    (guess.score() < zxcvbn::Score::Two).then_some("is among the first that others would try; use something longer or less common")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretString {
        text.into()
    }

    #[test]
    fn common_short_and_endless_passwords_are_refused() {
        for text in [
            "",
            "short",
            "password",
            "password1",
            "12345678",
            "qwertyuiop",
            "mcp-fabric",
            "adalovelace",
            "ada@example.com",
            "aaaaaaaaaaaa",
            &"x".repeat(1025),
        ] {
            assert!(refusal(&secret(text), &["ada@example.com", "ada", "adalovelace"]).is_some(), "{text}");
        }
        for text in [
            "tundra anvil 93",
            "correct horse battery",
            "\u{6f22}\u{5b57}\u{3060}\u{3051}\u{306e}\u{5408}\u{8a00}\u{8449}",
            "k\u{0} nul is fine too",
        ] {
            assert_eq!(refusal(&secret(text), &[]), None, "{text}");
        }
    }

    #[test]
    fn hashes_of_older_kinds_are_right_and_outdated() {
        let bcrypt = bcrypt::hash("tundra anvil 93", 4).unwrap();
        assert_eq!(verify_now(&secret("tundra anvil 93"), &bcrypt), Verdict::Outdated);
        assert_eq!(verify_now(&secret("tundra anvil 94"), &bcrypt), Verdict::Wrong);
        assert_eq!(verify_now(&secret(&"x".repeat(73)), &bcrypt), Verdict::Wrong);
        let ours = hash_now(&secret("tundra anvil 93")).unwrap();
        assert_eq!(verify_now(&secret("tundra anvil 93"), &ours), Verdict::Right);
        assert_eq!(verify_now(&secret("tundra anvil 9"), &ours), Verdict::Wrong);
        for broken in ["", "$2b$", "$2b$99$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "$argon2id$", "plain", &bcrypt[..59]] {
            assert_eq!(verify_now(&secret("plain"), broken), Verdict::Wrong, "{broken}");
        }
    }
}
