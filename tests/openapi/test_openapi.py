"""The document that vllama serves, held against its answers by schemathesis, with the fake engine.

Run: .venv/bin/python -m unittest discover -s tests/openapi
VLLAMA_TEST_BIN names the directory of `vllama` and `fake-vllm` (target/debug where it is not set), VLLAMA_TEST_CLIENTS a
Python that has the `schemathesis` package.
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "tests/pull")]

import checkpoints
import test_pull

CLIENTS = os.environ.get("VLLAMA_TEST_CLIENTS")
SEED = 11
EXAMPLES = 10  # for each operation and phase
LIMIT = 30  # seconds for all of it

CHECKS = [
    "no_fault_of_the_server",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
]

# What random names would never hit: schema, member, the values it gets.
NAMES = {
    "GenerateRequest": {"model": ["smollm2:135m", "nope"]},
    "ChatRequest": {"model": ["smollm2:135m", "nope"]},
    "EmbedRequest": {"model": ["minilm", "nope"]},
    "EmbeddingsRequest": {"model": ["minilm", "nope"]},
    "ShowRequest": {"model": ["smollm2:135m", "minilm", "nope"], "name": ["", "nope"]},
    "CopyRequest": {"source": ["smollm2:135m", "nope"], "destination": ["copied"]},
    "DeleteRequest": {"model": ["copied", "nope"], "name": ["", "nope"]},
    "CreateRequest": {"model": ["made"], "name": ["", "made"], "from": ["smollm2:135m", "made", ""]},
    "PullRequest": {"model": ["smollm2:135m"], "name": ["smollm2:135m"]},
}


class NoHub:
    address = "http://127.0.0.1:9"


def install_embedder(directory):
    """An embedding model made of nothing."""
    place = directory / "models/registry.ollama.ai/library/minilm/latest"
    (place / "1_Pooling").mkdir(parents=True)
    config = {"architectures": ["BertModel"], "model_type": "bert", "hidden_size": 384, "max_position_embeddings": 512}
    (place / "config.json").write_text(json.dumps(config))
    (place / "1_Pooling/config.json").write_text('{"word_embedding_dimension": 384, "pooling_mode_mean_tokens": true}')
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (path, kind) in enumerate(kinds.items())
    ]
    (place / "modules.json").write_text(json.dumps(modules))
    (place / "model.safetensors").write_bytes(checkpoints.safetensors({"w": [1, 1]}))
    facts = {"name": "minilm:latest", "digest": "1" * 64, "size": 4, "format": "safetensors", "quantization": "F32"}
    (place / "vllama.json").write_text(json.dumps(facts | {"license": None, "parameters": 7}))


def narrowed(text):
    """The document with names that exist, so that more than 404 comes of it."""
    lines, path = [], []
    for line in text.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        path = path[:depth] + [line.strip().rstrip(":")]
        lines.append(line)
        if len(path) == 5 and path[:2] == ["components", "schemas"] and path[3] == "properties":
            values = NAMES.get(path[2], {}).get(path[4])
            if values:
                lines.append(" " * (2 * depth + 2) + f"enum: {json.dumps(values)}")
    return "\n".join(lines) + "\n"


class Vllama(test_pull.Vllama):
    """One that has an embedding model, too."""

    def install(self, name):
        super().install(name)
        install_embedder(self.directory)


class Document(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="vllama-")
        self.addCleanup(self.folder.cleanup)
        self.vllama = Vllama(Path(self.folder.name), NoHub)
        self.addCleanup(self.vllama.close)

    def get(self, path):
        _, answer = self.vllama.ask("GET", path)
        return answer

    def test_every_answer_is_as_the_document_says(self):
        if not CLIENTS:
            print("skipped: VLLAMA_TEST_CLIENTS names no Python with schemathesis")
            self.skipTest("no schemathesis")
        served = self.get("/openapi.yaml")
        self.assertEqual((served.status, served.headers["content-type"]), (200, "application/yaml"))
        document = Path(self.folder.name) / "openapi.yaml"
        document.write_text(narrowed(served.read().decode()))
        test_pull.eventually("it is ready", lambda: self.get("/health/ready").status == 200)
        command = [Path(CLIENTS).with_name("schemathesis"), "run", document, "--url", f"http://127.0.0.1:{self.vllama.port}"]
        command += ["--checks", ",".join(CHECKS), "--seed", str(SEED), "--max-examples", str(EXAMPLES)]
        command += ["--phases", "examples,coverage,fuzzing", "--max-time", str(LIMIT), "--no-color", "--continue-on-failure"]
        environment = os.environ | {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(ROOT / "tests/openapi")}
        run = subprocess.run(
            command, capture_output=True, text=True, cwd=self.folder.name, env=environment, timeout=4 * LIMIT
        )
        self.assertEqual(run.returncode, 0, run.stdout[-20_000:] + run.stderr[-2000:])
        print(*[line for line in run.stdout.splitlines() if "generated" in line or "passed" in line][-3:], sep="\n")
        self.assertEqual(self.get("/health/ready").status, 200)


if __name__ == "__main__":
    unittest.main()
