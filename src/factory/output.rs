//! The folder of what was made: `<data>/output/<name>/<name>-<version>.tgz`, the bundle and `manifest.json` beside it, and
//! the project in a folder named by the version.

use std::{
    fs,
    io::{self, Read as _},
    path::{Component, Path, PathBuf},
};

use flate2::read::GzDecoder;
use platform::ids;

use crate::{
    error::FactoryError,
    generate::Files,
    pack::{Packed, archive_name, bundle_name, image_name},
    spec::ServerSpec,
};

/// What is read of a project or an archive at most.
const LARGEST: u64 = 256 << 20;
const MOST_FILES: usize = 20_000;

/// The folder.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    root: PathBuf,
}

/// A file that goes unless it was moved to its place.
#[derive(Debug)]
pub(crate) struct Draft(pub(crate) PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        if let Err(error) = remove_file(&self.0) {
            tracing::warn!(%error, "a draft of the factory could not be removed");
        }
    }
}

impl Output {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { root: data_dir.join("output") }
    }

    /// The folder of a server. Its name was checked.
    fn folder(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Where the archive of a version is to be.
    pub(crate) fn archive(&self, spec: &ServerSpec) -> PathBuf {
        self.folder(&spec.name).join(archive_name(spec))
    }

    /// Where the image of a version is to be.
    pub(crate) fn image(&self, spec: &ServerSpec) -> PathBuf {
        self.folder(&spec.name).join(image_name(spec))
    }

    /// A place for something large that is being made, beside where it is to be.
    pub(crate) fn draft(&self, spec: &ServerSpec) -> io::Result<Draft> {
        fs::create_dir_all(self.folder(&spec.name))?;
        Ok(Draft(self.folder(&spec.name).join(format!(".{}", ids::fresh()))))
    }

    /// Writes all of a version. What is there already is replaced; each file is whole at every moment.
    pub(crate) fn write(&self, spec: &ServerSpec, packed: &Packed, image: Option<&Draft>) -> io::Result<()> {
        let folder = self.folder(&spec.name);
        fs::create_dir_all(&folder)?;
        let draft = folder.join(format!(".{}", ids::fresh()));
        let written = (|| {
            for (name, bytes) in &packed.files {
                let place = draft.join(name);
                fs::create_dir_all(place.parent().unwrap_or(&draft))?;
                fs::write(place, bytes)?;
            }
            let project = folder.join(&spec.version);
            remove(&project)?;
            fs::rename(&draft, project)?;
            if let Some(image) = image {
                fs::rename(&image.0, self.image(spec))?;
            }
            replace(&folder, &bundle_name(spec), &packed.bundle)?;
            replace(&folder, &archive_name(spec), &packed.archive)?;
            replace(&folder, "manifest.json", format!("{:#}\n", packed.manifest).as_bytes())
        })();
        if written.is_err() {
            drop(remove(&draft));
        }
        written
    }

    /// Removes what lies in the folder of a server, but for a draft.
    pub(crate) fn clear(&self, name: &str, draft: Option<&Draft>) -> io::Result<()> {
        let entries = match fs::read_dir(self.folder(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if draft.is_some_and(|draft| draft.0 == entry.path()) {
                continue;
            }
            if entry.file_type()?.is_dir() { remove(&entry.path())? } else { remove_file(&entry.path())? }
        }
        Ok(())
    }

    /// Removes the files of a version that came to nothing.
    pub(crate) fn remove_version(&self, spec: &ServerSpec) -> io::Result<()> {
        let folder = self.folder(&spec.name);
        remove(&folder.join(&spec.version))?;
        for name in [archive_name(spec), bundle_name(spec), image_name(spec)] {
            remove_file(&folder.join(name))?;
        }
        let is_of_it =
            fs::read(folder.join("manifest.json")).ok().and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
        if is_of_it.is_some_and(|manifest| manifest["version"] == spec.version.as_str()) {
            remove_file(&folder.join("manifest.json"))?;
        }
        // With nothing left in it, it goes, too.
        drop(fs::remove_dir(&folder));
        Ok(())
    }

    /// Removes the folder of a server.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        remove(&self.folder(name))
    }

    /// The server whose folder a path lies in.
    pub(crate) fn server_of(&self, place: &Path) -> Option<String> {
        let root = self.root.canonicalize().ok()?;
        let first = place.strip_prefix(root).ok()?.components().next()?;
        first.as_os_str().to_str().map(str::to_owned)
    }

    /// A path that somebody gave: below the folder, unless they may read any.
    pub(crate) fn found(&self, path: &str, may_anywhere: bool) -> Result<PathBuf, FactoryError> {
        if path.contains('\0') {
            return Err(FactoryError::Outside);
        }
        let given = Path::new(path);
        if !may_anywhere && given.components().any(|part| matches!(part, Component::ParentDir)) {
            return Err(FactoryError::Outside);
        }
        let place = if given.is_absolute() { given.to_owned() } else { self.root.join(given) };
        if !may_anywhere && !place.starts_with(&self.root) {
            return Err(FactoryError::Outside);
        }
        let real = place.canonicalize().map_err(|_| FactoryError::NoSuchPath)?;
        let root = self.root.canonicalize().unwrap_or_else(|_| self.root.clone());
        if may_anywhere || real.starts_with(root) { Ok(real) } else { Err(FactoryError::Outside) }
    }
}

