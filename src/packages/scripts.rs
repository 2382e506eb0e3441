//! Install scripts of npm: of the packages that the operator names, and of no others. They run as servers do, without
//! the network, with the whole tree to read and the package's own folder to write to. What they leave is sealed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{PermissionsExt as _, lchown, symlink},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cache::{Part, Supply};
use platform::{config::RuntimeConfig, files, ids};
use sandbox::{GroupLimits, Limits, Machine, SCRIPTS_USER, Start};
use secrecy::SecretString;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::{
    error::{PackagesError, at},
    manifest::Manifest,
    toolchains::Found,
    unpack::Caps,
};

/// How long one script may take.
const LIMIT: Duration = Duration::from_mins(10);
/// How often it is looked at what it wrote.
const LOOK: Duration = Duration::from_secs(1);
/// How much of what a script said is told, and how much is kept meanwhile.
const SAID: usize = 600;
const KEPT: usize = 64 << 10;
const SHELL: &str = "/bin/sh";

/// What may run, and how.
pub(crate) struct Scripts {
    machine: Arc<Machine>,
    config: RuntimeConfig,
    /// A folder of its own for what runs.
    home: PathBuf,
}

/// One script of one package.
struct Script<'a> {
    part: &'a Part,
    place: &'a str,
    event: &'static str,
    line: String,
}

impl Scripts {
    pub(crate) fn new(machine: Arc<Machine>, config: &RuntimeConfig, place: &Path) -> Self {
        Self { machine, config: config.clone(), home: place.join("scripts") }
    }

