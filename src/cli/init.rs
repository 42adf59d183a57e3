//! `vllama init -- CMD ARGS…`: one command under a PID 1 that reaps and passes signals on.

use std::ffi::OsString;
use std::io::ErrorKind;

/// Runs the command and returns the exit code: the command's own, 128 + the signal that killed it, 127 when the program
/// is not found, 126 when it cannot be run, 2 when no command is given.
#[must_use]
pub fn run(command: Vec<OsString>) -> i32 {
    let Some(program) = command.first() else {
        eprintln!("vllama init: no command is given; write it after the dashes: vllama init -- COMMAND [ARGUMENT]...");
        return 2;
    };
    match crate::init::run_command(&command) {
        Ok(code) => code,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let program = program.display();
            eprintln!(
                "vllama init: {error}; check the spelling, that {program} is installed and in PATH, \
                 and for a script that the interpreter in its first line exists"
            );
            127
        }
        Err(error) => {
            let program = program.display();
            eprintln!(
                "vllama init: {error}; {program} must be a file with execute permission for this user, \
                 built for this machine or a script that begins with #!"
            );
            126
        }
    }
}
