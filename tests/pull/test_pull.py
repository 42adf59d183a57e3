"""`POST /api/pull` of a running vllama, with the fake engine and a hub of our own.

Run: .venv/bin/python -m unittest discover -s tests/pull
VLLAMA_TEST_BIN names the directory of `vllama` and `fake-vllm` (target/debug where it is not set), VLLAMA_TEST_CLIENTS a
Python that has the `ollama` package.
"""

import hashlib
import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "tests/pull")]

import checkpoints
from hub import TOKEN, Hub

BIN = Path(os.environ.get("VLLAMA_TEST_BIN", ROOT / "target/debug"))
PATIENCE = 120  # seconds: longest wait for any state; the machine may be busy
FIRST = "smollm2:135m"  # the model every vllama is started for


def eventually(what, state):
    """Waits until `state()` gives something."""
    deadline = time.monotonic() + PATIENCE
    while not (found := state()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {PATIENCE} s")
        time.sleep(0.005)
    return found


class Vllama:
    """A running vllama in a directory of its own, which stays when it is killed."""

    def __init__(self, directory, hub, **environment):
        self.directory = directory
        engine = directory / "venv/vllm"
        if not engine.exists():
            engine.parent.mkdir(parents=True)
            engine.symlink_to(BIN / "fake-vllm")
            python = engine.with_name("python")
            python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
            python.chmod(0o755)
            self.install(FIRST)
        paths = {f"VLLAMA_{name.upper()}": str(directory / name) for name in ("models", "state", "run")}
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(directory), "OLLAMA_HOST": "127.0.0.1:0", **paths}
        self.environment |= {"VLLAMA_ENGINE": str(engine), "VLLAMA_GPU_HELPER": str(BIN / "vllama-gpu")}
        self.environment |= {"HF_ENDPOINT": hub.address, "HF_TOKEN": "", "VLLAMA_DRAIN": "5"} | environment
        fake = [name for name in environment if name.startswith("FAKE_VLLM_")]
        self.environment |= {"VLLAMA_ENGINE_ENV": ",".join(fake)} if fake else {}
        self.start()

    def install(self, name):
        """A model made of nothing."""
        model, tag = name.split(":")
        place = self.directory / "models/registry.ollama.ai/library" / model / tag
        place.mkdir(parents=True)
        (place / "config.json").write_text(json.dumps(checkpoints.CONFIG))
        (place / "model.safetensors").write_bytes(checkpoints.safetensors({}))
        facts = {"name": name, "digest": "0" * 64, "size": 1, "format": "gguf", "quantization": "Q4_1", "license": None}
        (place / "vllama.json").write_text(json.dumps(facts | {"parameters": 7}))

    def start(self, model=FIRST):
        self.log = open(self.directory / "log", "ab")
        command = [BIN / "vllama", "serve", model, "--json"]
        self.process = subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=self.log)
        for line in self.process.stdout:
            event = json.loads(line)
            if event["event"] == "listening":
                self.port = int(event["address"].rsplit(":", 1)[1])
                return
        raise AssertionError((self.directory / "log").read_text())

    def kill(self):
        """As an out-of-memory killer would."""
        self.process.kill()
        self.end()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.end()

    def end(self):
        self.process.wait(PATIENCE)
        self.process.stdout.close()
        self.log.close()

    def close(self):
        if self.process.returncode is None:
            self.stop()

    def said(self):
        """Everything it has logged."""
        return (self.directory / "log").read_text()

    def ask(self, method, path, body=None):
        """The connection and the answer, its body unread."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body and json.dumps(body))
            return connection, connection.getresponse()
        except BaseException:
            connection.close()
            raise

    def pull(self, name, **fields):
        """All lines of a pull."""
        return self.post("/api/pull", {"model": name} | fields)

    def post(self, path, body):
        """All lines of an answer."""
        connection, answer = self.ask("POST", path, body)
        try:
            return [json.loads(line) for line in answer.read().splitlines()]
        finally:
            connection.close()

    def names(self):
        """The installed models beside the first, by their listing."""
        connection, answer = self.ask("GET", "/api/tags")
        listed = json.loads(answer.read())["models"]
        connection.close()
        return {model["name"]: model for model in listed if model["name"] != FIRST}

    def checkpoint(self, marker="model.safetensors"):
        """Files of installed checkpoints that came from the hub, by their path."""
        sources = [path for path in (self.directory / "models").rglob("vllama-source.json") if ".downloads" not in path.parts and ".staging" not in path.parts]
        return [source.parent / marker for source in sources]

    def unfinished(self):
        """Bytes of files on their way."""
        return sum(path.stat().st_size for path in (self.directory / "models/.downloads").glob("*/*/partial/*"))

    def kept(self, names):
        """Bytes of these files that are on the disk for a pull to go on with."""
        downloads = self.directory / "models/.downloads"
        sizes = dict.fromkeys(names, 0)
        for name in names:
            partial = hashlib.sha256(name.encode()).hexdigest()[:32]
            for path in (*downloads.glob(f"*/*/files/{name}"), *downloads.glob(f"*/*/partial/{partial}")):
                try:
                    sizes[name] = max(sizes[name], path.stat().st_size)
                except FileNotFoundError:
                    pass  # it is complete just now
        return sizes

    def staged(self):
        """Files of models that are being built."""
        return list((self.directory / "models/.staging").glob("*/*.safetensors"))

    def scripts(self):
        """Downloads at work below this vllama or left behind by it."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and str(self.directory).encode() in (entry / "cmdline").read_bytes() and b"huggingface_hub" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                pass
        return found


