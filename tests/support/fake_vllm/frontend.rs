//! What the Rust frontend makes of the command line: its leader passes all of it on, and it does not start with flags it
//! has nothing behind.

use crate::arguments::Arguments;

/// Flags of the table that it refuses.
const REFUSED: &[&str] = &[
    "--disable-fastapi-docs",
    "--enable-force-include-usage",
    "--enable-per-request-metrics",
    "--max-log-len",
    "--max-num-queued-reqs",
    "--max-num-queued-tokens",
    "--override-generation-config",
    "--tokenizer",
    "--uvicorn-log-level",
];

/// What is printed when the Rust frontend does not take these arguments; the leader then leaves with 1.
pub fn refusal(arguments: &Arguments) -> Option<String> {
    let refused: Vec<String> = arguments
        .given
        .iter()
        .filter(|(flag, _)| REFUSED.contains(&flag.as_str()))
        .map(|(flag, _)| format!("- {}", flag.trim_start_matches('-').replace('-', "_")))
        .collect();
    (!refused.is_empty()).then(|| {
        format!(
            "error: invalid value '{{}}' for '--args-json <JSON>': \n\
             The following arguments are not implemented in Rust frontend yet:\n{}\n\n\
             Remove these arguments to continue.\n\nFor more information, try '--help'.\n\
             RuntimeError: Frontend process failed during engine core initialization. See root cause above. \
             Failed frontend proc(s): {{'RustFrontend': 2}}",
            refused.join("\n")
        )
    })
}
