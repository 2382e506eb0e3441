//! Virtual environments from cached wheels: nothing is downloaded, nothing is built.

use std::{fmt::Write as _, fs, os::unix::fs::symlink, path::Path, process::Stdio, time::Duration};

use cache::Supply;
use platform::{config::sources::environment, files};

use crate::{
    error::{PackagesError, at},
    toolchains::{Found, Toolchain},
};

/// How long an environment may take.
const LIMIT: Duration = Duration::from_mins(5);
/// How much of what a tool said is told.
const SAID: usize = 600;

/// Makes `<tree>/venv` with exactly the wheels of a closure.
pub(crate) async fn make(supply: &Supply, interpreter: &Found, tree: &Path) -> Result<(), PackagesError> {
    let (wheels, wanted) = (tree.join("wheels"), tree.join("wanted.txt"));
    fs::create_dir_all(&wheels).map_err(at(tree))?;
    let mut requirements = String::new();
    for parts in supply.parts.chunk_by(|a, b| a.name == b.name && a.version == b.version) {
        let _ = write!(requirements, "{}=={}", parts[0].name, parts[0].version);
        for part in parts {
            symlink(fs::canonicalize(&part.path).map_err(at(&part.path))?, wheels.join(&part.file_name)).map_err(at(&wheels))?;
            let _ = write!(requirements, " --hash=sha256:{}", part.sha256);
        }
        requirements.push('\n');
    }
    fs::write(&wanted, requirements).map_err(at(&wanted))?;
    let made = match Toolchain::Uv.find().await {
        Ok(uv) => with_uv(&uv.program, interpreter, tree).await,
        Err(_) => with_pip(interpreter, tree).await,
    };
    made?;
    fs::remove_dir_all(&wheels).map_err(at(&wheels))?;
    fs::remove_file(&wanted).map_err(at(&wanted))
}

async fn with_uv(uv: &Path, interpreter: &Found, tree: &Path) -> Result<(), PackagesError> {
    let python = interpreter.program.to_string_lossy();
    run("uv", uv, &["venv", "--no-project", "--no-config", "--offline", "--quiet", "--python", &python, "venv"], tree).await?;
    let install =
        ["pip", "install", "--python", "venv/bin/python", "--no-config", "--offline", "--no-index", "--find-links", "wheels", "--no-deps"];
    let how = ["--no-build", "--require-hashes", "--link-mode=copy", "--quiet", "--requirement", "wanted.txt"];
    run("uv", uv, &[&install[..], &how].concat(), tree).await
}

async fn with_pip(interpreter: &Found, tree: &Path) -> Result<(), PackagesError> {
    run("python3", &interpreter.program, &["-m", "venv", "venv"], tree).await?;
    let install =
        ["-m", "pip", "install", "--no-index", "--find-links", "wheels", "--no-deps", "--only-binary", ":all:", "--require-hashes"];
    let how = ["--compile", "--quiet", "--disable-pip-version-check", "--requirement", "wanted.txt"];
    run("pip", &tree.join("venv/bin/python"), &[&install[..], &how].concat(), tree).await
}

/// Runs a tool in a tree with an environment of its own.
#[expect(clippy::disallowed_methods, reason = "starts the tools that make environments")]
async fn run(name: &'static str, program: &Path, arguments: &[&str], tree: &Path) -> Result<(), PackagesError> {
    let failed = |why: String| PackagesError::Tool(name, why);
    let work = tree.join(".tool");
    files::private_folder(&work)?;
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).current_dir(tree).env_clear().env("HOME", &work).env("PATH", environment("PATH").unwrap_or_default());
    command
        .env("NO_COLOR", "1")
        .env("UV_CACHE_DIR", work.join("uv"))
        .env("UV_PYTHON_DOWNLOADS", "never")
        .env("PIP_CONFIG_FILE", "/dev/null");
    command.env("TMPDIR", &work).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).process_group(0);
    let output = tokio::time::timeout(LIMIT, command.output()).await;
    fs::remove_dir_all(&work).map_err(at(&work))?;
    let output = output.map_err(|_| failed(format!("it took longer than {} s", LIMIT.as_secs())))?;
    let output = output.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Err(failed(lines.join("; ").chars().filter(|c| !c.is_control()).take(SAID).collect()))
}
