//! One file per verb.

pub mod init;

/// Runs the verb named on the command line.
pub fn main() -> std::process::ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|verb| verb == "init") {
        let mut command: Vec<_> = arguments.collect();
        if command.first().is_some_and(|first| first == "--") {
            command.remove(0);
        }
        // Exit codes are 0–255; what the kernel hands out never exceeds 128 + 64.
        return std::process::ExitCode::from(u8::try_from(init::run(command)).unwrap_or(u8::MAX));
    }
    std::process::ExitCode::SUCCESS
}
