//! Every link from one document of the project to another file or heading leads somewhere.

use std::path::{Path, PathBuf};

/// Directories that hold what others wrote, or what was built.
const NOT_OURS: &[&str] = &["target", "node_modules", "dist"];

/// All documents below a directory.
fn documents(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(directory) = open.pop() {
        for path in std::fs::read_dir(directory).expect("a directory").flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if !name.starts_with('.') && !NOT_OURS.contains(&name.as_str()) {
                    open.push(path);
                }
            } else if name.ends_with(".md") {
                found.push(path);
            }
        }
    }
    found
}

/// The lines of a document that are no code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        !in_code && !fence
    })
}

/// Where the links of a document lead: what stands in `](…)`, but for addresses.
fn links(text: &str) -> Vec<&str> {
    let all = prose(text).flat_map(|line| line.split("](").skip(1).filter_map(|rest| rest.split(')').next()));
    all.filter(|link| !link.contains("://") && !link.starts_with("mailto:")).collect()
}

/// The names by which the headings of a document can be linked to.
fn anchors(text: &str) -> Vec<String> {
    let name = |heading: &str| -> String {
        let kept = heading.trim().to_lowercase();
        let kept = kept.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'));
        kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
    };
    prose(text).filter(|line| line.starts_with('#')).map(|line| name(line.trim_start_matches('#'))).collect()
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &Path| std::fs::read_to_string(path).expect("a document");
    let mut dead = Vec::new();
    let mut followed = 0;
    for document in documents(root) {
        let text = read(&document);
        for link in links(&text) {
            followed += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => document.clone(),
                file => document.parent().expect("a directory").join(file),
            };
            let is_document = target.extension().is_some_and(|extension| extension == "md");
            let found = target.exists()
                && (anchor.is_empty() || !is_document || anchors(&read(&target)).iter().any(|name| name == anchor));
            if !found {
                dead.push(format!("{}: {link}", document.strip_prefix(root).unwrap_or(&document).display()));
            }
        }
    }
    assert!(followed > 40, "only {followed} links were found");
    assert!(dead.is_empty(), "{}", dead.join("\n"));
}

#[test]
fn the_reader_of_links_reads_links_and_headings() {
    let text = "# One: `two` and 3\n[a](x.md#b) and [c](https://d/) ![e](f.png)\n```\n[g](h)\n# i\n```\n";
    assert_eq!(links(text), ["x.md#b", "f.png"]);
    assert_eq!(anchors(text), ["one-two-and-3"]);
}
