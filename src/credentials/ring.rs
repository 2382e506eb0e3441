//! The master keys: which there are, which one seals, and whether they are those that the database knows.
//!
//! A key is known by an id that is computed from it (`kid`) and a check value, so that nobody can mislabel one. The
//! database pins the version of each; a start with other keys than it needs ends before a port opens.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicI64, Ordering},
    },
};

use platform::{
    Config, Database,
    config::{KeySource, parse_ring_file},
    database::DbError,
    files::{self, FileError},
    keys::{KeyInput, SecretKey},
};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    error::CredentialsError,
    store::keys::{self, KeyState, Version},
};

/// 0.9 · 2³²: as often as one key may wrap with random nonces (NIST SP 800-38D, section 8.3).
const MOST_WRAPS: i64 = 3_865_470_566;
const MANY_WRAPS: i64 = 1 << 31;
/// Where a fabric with a database of its own keeps the key that it made.
const OWN_FILE: &str = "master.key";

/// The keys do not fit the database.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// No key was given.
    #[error(
        "CREDENTIAL_ENCRYPTION_KEY is not set, and DATABASE_URL is: `mcp-fabric credentials new-key` prints a key; set it (better in a file, CREDENTIAL_ENCRYPTION_KEY_FILE) and keep a copy elsewhere"
    )]
    Missing,
    /// No key for logins was given.
    #[error(
        "JWT_SECRET_KEY is not set, and DATABASE_URL is: `mcp-fabric credentials new-key` prints a key; set it, or its file as JWT_SECRET_KEY_FILE"
    )]
    MissingJwt,
    /// The file with our own key for logins is gone.
    #[error(
        "{path} is gone; put it back from your backup, or write another key into it (`mcp-fabric credentials new-key`, mode 0600), which ends all logins",
        path = .0.display()
    )]
    LostJwt(PathBuf),
    /// The file with our own key is gone.
    #[error(
        "{path} is gone, and the database has values that are sealed with the key {kid} in it: put it back from your backup (`mcp-fabric credentials new-key` would make another key, which opens none of them)",
        path = .path.display()
    )]
    Lost {
        /// Where it was.
        path: PathBuf,
        /// The key that was in it.
        kid: String,
    },
    /// A key that the database needs is not among those given.
    #[error(
        "CREDENTIAL_ENCRYPTION_KEY is not the key of this database: expected the key {expected} (version {version}), got {got}; `mcp-fabric credentials new-key` makes a new one, to be given beside the old one (CREDENTIAL_ENCRYPTION_KEY_PREVIOUS)"
    )]
    Unknown {
        /// The key that is needed.
        expected: String,
        /// Its version.
        version: i32,
        /// What was given.
        got: String,
    },
    /// A key has another version than the one it is given under.
    #[error(
        "CREDENTIAL_ENCRYPTION_KEYS gives the key {kid} as version {given}, and it is version {pinned}; `mcp-fabric credentials new-key` makes new ones"
    )]
    Renamed {
        /// Which key.
        kid: String,
        /// As what it was given.
        given: i32,
        /// What it is.
        pinned: i32,
    },
    /// An older key is given as the active one.
    #[error(
        "the key {kid} (version {version}) is given first, and newer values are sealed with version {active}; give that one first (`mcp-fabric credentials new-key` makes new ones)"
    )]
    Order {
        /// Which key.
        kid: String,
        /// Its version.
        version: i32,
        /// The active version.
        active: i32,
    },
    /// One key under two names.
    #[error("the key {0} is given twice; `mcp-fabric credentials new-key` makes another one")]
    Twice(String),
    /// The check value of a key is not the one that the database has.
    #[error("the check value of the key {0} in the database is not that of the key; the row was changed")]
    Check(String),
    /// Keys of two purposes are one.
    #[error("JWT_SECRET_KEY is also a credential key; each needs its own (`mcp-fabric credentials new-key`)")]
    Shared,
    /// The key file cannot be used.
    #[error("CREDENTIAL_ENCRYPTION_KEY_FILE: {0}")]
    BadFile(String),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The database failed: that says nothing about the keys.
    #[error("could not compare the keys with the database: {0}")]
    Database(#[from] DbError),
}

impl From<sqlx::Error> for RingError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl RingError {
    /// Whether it is a matter of configuration (exit code 78).
    pub fn is_configuration(&self) -> bool {
        !matches!(self, Self::Database(_))
    }
}

struct Key {
    /// What it wraps data keys with.
    kek: SecretKey,
    /// The key itself: rows in the requirements' plain form are sealed with it.
    master: SecretKey,
}

#[derive(Default)]
struct Keys {
    by_version: BTreeMap<i32, Arc<Key>>,
    active: i32,
    /// A key that was given beside the active one and has sealed nothing yet.
    staged: Option<(Option<i32>, SecretKey)>,
}

