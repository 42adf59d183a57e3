//! The key file: JSON, for its owner's eyes, written whole by a rename. Holds digests, never keys.

use std::fs::{DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::key::KeyName;
use super::limits::Limits;
use super::scope::Scope;
use super::secret::{Digest, Secret};
use crate::disk::{self, Lasting};

/// Largest key file, in bytes.
const LIMIT: u64 = 16 << 20;

/// What is kept of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its name; no two good keys have the same.
    pub name: KeyName,
    /// What it is known by.
    pub sha256: Digest,
    /// When it was made (RFC 3339).
    pub created: String,
    /// What it is for.
    pub scopes: Vec<Scope>,
    /// What it may cost.
    #[serde(default)]
    pub limits: Limits,
    /// When it was revoked; absent as long as it is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<String>,
}

impl Entry {
    /// An entry for a new key.
    #[must_use]
    pub fn new(name: KeyName, secret: &Secret, scopes: Vec<Scope>, limits: Limits) -> Self {
        Self { name, sha256: secret.digest(), created: now(), scopes, limits, revoked: None }
    }

    /// Whether it has not been revoked.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.revoked.is_none()
    }
}

/// Why a key file cannot be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system says so.
    #[error("{0}")]
    System(#[from] io::Error),
    /// It is not what vllama writes.
    #[error("it is no key file: {0}")]
    Broken(String),
    /// There is a good key of that name.
    #[error("there is a key named '{0}' already")]
    Taken(KeyName),
    /// There is none.
    #[error("there is no key named '{0}' that could be revoked")]
    Unknown(KeyName),
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    keys: Vec<Entry>,
}

/// A key file by its path.
#[derive(Clone, Debug)]
pub struct KeyFile(PathBuf);

impl KeyFile {
    /// The file at this path, which need not be there.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// All keys in it, revoked ones too; `None` where there is no file.
    ///
    /// # Errors
    /// [`FileError`] when it cannot be read or understood.
    pub fn read(&self) -> Result<Option<Vec<Entry>>, FileError> {
        let mut text = String::new();
        match File::open(&self.0) {
            Ok(file) => file.take(LIMIT + 1).read_to_string(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if text.len() as u64 > LIMIT {
            return Err(FileError::Broken("it is larger than 16 MiB".to_owned()));
        }
        let Content { keys } = serde_json::from_str(&text).map_err(|error| FileError::Broken(error.to_string()))?;
        for (at, key) in keys.iter().enumerate() {
            let alike = |other: &Entry| other.name == key.name && other.is_good() || other.sha256 == key.sha256;
            if key.is_good() && keys[..at].iter().any(alike) {
                return Err(FileError::Broken(format!("the key '{}' is there twice", key.name)));
            }
        }
        Ok(Some(keys))
    }

    /// Makes the file with one key, if it is not there. False when it is.
    ///
    /// # Errors
    /// [`FileError`] when it cannot be written.
    pub fn create(&self, first: Entry) -> Result<bool, FileError> {
        self.change(|keys| match keys {
            Some(_) => Ok(None),
            None => Ok(Some(vec![first])),
        })
    }

    /// Adds a key; makes the file where there is none.
    ///
    /// # Errors
    /// [`FileError`], and nothing has changed.
    pub fn add(&self, entry: Entry) -> Result<(), FileError> {
        self.change(|keys| {
            let mut keys = keys.unwrap_or_default();
            if keys.iter().any(|key| key.is_good() && key.name == entry.name) {
                return Err(FileError::Taken(entry.name));
            }
            keys.push(entry);
            Ok(Some(keys))
        })
        .map(drop)
    }

    /// Revokes the good key of this name. It stays in the file, so that one can see what was.
    ///
    /// # Errors
    /// [`FileError`], and nothing has changed.
    pub fn revoke(&self, name: &KeyName) -> Result<(), FileError> {
        self.change(|keys| {
            let mut keys = keys.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it is not there"))?;
            let key = keys.iter_mut().find(|key| key.is_good() && key.name == *name);
            key.ok_or_else(|| FileError::Unknown(name.clone()))?.revoked = Some(now());
            Ok(Some(keys))
        })
        .map(drop)
    }

    /// Reads, changes and writes while nobody else does; false when there was nothing to write.
    fn change(
        &self,
        change: impl FnOnce(Option<Vec<Entry>>) -> Result<Option<Vec<Entry>>, FileError>,
    ) -> Result<bool, FileError> {
        let directory = self.0.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !directory.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        // The directory stands in for a lock file, which would stay behind.
        let _lock = Flock::lock(File::open(directory)?, FlockArg::LockExclusive)
            .map_err(|(_, error)| io::Error::from(error))?;
        let Some(keys) = change(self.read()?)? else { return Ok(false) };
        self.write(&Content { keys })?;
        Ok(true)
    }

    fn write(&self, content: &Content) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(content)?;
        text.push(b'\n');
        disk::replace(&self.0, &text, 0o600, Lasting::Synced)
    }
}

fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn entry(name: &str) -> Entry {
        let secret = Secret::new().expect("a key");
        Entry::new(name.parse().expect("a name"), &secret, vec![Scope::Infer], Limits::default())
    }

