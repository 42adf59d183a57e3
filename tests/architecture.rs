//! The plan of the house, checked: no room looks where it may not, `unsafe` stays in one room, the environment is read
//! in one room, and every room says what it is for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The rooms, and the rooms each may look into. `cli` puts everything together.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("cli", &["access", "api", "config", "disk", "engine", "gpu", "init", "model", "scheduler", "server", "telemetry"]),
    ("config", &["access", "model"]),
    ("server", &["access", "api", "telemetry"]),
    ("api", &["access", "scheduler", "model", "telemetry"]),
    ("access", &["disk", "model"]),
    ("scheduler", &["disk", "engine", "model", "gpu"]),
    ("engine", &["init", "model"]),
    ("gpu", &["init"]),
    ("telemetry", &["scheduler", "model", "gpu"]),
    ("model", &["disk", "init"]),
    ("disk", &[]),
    ("init", &[]),
];

/// Files outside `config/` that read the environment, and why they must.
const READS_ENVIRONMENT: &[(&str, &str)] =
    &[("api/ollama/replay_tests.rs", "a test writes its golden files anew when VLLAMA_BLESS is set")];

/// Ways to read or change the environment.
const ENVIRONMENT: &[&str] = &["env::var", "env::vars", "env::set_var", "env::remove_var"];

/// A source file without its tests.
struct Source {
    path: PathBuf,
    room: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).expect("a directory of sources").flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source file");
                // A room's tests may use what they need.
                let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default().to_owned();
                let inside = path.strip_prefix(&root).expect("below src").to_owned();
                let room = inside.components().next().expect("a name").as_os_str().to_string_lossy().into_owned();
                found.push(Source { path: inside, room, text });
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// The text without comments and string literals, so that talk about code is not taken for code.
fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(raw) = raw_string(rest) {
            raw
        } else if first == '"' {
            string(rest)
        } else if rest.starts_with("'\"'") {
            3
        } else if rest.starts_with("'\\\"'") {
            4
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        // Keeps tokens apart and lines counted.
        code.push(' ');
        code.extend(rest[..skipped].matches('\n'));
        rest = &rest[skipped..];
    }
    code
}

/// Bytes of the raw string a text begins with.
fn raw_string(text: &str) -> Option<usize> {
    let after = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let inside = after[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(text.len() - inside.len() + inside.find(&end).map_or(inside.len(), |at| at + end.len()))
}

/// Bytes of the string literal a text begins with.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The rooms a piece of code names by `crate::room` or inside `use crate::{room, …}`.
fn rooms_named(code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let after = &code[at + "crate::".len()..];
        if let Some(group) = after.strip_prefix('{') {
            for item in top_level_items(group) {
                rooms.insert(first_word(item));
            }
        } else {
            rooms.insert(first_word(after));
        }
    }
    rooms.remove("");
    rooms
}

/// The items of a `use` group up to its closing brace, without looking into inner groups.
fn top_level_items(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut items) = (0_usize, 0, Vec::new());
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => {
                items.push(&group[start..at]);
                return items;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    items
}

fn first_word(text: &str) -> String {
    text.trim_start().chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}

#[test]
fn no_room_looks_where_it_may_not() {
    let rooms: BTreeSet<&str> = MAY_KNOW.iter().map(|(room, _)| *room).collect();
    let mut wrong = Vec::new();
    for source in sources() {
        let Some((_, allowed)) = MAY_KNOW.iter().find(|(room, _)| *room == source.room) else { continue };
        for named in rooms_named(&code(&source.text)) {
            let is_room = rooms.contains(named.as_str());
            if is_room && named != source.room && !allowed.contains(&named.as_str()) {
                wrong.push(format!("src/{}: `{}` looks into `{named}`", source.path.display(), source.room));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_room_is_in_the_plan_and_main_is_but_a_door() {
    let rooms: BTreeSet<&str> = MAY_KNOW.iter().map(|(room, _)| *room).collect();
    for source in sources() {
        let known =
            rooms.contains(source.room.as_str()) || ["lib.rs", "main.rs", "bin"].contains(&source.room.as_str());
        assert!(known, "src/{} is in no room of the plan", source.path.display());
        if source.room == "main.rs" {
            assert!(source.text.lines().count() <= 20, "main.rs only opens the door");
            assert!(code(&source.text).contains("vllama::cli"), "main.rs hands over to cli");
        }
    }
}

#[test]
fn unsafe_stays_in_init() {
    for source in sources().iter().filter(|source| source.room != "init") {
        let code = code(&source.text);
        let word =
            |at: usize| !code[at + "unsafe".len()..].starts_with(|next: char| next.is_alphanumeric() || next == '_');
        let found = code.match_indices("unsafe").any(|(at, _)| word(at));
        assert!(!found, "src/{} holds `unsafe`", source.path.display());
    }
}

#[test]
fn the_environment_is_read_in_config_alone() {
    for source in sources().iter().filter(|source| source.room != "config") {
        let path = source.path.to_string_lossy();
        if let Some((_, reason)) = READS_ENVIRONMENT.iter().find(|(file, _)| *file == path) {
            println!("src/{path} reads the environment: {reason}");
            continue;
        }
        let code = code(&source.text);
        let found = ENVIRONMENT.iter().find(|way| code.contains(**way));
        assert_eq!(found, None, "src/{path}");
    }
}

#[test]
fn every_file_says_first_what_it_is_for() {
    for source in sources() {
        assert!(source.text.starts_with("//!"), "src/{} begins without `//!`", source.path.display());
        let stub = source.text.lines().next() == Some("//! stub");
        assert!(!stub, "src/{} is a stub", source.path.display());
    }
}

#[test]
fn the_reader_of_sources_reads_what_is_code() {
    let text = "use crate::{api, model::{Card, Store}, server as s};\n// crate::cli\n/* crate::gpu */\n\
                let a = \"crate::engine \\\" crate::init\"; let b = r#\"crate::config\"#; crate::telemetry::x();";
    let rooms: Vec<String> = rooms_named(&code(text)).into_iter().collect();
    assert_eq!(rooms, ["api", "model", "server", "telemetry"]);
}
