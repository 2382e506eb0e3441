//! A backup: one tar file with every row, the keys under a passphrase and, if asked for, the package cache.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read as _,
    path::{Component, Path, PathBuf},
};

use platform::{
    Config,
    config::KeySource,
    database::{
        backup::{self, Contents},
        migrations,
    },
    files::{self, IoContext as _},
    keys::KeyInput,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;
use zeroize::Zeroizing;

use super::{CliError, Context, output, users::read_secret};

const MANIFEST: &str = "manifest.json";
const KEYS: &str = "keys.age";
const ROWS: &str = "rows";
const CACHE: &str = "cache";
const FORMAT: u8 = 1;

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u8,
    version: String,
    #[serde(flatten)]
    contents: Contents,
}

fn wrong(what: &str) -> CliError {
    CliError::Found(format!("this is no backup that can be restored: {what}"))
}

/// Writes a backup. The rows are all of one moment, whatever the program does meanwhile.
pub(super) async fn save(context: &Context, connection: &mut PgConnection, file: &Path, with_cache: bool) -> Result<(), CliError> {
    if file.exists() {
        return Err(CliError::Found(format!("{} is there already", file.display())));
    }
    let passphrase = read_secret("a passphrase for the keys: ")?;
    let before = keys(&context.config)?;
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = tempfile::tempdir_in(parent).about("write in", parent)?;
    let contents = backup::save(connection, folder.path()).await?;
    // Rows may be under a key that was made meanwhile, and a key may have gone since.
    if *keys(&context.config)? != *before {
        return Err(CliError::Found("the keys were rotated meanwhile; make the backup once more".into()));
    }
    let keys = ::credentials::encrypted(before, &passphrase).await?;
    let rows: u64 = contents.tables.iter().map(|table| table.rows).sum();
    let manifest = Manifest { format: FORMAT, version: env!("CARGO_PKG_VERSION").to_owned(), contents };
    let draft = folder.path().join("backup.tar");
    write_tar(&draft, &manifest, &keys, folder.path(), with_cache.then_some(context.config.cache.dir.as_path()))?;
    std::fs::rename(&draft, file).about("write", file)?;
    let size = std::fs::metadata(file).about("read", file)?.len();
    let sentence =
        format!("{rows} rows and the keys are in {} ({size} bytes); without the passphrase nobody opens the keys", file.display());
    output::done(context.json, sentence, &json!({ "rows": rows, "bytes": size }));
    Ok(())
}

fn write_tar(draft: &Path, manifest: &Manifest, keys: &str, rows: &Path, cache: Option<&Path>) -> Result<(), CliError> {
    let file = {
        use std::os::unix::fs::OpenOptionsExt as _;
        File::options().write(true).create_new(true).mode(0o600).open(draft).about("create", draft)?
    };
    let mut tar = tar::Builder::new(file);
    let mut put = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        tar.append_data(&mut header, name, bytes).about("write", draft)
    };
    put(MANIFEST, &serde_json::to_vec_pretty(manifest).unwrap_or_default())?;
    put(KEYS, keys.as_bytes())?;
    for table in &manifest.contents.tables {
        tar.append_path_with_name(rows.join(&table.file), Path::new(ROWS).join(&table.file)).about("write", draft)?;
    }
    if let Some(cache) = cache.filter(|cache| cache.is_dir()) {
        tar.follow_symlinks(false);
        tar.append_dir_all(CACHE, cache).about("write", draft)?;
    }
    tar.into_inner().and_then(|file| file.sync_all()).about("write", draft)?;
    Ok(())
}

/// What opens what is in the database: the master keys, the key of logins, the operator's token.
fn keys(config: &Config) -> Result<Zeroizing<Vec<u8>>, CliError> {
    let mut kept: BTreeMap<&str, String> = BTreeMap::new();
    let read = |path: &Path| files::read_if_present(path).map(|text| text.map(|text| text.trim().to_owned()));
    let master = match &config.vault.keys {
        KeySource::Settings(ring) => Some(ring.iter().map(|(version, key)| line(*version, key)).collect::<Vec<_>>().join("\n")),
        KeySource::File(path) => read(path)?,
        KeySource::None => read(&config.data_dir.join("master.key"))?,
    };
    let jwt = match &config.identity.jwt_key {
        Some(key) => Some(line(None, key)),
        None => read(&config.data_dir.join("jwt.key"))?,
    };
    let found = [("master.key", master), ("jwt.key", jwt), ("operator.token", read(&files::operator_token_file(&config.data_dir))?)];
    kept.extend(found.into_iter().filter_map(|(name, text)| Some((name, text?))));
    if !kept.contains_key("master.key") {
        return Err(CliError::Found(
            "there is no master key to be backed up; start the program once, or set CREDENTIAL_ENCRYPTION_KEY".into(),
        ));
    }
    Ok(Zeroizing::new(serde_json::to_vec(&kept).unwrap_or_default()))
}

fn line(version: Option<i32>, key: &KeyInput) -> String {
    let text = match key {
        KeyInput::Raw(key) => key.to_base64().to_string(),
        KeyInput::Passphrase(passphrase) => format!("passphrase:{}", passphrase.expose_secret()),
    };
    version.map_or_else(|| text.clone(), |version| format!("{version}:{text}"))
}

