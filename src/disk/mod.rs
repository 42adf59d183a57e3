//! Small files that are replaced whole: a reader, and whoever comes after a crash, finds the old one or the new one.
//!
//! In: a path and all bytes. Out: the file under its name, by one rename. Knows nothing of what is in it.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// What a power cut may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    /// Nothing: it is on the disk when it has its name.
    Synced,
    /// What was written last, which is found anew. Nobody waits for a busy disk.
    Unsynced,
}

/// Writes `bytes` to the file at `path`, with exactly these permission bits. They are gathered under a name of their own
/// beside it, so nobody else may be writing the same file; its directory must be there.
///
/// # Errors
/// What the system says; the file is then what it was.
pub fn replace(path: &Path, bytes: &[u8], mode: u32, lasting: Lasting) -> io::Result<()> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is the path of no file"));
    };
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let unfinished = directory.join(format!(".{}.new", name.to_string_lossy()));
    let written = create(&unfinished, bytes, mode).and_then(|file| {
        if lasting == Lasting::Synced {
            file.sync_all()?;
        }
        fs::rename(&unfinished, path)
    });
    if let Err(error) = written {
        // On a full disk it would be in the way. What cannot be removed now is replaced the next time.
        let _ = fs::remove_file(&unfinished);
        return Err(error);
    }
    match lasting {
        Lasting::Synced => sync_directory(directory),
        Lasting::Unsynced => Ok(()),
    }
}

/// Makes a new file with exactly these permission bits and writes `bytes` into it, without waiting for the disk. One that
/// a crash left there goes: others may have it open, or may read it.
///
/// # Errors
/// What the system says.
pub fn create(path: &Path, bytes: &[u8], mode: u32) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    Ok(file)
}

/// Makes the names in a directory last.
///
/// # Errors
/// What the system says.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("a file").permissions().mode() & 0o777
    }

    #[test]
    fn a_file_is_replaced_whole_with_the_mode_that_was_asked_for() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, left_behind) = (directory.path().join("a.json"), directory.path().join(".a.json.new"));
        fs::write(&path, "old and long").expect("written");
        fs::write(&left_behind, "by a crash, for all to read").expect("written");
        for (text, bits, lasting) in [("new", 0o600, Lasting::Synced), ("newer", 0o644, Lasting::Unsynced)] {
            replace(&path, text.as_bytes(), bits, lasting).expect("replaced");
            assert_eq!((fs::read_to_string(&path).expect("read").as_str(), mode(&path)), (text, bits));
            assert!(!left_behind.exists());
        }
    }

    #[test]
    fn what_cannot_be_replaced_stays_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("taken");
        fs::create_dir(&path).expect("made");
        fs::write(path.join("file"), "").expect("written");
        replace(&path, b"new", 0o600, Lasting::Synced).expect_err("a directory has the name");
        assert_eq!(fs::read_dir(directory.path()).expect("read").count(), 1);
        assert!(replace(Path::new("/"), b"", 0o600, Lasting::Synced).is_err());
    }
}
