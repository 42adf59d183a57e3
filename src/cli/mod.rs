//! The verbs, one file each. In: the command line. Out: text for people or programs, and an exit code: 0 ok, 1 failed,
//! 2 wrong input. May look into every room; nobody looks in here.

mod doctor;
mod explain;
mod health;
mod import;
mod init;
mod journal;
mod key;
mod local_server;
mod planning;
mod problem;
mod progress;
mod serve;

use std::io::Write;
use std::process::ExitCode;

use crate::config::{self, Verb};

/// Runs the verb named on the command line.
#[must_use]
pub fn main() -> ExitCode {
    let environment = config::environment();
    let stream = config::journal(&environment);
    let verb = match config::parse(std::env::args_os(), environment) {
        Ok(verb) => verb,
        Err(error) => {
            journal::tell_error(&error.to_string(), stream);
            return ExitCode::from(2);
        }
    };
    let code = match verb {
        Verb::Serve(config) => serve::run(*config),
        Verb::Import { file, name, if_missing, parameters, config } => import::run(import::Order {
            file: &file,
            name: &name,
            if_missing,
            parameters: &parameters,
            config: &config,
        }),
        Verb::Explain { model, config } => explain::run(&model, &config),
        Verb::Doctor(config) => doctor::run(&config),
        Verb::Health { ready, config } => health::run(ready, &config),
        Verb::Key(order) => key::run(order),
        Verb::Init(command) => init::run(command),
        Verb::Version => {
            println!("vllama {}", env!("CARGO_PKG_VERSION"));
            0
        }
        Verb::Print { text, code: 0 } => {
            // A closed pipe, as in `vllama --help | head`, is no failure.
            let _ = write!(std::io::stdout(), "{text}");
            0
        }
        Verb::Print { text, code } => {
            eprint!("{text}");
            code.into()
        }
    };
    // Exit codes are 0–255; what the kernel hands out never exceeds 128 + 64.
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}
