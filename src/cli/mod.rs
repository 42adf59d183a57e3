//! stub

/// Runs the verb named on the command line.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
