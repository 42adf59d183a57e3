//! The reference against the sources: `docs/api.md` and the OpenAPI document name every route and every field, no others,
//! and every row of docs/api.md names tests that exist.

#[path = "reference/links.rs"]
mod links;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use vllama::api::{ASKS_A_MODEL, Route, anthropic, ollama, openai};
use vllama::config::SETTINGS;
use vllama::server::OPERATORS;
use vllama::telemetry::metrics::table::TABLE;

/// Objects of the request types that are not the body of a request of their own, and the request they are part of.
const PARTS: &[(&str, &str)] = &[("Message", "ChatRequest"), ("ToolCall", "ChatRequest"), ("Function", "ChatRequest")];

/// Bodies of native requests, and their routes.
const BODIES: &[(&str, &str)] = &[
    ("GenerateRequest", "POST /api/generate"),
    ("ChatRequest", "POST /api/chat"),
    ("EmbedRequest", "POST /api/embed"),
    ("EmbeddingsRequest", "POST /api/embeddings"),
    ("ShowRequest", "POST /api/show"),
    ("CopyRequest", "POST /api/copy"),
    ("DeleteRequest", "DELETE /api/delete"),
    ("CreateRequest", "POST /api/create"),
    ("PullRequest", "POST /api/pull"),
    ("PushRequest", "POST /api/push"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// `METHOD /path` of every route of these tables.
fn calls<'a>(routes: impl IntoIterator<Item = &'a Route>) -> BTreeSet<String> {
    let each =
        |route: &Route| route.methods.iter().map(|method| format!("{method} {}", route.path)).collect::<Vec<_>>();
    routes.into_iter().flat_map(each).collect()
}

fn native() -> BTreeSet<String> {
    let mut calls = calls(ollama::routes::ROUTES.iter().chain(ollama::routes::UPLOADS));
    calls.extend(OPERATORS.iter().flat_map(|(path, ..)| [format!("GET {path}"), format!("HEAD {path}")]));
    calls
}

fn passing() -> BTreeSet<String> {
    calls(openai::routes::ROUTES.iter().chain(anthropic::routes::ROUTES))
}

/// The fields of every request object, by the object's name, as the types have them.
fn types() -> BTreeMap<String, BTreeSet<String>> {
    let mut types: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut current = String::new();
    for line in read("src/api/ollama/types.rs").lines() {
        let line = line.trim();
        if line.starts_with("#[cfg(test)]") {
            break;
        }
        if let Some(rest) = line.strip_prefix("pub struct ") {
            current = rest.split('<').next().unwrap_or_default().to_owned();
        } else if let Some((field, _)) = line.strip_prefix("pub ").and_then(|rest| rest.split_once(':')) {
            types.entry(current.clone()).or_default().insert(field.to_owned());
        }
    }
    assert!(types.len() >= BODIES.len() + PARTS.len(), "the types are found: {:?}", types.keys());
    types
}

/// The keys of the OpenAPI document as paths, e.g. `components.schemas.ChatRequest.properties.model`; parts are joined by
/// a line break, as keys hold everything else.
fn document() -> BTreeSet<Vec<String>> {
    let text = read("src/api/ollama/openapi.yaml");
    let mut path: Vec<String> = Vec::new();
    let mut keys = BTreeSet::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let content = line.trim_start();
        let depth = (line.len() - content.len()) / 2;
        let Some((key, _)) = content.split_once(':') else { continue };
        path.truncate(depth);
        path.resize(depth, String::new());
        path.push(key.to_owned());
        keys.insert(path.clone());
    }
    keys
}

#[test]
fn every_native_route_is_in_the_document_and_the_other_way_round() {
    let methods = ["get", "head", "post", "put", "delete", "patch", "options"];
    let documented: BTreeSet<String> = document()
        .iter()
        .filter_map(|path| match path.as_slice() {
            [paths, path, method] if paths == "paths" && methods.contains(&method.as_str()) => {
                Some(format!("{} {path}", method.to_uppercase()))
            }
            _ => None,
        })
        .collect();
    assert_eq!(documented, native());
}

