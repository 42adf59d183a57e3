//! A program that behaves like `vllm serve`, for tests that must not wait for a real one.
//!
//! It takes vLLM's arguments, prints vLLM's start-up lines, keeps child processes as vLLM does, answers vLLM's HTTP
//! on a Unix socket and dies in all the ways vLLM dies. What it says is deterministic; what it does is chosen by its
//! environment and by words in the prompt.
//!
//! | Variable | Meaning (default) |
//! |---|---|
//! | `FAKE_VLLM_START` | milliseconds each phase of the start takes, e.g. `import:100,config:0,load:500,profile:50,serving:0` (all 0) |
//! | `FAKE_VLLM_NEVER_READY` | `1`: stop moving after the load phase, for ever |
//! | `FAKE_VLLM_FAIL_START` | `phase:code:line`: print the line in that phase and exit with that code |
//! | `FAKE_VLLM_FAIL_STARTS` | only the first N starts fail, counted in `FAKE_VLLM_COUNT_FILE` (all) |
//! | `FAKE_VLLM_FAIL_WITH` | only starts with this flag or variable fail: `--flag`, `--flag=value`, `VARIABLE=value` (all) |
//! | `FAKE_VLLM_WAITS` | with `FAKE_VLLM_NEVER_READY`: say every N milliseconds that a process does not answer, as vLLM does |
//! | `FAKE_VLLM_COUNT_FILE` | a file that gets one line, the leader's pid, at each start |
//! | `FAKE_VLLM_REJECT` | a flag to refuse as vLLM refuses one it does not know: usage text, exit 2 |
//! | `FAKE_VLLM_GARBAGE` | `1`: print bytes that are no text among the start-up lines |
//! | `FAKE_VLLM_LONG_LINE` | print a line of N bytes among the start-up lines |
//! | `FAKE_VLLM_TOKEN_RATE` | tokens a second and request; 0 = as fast as possible (0) |
//! | `FAKE_VLLM_STAMP` | set: the text of a streamed token is the time it was sent, in ns since 1970 |
//! | `FAKE_VLLM_FIRST_TOKEN_MS` | milliseconds before the first token (0) |
//! | `FAKE_VLLM_FAULT` | `N:fault`: after N tokens of any answer, this fault (see [`fault::Fault`]) |
//! | `FAKE_VLLM_REPLAY` | `file:N`: answer every generation with the bytes of this file as the event stream, N bytes a piece |
//! | `FAKE_VLLM_REPLAY_DIR` | where `FAKE:replay NAME N` finds its files: NAME; NAME.json for whole answers where there is one |
//! | `FAKE_VLLM_IGNORE_TERM` | `1`: no process of the tree cares about SIGTERM |
//! | `FAKE_VLLM_ZOMBIES` | leave N dead children behind that only the nearest subreaper can collect (0) |
//! | `FAKE_VLLM_STRAYS` | keep N descendants that have left the session and ignore SIGTERM (0) |
//! | `FAKE_VLLM_LEAVE_FILES` | `1`: leave `/dev/shm/psm_fake_<pid>`, mapped by leader and core while they live, and files in `TMPDIR` behind; `tracked`: the resource tracker removes the first when the leader is gone, as Python's does |
//! | `FAKE_VLLM_MAX_MODEL_LEN` | longest sequence (`--max-model-len`, else the checkpoint's `config.json`, else 8192) |
//! | `FAKE_VLLM_SLEEP_MS` | milliseconds it takes to fall asleep (0) |
//! | `FAKE_VLLM_SLEEP_FAULT` | what goes wrong with sleeping and waking (see [`sleep::SleepFault`]) |
//! | `FAKE_VLLM_ORDERS` | a directory: each process takes orders from it, and waits where it is held up (see [`orders`]) |
//! | `FAKE_VLLM_METRICS` | `hang`: never answer `/metrics`; else a file with the page that is told instead |
//! | `FAKE_VLLM_REQUESTS` | a file that gets one JSON line `{path, headers, body}` for each request |
//!
//! Words in the prompt: `FAKE:<fault> [N]` (the fault after N tokens, 3 unless told), `FAKE:count N` (answers the
//! numbers 1 to N), `FAKE:text …` (answers the rest), `FAKE:rush N` (N words, all at once), `FAKE:replay NAME N`, `FAKE:nan` (a vector of what is no number).
//! With vLLM's own `VLLM_USE_RUST_FRONTEND=1` it refuses what the Rust frontend refuses.
//! `GET /fake/requests` tells the last request.

mod answer;
mod arguments;
mod body;
mod embeddings;
mod engine;
mod fault;
mod frontend;
mod messages;
mod metrics;
mod openai;
mod orders;
mod processes;
mod responses;
mod run;
mod scores;
mod server;
mod settings;
mod sleep;
mod speech;
mod startup;
mod stream;
mod vocabulary;

use std::process::ExitCode;

fn main() -> ExitCode {
    let settings = settings::Settings::from_environment();
    if let Some(role) = settings.role {
        return processes::live_as(role, &settings);
    }
    match arguments::Arguments::parse(std::env::args().skip(1), settings.reject.as_deref()) {
        Ok(arguments) => startup::serve(arguments, settings),
        Err(complaint) => {
            eprintln!("usage: vllm serve [model_tag] [options]\nvllm serve: error: {complaint}");
            ExitCode::from(2)
        }
    }
}
