//! Types of a project, checked by the TypeScript compiler (7, a native program), which comes out of the package cache.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use cache::{Cache, Wanted};
use flate2::read::GzDecoder;

use super::kept::{Kept, Order};
use crate::{finding::Finding, generate::Files};

/// The version of the compiler.
pub(crate) const TYPESCRIPT: &str = "7.0.2";
/// How long it may take to come in, where it is not here.
const FETCH: Duration = Duration::from_mins(2);
const LARGEST: u64 = 200 << 20;
const MOST_FINDINGS: usize = 50;

/// The compiler of this machine.
pub(crate) struct Compiler {
    program: PathBuf,
    folder: PathBuf,
}

impl Compiler {
    /// Finds it in `place`, or brings it there. Fails with the reason, in words.
    pub(crate) async fn find(cache: &Cache, place: &Path) -> Result<Self, String> {
        let folder = place.join("compilers").join(format!("typescript-{TYPESCRIPT}"));
        let program = folder.join("lib/tsc");
        if program.is_file() {
            return Ok(Self { program, folder });
        }
        let platform = platform_name().ok_or("there is no compiler for this machine")?;
        let wanted = Wanted {
            registry_type: "npm".into(),
            identifier: format!("@typescript/typescript-{platform}"),
            version: Some(TYPESCRIPT.into()),
            sha256: None,
        };
        let supply = tokio::time::timeout(FETCH, cache.package_alone(&wanted)).await;
        let supply = supply.map_err(|_| "its registry does not answer".to_owned())?.map_err(|error| error.to_string())?;
        let archive = supply.parts.first().ok_or("its package is empty")?.path.clone();
        let into = folder.clone();
        let unpacked = tokio::task::spawn_blocking(move || unpack(&archive, &into)).await;
        unpacked.map_err(|error| error.to_string())?.map_err(|error| format!("it cannot be unpacked: {error}"))?;
        Ok(Self { program, folder })
    }

    /// What it finds.
    pub(crate) async fn check(&self, kept: &Kept, files: &Files) -> io::Result<Vec<Finding>> {
        let sources = files
            .iter()
            .filter(|(name, _)| [Some("ts"), Some("json")].contains(&Path::new(name).extension().and_then(std::ffi::OsStr::to_str)))
            .map(|(name, bytes)| (name.clone(), bytes.clone()));
        let room = kept.room(sources.collect()).await?;
        let order = Order {
            program: &self.program,
            args: ["--project", "tsconfig.json", "--noEmit", "--pretty", "false"].map(str::to_owned).into(),
            env: BTreeMap::new(),
            read: vec![self.folder.clone()],
            network: false,
        };
        let (status, said) = kept.run(&room, order).await?;
        let mut found: Vec<Finding> = said.lines().filter_map(finding).take(MOST_FINDINGS).collect();
        if found.is_empty() && !status.success() {
            let words = crate::text::line(&said, 300);
            found.push(Finding::error("typecheck", "tsconfig.json", format!("{}: {words}", sandbox::describe(status))));
        }
        Ok(found)
    }
}

/// `src/tools.ts(3,5): error TS2322: …`.
fn finding(line: &str) -> Option<Finding> {
    let (place, rest) = line.split_once(": error TS")?;
    let (code, message) = rest.split_once(": ")?;
    let place = place
        .strip_suffix(')')
        .and_then(|place| place.split_once('('))
        .map_or_else(|| place.to_owned(), |(file, at)| format!("{file}:{}", at.replace(',', ":")));
    Some(Finding::error("type-error", place, format!("TS{code}: {}", crate::text::line(message, 300))))
}

fn platform_name() -> Option<String> {
    let system = match std::env::consts::OS {
        "linux" => "linux",
        "macos" => "darwin",
        _ => return None,
    };
    let machine = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        _ => return None,
    };
    Some(format!("{system}-{machine}"))
}

/// Unpacks an archive of npm beside its place, then moves it there: it is whole, or it is not there.
fn unpack(archive: &Path, into: &Path) -> io::Result<()> {
    let draft = into.with_extension(platform::ids::fresh().to_string());
    let outcome = unpack_to(archive, &draft).and_then(|()| match fs::rename(&draft, into) {
        // Another one was faster.
        Err(_) if into.is_dir() => Ok(()),
        renamed => renamed,
    });
    drop(fs::remove_dir_all(&draft));
    outcome
}

fn unpack_to(archive: &Path, draft: &Path) -> io::Result<()> {
    fs::create_dir_all(draft)?;
    let mut tar = tar::Archive::new(GzDecoder::new(fs::File::open(archive)?));
    let mut left = LARGEST;
    for entry in tar.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let Ok(inner) = path.strip_prefix("package") else { continue };
        let is_plain = inner.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        if !entry.header().entry_type().is_file() || !is_plain {
            continue;
        }
        left = left.checked_sub(entry.size()).ok_or_else(|| io::Error::other("it is larger than a compiler"))?;
        let place = draft.join(inner);
        fs::create_dir_all(place.parent().unwrap_or(draft))?;
        io::copy(&mut entry, &mut fs::File::create(&place)?)?;
        let is_program = inner == Path::new("lib/tsc");
        fs::set_permissions(&place, fs::Permissions::from_mode(if is_program { 0o755 } else { 0o644 }))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_of_the_compiler_are_read() {
        let found = finding("src/tools.ts(3,5): error TS2322: Type 'x' is not assignable.").unwrap();
        assert_eq!(
            (found.id.as_str(), found.path.as_str(), found.message.as_str()),
            ("type-error", "src/tools.ts:3:5", "TS2322: Type 'x' is not assignable.")
        );
        assert!(finding("Found 1 error.").is_none());
    }
}