/// Puts a backup into the database and the data folder.
pub(super) async fn restore(context: &Context, connection: &mut PgConnection, file: &Path, replace: bool) -> Result<(), CliError> {
    migrations::migrate(connection).await?;
    if !replace && ::credentials::is_in_use(connection).await.map_err(::credentials::CredentialsError::from)? {
        return Err(CliError::Found("this database is in use; --replace puts the backup in the place of everything in it".into()));
    }
    let data = &context.config.data_dir;
    files::private_folder(data)?;
    let folder = tempfile::tempdir_in(data).about("write in", data)?;
    unpack(file, folder.path())?;
    let manifest: Manifest = serde_json::from_slice(&std::fs::read(folder.path().join(MANIFEST)).map_err(|_| wrong("it has no manifest"))?)
        .map_err(|_| wrong("its manifest cannot be read"))?;
    if manifest.format != FORMAT {
        return Err(wrong("it was written by a newer program"));
    }
    let newest = migrations::history(connection).await?.iter().filter(|entry| entry.applied_at.is_some()).map(|entry| entry.version).max();
    if newest != Some(manifest.contents.migration) {
        let version = &manifest.version;
        return Err(wrong(&format!(
            "its database is that of version {version} of this program; restore it with that one, and then start this one"
        )));
    }
    let names_are_plain = manifest.contents.tables.iter().all(|table| is_plain(&table.file));
    if !names_are_plain {
        return Err(wrong("it names a file outside of it"));
    }
    let text = std::fs::read_to_string(folder.path().join(KEYS)).map_err(|_| wrong("it has no keys"))?;
    let keys = open_keys(text, &read_secret("the passphrase of the keys: ")?).await?;
    let rows = backup::load(connection, &folder.path().join(ROWS), &manifest.contents).await?;
    let placed = put_keys(&context.config, &keys)?;
    put_cache(&folder.path().join(CACHE), &context.config.cache.dir)?;
    let sentence = format!("{rows} rows are restored; the keys are in {}", placed.join(", "));
    output::done(context.json, sentence, &json!({ "rows": rows, "keys": placed }));
    Ok(())
}

async fn open_keys(text: String, passphrase: &SecretString) -> Result<BTreeMap<String, String>, CliError> {
    let opened = ::credentials::decrypted(text, passphrase).await;
    let opened = opened.map_err(|_| CliError::Found("the keys do not open with this passphrase; nothing was changed".into()))?;
    serde_json::from_slice(&opened).map_err(|_| wrong("its keys cannot be read"))
}

/// Plain files beneath the folder, and nothing else.
fn unpack(file: &Path, folder: &Path) -> Result<(), CliError> {
    let mut tar = tar::Archive::new(File::open(file).about("read", file)?);
    for entry in tar.entries().map_err(|_| wrong("it is no tar file"))? {
        let mut entry = entry.map_err(|_| wrong("it ends too early"))?;
        let path = entry.path().map_err(|_| wrong("it has a name that cannot be one"))?.into_owned();
        let is_inside = path.components().all(|part| matches!(part, Component::Normal(_)));
        let target = folder.join(&path);
        match entry.header().entry_type() {
            tar::EntryType::Directory if is_inside => std::fs::create_dir_all(&target).about("create", &target)?,
            tar::EntryType::Regular if is_inside => {
                if let Some(parent) = target.parent() {
                    std::fs::create_dir_all(parent).about("create", parent)?;
                }
                let mut out = File::create_new(&target).about("create", &target)?;
                let size = entry.size();
                let copied = std::io::copy(&mut entry.by_ref().take(size), &mut out).about("write", &target)?;
                if copied != size {
                    return Err(wrong("it ends too early"));
                }
            }
            // The cache has links of its own making, which it makes again.
            tar::EntryType::Symlink | tar::EntryType::Link if is_inside && path.starts_with(CACHE) => {}
            _ => return Err(wrong("it has something else than plain files in it")),
        }
    }
    Ok(())
}

fn is_plain(name: &str) -> bool {
    Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) && !name.is_empty()
}

/// In a data folder of our own, where the program looks for them; else beside, for whoever sets the settings.
fn put_keys(config: &Config, keys: &BTreeMap<String, String>) -> Result<Vec<String>, CliError> {
    let is_own = config.database.url.is_none();
    let mut placed = Vec::new();
    for (name, text) in keys.iter().filter(|(name, _)| is_plain(name)) {
        let name = if is_own || name == "operator.token" { name.clone() } else { format!("restored-{name}") };
        let path: PathBuf = config.data_dir.join(name);
        files::write_private(&path, format!("{text}\n").as_bytes())?;
        placed.push(path.display().to_string());
    }
    Ok(placed)
}

fn put_cache(from: &Path, to: &Path) -> Result<(), CliError> {
    if !from.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(to).about("create", to)?;
    for entry in std::fs::read_dir(from).about("read", from)? {
        let entry = entry.about("read", from)?;
        let target = to.join(entry.file_name());
        if !target.exists() {
            std::fs::rename(entry.path(), &target).about("write", &target)?;
        }
    }
    Ok(())
}
