//! `vllama`: reads the command line and hands over to a verb.

fn main() -> std::process::ExitCode {
    vllama::cli::main()
}