fn replace(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let draft = folder.join(format!(".{}", ids::fresh()));
    let written =
        fs::write(&draft, bytes).and_then(|()| fs::File::open(&draft)?.sync_all()).and_then(|()| fs::rename(&draft, folder.join(name)));
    if written.is_err() {
        drop(remove_file(&draft));
    }
    written
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove_file(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What is in an archive of npm, without its first folder.
pub(crate) fn unpacked(archive: &[u8]) -> Result<Files, FactoryError> {
    let wrong = |what: &str| FactoryError::Unreadable(format!("the archive cannot be unpacked: {what}"));
    let mut tar = tar::Archive::new(GzDecoder::new(archive));
    let (mut files, mut left) = (Files::new(), LARGEST);
    for entry in tar.entries().map_err(|error| wrong(&error.to_string()))? {
        let mut entry = entry.map_err(|error| wrong(&error.to_string()))?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path().map_err(|error| wrong(&error.to_string()))?.into_owned();
        let mut parts = path.components();
        parts.next();
        let inner = parts.as_path().to_owned();
        let is_plain = inner.components().all(|part| matches!(part, Component::Normal(_))) && inner.to_str().is_some();
        if !is_plain || inner.as_os_str().is_empty() {
            return Err(wrong("a name in it leads out of it"));
        }
        left = left.checked_sub(entry.size()).ok_or_else(|| FactoryError::TooLarge(format!("more than {} MiB unpacked", LARGEST >> 20)))?;
        if files.len() == MOST_FILES {
            return Err(FactoryError::TooLarge(format!("more than {MOST_FILES} files")));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(|error| wrong(&error.to_string()))?;
        files.insert(inner.to_string_lossy().into_owned(), bytes);
    }
    Ok(files)
}

/// The files of a project's folder; links and what others brought in are left out.
pub(crate) fn project(folder: &Path) -> Result<Files, FactoryError> {
    let (mut files, mut left) = (Files::new(), LARGEST);
    walk(folder, folder, &mut files, &mut left)?;
    Ok(files)
}

fn walk(root: &Path, folder: &Path, files: &mut Files, left: &mut u64) -> Result<(), FactoryError> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (kind, name) = (entry.file_type()?, entry.file_name());
        if kind.is_dir() {
            if name != ".git" {
                walk(root, &entry.path(), files, left)?;
            }
        } else if kind.is_file() {
            let size = entry.metadata()?.len();
            *left = left.checked_sub(size).ok_or_else(|| FactoryError::TooLarge(format!("more than {} MiB", LARGEST >> 20)))?;
            if files.len() == MOST_FILES {
                return Err(FactoryError::TooLarge(format!("more than {MOST_FILES} files")));
            }
            let path = entry.path();
            let inner = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            files.insert(inner, fs::read(&path)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_folder() {
        let data = tempfile::tempdir().unwrap();
        let output = Output::new(data.path());
        fs::create_dir_all(data.path().join("output/mcp-x")).unwrap();
        std::os::unix::fs::symlink("/etc", data.path().join("output/link")).unwrap();
        assert!(output.found("mcp-x", false).is_ok());
        assert!(output.found(data.path().join("output/mcp-x").to_str().unwrap(), false).is_ok());
        for bad in ["..", "../x", "mcp-x/../../x", "/etc/passwd", "link", "link/passwd", "a\0b"] {
            assert!(matches!(output.found(bad, false), Err(FactoryError::Outside)), "{bad}");
        }
        assert!(matches!(output.found("nothing", false), Err(FactoryError::NoSuchPath)));
        assert!(output.found("/etc", true).is_ok());
    }
}
