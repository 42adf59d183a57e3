//! What may stand on the command line: verbs, their arguments, and one flag for each setting.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, Command};

use super::{SETTINGS, Setting, key};

/// All verbs.
pub(super) fn command() -> Command {
    let serve = with_settings(Command::new("serve").about("Start the server and load a model"))
        .visible_alias("start")
        .arg(
            Arg::new("model")
                .value_name("MODEL")
                .help("installed model to load at once; others are loaded on request [default: the default model]"),
        )
        .arg(
            Arg::new("vllm")
                .value_name("VLLM_ARGS")
                .num_args(0..)
                .last(true)
                .allow_hyphen_values(true)
                .help("more arguments for `vllm serve`, last and verbatim"),
        );
    let import =
        with_settings(Command::new("import").about("Install a model from a GGUF file or a checkpoint's directory"))
            .arg(
                Arg::new("file")
                    .value_name("PATH")
                    .required(true)
                    .value_parser(clap::value_parser!(PathBuf))
                    .help("a GGUF file, or the directory of a Hugging Face checkpoint (safetensors)"),
            )
            .arg(Arg::new("name").value_name("NAME").required(true).help("its name, e.g. smollm2:135m"))
            .arg(
                Arg::new("parameter")
                    .long("parameter")
                    .value_name("KEY=VALUE")
                    .action(ArgAction::Append)
                    .value_delimiter(',')
                    .help("parameters of the model, e.g. temperature=0.1,top_k=40"),
            )
            .arg(
                Arg::new("if-missing")
                    .long("if-missing")
                    .action(ArgAction::SetTrue)
                    .help("leave an installed model of that name alone"),
            );
    let explain = with_settings(Command::new("explain").about("Tell how a model would be served here, and why so"))
        .after_help(
            "Looks at the model's files and at this machine; needs no server and no engine. With --json one object.\n\
             Examples: vllama explain qwen2.5:7b\n          vllama explain /models/my-checkpoint --json",
        )
        .arg(
            Arg::new("what")
                .value_name("MODEL")
                .required(true)
                .help("installed model, or directory of a checkpoint (with a /)"),
        );
    let doctor = with_settings(Command::new("doctor").about("Tell whether an engine could run here, and what to do if not"))
        .after_help(
            "Changes nothing. Exit code 1 when something keeps vllama from serving; warnings are 0. With --json one object.",
        );
    let health = with_settings(Command::new("health").about("Tell whether the server of this machine lives"))
        .after_help("For health checks: asks the server at OLLAMA_HOST's address. Exit code 1 when it is not well.")
        .arg(
            Arg::new("ready")
                .long("ready")
                .action(ArgAction::SetTrue)
                .help("whether its default model can answer, too"),
        );
    let init = Command::new("init")
        .about("Run one command under a PID 1 that reaps and passes signals on")
        .after_help("The exit code is the command's own, or 128 + the signal that killed it.")
        .arg(
            Arg::new("command")
                .value_name("COMMAND")
                .num_args(0..)
                .trailing_var_arg(true)
                .allow_hyphen_values(true)
                .value_parser(clap::value_parser!(OsString)),
        );
    Command::new("vllama")
        .about("Ollama's manners with vLLM's speed")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .max_term_width(110)
        .after_help("Exit codes: 0 ok, 1 failed, 2 wrong input.")
        .subcommands([
            serve,
            import,
            explain,
            doctor,
            health,
            key::command(),
            init,
            Command::new("version").about("Tell the version"),
        ])
}

fn with_settings(command: Command) -> Command {
    let settings = SETTINGS.iter().map(|Setting { flag, variables, value, default, help }| {
        let default = if default.is_empty() { String::new() } else { format!(" [default: {default}]") };
        let help = format!("{help} [env: {}]{default}", variables.join(", "));
        Arg::new(flag).long(flag).value_name(value).help(help).allow_hyphen_values(true)
    });
    command
        .args(settings)
        .arg(Arg::new("quiet").long("quiet").short('q').action(ArgAction::SetTrue).help("say nothing but errors"))
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("tell events as JSON, one a line"))
}