#[test]
fn every_field_of_a_native_request_is_in_the_document_and_the_other_way_round() {
    let document = document();
    for (name, fields) in types() {
        let documented: BTreeSet<String> = document
            .iter()
            .filter_map(|path| match path.as_slice() {
                [components, schemas, schema, properties, field]
                    if components == "components" && schemas == "schemas" && properties == "properties" =>
                {
                    (*schema == name).then(|| field.clone())
                }
                _ => None,
            })
            .collect();
        let missing: Vec<_> = fields.difference(&documented).collect();
        assert!(missing.is_empty(), "{name} lacks {missing:?}");
        // `index` and the like stand in answers, which share the parts.
        let is_part = PARTS.iter().any(|(part, _)| *part == name);
        let more: Vec<_> = documented.difference(&fields).collect();
        assert!(is_part || more.is_empty(), "{name} has {more:?}, which no request has");
    }
}

/// A row of docs/api.md: the route it stands under, what it is about, and its tests.
struct Row {
    routes: Vec<String>,
    about: Vec<String>,
    tests: Vec<String>,
    line: usize,
}

/// What stands between backticks.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The rows of all tables: those have three columns, what it is about, what vllama does, the tests.
fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut routes = Vec::new();
    for (number, line) in (1..).zip(read("docs/api.md").lines()) {
        if let Some(heading) = line.strip_prefix('#') {
            let calls = quoted(heading);
            routes = calls.into_iter().filter(|call| call.contains(" /")).collect();
        } else if line.starts_with("| ") && !line.ends_with("| tests |") {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
            assert_eq!(cells.len(), 3, "docs/api.md:{number} has three columns: {line}");
            rows.push(Row { routes: routes.clone(), about: quoted(cells[0]), tests: quoted(cells[2]), line: number });
        }
    }
    assert!(rows.len() > 50, "the tables are found");
    rows
}

/// Every function of the sources and the tests, in Rust, Python and JavaScript.
fn functions() -> BTreeSet<String> {
    fn files(directory: PathBuf, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).expect("a directory of the sources").flatten() {
            let path = entry.path();
            let kind = path.extension().and_then(|kind| kind.to_str()).unwrap_or_default();
            if path.is_dir() && !path.ends_with("node_modules") && !path.ends_with("golden") {
                files(path, found);
            } else if ["rs", "py", "js", "mjs"].contains(&kind) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    files(root().join("src"), &mut found);
    files(root().join("tests"), &mut found);
    let mut functions = BTreeSet::new();
    for file in found {
        let text = std::fs::read_to_string(&file).expect("a source file");
        for line in text.lines().map(str::trim_start) {
            let line = line.strip_prefix("async ").unwrap_or(line);
            let name = line.strip_prefix("fn ").or_else(|| line.strip_prefix("def "));
            if let Some((name, _)) = name.and_then(|rest| rest.split_once('(')) {
                functions.insert(name.to_owned());
            }
        }
        // The table of the fuzz targets makes tests of its sentences.
        for line in text.lines() {
            let sentence = line.trim().trim_end_matches(',').split_once(": ").map(|(_, sentence)| sentence);
            functions
                .extend(sentence.filter(|text| text.contains("_any_") || text.starts_with("any_")).map(str::to_owned));
        }
    }
    functions
}

#[test]
fn every_row_of_the_reference_names_tests_that_exist() {
    let functions = functions();
    for row in rows() {
        assert!(!row.tests.is_empty(), "docs/api.md:{} names no test", row.line);
        for test in row.tests {
            assert!(functions.contains(&test), "docs/api.md:{}: there is no test {test}", row.line);
        }
    }
    let text = read("docs/api.md").to_lowercase();
    for word in ["planned", "not yet", "todo", "to be done"] {
        assert!(!text.contains(word), "docs/api.md tells what is, not what will be: {word}");
    }
}

/// The table of docs/metrics.md, as the code has it.
fn table_of_metrics() -> String {
    let mut table = "| metric | kind | labels | what it tells |\n|---|---|---|---|\n".to_owned();
    for family in TABLE {
        let labels: Vec<_> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, kind, help) = (family.name, family.kind.word(), family.help);
        table += &format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(", "));
    }
    table
}

/// The table of docs/configuration.md, as the code has it.
fn table_of_settings() -> String {
    let mut table = "| flag | variables | default | what it does |\n|---|---|---|---|\n".to_owned();
    for setting in SETTINGS {
        let variables: Vec<_> = setting.variables.iter().map(|variable| format!("`{variable}`")).collect();
        let value = if setting.value.is_empty() { String::new() } else { format!(" {}", setting.value) };
        let default = setting.default.replace('<', "&lt;");
        table +=
            &format!("| `--{}{value}` | {} | {default} | {} |\n", setting.flag, variables.join(", "), setting.help);
    }
    table
}

