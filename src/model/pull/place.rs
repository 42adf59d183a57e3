//! Where unfinished downloads wait to be gone on with: one directory a name, beside the installed models.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use crate::model::ModelName;

/// How long an unfinished download is kept that nobody goes on with.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Most unfinished downloads that are kept.
const MOST: usize = 8;

/// The directory for the download of a model: readable, and of bounded length whatever the name.
pub(super) fn of(downloads: &Path, name: &ModelName) -> PathBuf {
    let identity = name.key().join("/");
    let hash: String = Sha256::digest(identity.as_bytes()).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let [_, _, model, tag] = name.key();
    downloads.join(format!("{model}-{tag}-{hash}"))
}

/// Removes unfinished downloads that nobody goes on with, `keep` excepted: old ones, and the oldest of too many.
pub(super) fn sweep(downloads: &Path, keep: &Path) {
    let Ok(entries) = fs::read_dir(downloads) else { return };
    let mut others: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path != keep)
        .map(|path| (last_written(&path), path))
        .collect();
    others.sort_by(|one, other| other.cmp(one));
    for (index, (written, path)) in others.into_iter().enumerate() {
        let age = written.elapsed().unwrap_or_default();
        if (age > KEPT || index + 1 >= MOST) && remove(&path) {
            tracing::info!(directory = %path.display(), "removed a download that nobody went on with");
        }
    }
}

/// Removes a download, unless a script is at work there, perhaps that of another vllama: it holds a lock on the
/// directory. What cannot be removed now is swept one day.
pub(super) fn remove(directory: &Path) -> bool {
    let Ok(handle) = fs::File::open(directory) else { return false };
    let lock = Flock::lock(handle, FlockArg::LockExclusiveNonblock);
    lock.is_ok() && fs::remove_dir_all(directory).is_ok()
}

/// When something below `directory` was written last.
fn last_written(directory: &Path) -> SystemTime {
    let mut newest = SystemTime::UNIX_EPOCH;
    let mut open = vec![directory.to_path_buf()];
    while let Some(path) = open.pop() {
        let Ok(facts) = fs::symlink_metadata(&path) else { continue };
        newest = newest.max(facts.modified().unwrap_or(SystemTime::UNIX_EPOCH));
        if facts.is_dir() {
            open.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
    newest
}

/// Gives every file below `from` a second name below `to`, so that a crash before the installation costs nothing; where
/// the file system has no second names they are moved.
///
/// # Errors
/// What the system says.
pub(super) fn link_all(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            fs::create_dir_all(&target)?;
            link_all(&source, &target)?;
        } else if fs::hard_link(&source, &target).is_err() {
            fs::rename(&source, &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(downloads: &Path, name: &str, age: Duration) -> PathBuf {
        let directory = downloads.join(name);
        fs::create_dir_all(directory.join("commit")).expect("made");
        let file = fs::File::create(directory.join("commit/file")).expect("made");
        let then = SystemTime::now() - age;
        file.set_modified(then).expect("aged");
        for path in [directory.join("commit"), directory.clone()] {
            fs::File::open(path).and_then(|path| path.set_modified(then)).expect("aged");
        }
        directory
    }

    #[test]
    fn names_of_any_kind_get_short_directories_of_their_own() {
        let place = |text: &str| of(Path::new("/d"), &ModelName::parse(text).expect("a name"));
        assert_eq!(place("Qwen/Qwen3:x"), place("qwen/qwen3:X"));
        assert_ne!(place("Qwen/Qwen3"), place("hf.co/Qwen/Qwen3"));
        let long = format!("{0}/{0}:{0}", "x".repeat(80));
        let name = place(&long).file_name().expect("a name").len();
        assert!(name < 255, "{name}");
        assert!(place("qwen3:8b").to_string_lossy().starts_with("/d/qwen3-8b-"));
    }

    #[test]
    fn old_downloads_go_and_of_too_many_the_oldest() {
        let downloads = tempfile::tempdir().expect("a directory");
        let hour = Duration::from_secs(3600);
        let mine = make(downloads.path(), "mine", hour * 1000);
        let old = make(downloads.path(), "old", hour * 24 * 8);
        let many: Vec<_> = (0..10).map(|age| make(downloads.path(), &format!("m{age}"), hour * (age + 2))).collect();
        let at_work = make(downloads.path(), "at work", hour * 1000);
        let handle = fs::File::open(&at_work).expect("opened");
        let _lock = Flock::lock(handle, FlockArg::LockExclusiveNonblock).expect("locked");
        sweep(downloads.path(), &mine);
        assert!(mine.exists() && at_work.exists() && !old.exists());
        let left: Vec<_> = many.iter().map(|path| path.exists()).collect();
        assert_eq!(left, [[true; 7].as_slice(), &[false; 3]].concat());
    }

    #[test]
    fn linking_leaves_the_originals_and_takes_directories_along() {
        let (from, to) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
        fs::create_dir(from.path().join("1_Pooling")).expect("made");
        fs::write(from.path().join("1_Pooling/config.json"), "{}").expect("written");
        link_all(from.path(), to.path()).expect("linked");
        for directory in [from, to] {
            assert_eq!(fs::read(directory.path().join("1_Pooling/config.json")).expect("read"), b"{}");
        }
    }
}
