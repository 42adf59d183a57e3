//! `vllama init -- CMD ARGS…`: one command under a PID 1 that reaps and passes signals on.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, ErrorKind, Write};

/// Runs the command and returns the exit code: the command's own, 128 + the signal that killed it, 127 when the program
/// is not found, 126 when it cannot be run, 2 when no command is given.
#[must_use]
pub fn run(command: Vec<OsString>) -> i32 {
    let Some(program) = command.first() else {
        tell(format_args!("no command is given; write it after the dashes: vllama init -- COMMAND [ARGUMENT]..."));
        return 2;
    };
    match crate::init::run_command(&command) {
        Ok(code) => code,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let program = program.display();
            tell(format_args!(
                "{error}; check the spelling, that {program} is installed and in PATH, \
                 and for a script that the interpreter in its first line exists"
            ));
            127
        }
        Err(error) => {
            let program = program.display();
            tell(format_args!(
                "{error}; {program} must be a file with execute permission for this user, \
                 built for this machine or a script that begins with #!"
            ));
            126
        }
    }
}

/// Says what went wrong. Not `eprintln!`, which panics where standard error is broken, and the exit code would be lost.
fn tell(what: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "vllama init: {what}");
}
