//! `vllama health`: asks the vllama of this machine how it is, for the health checks of containers, which have no curl.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::{Value, json};

use super::local_server::{self, Answer};
use crate::config::{Config, Voice};

/// A vllama answers its health in microseconds, on a machine that is busy in milliseconds.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks, tells in one line, and gives the exit code: 0 when it is well, else 1. `ready` asks whether the default model can
/// answer, otherwise it is asked whether vllama lives.
pub(super) fn run(ready: bool, config: &Config) -> i32 {
    let path = if ready { "/health/ready" } else { "/health/live" };
    let (well, line) = judge(local_server::ask(config.listen, path, PATIENCE), &config.listen.to_string());
    let line = match config.voice {
        Voice::Json => json!({"ok": well, "message": line}).to_string(),
        Voice::Quiet if well => return 0,
        Voice::Human | Voice::Quiet => line,
    };
    // Docker keeps what the check says on standard output, whatever the outcome; a closed pipe is no failure.
    let _ = writeln!(io::stdout(), "{line}");
    i32::from(!well)
}

/// Whether it is well, and the line that says so.
fn judge(answer: io::Result<Answer>, address: &str) -> (bool, String) {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            return (false, format!("nobody answers at {address}: {error}; is OLLAMA_HOST the server's address?"));
        }
    };
    if answer.version.is_none() {
        return (false, format!("what answers at {address} is no vllama; is OLLAMA_HOST the server's address?"));
    }
    let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let status = said["status"].as_str().unwrap_or("unknown");
    let reason = said["reason"].as_str().map(|reason| format!(": {reason}")).unwrap_or_default();
    (answer.status == 200, format!("{status}{reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, version: Option<&str>, body: &str) -> io::Result<Answer> {
        Ok(Answer { status, version: version.map(str::to_owned), body: body.into() })
    }

    #[test]
    fn only_a_vllama_that_says_so_is_well() {
        for (answer, well, line) in [
            (answer(200, Some("0.1.0"), r#"{"status":"ok"}"#), true, "ok"),
            (answer(503, Some("0.1.0"), r#"{"status":"failed","reason":"no memory"}"#), false, "failed: no memory"),
            (answer(500, Some("0.1.0"), "?"), false, "unknown"),
            (answer(200, None, r#"{"status":"ok"}"#), false, "what answers at here is no vllama"),
            (Err(io::ErrorKind::ConnectionRefused.into()), false, "nobody answers at here: connection refused"),
        ] {
            let (is_well, said) = judge(answer, "here");
            assert_eq!(is_well, well, "{said}");
            assert!(said.starts_with(line), "{said}");
        }
    }
}