/// The master keys of this process; cheap to clone.
#[derive(Clone)]
pub struct Ring {
    inner: Arc<Inner>,
}

struct Inner {
    fabric: Uuid,
    source: KeySource,
    /// Whether the file is our own, which we may write.
    is_own: bool,
    /// Held while the file is read and written.
    file: Mutex<()>,
    /// Whether this start made the master key.
    is_new: bool,
    keys: RwLock<Keys>,
    wraps: AtomicI64,
}

/// The keys of a database that has gone on to a new one.
pub(crate) struct Promoted(Keys);

impl Promoted {
    /// The version that seals.
    pub(crate) fn version(&self) -> i32 {
        self.0.active
    }
}

impl Ring {
    /// Reads the keys and compares them with the database; registers the first one.
    pub async fn open(config: &Config, database: &Database) -> Result<Self, RingError> {
        let mut transaction = database.begin_reveal("keys").await?;
        keys::lock(&mut transaction).await?;
        let fabric = keys::fabric_id(&mut transaction).await?;
        let known = keys::versions(&mut transaction).await?;
        let (source, is_own) = find_source(config, &known)?;
        let (file, keys, wraps) = (Mutex::default(), RwLock::default(), AtomicI64::new(0));
        let ring = Self { inner: Arc::new(Inner { fabric, source, is_own, file, is_new: known.is_empty(), keys, wraps }) };
        let loaded = ring.load(&mut transaction, known, true).await?;
        ring.replace(loaded);
        transaction.commit().await?;
        Ok(ring)
    }

    fn inputs(&self) -> Result<Vec<(Option<i32>, KeyInput)>, RingError> {
        match &self.inner.source {
            KeySource::Settings(keys) => Ok(keys.clone()),
            KeySource::File(path) => parse_ring_file(path).map_err(RingError::BadFile),
            KeySource::None => Err(RingError::Missing),
        }
    }

    /// What the given keys are to the database. With `may_activate`, a new key that is given first seals from now on.
    async fn load(&self, connection: &mut PgConnection, mut known: Vec<Version>, may_activate: bool) -> Result<Keys, RingError> {
        let given = self.given()?;
        let mut loaded = Keys::default();
        let mut fresh = Vec::new();
        for (place, (label, master)) in given.iter().enumerate() {
            let kid = master.id();
            match known.iter().find(|version| version.kid == kid) {
                Some(version) => {
                    self.check(version, *label, master)?;
                    loaded.by_version.insert(version.number, Arc::new(self.key(master.clone())));
                }
                None => fresh.push((place, *label, master.clone())),
            }
        }
        let missing = known.iter().find(|version| version.state != KeyState::Retired && !loaded.by_version.contains_key(&version.number));
        if let Some(missing) = missing {
            let got = given.iter().map(|(_, key)| key.id()).collect::<Vec<_>>().join(", ");
            return Err(RingError::Unknown { expected: missing.kid.clone(), version: missing.number, got });
        }
        let active = known.iter().find(|version| version.state == KeyState::Active).map(|version| version.number);
        for (place, label, master) in fresh {
            if place == 0 && (may_activate || active.is_none()) {
                let version = next_version(&known, label)?;
                keys::activate(connection, version, &master.id(), &self.check_value(&master)).await?;
                known.push(Version { number: version, kid: master.id(), kcv: Vec::new(), state: KeyState::Active, wraps: 0 });
                loaded.by_version.insert(version, Arc::new(self.key(master)));
                loaded.active = version;
            } else {
                loaded.staged = Some((label, master));
            }
        }
        if loaded.active == 0 {
            loaded.active = active.unwrap_or_default();
            let first = known.iter().find(|version| given.first().is_some_and(|(_, key)| key.id() == version.kid));
            if let Some(first) = first.filter(|first| first.number != loaded.active) {
                return Err(RingError::Order { kid: first.kid.clone(), version: first.number, active: loaded.active });
            }
        }
        warn_of_wraps(&known, loaded.active);
        Ok(loaded)
    }

    /// The keys as given, each once.
    fn given(&self) -> Result<Vec<(Option<i32>, SecretKey)>, RingError> {
        let salt = self.inner.fabric.as_bytes();
        let given: Vec<(Option<i32>, SecretKey)> = self.inputs()?.into_iter().map(|(label, input)| (label, input.resolve(salt))).collect();
        for (place, (_, key)) in given.iter().enumerate() {
            if given[..place].iter().any(|(_, other)| other == key) {
                return Err(RingError::Twice(key.id()));
            }
        }
        Ok(given)
    }

