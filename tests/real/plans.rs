//! The plans beside vLLM's own command line: a flag or a parser that a release renames turns up here.

use std::path::Path;
use std::process::Command;

use crate::shared::Shared;
use crate::{Ground, Runner};

/// Parses the command of every golden plan as `vllm serve` would, without starting anything.
const SCRIPT: &str = r#"
import pathlib, shlex, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = make_arg_parser(FlexibleArgumentParser())
tools, thoughts = ToolParserManager.list_registered(), ReasoningParserManager.list_registered()
plans = sorted(pathlib.Path(sys.argv[1]).glob("*/plan-*.txt"))
for plan in plans:
    words = shlex.split(plan.read_text().split("\nCommand\n")[1].replace("\\\n", " "))
    print("looking at", plan)
    options = parser.parse_args(words[words.index("serve") + 1:])
    assert options.tool_call_parser in (None, *tools), options.tool_call_parser
    assert options.reasoning_parser in ("", None, *thoughts), options.reasoning_parser
print("plans:", len(plans))
"#;

pub(super) fn run(runner: &mut Runner, ground: &Ground, _: &mut Shared) {
    runner.test("vLLM's command line takes every plan that was reviewed", async {
        let families = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/families");
        let python = Command::new(ground.venv.join("bin/python"))
            .args(["-c", SCRIPT])
            .arg(&families)
            .output()
            .expect("the engine's Python");
        let (said, wrong) = (String::from_utf8_lossy(&python.stdout), String::from_utf8_lossy(&python.stderr));
        assert!(python.status.success(), "{said}\n{wrong}");
        let expected = format!("plans: {}", 3 * std::fs::read_dir(&families).expect("families").count());
        assert!(said.contains(&expected), "{expected} in {said}");
    });
}