    fn names(file: &KeyFile) -> Vec<(String, bool)> {
        let keys = file.read().expect("a key file").expect("a file");
        keys.iter().map(|key| (key.name.to_string(), key.is_good())).collect()
    }

    #[test]
    fn keys_are_added_and_revoked_and_only_the_owner_may_read_of_them() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = KeyFile::new(&directory.path().join("below/keys.json"));
        assert!(file.read().expect("no file").is_none());
        assert!(matches!(file.revoke(&"a".parse().expect("a name")), Err(FileError::System(_))));
        assert!(file.create(entry("admin")).expect("made"));
        assert!(!file.create(entry("other")).expect("left alone"));
        file.add(entry("bob")).expect("added");
        assert!(matches!(file.add(entry("bob")), Err(FileError::Taken(_))));
        file.revoke(&"bob".parse().expect("a name")).expect("revoked");
        assert!(matches!(file.revoke(&"bob".parse().expect("a name")), Err(FileError::Unknown(_))));
        file.add(entry("bob")).expect("added anew");
        let expected = [("admin", true), ("bob", false), ("bob", true)];
        assert_eq!(names(&file), expected.map(|(name, good)| (name.to_owned(), good)));
        let mode = fs::metadata(file.path()).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let beside = fs::read_dir(directory.path().join("below")).expect("a directory").count();
        assert_eq!(beside, 1, "nothing is left beside it");
    }

    #[test]
    fn keys_added_at_the_same_time_are_all_there() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = KeyFile::new(&directory.path().join("keys.json"));
        std::thread::scope(|scope| {
            for number in 0..8 {
                let file = &file;
                scope.spawn(move || file.add(entry(&format!("key{number}"))).expect("added"));
            }
        });
        assert_eq!(names(&file).len(), 8);
    }

    #[test]
    fn what_is_no_key_file_is_refused_whole() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = KeyFile::new(&directory.path().join("keys.json"));
        file.add(entry("bob")).expect("added");
        let text = fs::read_to_string(file.path()).expect("text");
        let twice = text
            .replace("\"keys\": [", &format!("\"keys\": [{},", serde_json::to_string(&entry("bob")).expect("JSON")));
        for wrong in [
            "",
            "{}",
            "[]",
            &text[..text.len() / 2],
            &text.replace("\"name\"", "\"title\""),
            &text.replace("infer", "everything"),
            &text.replace("\"limits\": {}", "\"limits\": {\"concurent\": 1}"),
            &twice,
        ] {
            fs::write(file.path(), wrong).expect("written");
            assert!(matches!(file.read(), Err(FileError::Broken(_))), "{wrong}");
            assert!(file.add(entry("eve")).is_err());
            assert_eq!(fs::read_to_string(file.path()).expect("text"), wrong, "a broken file is left as it is");
        }
    }
}
