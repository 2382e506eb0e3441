//! The store of verified bytes: files named by their SHA-256.
//!
//!     <root>/CACHEDIR.TAG            backup programs pass the folder over
//!     <root>/layout                  the version of this layout
//!     <root>/.blobs/sha256/ab/<hex>  what was verified; never changed
//!     <root>/.drafts/<id>            what is coming in
//!     <root>/.quarantine             what was found changed
//!     <root>/<type>/<name>/<version> hard links to blobs, for people
//!
//! A blob appears in one step (rename on one file system, after `fsync`), so that a crash leaves a whole
//! one or none. Its row is written afterwards.

use std::{
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use platform::{
    files::{FileError, IoContext as _},
    ids,
};
use tokio::{
    fs,
    io::{AsyncSeekExt as _, AsyncWriteExt as _},
};

use crate::digest::BlobId;

/// What `layout` says; another number is of another version of the program.
const LAYOUT: &str = "1";
/// A draft of another node that nobody has written to for so long belongs to nobody.
const ABANDONED: Duration = Duration::from_hours(24);
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n# The package cache of MCP Fabric; it can be filled again.\n";

/// The store of one cache folder.
#[derive(Clone, Debug)]
pub(crate) struct Blobs {
    root: PathBuf,
    node: String,
}

/// The folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BlobsError {
    /// Written by a newer program.
    #[error("{0} has a layout that this version of the program does not know")]
    Layout(PathBuf),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Blobs {
    /// Makes the folder where it is not there. Drafts bear the name of the node, of which there is one
    /// process at a time: several nodes may share a folder.
    pub(crate) async fn open(root: &Path, node: &str) -> Result<Self, BlobsError> {
        let blobs = Self { root: root.to_owned(), node: node.to_owned() };
        for folder in [blobs.root.join(".blobs/sha256"), blobs.drafts()] {
            fs::create_dir_all(&folder).await.about("create", &folder)?;
        }
        let layout = blobs.root.join("layout");
        match platform::files::read_if_present(&layout)? {
            Some(text) if text.trim() == LAYOUT => {}
            Some(_) => return Err(BlobsError::Layout(blobs.root)),
            None => platform::files::write_private(&layout, LAYOUT.as_bytes())?,
        }
        let tag = blobs.root.join("CACHEDIR.TAG");
        fs::write(&tag, TAG).await.about("write", &tag)?;
        Ok(blobs)
    }

    fn drafts(&self) -> PathBuf {
        self.root.join(".drafts")
    }

    /// Where a blob lies.
    pub(crate) fn path(&self, id: &BlobId) -> PathBuf {
        let hex = id.hex();
        self.root.join(".blobs/sha256").join(&hex[..2]).join(hex)
    }

    /// Removes what an earlier process of this node did not finish, and what nodes left that are gone.
    pub(crate) async fn sweep_drafts(&self) -> io::Result<u32> {
        let (mut entries, mut removed) = (fs::read_dir(self.drafts()).await?, 0);
        while let Some(entry) = entries.next_entry().await? {
            // Another node may have finished it by now.
            let Ok(found) = entry.metadata().await else { continue };
            let is_own = entry.file_name().to_string_lossy().starts_with(&self.node);
            if !is_own && found.modified()?.elapsed().unwrap_or_default() < ABANDONED {
                continue;
            }
            if found.is_dir() {
                fs::remove_dir_all(entry.path()).await?;
            } else {
                fs::remove_file(entry.path()).await?;
            }
            removed += 1;
        }
        Ok(removed)
    }

    fn draft_path(&self) -> PathBuf {
        self.drafts().join(format!("{}.{}", self.node, ids::fresh()))
    }

    /// An empty folder for a program that works on packages; removed when it is dropped.
    pub(crate) async fn workplace(&self) -> io::Result<Workplace> {
        let path = self.draft_path();
        fs::create_dir(&path).await?;
        Ok(Workplace { path })
    }

    /// A place for bytes that come in.
    pub(crate) async fn draft(&self) -> io::Result<Draft> {
        let path = self.draft_path();
        let file = fs::OpenOptions::new().create_new(true).write(true).open(&path).await?;
        Ok(Draft { path, file, is_kept: false })
    }

    /// Makes a draft, whose bytes have this id, a blob. One that is there already is replaced by the same bytes.
    pub(crate) async fn keep(&self, mut draft: Draft, id: &BlobId) -> io::Result<()> {
        draft.file.flush().await?;
        draft.file.sync_all().await?;
        let place = self.path(id);
        let folder = place.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder).await?;
        // The links for people are the same file: nobody is to change it through one of them.
        fs::set_permissions(&draft.path, std::fs::Permissions::from_mode(0o444)).await?;
        fs::rename(&draft.path, &place).await?;
        draft.is_kept = true;
        fs::File::open(folder).await?.sync_all().await
    }

    /// Stores bytes that are in memory.
    pub(crate) async fn put(&self, bytes: &[u8]) -> io::Result<BlobId> {
        let id = BlobId::of(bytes);
        let mut draft = self.draft().await?;
        draft.file.write_all(bytes).await?;
        self.keep(draft, &id).await?;
        Ok(id)
    }

    /// Puts a hard link to a blob at a place below the root; one that is there is replaced.
    pub(crate) async fn link(&self, id: &BlobId, place: &Path) -> io::Result<()> {
        let place = self.root.join(place);
        fs::create_dir_all(place.parent().unwrap_or(&self.root)).await?;
        let draft = self.draft_path();
        fs::hard_link(self.path(id), &draft).await?;
        fs::rename(&draft, &place).await?;
        // Two names of one file: renaming one to the other leaves both.
        match fs::remove_file(&draft).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Writes a small file beside the links of a package, in one step. It says what rows say: nothing is lost
    /// with it, so that nobody waits for the disk.
    pub(crate) async fn write_beside(&self, place: &Path, text: &[u8]) -> io::Result<()> {
        let place = self.root.join(place);
        fs::create_dir_all(place.parent().unwrap_or(&self.root)).await?;
        let mut draft = self.draft().await?;
        draft.file.write_all(text).await?;
        draft.file.flush().await?;
        fs::rename(&draft.path, &place).await?;
        draft.is_kept = true;
        Ok(())
    }

    /// Removes the links of a package, and folders above it that hold nothing else.
    pub(crate) async fn unlink(&self, folder: &Path) -> io::Result<()> {
        let whole = self.root.join(folder);
        let trash = self.draft_path();
        match fs::rename(&whole, &trash).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed?,
        }
        fs::remove_dir_all(&trash).await?;
        let above = folder.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty());
        for above in above {
            if fs::remove_dir(self.root.join(above)).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// What is free on the disk for programs without privileges.
    pub(crate) fn free_bytes(&self) -> io::Result<u64> {
        let found = rustix::fs::statvfs(&self.root)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// Sets bytes aside that are not what their name says, for somebody to look at.
    pub(crate) async fn quarantine(&self, id: &BlobId) -> io::Result<()> {
        let folder = self.root.join(".quarantine");
        fs::create_dir_all(&folder).await?;
        match fs::rename(self.path(id), folder.join(format!("{}.{}", id.hex(), ids::fresh()))).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Blobs that nobody has touched for a while.
    pub(crate) async fn settled(&self, age: Duration) -> io::Result<Vec<BlobId>> {
        let (mut found, mut folders) = (Vec::new(), fs::read_dir(self.root.join(".blobs/sha256")).await?);
        while let Some(folder) = folders.next_entry().await? {
            let mut entries = fs::read_dir(folder.path()).await?;
            while let Some(entry) = entries.next_entry().await? {
                let id = entry.file_name().to_str().and_then(BlobId::from_hex);
                // It may be removed while this looks.
                let modified = entry.metadata().await.and_then(|found| found.modified());
                let is_settled = modified.is_ok_and(|modified| modified.elapsed().unwrap_or_default() >= age);
                found.extend(id.filter(|_| is_settled));
            }
        }
        Ok(found)
    }

    /// Whether a blob is there.
    pub(crate) async fn has(&self, id: &BlobId) -> bool {
        fs::try_exists(self.path(id)).await.unwrap_or(false)
    }

    /// Removes a blob that nothing refers to.
    pub(crate) async fn remove(&self, id: &BlobId) -> io::Result<()> {
        match fs::remove_file(self.path(id)).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// A blob's bytes.
    pub(crate) async fn read(&self, id: &BlobId) -> io::Result<Vec<u8>> {
        fs::read(self.path(id)).await
    }

    /// How much a blob measures.
    pub(crate) fn size(&self, id: &BlobId) -> io::Result<u64> {
        Ok(std::fs::metadata(self.path(id))?.len())
    }

    /// A blob to be read bit by bit.
    pub(crate) async fn open_blob(&self, id: &BlobId) -> io::Result<fs::File> {
        fs::File::open(self.path(id)).await
    }
}

/// A folder that is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Workplace {
    path: PathBuf,
}

impl Workplace {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, "could not remove a temporary folder of the cache");
        }
    }
}