/// `VLLAMA_BLESS=1 cargo test --test reference` writes the tables anew.
fn has_the_table(path: &str, table: &str) {
    let text = read(path);
    let marked = text.split_once("<!-- table -->\n").and_then(|(before, rest)| {
        let (_, after) = rest.split_once("<!-- end of table -->")?;
        Some(format!("{before}<!-- table -->\n{table}<!-- end of table -->{after}"))
    });
    let expected = marked.unwrap_or_else(|| panic!("{path} marks its table and the end of it"));
    if std::env::var_os("VLLAMA_BLESS").is_some() {
        std::fs::write(root().join(path), &expected).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    assert!(read(path) == expected, "{path} is behind the code; VLLAMA_BLESS=1 cargo test --test reference writes it");
}

#[test]
fn the_table_of_metrics_in_the_reference_is_that_of_the_code() {
    has_the_table("docs/metrics.md", &table_of_metrics());
}

#[test]
fn the_table_of_settings_in_the_reference_is_that_of_the_code() {
    has_the_table("docs/configuration.md", &table_of_settings());
}

#[test]
fn every_record_in_the_security_document_names_tests_that_exist() {
    let functions = functions();
    let text = read("docs/security.md");
    let records: Vec<&str> = text.lines().filter(|line| line.starts_with("| CVE-")).collect();
    assert!(records.len() > 15, "the records are found");
    for record in records {
        let tests = quoted(record.trim_matches('|').rsplit(" | ").next().unwrap_or_default());
        assert!(!tests.is_empty(), "{record} names no test");
        for test in tests {
            assert!(functions.contains(&test), "there is no test {test}: {record}");
        }
    }
}

#[test]
fn every_route_that_asks_a_model_is_a_route() {
    let routes: BTreeSet<String> = native().into_iter().chain(passing()).collect();
    for path in ASKS_A_MODEL {
        assert!(routes.contains(&format!("POST {path}")), "{path}");
    }
}

#[test]
fn every_bound_names_tests_that_exist_and_every_setting_in_it_is_one() {
    let functions = functions();
    let settings: BTreeSet<String> = SETTINGS.iter().map(|setting| format!("--{}", setting.flag)).collect();
    let text = read("docs/limits.md");
    let bounds: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).collect();
    assert!(bounds.len() > 20, "the bounds are found");
    for bound in bounds.iter().filter(|bound| !bound.starts_with("| what |")) {
        let cells: Vec<&str> = bound.trim_matches('|').split(" | ").collect();
        assert_eq!(cells.len(), 5, "docs/limits.md has five columns: {bound}");
        let tests = quoted(cells[4]);
        assert!(!tests.is_empty(), "{bound} names no test");
        for test in tests {
            assert!(functions.contains(&test), "there is no test {test}: {bound}");
        }
        for setting in quoted(cells[2]).iter().filter(|setting| setting.starts_with("--")) {
            assert!(settings.contains(setting), "there is no setting {setting}: {bound}");
        }
    }
}

#[test]
fn every_route_is_in_the_reference_and_the_other_way_round() {
    let mut told = BTreeSet::new();
    for line in read("docs/api.md").lines().filter(|line| line.starts_with('#')) {
        told.extend(quoted(line).into_iter().filter(|call| call.contains(" /")));
    }
    let mut there = native();
    there.extend(passing());
    // HEAD goes with GET and is told once for all.
    there.retain(|call| !call.starts_with("HEAD ") || !there_is_get(call));
    assert_eq!(told, there);
}

fn there_is_get(head: &str) -> bool {
    !head.contains("/api/blobs")
}

#[test]
fn every_field_of_a_native_request_is_in_the_reference() {
    let types = types();
    let rows = rows();
    let told = |route: &str, field: &str| {
        let here = rows.iter().filter(|row| row.routes.iter().any(|told| told == route));
        here.flat_map(|row| &row.about).any(|about| about == field || about.ends_with(&format!(".{field}")))
    };
    for (name, fields) in &types {
        let body = PARTS.iter().find(|(part, _)| part == name).map_or(name.as_str(), |(_, body)| body);
        let (_, route) =
            BODIES.iter().find(|(known, _)| *known == body).unwrap_or_else(|| panic!("{body} has a route"));
        for field in fields {
            assert!(told(route, field), "docs/api.md tells nothing of {field} ({name}) under {route}");
        }
    }
}