    /// The packages among these whose scripts may run.
    pub(crate) fn allowed<'a>(&self, supply: &'a Supply) -> Vec<&'a str> {
        let names: BTreeSet<&str> = supply.parts.iter().map(|part| part.name.as_str()).collect();
        names.into_iter().filter(|name| self.config.install_scripts.iter().any(|allowed| allowed == name)).collect()
    }

    /// The packages in a tree that have scripts which may not run.
    pub(crate) fn left_out(&self, supply: &Supply, tree: &Path) -> BTreeSet<String> {
        let has_scripts = |part: &&Part| {
            let folders = part.places.iter().map(|place| tree.join(place));
            folders.into_iter().any(|folder| Manifest::read(&folder).is_ok_and(|found| !found.install_scripts(&folder).is_empty()))
        };
        let allowed = self.allowed(supply);
        let others = supply.parts.iter().filter(|part| !allowed.contains(&part.name.as_str()));
        others.filter(has_scripts).map(|part| part.name.clone()).collect()
    }

    /// Runs what may run in a tree that was just unpacked; first every `preinstall`, then every `install`, then every
    /// `postinstall`, as npm does it.
    pub(crate) async fn run(&self, supply: &Supply, tree: &Path, node: &Found) -> Result<(), PackagesError> {
        let allowed = self.allowed(supply);
        let mut places: Vec<(&Part, &str)> =
            supply.parts.iter().flat_map(|part| part.places.iter().map(move |place| (part, &**place))).collect();
        places.sort_by_key(|(_, place)| (place.matches("node_modules/").count(), *place));
        let mut scripts = Vec::new();
        for (part, place) in &places {
            let folder = tree.join(place);
            let Ok(manifest) = Manifest::read(&folder) else { continue };
            link_commands(&manifest, &part.name, place, tree)?;
            if allowed.contains(&part.name.as_str()) {
                let own = manifest.install_scripts(&folder).into_iter();
                scripts.extend(own.map(|(event, line)| Script { part, place, event, line }));
            }
        }
        // Stable: within an event the order of places stays.
        scripts.sort_by_key(|script| ["preinstall", "install", "postinstall"].iter().position(|event| *event == script.event));
        for script in &scripts {
            if self.machine.closer().is_none() {
                return Err(PackagesError::ScriptsUnkept(script.part.name.clone()));
            }
            self.run_one(script, tree, node).await?;
        }
        Ok(())
    }

    async fn run_one(&self, script: &Script<'_>, tree: &Path, node: &Found) -> Result<(), PackagesError> {
        let folder = tree.join(script.place);
        let uid = self.machine.has_own_users().then_some(SCRIPTS_USER);
        clear(&self.home)?;
        for own in [self.home.clone(), self.home.join("tmp")] {
            fs::create_dir(&own).map_err(at(&own))?;
            fs::set_permissions(&own, fs::Permissions::from_mode(0o700)).map_err(at(&own))?;
            hand_over(&own, uid).map_err(at(&own))?;
        }
        hand_over_all(&folder, uid).map_err(at(&folder))?;
        let ended = self.ended(script, tree, &folder, node, uid).await;
        clear(&self.home)?;
        ended?;
        let (tree, name) = (tree.to_owned(), script.part.name.clone());
        let sealed = tokio::task::spawn_blocking(move || {
            let root = fs::canonicalize(&tree).map_err(at(&tree))?;
            seal(&folder, &root, uid.is_some(), &mut Caps::default()).map_err(|why| match why {
                Unsealed::Folder(source) => at(&folder)(source),
                Unsealed::Unfit(what) => PackagesError::Script(name, "install", what.to_owned()),
            })
        });
        sealed.await.unwrap_or_else(|_| Err(PackagesError::Script(script.part.name.clone(), script.event, "the worker ended".into())))
    }

    /// Starts it and waits; nothing of it runs when this returns.
    async fn ended(&self, script: &Script<'_>, tree: &Path, folder: &Path, node: &Found, uid: Option<u32>) -> Result<(), PackagesError> {
        let failed = |why: String| PackagesError::Script(script.part.name.clone(), script.event, why);
        let environment = environment(script, tree, folder, node);
        let config = &self.config;
        let started = self.machine.start(Start {
            mark: format!("script.{}", ids::fresh()),
            program: SHELL.into(),
            // The line is the package's own, of which the operator said that it may run; nothing is put into it.
            args: vec!["-c".into(), script.line.clone()],
            env: &environment,
            programs: programs(script.place, tree, node),
            folder,
            home: &self.home,
            read: [Some(tree), node.program.parent().and_then(Path::parent)].into_iter().flatten().map(Path::to_owned).collect(),
            write: vec![folder.to_owned()],
            network: false,
            group: GroupLimits {
                memory_bytes: Some(config.memory_bytes),
                cpu_millis: Some(config.cpu_millis),
                processes: Some(config.processes),
            },
            limits: Limits { open_files: config.open_files, file_bytes: config.file_bytes, processes: None },
            uid,
        });
        let (mut process, pipes) = started.map_err(|error| failed(error.to_string()))?;
        drop(pipes.input);
        let said = async { tokio::join!(tail(pipes.output), tail(pipes.errors)) };
        let watched = async {
            loop {
                tokio::time::sleep(LOOK).await;
                let (folder, home) = (folder.to_owned(), self.home.clone());
                let used = tokio::task::spawn_blocking(move || files::disk_usage(&folder) + files::disk_usage(&home)).await;
                if used.is_ok_and(|used| used > config.disk_bytes) {
                    return;
                }
            }
        };
        let work = async { tokio::join!(process.ended(), said) };
        let outcome = tokio::select! {
            (status, said) = work => Ok((status, said)),
            () = watched => Err(format!("it wrote more than {} MiB, and was ended", config.disk_bytes >> 20)),
            () = tokio::time::sleep(LIMIT) => Err(format!("it took longer than {} s, and was ended", LIMIT.as_secs())),
        };
        let ran_out = process.ran_out_of_memory();
        process.kill().await.map_err(|error| failed(error.to_string()))?;
        let (status, (output, errors)) = outcome.map_err(&failed)?;
        let status = status.map_err(|error| failed(error.to_string()))?;
        if status.success() {
            return Ok(());
        }
        let why = if ran_out { "it used more memory than a server may, and was ended".into() } else { sandbox::describe(status) };
        Err(failed(format!("{why}: {}", words(&errors).or_else(|| words(&output)).unwrap_or_else(|| "it said nothing".into()))))
    }
}

/// What npm gives to scripts.
fn environment(script: &Script<'_>, tree: &Path, folder: &Path, node: &Found) -> BTreeMap<String, SecretString> {
    let prefix = node.program.parent().and_then(Path::parent).unwrap_or(Path::new("/usr"));
    let all = [
        ("npm_command", "install".to_owned()),
        ("npm_lifecycle_event", script.event.to_owned()),
        ("npm_lifecycle_script", script.line.clone()),
        ("npm_package_name", script.part.name.clone()),
        ("npm_package_version", script.part.version.clone()),
        ("npm_package_json", folder.join("package.json").display().to_string()),
        ("npm_node_execpath", node.program.display().to_string()),
        ("NODE", node.program.display().to_string()),
        ("npm_config_user_agent", format!("npm/10 node/v{} {} {}", node.version, std::env::consts::OS, std::env::consts::ARCH)),
        // What compiles takes the headers of this machine, since it could fetch none.
        ("npm_config_nodedir", prefix.display().to_string()),
        ("npm_config_offline", "true".to_owned()),
        ("INIT_CWD", tree.display().to_string()),
    ];
    let compiler = npm(node).map(|npm| ("npm_config_node_gyp", npm.join("node_modules/node-gyp/bin/node-gyp.js").display().to_string()));
    all.into_iter().chain(compiler).map(|(name, value)| (name.to_owned(), value.into())).collect()
}