    fn check(&self, version: &Version, label: Option<i32>, master: &SecretKey) -> Result<(), RingError> {
        if let Some(given) = label.filter(|given| *given != version.number) {
            return Err(RingError::Renamed { kid: version.kid.clone(), given, pinned: version.number });
        }
        let is_it = master.derive(self.inner.fabric.as_bytes(), "mcpv/kcv/v1").verify(&[b"kcv"], &version.kcv);
        if is_it { Ok(()) } else { Err(RingError::Check(version.kid.clone())) }
    }

    fn check_value(&self, master: &SecretKey) -> [u8; 32] {
        master.derive(self.inner.fabric.as_bytes(), "mcpv/kcv/v1").mac(&[b"kcv"])
    }

    fn key(&self, master: SecretKey) -> Key {
        Key { kek: master.derive(self.inner.fabric.as_bytes(), "mcpv/kek/v1"), master }
    }

    fn replace(&self, keys: Keys) {
        if let Ok(mut held) = self.inner.keys.write() {
            *held = keys;
        }
    }

    /// Who this fabric is: the salt of what is derived for it.
    pub fn fabric(&self) -> Uuid {
        self.inner.fabric
    }

    /// Whether one of the master keys is this one.
    pub fn holds(&self, key: &SecretKey) -> bool {
        self.inner.keys.read().is_ok_and(|keys| {
            keys.by_version.values().any(|held| held.master == *key) || keys.staged.as_ref().is_some_and(|(_, staged)| staged == key)
        })
    }

    /// The key that seals now, with its version.
    pub(crate) fn active(&self) -> Result<(i32, SecretKey), CredentialsError> {
        if self.inner.wraps.load(Ordering::Relaxed) >= MOST_WRAPS {
            return Err(CredentialsError::KeyExhausted);
        }
        self.inner.wraps.fetch_add(1, Ordering::Relaxed);
        let active = self.inner.keys.read().map_or(0, |keys| keys.active);
        Ok((active, self.kek(active)?))
    }

    /// The key of a version.
    pub(crate) fn kek(&self, version: i32) -> Result<SecretKey, CredentialsError> {
        let held = self.inner.keys.read().ok().and_then(|keys| keys.by_version.get(&version).cloned());
        held.map(|key| key.kek.clone()).ok_or(CredentialsError::KeyUnavailable(version))
    }

    /// Every master key, the active one first: rows in the plain form do not say under which they are.
    pub(crate) fn masters(&self) -> Vec<SecretKey> {
        let Ok(keys) = self.inner.keys.read() else { return Vec::new() };
        let mut masters: Vec<(bool, SecretKey)> =
            keys.by_version.iter().map(|(version, key)| (*version != keys.active, key.master.clone())).collect();
        masters.sort_by_key(|(is_older, _)| *is_older);
        masters.into_iter().map(|(_, master)| master).collect()
    }

    /// Reads the keys again: another replica has gone on to one that this one does not have yet.
    pub(crate) async fn reload(&self, database: &Database) -> Result<(), RingError> {
        let mut transaction = database.begin_reveal("keys").await?;
        let known = keys::versions(&mut transaction).await?;
        let loaded = self.load(&mut transaction, known, false).await?;
        self.replace(loaded);
        Ok(())
    }

    /// Goes on to a new key: one that was given, or one that is made where the key file is our own. It seals in this
    /// process once [`Self::install`] is called, which is when the transaction is committed.
    pub(crate) async fn promote(&self, connection: &mut PgConnection) -> Result<Promoted, RingError> {
        let known = keys::versions(connection).await?;
        let mut loaded = self.load(connection, known.clone(), true).await?;
        let before = known.iter().find(|version| version.state == KeyState::Active).map_or(0, |version| version.number);
        if loaded.active == before {
            let (label, master) = match loaded.staged.take() {
                Some(staged) => staged,
                None if self.inner.is_own => (None, SecretKey::generate()),
                None => return Ok(Promoted(loaded)),
            };
            let version = next_version(&known, label)?;
            if self.inner.is_own {
                // On disk before anything is sealed with it.
                self.write_own(&loaded, Some((version, &master)))?;
            }
            keys::activate(connection, version, &master.id(), &self.check_value(&master)).await?;
            loaded.by_version.insert(version, Arc::new(self.key(master)));
            loaded.active = version;
        }
        Ok(Promoted(loaded))
    }

    /// Seals with the key that was gone on to.
    pub(crate) fn install(&self, promoted: Promoted) {
        self.inner.wraps.store(0, Ordering::Relaxed);
        self.replace(promoted.0);
    }

