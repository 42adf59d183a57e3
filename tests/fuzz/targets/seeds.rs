//! Inputs to begin with: the recordings and the checkpoints that other tests stand on.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    // The guided run is a package one folder below.
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    if here.join("tests/golden").is_dir() { here.to_owned() } else { here.join("..") }
}

/// All files of a folder of the repository, in the order of their names; none where there is no such folder.
pub fn folder(path: &str) -> Vec<Vec<u8>> {
    files(path).into_iter().map(|file| std::fs::read(file).expect("a file of the repository")).collect()
}

/// The files of a folder of the repository, in the order of their names.
pub fn files(path: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(path));
    let mut files: Vec<PathBuf> = entries.into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort();
    files
}

/// The bodies of recorded requests to paths that begin so.
pub fn recorded_requests(beginning: &str) -> Vec<Vec<u8>> {
    let transcripts = folder("tests/golden/ollama").into_iter();
    let bodies = transcripts.filter_map(|transcript| {
        let text = String::from_utf8(transcript).ok()?;
        let mut asked = text.lines().map_while(|line| line.strip_prefix("> "));
        let (_, path) = asked.next()?.split_once(' ')?;
        path.starts_with(beginning).then(|| asked.next().unwrap_or_default().as_bytes().to_vec())
    });
    bodies.collect()
}

/// The bodies of recorded answers of the engine whose names begin so.
pub fn recorded_answers(beginning: &str) -> Vec<Vec<u8>> {
    let is_wanted = |file: &PathBuf| {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with(beginning) && name.ends_with(".response.txt")
    };
    let answers = files("tests/golden/vllm").into_iter().filter(is_wanted).map(std::fs::read);
    let bodies = answers.filter_map(|answer| {
        let answer = answer.expect("a recording");
        let head = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
        Some(answer[head + 4..].to_vec())
    });
    bodies.collect()
}
