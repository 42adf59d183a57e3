//! `vllama key add|list|revoke`: changes a key file. A server that uses the file takes the change up by itself.

use std::io;

use serde::Serialize;

use super::problem::Problem;
use crate::access::{Entry, FileError, KeyFile, Secret};
use crate::config::{KeyAction, KeyOrder};

/// Does it and gives the exit code.
pub(super) fn run(order: KeyOrder) -> i32 {
    let file = KeyFile::new(&order.file);
    let done = match order.action {
        KeyAction::Add { name, scopes, limits } => {
            add(&file, order.json, |secret| Entry::new(name, secret, scopes, limits))
        }
        KeyAction::List => list(&file, order.json),
        KeyAction::Revoke { name } => {
            let revoked = file.revoke(&name).map_err(|error| problem(&file, "revoke a key in", error));
            revoked.map(|()| {
                if order.json { json(&Done { revoked: name.as_str() }) } else { say(&format!("revoked {name}")) }
            })
        }
    };
    done.map_or_else(|problem| problem.tell(), |()| 0)
}

/// What went wrong with a key file, and what to do.
pub(super) fn problem(file: &KeyFile, what: &str, error: FileError) -> Problem {
    let fix = match &error {
        FileError::System(error) if error.kind() == io::ErrorKind::NotFound => {
            "name another file with --keys; `vllama key add NAME` makes one"
        }
        FileError::System(_) => "check who may write the file and its directory, or name another with --keys",
        FileError::Broken(_) => "put back a copy that is whole, or remove the file and make new keys",
        FileError::Taken(_) => "choose another name, or revoke that key first",
        FileError::Unknown(_) => "see what there is with `vllama key list`",
    };
    Problem::new(format!("cannot {what} {}", file.path().display()), error, fix)
}

#[derive(Serialize)]
struct Added<'a> {
    key: &'a str,
    #[serde(flatten)]
    shown: Shown<'a>,
}

#[derive(Serialize)]
struct Done<'a> {
    revoked: &'a str,
}

#[derive(Serialize)]
struct Listed<'a> {
    keys: Vec<Shown<'a>>,
}

/// A key without its digest.
#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    created: &'a str,
    scopes: &'a [crate::access::Scope],
    limits: &'a crate::access::Limits,
    revoked: Option<&'a str>,
}

impl<'a> From<&'a Entry> for Shown<'a> {
    fn from(entry: &'a Entry) -> Self {
        let Entry { name, created, scopes, limits, revoked, sha256: _ } = entry;
        Self { name: name.as_str(), created, scopes, limits, revoked: revoked.as_deref() }
    }
}

fn add(file: &KeyFile, as_json: bool, entry: impl FnOnce(&Secret) -> Entry) -> Result<(), Problem> {
    let failed = |error| problem(file, "add a key to", error);
    let secret = Secret::new().map_err(|error| failed(error.into()))?;
    let entry = entry(&secret);
    file.add(entry.clone()).map_err(failed)?;
    if as_json {
        json(&Added { key: secret.tell(), shown: (&entry).into() });
    } else {
        eprintln!("the key '{}', which is told only now (scopes: {}):", entry.name, scopes(&entry));
        say(secret.tell());
    }
    Ok(())
}

fn list(file: &KeyFile, as_json: bool) -> Result<(), Problem> {
    let missing = || FileError::System(io::Error::new(io::ErrorKind::NotFound, "it is not there"));
    let keys = file.read().and_then(|keys| keys.ok_or_else(missing));
    let keys = keys.map_err(|error| problem(file, "read", error))?;
    if as_json {
        json(&Listed { keys: keys.iter().map(Shown::from).collect() });
        return Ok(());
    }
    let rows = keys.iter().map(|key| {
        let state = key.revoked.as_ref().map_or("good".to_owned(), |when| format!("revoked {when}"));
        [key.name.to_string(), scopes(key), key.created.clone(), state, limits(key)]
    });
    let head = ["NAME", "SCOPES", "CREATED", "STATE", "LIMITS"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<_> = (0..4).map(width).collect();
    for row in &rows {
        let line: String = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}  ")).collect();
        say(format!("{line}{}", row[4]).trim_end());
    }
    Ok(())
}

fn scopes(key: &Entry) -> String {
    key.scopes.iter().map(|scope| scope.name()).collect::<Vec<_>>().join(",")
}

fn limits(key: &Entry) -> String {
    let limits = &key.limits;
    let number = |what: &str, number: Option<std::num::NonZeroU64>| number.map(|number| format!("{what}={number}"));
    let models = limits.models.as_ref().map(|models| {
        let names: Vec<_> = models.iter().map(|model| model.0.display()).collect();
        format!("models={}", names.join(","))
    });
    let told = [
        number("requests-per-minute", limits.requests_per_minute),
        number("concurrent", limits.concurrent),
        number("tokens-per-day", limits.tokens_per_day),
        models,
        (limits.priority != 0).then(|| format!("priority={}", limits.priority)),
    ];
    let told: Vec<_> = told.into_iter().flatten().collect();
    if told.is_empty() { "none".to_owned() } else { told.join(" ") }
}

fn json(value: &impl Serialize) {
    // Texts and numbers always become JSON.
    say(&serde_json::to_string(value).unwrap_or_default());
}

/// A closed pipe, as in `vllama key list | head`, is no failure.
fn say(text: &str) {
    use io::Write as _;
    let _ = writeln!(io::stdout(), "{text}");
}