class Pull(unittest.TestCase):
    """A hub, and one vllama for each test."""

    def setUp(self):
        self.hub = self.enterContext(Hub())
        self.directory = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="vllama-")))

    def vllama(self, **environment):
        vllama = Vllama(self.directory, self.hub, **environment)
        self.addCleanup(vllama.close)
        return vllama

    def pause_in(self, vllama, name, at):
        """A pull in a thread, held by the hub after so many bytes of its weights."""
        self.hub.pause_at = at
        self.hub.gate.clear()
        lines = []
        thread = threading.Thread(target=lambda: lines.extend(vllama.pull(name)), daemon=True)
        thread.start()
        eventually("the hub holds", lambda: self.hub.sent_bytes(".safetensors") >= at)
        return thread, lines

    def test_a_pulled_model_is_listed_shown_and_answers(self):
        files = checkpoints.plain(300_000)
        self.hub.add("org/name", files, card={"license": "apache-2.0"})
        vllama = self.vllama()
        connection, answer = vllama.ask("POST", "/api/pull", {"name": "org/name", "model": ""})
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.getheader("Content-Type"), "application/x-ndjson")
        lines = [json.loads(line) for line in answer.read().splitlines()]
        connection.close()
        statuses = [line["status"] for line in lines if "digest" not in line]
        self.assertEqual(statuses, ["pulling manifest", "verifying sha256 digest", "writing manifest", "success"])
        layers = {}
        for line in lines:
            if "digest" in line:
                self.assertEqual(line["status"], "pulling " + line["digest"].removeprefix("sha256:")[:12])
                self.assertGreater(line.get("completed", 1), 0)
                self.assertGreaterEqual(line.get("completed", 0), layers.get(line["digest"], (0, 0))[0])
                layers[line["digest"]] = (line.get("completed", 0), line["total"])
        weights = hashlib.sha256(files["model.safetensors"]).hexdigest()
        self.assertEqual(layers[f"sha256:{weights}"], (len(files["model.safetensors"]),) * 2)
        self.assertTrue(all(completed == total for completed, total in layers.values()))
        listed = vllama.names()["org/name:latest"]
        self.assertEqual(listed["details"]["format"], "safetensors")
        self.assertEqual(listed["details"]["quantization_level"], "BF16")
        self.assertGreater(listed["size"], len(files["model.safetensors"]))
        connection, answer = vllama.ask("POST", "/api/show", {"model": "org/name"})
        shown = json.loads(answer.read())
        connection.close()
        self.assertEqual(shown["license"], "You may.\n")
        self.assertEqual(shown["model_info"]["general.parameter_count"], 200 + 150_000)
        eventually("nothing is left of the download", lambda: not list((self.directory / "models/.downloads").iterdir()))

    def test_a_packed_model_says_how_and_counts_what_it_holds(self):
        config = checkpoints.CONFIG | {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}
        shapes = {"a.qweight": ([10, 20], "I32"), "a.qzeros": ([5], "I32"), "a.scales": ([9], "F16"), "embed.weight": ([50], "F16")}
        files = checkpoints.plain() | {"config.json": json.dumps(config).encode(), "model.safetensors": checkpoints.safetensors(shapes)}
        del files["LICENSE"]
        self.hub.add("org/name", files, card={"license": "apache-2.0"})
        vllama = self.vllama()
        vllama.pull("org/name")
        self.assertEqual(vllama.names()["org/name:latest"]["details"]["quantization_level"], "INT4")
        connection, answer = vllama.ask("POST", "/api/show", {"model": "org/name"})
        shown = json.loads(answer.read())
        connection.close()
        self.assertEqual(shown["license"], "apache-2.0")
        self.assertEqual(shown["model_info"]["general.parameter_count"], 10 * 20 * 8 + 50)

    def test_names_of_ollamas_library_lead_to_the_hub(self):
        self.hub.add("Qwen/Qwen2.5-7B-Instruct-AWQ", checkpoints.plain())
        vllama = self.vllama()
        self.assertEqual(vllama.pull("qwen2.5:7b-instruct-q4_K_M", stream=False), [{"status": "success"}])
        self.assertEqual(list(vllama.names()), ["qwen2.5:7b-instruct-q4_K_M"])

    def test_a_tag_of_a_hub_name_is_a_revision(self):
        self.hub.add("org/name", checkpoints.plain(), revisions=("v1.0",))
        vllama = self.vllama()
        self.assertIn("file does not exist", vllama.pull("hf.co/org/name")[-1]["error"])
        self.assertEqual(vllama.pull("hf.co/org/name:v1.0")[-1], {"status": "success"})
        self.assertEqual(list(vllama.names()), ["hf.co/org/name:v1.0"])

    def test_unknown_names_are_told_in_ollamas_words(self):
        vllama = self.vllama()
        missing = {"error": "pull model manifest: file does not exist"}
        for name in ("nobody", "qwen2.5:9b", "org/nothing"):
            self.assertEqual(vllama.pull(name), [{"status": "pulling manifest"}, missing])
            self.assertEqual(vllama.pull(name, stream=False), [missing])
        self.assertEqual(vllama.pull("a b"), [{"error": "invalid model name"}])
        self.assertEqual(vllama.pull("http://hf.co/org/name"), [{"error": "insecure protocol http"}])
        self.assertIn("vllama import", vllama.pull("hf.co/org/name-GGUF:Q4_K_M")[-1]["error"])
        self.assertEqual(vllama.names(), {})

    def test_errors_of_the_hub_end_the_stream_and_install_nothing(self):
        vllama = self.vllama()
        self.hub.add("org/gated", checkpoints.plain(), gated=True)
        self.assertIn("unauthorized: access denied", vllama.pull("org/gated")[-1]["error"])
        files = checkpoints.plain()
        self.hub.add("org/lie", files, lie=True)
        error = vllama.pull("org/lie")[-1]["error"]
        self.assertTrue(error.startswith("digest mismatch, file must be downloaded again: want sha256:"), error)
        for name, contents, words in [
            ("config.json", b'{"model_type": "llama"}', "config.json: it names no architecture"),
            ("config.json", b"[]", "config.json: it names no architecture"),
            ("model.safetensors", b"\xff" * 100, "model.safetensors: its header of"),
            ("model.safetensors", files["model.safetensors"][:-1], "model.safetensors: it has"),
        ]:
            self.hub.add("org/broken", checkpoints.plain() | {name: contents})
            error = vllama.pull("org/broken")[-1]["error"]
            self.assertTrue(error.startswith("vLLM cannot serve this repository: "), error)
            self.assertIn(words, error)
        self.assertEqual(vllama.names(), {})

    def test_the_token_reaches_the_hub_and_nobody_else(self):
        self.hub.add("org/gated", checkpoints.plain(), gated=True)
        vllama = self.vllama(HF_TOKEN=TOKEN, VLLAMA_LOG="debug")
        self.assertEqual(vllama.pull("org/gated")[-1], {"status": "success"})
        self.hub.add("org/broken", checkpoints.plain() | {"model.safetensors": b"x"}, gated=True)
        answers = json.dumps([vllama.pull("org/broken"), vllama.pull("org/nothing")])
        vllama.stop()
        self.assertNotIn(TOKEN, vllama.said() + answers)
        self.assertNotIn(TOKEN.encode(), b"".join(path.read_bytes() for path in self.directory.rglob("*") if path.is_file()))

    def test_a_second_pull_is_quick_until_the_hub_has_something_new(self):
        self.hub.add("org/name", checkpoints.plain())
        vllama = self.vllama()
        vllama.pull("org/name")
        digest = vllama.names()["org/name:latest"]["digest"]
        self.hub.forget()
        lines = vllama.pull("org/name")
        self.assertEqual(lines[-1], {"status": "success"})
        self.assertTrue(all(line["completed"] == line["total"] for line in lines if "digest" in line))
        self.assertEqual(self.hub.sent_bytes(), 0)
        self.hub.add("org/name", checkpoints.plain(50_000))
        self.assertEqual(vllama.pull("org/name")[-1], {"status": "success"})
        self.assertNotEqual(vllama.names()["org/name:latest"]["digest"], digest)

    def test_an_installed_model_needs_no_hub(self):
        self.hub.add("org/name", checkpoints.plain())
        vllama = self.vllama()
        vllama.pull("org/name")
        vllama.stop()
        for environment in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
            vllama = self.vllama(**environment)
            self.assertEqual(vllama.pull("org/name")[-1], {"status": "success"})
            self.assertEqual(vllama.pull(FIRST)[-1], {"status": "success"})
            self.assertNotEqual(vllama.pull("org/other")[-1], {"status": "success"})
            vllama.stop()

    def test_two_who_pull_one_model_share_one_download(self):
        files = checkpoints.plain(600_000)
        self.hub.add("org/name", files)
        vllama = self.vllama()
        first, lines = self.pause_in(vllama, "org/name", 200_000)
        connection, answer = vllama.ask("POST", "/api/pull", {"model": "ORG/Name:latest"})
        self.assertEqual(json.loads(answer.readline()), {"status": "pulling manifest"})
        self.assertTrue(json.loads(answer.readline())["status"].startswith("pulling "))
        self.hub.gate.set()
        self.assertEqual(json.loads(answer.read().splitlines()[-1]), {"status": "success"})
        connection.close()
        first.join(PATIENCE)
        self.assertEqual(lines[-1], {"status": "success"})
        self.assertEqual(len(self.hub.asked("/api/models/")), 1)
        self.assertEqual(self.hub.sent_bytes(".safetensors"), len(files["model.safetensors"]))

    def test_a_download_stops_with_its_last_listener_and_goes_on_later(self):
        files = checkpoints.plain(2_000_000)
        self.hub.add("org/name", files)
        vllama = self.vllama()
        self.hub.pause_at = 1_200_000
        self.hub.gate.clear()
        connection, answer = vllama.ask("POST", "/api/pull", {"model": "org/name"})
        silent = socket.create_connection(("127.0.0.1", vllama.port))
        body = b'{"model": "org/name", "stream": false}'
        silent.sendall(b"POST /api/pull HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        eventually("half is on the disk", lambda: vllama.unfinished() >= 900_000)
        answer.close()
        connection.close()
        self.assertEqual(len(vllama.scripts()), 1)
        silent.close()
        eventually("the script has ended", lambda: not vllama.scripts())
        self.hub.gate.set()
        self.hub.forget()
        self.assertEqual(vllama.pull("org/name")[-1], {"status": "success"})
        self.assertLess(self.hub.sent_bytes(".safetensors"), len(files["model.safetensors"]) - 900_000 + 1)

    def test_a_third_download_waits_for_one_of_two(self):
        for name in ("org/a", "org/b", "org/c"):
            self.hub.add(name, checkpoints.plain(200_000))
        vllama = self.vllama()
        self.hub.pause_at = 0
        self.hub.gate.clear()
        answers = [vllama.ask("POST", "/api/pull", {"model": name}) for name in ("org/a", "org/b", "org/c")]
        self.assertEqual(json.loads(answers[2][1].readline()), {"status": "pulling manifest"})
        eventually("two ask for their weights", lambda: len(self.hub.asked("/store/")) == 2)
        self.assertEqual(len(self.hub.asked("/api/models/")), 2)
        self.hub.gate.set()
        for connection, answer in answers:
            self.assertEqual(json.loads(answer.read().splitlines()[-1]), {"status": "success"})
            connection.close()

    def test_a_stop_of_the_server_ends_a_download(self):
        self.hub.add("org/name", checkpoints.plain(600_000))
        vllama = self.vllama()
        thread, lines = self.pause_in(vllama, "org/name", 200_000)
        began = time.monotonic()
        vllama.stop()
        self.assertLess(time.monotonic() - began, 4)
        thread.join(PATIENCE)
        self.assertIn("the server is stopping", lines[-1]["error"])
        self.assertEqual(vllama.scripts(), [])

    def test_after_a_kill_at_any_point_a_pull_goes_on_and_nothing_torn_is_seen(self):
        files = checkpoints.sharded(12_000_000, shards=3)
        self.hub.add("org/name", files, bytes_per_second=8_000_000)
        shards = [name for name in files if name.startswith("model-")]
        total = sum(len(files[name]) for name in shards)
        vllama = self.vllama()
        # Spread over the download, then when all is there, then in the middle of the installation.
        points = [lambda goal=total * part // 16: sum(vllama.kept(shards).values()) >= goal for part in range(16)]
        points += [lambda: sum(vllama.kept(shards).values()) == total, lambda: any(vllama.staged())]
        kept, kills = dict.fromkeys(shards, 0), 0
        for point in points:
            self.hub.forget()
            thread = threading.Thread(target=self.swallow, args=(vllama.pull, "org/name"), daemon=True)
            thread.start()
            eventually("the download is there", lambda: point() or any(vllama.checkpoint()))
            vllama.kill()
            thread.join(PATIENCE)
            eventually("the script has ended", lambda: not vllama.scripts())
            self.assert_went_on(files, kept)
            before, kept = kept, vllama.kept(shards)
            if any(vllama.checkpoint()):
                break  # it was quicker than the last point
            self.assertTrue(all(kept[name] >= before[name] for name in shards), "nothing is lost that was on the disk")
            kills += 1
            vllama.start()
            self.assertEqual(vllama.names(), {})
        else:
            self.hub.forget()
            self.assertEqual(vllama.pull("org/name")[-1], {"status": "success"})
            self.assert_went_on(files, kept)
            vllama.kill()
        self.assertGreaterEqual(kills, 16)
        vllama.start()
        self.assertEqual(list(vllama.names()), ["org/name:latest"])
        for name in shards:
            self.assertEqual([path.read_bytes() for path in vllama.checkpoint(name)], [files[name]])
        self.assertEqual(vllama.staged(), [])

    def assert_went_on(self, files, kept):
        """Every shard was asked for from where it was, or not at all when it was whole."""
        for name, size in kept.items():
            ranges = [bytes_range for _, _, bytes_range in self.hub.asked(f"/store/.*/{name}$")]
            if size == len(files[name]):
                self.assertEqual(ranges, [])
            elif ranges:
                self.assertEqual(ranges[0], f"bytes={size}-" if size else None)

    def swallow(self, act, *arguments):
        """A client of a server that is killed."""
        try:
            act(*arguments)
        except (OSError, http.client.HTTPException, ValueError):
            pass

    def test_an_embedder_keeps_its_modules(self):
        files = checkpoints.plain() | {"modules.json": b"[]", "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}'}
        self.hub.add("sentence-transformers/all-MiniLM-L6-v2", files)
        vllama = self.vllama()
        self.assertEqual(vllama.pull("all-minilm")[-1], {"status": "success"})
        self.assertEqual(vllama.names()["all-minilm:latest"]["capabilities"], ["embedding"])
        self.assertEqual([path.read_bytes() for path in vllama.checkpoint("1_Pooling/config.json")], [files["1_Pooling/config.json"]])

    def test_a_create_pulls_what_it_is_made_from(self):
        self.hub.add("org/name", checkpoints.plain())
        vllama = self.vllama()
        lines = vllama.post("/api/create", {"model": "mario", "from": "org/name", "system": "You are Mario."})
        statuses = [line["status"].split(" ")[0] for line in lines]
        self.assertEqual((statuses[0], statuses[-1]), ("pulling", "success"))
        self.assertEqual(sorted(vllama.names()), ["mario:latest", "org/name:latest"])

    def test_a_model_in_use_is_replaced_when_its_requests_are_done(self):
        self.hub.add("org/name", checkpoints.plain())
        vllama = self.vllama(FAKE_VLLM_TOKEN_RATE="10")
        vllama.pull("org/name")
        vllama.stop()
        vllama.start("org/name")
        question = {"model": "org/name", "messages": [{"role": "user", "content": "Hello " * 40}]}
        connection, answer = vllama.ask("POST", "/api/chat", question | {"options": {"num_predict": 40}})
        self.assertFalse(json.loads(answer.readline())["done"])
        self.hub.add("org/name", checkpoints.plain(50_000))
        old = vllama.names()["org/name:latest"]["digest"]
        pulling, lines = vllama.ask("POST", "/api/pull", {"model": "org/name"})
        while json.loads(lines.readline())["status"] != "writing manifest":
            pass
        self.assertEqual(vllama.names()["org/name:latest"]["digest"], old)
        self.assertTrue(json.loads(answer.read().splitlines()[-1])["done"])
        connection.close()
        self.assertEqual([json.loads(line) for line in lines.read().splitlines()], [{"status": "success"}])
        pulling.close()
        self.assertNotEqual(vllama.names()["org/name:latest"]["digest"], old)
        self.assertTrue(vllama.post("/api/chat", question)[-1].get("done"), "the new one is served")

    def test_the_ollama_package_pulls(self):
        python = os.environ.get("VLLAMA_TEST_CLIENTS")
        if not python:
            print("skipped: pull by the ollama package, since VLLAMA_TEST_CLIENTS names no Python that has it")
            self.skipTest("no client packages")
        self.hub.add("org/name", checkpoints.plain(300_000))
        vllama = self.vllama()
        client = """
import ollama
lines = list(ollama.pull("org/name", stream=True))
assert lines[0].status == "pulling manifest" and lines[-1].status == "success", lines
layers = [line for line in lines if line.digest]
assert layers and layers[-1].total and layers[-1].completed, layers
assert ollama.pull("org/name").status == "success"
assert [model.model for model in ollama.list().models].count("org/name:latest") == 1
try:
    ollama.pull("nobody")
except ollama.ResponseError as error:
    assert "file does not exist" in error.error, error
else:
    raise AssertionError("nobody was pulled")
"""
        environment = {"OLLAMA_HOST": f"127.0.0.1:{vllama.port}", "PATH": os.environ["PATH"]}
        ended = subprocess.run([python, "-c", client], env=environment, capture_output=True, text=True, timeout=60)
        self.assertEqual(ended.returncode, 0, ended.stderr)


if __name__ == "__main__":
    unittest.main()