/// Where a script finds the commands of other packages: in its own `node_modules`, then in each one above. Node's, and
/// npm's compiler, follow.
fn programs(place: &str, tree: &Path, node: &Found) -> Vec<PathBuf> {
    let mut folders = vec![tree.join(place).join("node_modules/.bin")];
    let mut rest = place;
    while let Some((above, _)) = rest.rsplit_once("node_modules/") {
        folders.push(tree.join(above).join("node_modules/.bin"));
        rest = above.trim_end_matches('/');
    }
    folders.extend(npm(node).map(|npm| npm.join("node_modules/@npmcli/run-script/lib/node-gyp-bin")));
    folders.extend(node.program.parent().map(Path::to_owned));
    folders
}

/// The folder of the npm that came with a Node.
fn npm(node: &Found) -> Option<PathBuf> {
    let cli = fs::canonicalize(node.program.parent()?.join("npm")).ok()?;
    Some(cli.parent()?.parent()?.to_owned())
}

/// Links the commands of a package into the `.bin` beside it; each becomes a program.
fn link_commands(manifest: &Manifest, name: &str, place: &str, tree: &Path) -> Result<(), PackagesError> {
    let Some((above, _)) = place.rsplit_once("node_modules/") else { return Ok(()) };
    let folder = tree.join(above).join("node_modules/.bin");
    for (command, path) in manifest.commands(name) {
        let script = tree.join(place).join(&path);
        if !script.is_file() {
            continue;
        }
        let link = || {
            fs::create_dir_all(&folder)?;
            fs::set_permissions(&script, fs::Permissions::from_mode(0o555))?;
            symlink(Path::new("..").join(name).join(&path), folder.join(&command))
        };
        match link() {
            // Two packages of one command: the first one has it.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(at(&folder)(error)),
            _ => {}
        }
    }
    Ok(())
}

fn clear(folder: &Path) -> Result<(), PackagesError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(folder)(error)),
        _ => Ok(()),
    }
}

fn hand_over(path: &Path, uid: Option<u32>) -> io::Result<()> {
    uid.map_or(Ok(()), |uid| lchown(path, Some(uid), Some(uid)))
}

/// A package without the packages inside of it.
fn hand_over_all(folder: &Path, uid: Option<u32>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            if entry.file_name() != "node_modules" {
                hand_over_all(&entry.path(), uid)?;
            }
        } else {
            hand_over(&entry.path(), uid)?;
        }
    }
    hand_over(folder, uid)
}

/// Why what a script left cannot stay.
enum Unsealed {
    Folder(io::Error),
    Unfit(&'static str),
}

impl From<io::Error> for Unsealed {
    fn from(error: io::Error) -> Self {
        Self::Folder(error)
    }
}

/// Makes everything ours again, and nobody's to change. `root` is the tree, which no link may lead out of.
fn seal(folder: &Path, root: &Path, is_owned: bool, caps: &mut Caps) -> Result<(), Unsealed> {
    let ours = |path: &Path| if is_owned { lchown(path, Some(0), Some(0)) } else { Ok(()) };
    ours(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, found) = (entry.path(), entry.metadata()?);
        let kind = found.file_type();
        if kind.is_dir() {
            seal(&path, root, is_owned, caps)?;
            continue;
        }
        ours(&path)?;
        if kind.is_symlink() {
            if !fs::canonicalize(&path).is_ok_and(|target| target.starts_with(root)) {
                return Err(Unsealed::Unfit("it made a link that leads nowhere, or out of what is installed"));
            }
        } else if kind.is_file() {
            let mode = if found.permissions().mode() & 0o111 == 0 { 0o444 } else { 0o555 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        } else {
            return Err(Unsealed::Unfit("it made something that is neither a file nor a folder"));
        }
        caps.files = caps.files.checked_sub(1).ok_or(Unsealed::Unfit("it made more files than an install may have"))?;
        caps.bytes = caps.bytes.checked_sub(found.len()).ok_or(Unsealed::Unfit("it wrote more than an install may"))?;
    }
    Ok(())
}

/// The end of what is said, until nobody can say more.
async fn tail(mut from: impl AsyncRead + Unpin) -> Vec<u8> {
    let (mut kept, mut chunk) = (Vec::new(), vec![0; 16 << 10]);
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        kept.extend_from_slice(&chunk[..count]);
        let over = kept.len().saturating_sub(KEPT);
        kept.drain(..over);
    }
    kept
}

fn words(said: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(said);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let plain: Vec<char> = lines.join("; ").chars().filter(|c| !c.is_control()).collect();
    (!plain.is_empty()).then(|| plain[plain.len().saturating_sub(SAID)..].iter().collect())
}
