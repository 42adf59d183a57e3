//! Which vLLM there is, by the files of its package: to ask the program itself means to import torch, which takes longer
//! than anybody waits.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::facts::Program;

/// Where the engine is pinned.
const PINNED: &str = include_str!("../../../engine/versions.env");
/// Longest first line of a script that is read, in bytes.
const LINE_LIMIT: u64 = 4096;

/// The version that vllama is made for.
pub(super) fn pinned() -> &'static str {
    PINNED.lines().find_map(|line| line.strip_prefix("ENGINE_VERSION=")).unwrap_or_default().trim()
}

/// Looks at the program and, for its version, into the Python environment it belongs to.
pub(super) fn look(program: &Path) -> Program {
    let exists = program.is_file();
    let prefixes =
        [prefix(program), fs::canonicalize(program).ok().and_then(|path| prefix(&path)), interpreter(program)];
    Program {
        path: program.into(),
        exists,
        runs: exists && access(program, AccessFlags::X_OK).is_ok(),
        version: prefixes.iter().flatten().find_map(|prefix| installed(prefix)),
    }
}

/// `<prefix>/bin/program`.
fn prefix(program: &Path) -> Option<PathBuf> {
    Some(program.parent()?.parent()?.into())
}

/// The prefix of the Python that a script names in its first line.
fn interpreter(script: &Path) -> Option<PathBuf> {
    let mut line = String::new();
    BufReader::new(fs::File::open(script).ok()?.take(LINE_LIMIT)).read_line(&mut line).ok()?;
    let interpreter = line.strip_prefix("#!")?.split_whitespace().next()?;
    prefix(Path::new(interpreter))
}

/// The version in `<prefix>/lib/python3.*/{site,dist}-packages/vllm-<version>.dist-info`.
fn installed(prefix: &Path) -> Option<String> {
    let pythons = fs::read_dir(prefix.join("lib")).ok()?.flatten().map(|entry| entry.path());
    let pythons =
        pythons.filter(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"python3")));
    let packages = pythons.flat_map(|python| ["site-packages", "dist-packages"].map(|packages| python.join(packages)));
    packages.filter_map(|packages| fs::read_dir(packages).ok()).flatten().flatten().find_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        Some(name.strip_prefix("vllm-")?.strip_suffix(".dist-info")?.to_owned())
    })
}

/// Whether `version` is older than `than`, by their numbers; what follows a `+` or a letter does not count.
pub(super) fn is_older(version: &str, than: &str) -> bool {
    numbers(version) < numbers(than)
}

fn numbers(version: &str) -> [u64; 3] {
    let mut parts = version.split(['.', '+']).map(|part| {
        let digits = part.len() - part.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
        part[..digits].parse().unwrap_or_default()
    });
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for (version, than, older) in [
            ("0.32.0", "0.32.0", false),
            ("0.32.0+cpu", "0.32.0", false),
            ("0.9.2", "0.32.0", true),
            ("0.31.9", "0.32.0", true),
            ("0.32.1rc2", "0.32.0", false),
            ("1.0", "0.32.0", false),
        ] {
            assert_eq!(is_older(version, than), older, "{version} {than}");
        }
        assert!(!is_older(pinned(), "0.1.0"), "the pinned version is a version: {:?}", pinned());
    }

    #[test]
    fn the_version_is_read_from_the_package_beside_the_program_or_beside_its_interpreter() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        fs::create_dir_all(path("venv/lib/python3.11/site-packages/vllm-0.32.1.dist-info")).expect("a package");
        fs::create_dir_all(path("venv/bin")).expect("a directory");
        fs::create_dir_all(path("elsewhere")).expect("a directory");
        let python = path("venv/bin/python").display().to_string();
        for program in ["venv/bin/vllm", "elsewhere/vllm"] {
            fs::write(path(program), format!("#!{python}\n")).expect("a program");
            let program = look(&path(program));
            assert_eq!(program.version.as_deref(), Some("0.32.1"), "{program:?}");
            assert!(program.exists && !program.runs);
        }
        assert!(!look(&path("nothing")).exists);
    }
}