/// Bytes that come in; removed unless they are kept.
#[derive(Debug)]
pub(crate) struct Draft {
    path: PathBuf,
    file: fs::File,
    is_kept: bool,
}

impl Draft {
    /// Adds bytes.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes).await
    }

    /// Forgets what was written.
    pub(crate) async fn restart(&mut self) -> io::Result<()> {
        self.file.flush().await?;
        self.file.set_len(0).await?;
        self.file.rewind().await.map(drop)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_kept {
            // A missing draft is as good as a removed one.
            std::fs::remove_file(&self.path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_blob_is_kept_once_linked_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(root.path(), "node").await.unwrap();
        let id = blobs.put(b"bytes").await.unwrap();
        assert_eq!(blobs.put(b"bytes").await.unwrap(), id);
        let folder = Path::new("npm/@a/b/1.0.0");
        for _ in 0..2 {
            blobs.link(&id, &folder.join("b-1.0.0.tgz")).await.unwrap();
        }
        assert_eq!(std::fs::read(root.path().join(folder).join("b-1.0.0.tgz")).unwrap(), b"bytes");
        assert_eq!(names(&root.path().join(".drafts")), [""; 0]);
        blobs.unlink(folder).await.unwrap();
        blobs.unlink(folder).await.unwrap();
        assert!(!root.path().join("npm").exists());
        assert_eq!(blobs.read(&id).await.unwrap(), b"bytes");
        blobs.remove(&id).await.unwrap();
        blobs.remove(&id).await.unwrap();
        assert_eq!(names(root.path()), [".blobs", ".drafts", "CACHEDIR.TAG", "layout"]);
    }

    #[tokio::test]
    async fn a_draft_that_is_given_up_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(root.path(), "node").await.unwrap();
        let mut draft = blobs.draft().await.unwrap();
        draft.write(b"half").await.unwrap();
        draft.restart().await.unwrap();
        drop(draft);
        assert_eq!(names(&root.path().join(".drafts")), [""; 0]);
        for name in ["node.left", "other.at-work"] {
            std::fs::write(root.path().join(".drafts").join(name), "x").unwrap();
        }
        assert_eq!(blobs.sweep_drafts().await.unwrap(), 1);
        assert_eq!(names(&root.path().join(".drafts")), ["other.at-work"]);
    }

    #[tokio::test]
    async fn another_layout_is_refused() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("layout"), "99").unwrap();
        assert!(matches!(Blobs::open(root.path(), "node").await, Err(BlobsError::Layout(_))));
    }
}
