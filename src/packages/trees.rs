//! Trees: everything of one package, unpacked once, named by its digest, and never changed.
//!
//!     <place>/trees/<digest>/tree.json        written last: a tree without it is not whole
//!     <place>/trees/<digest>/node_modules/…   of npm
//!     <place>/trees/<digest>/venv/…           of PyPI
//!     <place>/trees/<digest>/bundle/…         of a bundle
//!     <place>/packages/<folder>/package.json  for people, with a link to what lies in the tree

use std::{
    collections::{BTreeSet, HashSet},
    fs, io,
    os::unix::fs::symlink,
    path::{Component, Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use cache::{Part, RegistryType, Supply};
use platform::{files, random::hex};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex as Turn;

use crate::{
    bundle, detect,
    error::{PackagesError, at},
    model::{Entry, Runnable},
    python,
    scripts::Scripts,
    toolchains::{Found, Toolchain},
    unpack::{self, Caps, Unfit},
    unzip,
};

const MARK: &str = "tree.json";
const SCRIPTS_LEFT_OUT: &str = "scripts_left_out";
/// For how long a tree that no installation names may be one that is just being installed.
const FRESH: Duration = Duration::from_hours(1);

/// The folders of one fabric.
pub(crate) struct Trees {
    place: PathBuf,
    scripts: Scripts,
    /// One tree is made at a time: two makers of the same one would meet.
    turn: Turn<()>,
}

impl Trees {
    /// Makes the folders, and removes trees that an earlier process did not finish.
    pub(crate) fn open(place: &Path, scripts: Scripts) -> Result<Self, PackagesError> {
        let trees = Self { place: place.to_owned(), scripts, turn: Turn::new(()) };
        for folder in [trees.all(), trees.folders()] {
            fs::create_dir_all(&folder).map_err(at(&folder))?;
        }
        for entry in fs::read_dir(trees.all()).map_err(at(trees.all()))? {
            let path = entry.map_err(at(trees.all()))?.path();
            if !path.join(MARK).is_file() {
                remove(&path)?;
            }
        }
        Ok(trees)
    }

    fn all(&self) -> PathBuf {
        self.place.join("trees")
    }

    fn folders(&self) -> PathBuf {
        self.place.join("packages")
    }

    /// Where a tree lies.
    pub(crate) fn path(&self, tree: &str) -> PathBuf {
        self.all().join(tree)
    }

    pub(crate) fn has(&self, tree: &str) -> bool {
        self.path(tree).join(MARK).is_file()
    }

    /// Makes the tree of a package where it is not there.
    pub(crate) async fn make(&self, supply: Supply) -> Result<Runnable, PackagesError> {
        if supply.registry == RegistryType::Oci {
            let entry = Entry::Image { name: supply.name.clone(), digest: supply.version.clone() };
            return Ok(Runnable { version: supply.version.clone(), tree: digest(&supply, None, &[]), entry });
        }
        let scripts = if supply.registry == RegistryType::Npm { self.scripts.allowed(&supply) } else { Vec::new() };
        let needed = match supply.registry {
            RegistryType::Pypi => Some(Toolchain::Python),
            _ => (!scripts.is_empty()).then_some(Toolchain::Node),
        };
        let interpreter = match needed {
            Some(needed) => Some(needed.find_for_servers(&self.place).await?),
            None => None,
        };
        let tree = digest(&supply, interpreter.as_ref(), &scripts);
        let _turn = self.turn.lock().await;
        let path = self.path(&tree);
        if !self.has(&tree) {
            remove(&path)?;
            let made = match (supply.registry, &interpreter) {
                (RegistryType::Npm, None) => unpack_all(&supply, &path).await,
                (RegistryType::Npm, Some(node)) => match unpack_all(&supply, &path).await {
                    Ok(()) => self.scripts.run(&supply, &path, node).await,
                    failed => failed,
                },
                (RegistryType::Pypi, Some(interpreter)) => python::make(&supply, interpreter, &path).await,
                (RegistryType::Mcpb, _) => unzip_bundle(&supply, &path).await,
                (RegistryType::Pypi | RegistryType::Oci, _) => Err(PackagesError::Unsupported(supply.registry.as_str())),
            };
            let made = made.and_then(|()| self.mark(&supply, &path));
            if made.is_err() {
                remove(&path)?;
            }
            made?;
        }
        let entry = match supply.registry {
            RegistryType::Npm => detect::npm(&path, &supply.name)?,
            RegistryType::Mcpb => Entry::Bundle(bundle::read(&path.join(bundle::FOLDER), &supply.name)?),
            RegistryType::Pypi | RegistryType::Oci => detect::python(&path, &supply.name)?,
        };
        Ok(Runnable { version: supply.version, tree, entry })
    }

    /// Says that a tree is whole.
    fn mark(&self, supply: &Supply, path: &Path) -> Result<(), PackagesError> {
        let left_out = if supply.registry == RegistryType::Npm { self.scripts.left_out(supply, path) } else { BTreeSet::new() };
        let mark = json!({
            "registry_type": supply.registry, "name": supply.name, "version": supply.version, "files": supply.parts.len(),
            SCRIPTS_LEFT_OUT: left_out,
        });
        fs::write(path.join(MARK), mark.to_string()).map_err(at(path))
    }

    /// The packages of a tree whose install scripts did not run.
    pub(crate) fn scripts_left_out(&self, tree: &str) -> Vec<String> {
        let mark = fs::read(self.path(tree).join(MARK)).ok().and_then(|mark| serde_json::from_slice::<Value>(&mark).ok());
        mark.and_then(|mut mark| serde_json::from_value(mark[SCRIPTS_LEFT_OUT].take()).ok()).unwrap_or_default()
    }

    /// Lets the folder of a package, which people look into, lead to a tree.
    pub(crate) fn show(&self, folder: &str, name: &str, registry: RegistryType, runnable: &Runnable) -> Result<(), PackagesError> {
        let path = self.folders().join(folder);
        fs::create_dir_all(&path).map_err(at(&path))?;
        let project = json!({ "name": folder, "private": true, "dependencies": { name: runnable.version } });
        let link = match registry {
            RegistryType::Npm => "node_modules",
            RegistryType::Pypi => "venv",
            RegistryType::Mcpb => bundle::FOLDER,
            RegistryType::Oci => return Ok(()),
        };
        let write = || {
            if registry == RegistryType::Npm {
                fs::write(path.join("package.json"), serde_json::to_vec_pretty(&project)?)?;
            }
            // The new link takes the place of the old one in one step.
            let draft = path.join(format!(".{link}"));
            fs::remove_file(&draft).or_else(not_there)?;
            symlink(Path::new("../../trees").join(&runnable.tree).join(link), &draft)?;
            fs::rename(&draft, path.join(link))
        };
        write().map_err(at(&path))
    }

    /// Removes the folder of a package that is not installed any more.
    pub(crate) fn hide(&self, folder: &str) -> Result<(), PackagesError> {
        remove(&self.folders().join(folder))
    }

    /// Removes trees that are not among those in use. One that was made a moment ago may have no row yet.
    pub(crate) async fn prune(&self, used: &HashSet<String>) -> Result<(), PackagesError> {
        let _turn = self.turn.lock().await;
        let (all, used) = (self.all(), used.clone());
        let pruned = tokio::task::spawn_blocking(move || {
            for entry in fs::read_dir(&all).map_err(at(&all))? {
                let entry = entry.map_err(at(&all))?;
                let is_used = entry.file_name().to_str().is_some_and(|name| used.contains(name));
                if !is_used && files::is_older_than(&entry, FRESH) {
                    remove(&entry.path())?;
                }
            }
            Ok(())
        });
        pruned.await.unwrap_or(Ok(()))
    }
}

fn not_there(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Without its mark first, so that half of it is never taken for a whole.
fn remove(path: &Path) -> Result<(), PackagesError> {
    fs::remove_file(path.join(MARK)).or_else(not_there).map_err(at(path))?;
    fs::remove_dir_all(path).or_else(not_there).map_err(at(path))
}

/// The name of a tree: what is in it, for an environment with which Python it was made, and whose scripts changed it with
/// which Node.
fn digest(supply: &Supply, interpreter: Option<&Found>, scripts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    let mut add = |text: &str| {
        hasher.update((text.len() as u64).to_be_bytes());
        hasher.update(text.as_bytes());
    };
    add(supply.registry.as_str());
    for part in &supply.parts {
        [&part.name, &part.version, &part.file_name, &part.sha256].into_iter().chain(&part.places).for_each(|text| add(text));
    }
    if let Some(interpreter) = interpreter {
        add(&interpreter.program.display().to_string());
        add(&interpreter.version);
    }
    for name in scripts {
        add(name);
    }
    hex(&hasher.finalize())
}

/// Unpacks every package of a closure into its folders, as many at once as there are processors.
async fn unpack_all(supply: &Supply, path: &Path) -> Result<(), PackagesError> {
    let (parts, path) = (supply.parts.clone(), path.to_owned());
    let done = tokio::task::spawn_blocking(move || unpack_parts(&parts, &path)).await;
    done.unwrap_or_else(|_| Err(PackagesError::Unpack(supply.name.clone(), "the worker ended")))
}

/// A bundle is one file, which holds everything that it needs.
async fn unzip_bundle(supply: &Supply, path: &Path) -> Result<(), PackagesError> {
    let [part] = &supply.parts[..] else { return Err(PackagesError::Unpack(supply.name.clone(), "it is not one file")) };
    let (part, folder, name) = (part.path.clone(), path.join(bundle::FOLDER), supply.name.clone());
    let done = tokio::task::spawn_blocking(move || {
        let file = fs::File::open(&part).map_err(at(&part))?;
        unzip::bundle(io::BufReader::new(file), &folder, Caps::default()).map_err(|unfit| unpack_error(unfit, name, &folder))
    });
    done.await.unwrap_or_else(|_| Err(PackagesError::Unpack(supply.name.clone(), "the worker ended"))).map(drop)
}

fn unpack_error(unfit: Unfit, what: String, folder: &Path) -> PackagesError {
    match unfit {
        Unfit::Write(source) => at(folder)(source),
        Unfit::Malformed => PackagesError::Unpack(what, "it is not an archive of its kind, or a broken one"),
        Unfit::Outside => PackagesError::Unpack(what, "a path in it leads out of its folder"),
        Unfit::TooMuch => PackagesError::Unpack(what, "it is larger than an install may be"),
    }
}

fn unpack_parts(parts: &[Part], path: &Path) -> Result<(), PackagesError> {
    let (next, files, bytes) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let failed: Mutex<Option<PackagesError>> = Mutex::new(None);
    let work = || {
        while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
            for place in &part.places {
                if !Path::new(place).components().all(|step| matches!(step, Component::Normal(_))) {
                    let error = PackagesError::Unpack(part.name.clone(), "its lock names a folder outside");
                    next.store(parts.len(), Ordering::Relaxed);
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    return;
                }
                let all = Caps::default();
                let caps = Caps {
                    bytes: all.bytes.saturating_sub(bytes.load(Ordering::Relaxed)),
                    files: all.files.saturating_sub(files.load(Ordering::Relaxed)),
                };
                match unpack_one(part, &path.join(place), caps) {
                    Ok(done) => {
                        files.fetch_add(done.files, Ordering::Relaxed);
                        bytes.fetch_add(done.bytes, Ordering::Relaxed);
                    }
                    Err(error) => {
                        next.store(parts.len(), Ordering::Relaxed);
                        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    }
                }
            }
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from).min(8);
    thread::scope(|scope| {
        for _ in 1..workers {
            scope.spawn(work);
        }
        work();
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

fn unpack_one(part: &Part, folder: &Path, caps: Caps) -> Result<unpack::Unpacked, PackagesError> {
    let file = fs::File::open(&part.path).map_err(at(&part.path))?;
    unpack::tarball(io::BufReader::with_capacity(128 << 10, file), folder, caps)
        .map_err(|unfit| unpack_error(unfit, format!("{} {}", part.name, part.version), folder))
}