    /// Forgets keys that nothing is sealed with any more, also in a file of our own.
    pub(crate) fn forget(&self, retired: &[i32]) -> Result<(), RingError> {
        let mut gone = Vec::new();
        if let Ok(mut keys) = self.inner.keys.write() {
            gone.extend(retired.iter().filter_map(|version| keys.by_version.remove(version)));
        }
        let KeySource::File(path) = &self.inner.source else { return Ok(()) };
        if !self.inner.is_own {
            return Ok(());
        }
        // Of the file as it is now: a newer key may have come into it since.
        let _writing = self.inner.file.lock();
        let left = self.given()?.into_iter().filter(|(_, key)| gone.iter().all(|gone| gone.master != *key));
        let mut text = zeroize::Zeroizing::new(String::new());
        for (version, key) in left {
            text.push_str(&version.map(|version| format!("{version}:")).unwrap_or_default());
            text.push_str(&key.to_base64());
            text.push('\n');
        }
        Ok(files::write_private(path, text.as_bytes())?)
    }

    fn write_own(&self, keys: &Keys, first: Option<(i32, &SecretKey)>) -> Result<(), RingError> {
        let KeySource::File(path) = &self.inner.source else { return Ok(()) };
        let _writing = self.inner.file.lock();
        let line = |version: i32, master: &SecretKey| format!("{version}:{}\n", master.to_base64().as_str());
        let mut text = zeroize::Zeroizing::new(first.map(|(version, master)| line(version, master)).unwrap_or_default());
        for (version, key) in keys.by_version.iter().rev() {
            text.push_str(&line(*version, &key.master));
        }
        Ok(files::write_private(path, text.as_bytes())?)
    }

    /// Keeps count of what the active key has wrapped.
    pub(crate) async fn save_wraps(&self, database: &Database) -> Result<(), DbError> {
        let active = self.inner.keys.read().map_or(0, |keys| keys.active);
        let wraps = self.inner.wraps.swap(0, Ordering::Relaxed);
        if wraps == 0 {
            return Ok(());
        }
        let mut transaction = database.begin_reveal("keys").await?;
        keys::add_wraps(&mut transaction, active, wraps).await?;
        let known = keys::versions(&mut transaction).await?;
        transaction.commit().await?;
        let total = known.iter().find(|version| version.number == active).map_or(0, |version| version.wraps);
        if total >= MOST_WRAPS {
            self.inner.wraps.store(MOST_WRAPS, Ordering::Relaxed);
        }
        warn_of_wraps(&known, active);
        Ok(())
    }
}

fn warn_of_wraps(known: &[Version], active: i32) {
    if let Some(version) = known.iter().find(|version| version.number == active && version.wraps >= MANY_WRAPS) {
        tracing::warn!(kid = version.kid, "the master key has sealed more than two thousand million values; rotate it soon");
    }
}

fn next_version(known: &[Version], label: Option<i32>) -> Result<i32, RingError> {
    let newest = known.iter().map(|version| version.number).max().unwrap_or(0);
    match label {
        Some(given) if given <= newest => Err(RingError::Renamed { kid: "(new)".into(), given, pinned: newest + 1 }),
        Some(given) => Ok(given),
        None => Ok(newest + 1),
    }
}

/// Where the keys are. Only a fabric that runs its own database makes one by itself, and only the first.
fn find_source(config: &Config, known: &[Version]) -> Result<(KeySource, bool), RingError> {
    if !matches!(config.vault.keys, KeySource::None) {
        return Ok((config.vault.keys.clone(), false));
    }
    if config.database.url.is_some() {
        return Err(RingError::Missing);
    }
    let path = config.data_dir.join(OWN_FILE);
    if !path.is_file() {
        if let Some(active) = known.iter().find(|version| version.state == KeyState::Active) {
            return Err(RingError::Lost { path, kid: active.kid.clone() });
        }
        make_own(&path, "seals the credentials that are stored here")?;
    }
    Ok((KeySource::File(path), true))
}

/// The key that access tokens are signed with.
pub fn jwt_key(config: &Config, ring: &Ring) -> Result<SecretKey, RingError> {
    let input = match &config.identity.jwt_key {
        Some(input) => input.clone(),
        None if config.database.url.is_some() => return Err(RingError::MissingJwt),
        None => {
            let path = config.data_dir.join("jwt.key");
            if !path.is_file() {
                if !ring.inner.is_new {
                    return Err(RingError::LostJwt(path));
                }
                make_own(&path, "signs logins")?;
            }
            let mut keys = parse_ring_file(&path).map_err(RingError::BadFile)?;
            keys.swap_remove(0).1
        }
    };
    let key = input.resolve(ring.fabric().as_bytes());
    if ring.holds(&key) { Err(RingError::Shared) } else { Ok(key) }
}

fn make_own(path: &Path, what: &str) -> Result<(), RingError> {
    let key = SecretKey::generate();
    files::write_private(path, format!("{}\n", key.to_base64().as_str()).as_bytes())?;
    tracing::warn!(
        "made a key that {what}: {}; keep a copy of it apart from the database (`mcp-fabric db backup` takes both), since nothing opens without it",
        path.display()
    );
    Ok(())
}
