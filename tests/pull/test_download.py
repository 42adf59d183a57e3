"""The download script against a hub of our own: what it takes, how it goes on, what it says when it cannot.

Run: .venv/bin/python -m unittest discover -s tests/pull
"""

import fcntl
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "tests/pull")]

import checkpoints
from hub import TOKEN, Hub

SCRIPT = ROOT / "src/model/download.py"


def load_script():
    """The download as a module."""
    spec = importlib.util.spec_from_file_location("download", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["download"] = module
    spec.loader.exec_module(module)
    return module


download = load_script()


def read_all(directory):
    """Contents of all files below a directory, by their path."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in Path(directory).rglob("*") if path.is_file()}


class Download(unittest.TestCase):
    """A hub and a directory for each test."""

    def setUp(self):
        self.hub = self.enterContext(Hub())
        self.directory = Path(self.enterContext(tempfile.TemporaryDirectory())) / "place"

    def start(self, repository="org/name", revision="main", installed=None, directory=None, script=SCRIPT.read_text(), **environment):
        order = {"repository": repository, "revision": revision, "installed": installed}
        order["directory"] = str(directory or self.directory)
        home = str(self.directory.parent / "home")
        environment = {"PATH": os.environ["PATH"], "HOME": home, "HF_ENDPOINT": self.hub.address} | environment
        command = [sys.executable, "-c", script, json.dumps(order)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run_script(self, *arguments, **facts):
        """All events and everything that was said."""
        out, err = self.start(*arguments, **facts).communicate(timeout=60)
        self.said = out + err
        return [json.loads(line) for line in out.splitlines()]

    def fails(self, code, *words, **facts):
        """The message of the error it ends with."""
        last = self.run_script(**facts)[-1]
        self.assertEqual((last["event"], last.get("code")), ("error", code), self.said)
        for word in words:
            self.assertIn(word, last["message"])
        self.assertNotIn(TOKEN, self.said)
        self.assertNotIn(self.hub.address, self.said)
        return last

    def test_takes_what_vllm_loads_and_nothing_else(self):
        files = checkpoints.plain()
        self.hub.add("org/name", files)
        *layers, done = self.run_script()
        self.assertEqual(done["event"], "done", self.said)
        got = read_all(done["files"])
        source = json.loads(got.pop("vllama-source.json"))
        self.assertEqual(source, {"repository": "org/name", "commit": self.hub.repositories["org/name"].commit})
        wanted = ["LICENSE", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
        self.assertEqual(got, {name: files[name] for name in wanted})
        self.assertEqual(done["license"], None)
        last = {layer["digest"]: (layer["completed"], layer["total"]) for layer in layers}
        sizes = {hashlib.sha256(files[name]).hexdigest(): (len(files[name]),) * 2 for name in wanted}
        self.assertEqual(last, sizes)
        self.assertEqual({layer["layer"] for layer in layers}, set(range(len(wanted))))

    def test_takes_the_shards_of_the_index_once(self):
        files = checkpoints.sharded()
        self.hub.add("org/name", files, card={"license": "apache-2.0"})
        done = self.run_script()[-1]
        got = read_all(done["files"])
        self.assertEqual(sorted(name for name in got if name.endswith(".safetensors")), sorted(name for name in files if name.startswith("model-")))
        self.assertEqual(done["license"], "apache-2.0")
        self.assertEqual(self.hub.sent.get("consolidated.safetensors"), None)

    def test_takes_the_modules_of_an_embedder(self):
        files = checkpoints.plain() | {
            "modules.json": b"[]",
            "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
            "2_Dense/config.json": b"{}",
            "2_Dense/model.safetensors": checkpoints.safetensors({"linear.weight": [2, 2]}),
            "2_Dense/pytorch_model.bin": b"pickle",
        }
        self.hub.add("org/name", files)
        got = read_all(self.run_script()[-1]["files"])
        for name in ("modules.json", "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"):
            self.assertEqual(got[name], files[name])
        self.assertNotIn("2_Dense/pytorch_model.bin", got)
        del files["2_Dense/model.safetensors"]
        self.hub.add("org/name", files)
        self.fails("unsuitable", "2_Dense")

    def test_goes_on_where_a_killed_run_was(self):
        files = checkpoints.plain(2_000_000)
        self.hub.add("org/name", files)
        size = len(files["model.safetensors"])
        self.hub.pause_at = size // 2
        self.hub.gate.clear()
        process = self.start()
        with process.stdout, process.stderr:
            for line in process.stdout:
                if json.loads(line).get("completed", 0) > size // 4:
                    break
            process.kill()
            process.wait(10)
        self.hub.gate.set()
        self.hub.forget()
        events = self.run_script()
        self.assertEqual(events[-1]["event"], "done", self.said)
        self.assertEqual(read_all(events[-1]["files"])["model.safetensors"], files["model.safetensors"])
        self.assertLess(self.hub.sent_bytes(".safetensors"), size * 3 // 4)
        self.assertEqual(self.hub.sent_bytes(".json"), 0)
        self.assertEqual(self.hub.asked("/store/")[0][2][:6], "bytes=")

    def test_goes_on_after_a_cut_connection(self):
        files = checkpoints.plain(600_000)
        self.hub.add("org/name", files, cut_after=400_000)
        events = self.run_script()
        self.assertEqual(events[-1]["event"], "done", self.said)
        self.assertEqual(read_all(events[-1]["files"])["model.safetensors"], files["model.safetensors"])
        self.assertEqual(len(self.hub.asked("/store/")), 2)

    def test_starts_again_where_the_hub_cannot_begin_in_the_middle(self):
        files = checkpoints.plain(600_000)
        repository = self.hub.add("org/name", files, ranges=False)
        partial = self.directory / repository.commit / "partial"
        partial.mkdir(parents=True)
        (partial / hashlib.sha256(b"model.safetensors").hexdigest()[:32]).write_bytes(files["model.safetensors"][:100_000])
        events = self.run_script()
        self.assertEqual(events[-1]["event"], "done", self.said)
        self.assertEqual(read_all(events[-1]["files"])["model.safetensors"], files["model.safetensors"])

    def test_a_torn_partial_file_is_found_and_downloaded_again(self):
        files = checkpoints.plain(600_000)
        repository = self.hub.add("org/name", files)
        partial = self.directory / repository.commit / "partial"
        partial.mkdir(parents=True)
        torn = partial / hashlib.sha256(b"model.safetensors").hexdigest()[:32]
        torn.write_bytes(bytes(1000))
        self.fails("digest")
        self.assertFalse(torn.exists())
        torn.write_bytes(bytes(700_000))  # longer than the file is
        self.assertEqual(self.run_script()[-1]["event"], "done", self.said)

    def test_another_revision_sweeps_what_is_left_of_the_first(self):
        self.hub.add("org/name", checkpoints.plain(600_000), fail=503)
        self.fails("network", "503")
        first = [path.name for path in self.directory.iterdir()]
        self.hub.add("org/name", checkpoints.plain(500_000))
        self.assertEqual(self.run_script()[-1]["event"], "done", self.said)
        left = [path.name for path in self.directory.iterdir()]
        self.assertEqual(len(left), 1)
        self.assertNotEqual(left, first)

    def test_an_installed_revision_is_not_downloaded(self):
        repository = self.hub.add("org/name", checkpoints.plain())
        events = self.run_script(installed=repository.commit)
        self.assertEqual(events[-1], {"event": "unchanged"})
        self.assertTrue(all(event["completed"] == event["total"] for event in events[:-1]) and len(events) > 1)
        self.assertEqual(self.hub.sent_bytes(), 0)
        self.assertFalse(self.directory.exists())

    def test_wrong_bytes_are_never_complete(self):
        files = checkpoints.plain()
        repository = self.hub.add("org/name", files, lie=True)
        last = self.fails("digest")
        self.assertEqual(last["want"], "sha256:" + hashlib.sha256(files["model.safetensors"]).hexdigest())
        self.assertNotIn("model.safetensors", read_all(self.directory / repository.commit / "files"))
        self.assertEqual(read_all(self.directory / repository.commit / "partial"), {})

    def test_what_is_not_there_is_not_found(self):
        self.hub.add("org/name", checkpoints.plain(), private=True)
        self.fails("not_found")
        self.fails("not_found", repository="org/other", HF_TOKEN=TOKEN)
        self.fails("not_found", revision="v9", HF_TOKEN=TOKEN)
        self.assertEqual(self.run_script(HF_TOKEN=TOKEN)[-1]["event"], "done", self.said)

    def test_gated_repositories_ask_for_a_token(self):
        self.hub.add("org/name", checkpoints.plain(), gated=True)
        self.fails("unauthorized", "HF_TOKEN", "https://huggingface.co/org/name")
        self.fails("unauthorized", "HF_TOKEN", HF_TOKEN="hf_wrong")
        self.assertEqual(self.run_script(HF_TOKEN=TOKEN)[-1]["event"], "done", self.said)
        self.assertNotIn(TOKEN, self.said)

    def test_offline_mode_and_no_network_are_told_apart(self):
        self.fails("offline", HF_HUB_OFFLINE="1")
        self.fails("network", "HF_ENDPOINT", HF_ENDPOINT="http://127.0.0.1:9")

    def test_formats_vllm_does_not_load_are_named(self):
        files = checkpoints.plain()
        del files["model.safetensors"]
        self.hub.add("org/name", files)
        self.fails("gguf", "org/name")
        del files["model.Q4_K_M.gguf"]
        self.hub.add("org/name", files)
        self.fails("unsuitable", "no safetensors", ".bin")
        self.hub.add("org/name", {"adapter_config.json": b"{}", "adapter_model.safetensors": b"x", "config.json": b"{}"})
        self.fails("unsuitable", "adapter")
        files = checkpoints.plain()
        del files["config.json"]
        self.hub.add("org/name", files)
        self.fails("unsuitable", "config.json")

    def test_a_configuration_without_sense_is_told_before_any_weight_has_come(self):
        for config in (b"{}", b"[]", b'{"architectures": []}', b'{"architectures": [7]}', b"{"):
            self.hub.add("org/name", checkpoints.plain() | {"config.json": config})
            self.fails("unsuitable", "config.json")
            self.assertEqual([path.name for path in self.directory.rglob("*.safetensors")], [])

    def test_incomplete_checkpoints_are_named(self):
        self.hub.add("org/name", checkpoints.sharded() | {"model.safetensors.index.json": b"[]"})
        self.fails("unsuitable", "model.safetensors.index.json")
        files = checkpoints.sharded()
        del files["model-00002-of-00003.safetensors"]
        self.hub.add("org/name", files)
        self.fails("unsuitable", "model-00002-of-00003.safetensors")

    def test_paths_of_the_hub_stay_in_the_directory(self):
        evil = {"../escape.json": b"{}", "/tmp/escape.json": b"{}", "a/../../escape.json": b"{}", "1_P/../config.json": b"{}"}
        self.hub.add("org/name", checkpoints.plain() | evil)
        done = self.run_script()[-1]
        self.assertEqual(done["event"], "done", self.said)
        self.assertFalse([path for path in self.directory.parent.rglob("escape.json")])
        index = {"weight_map": {"a": "../../escape.safetensors"}}
        self.hub.add("org/name", checkpoints.sharded() | {"model.safetensors.index.json": json.dumps(index).encode()})
        self.fails("unsuitable", "incomplete")

    def test_ends_when_nobody_listens(self):
        self.hub.add("org/name", checkpoints.plain(600_000))
        self.hub.pause_at = 0
        self.hub.gate.clear()
        process = self.start()
        self.addCleanup(process.stderr.close)
        process.stdout.readline()
        process.stdout.close()
        self.assertEqual(process.wait(10), 1)

    def test_a_second_run_waits_for_the_first(self):
        files = checkpoints.plain(400_000)
        self.hub.add("org/name", files, bytes_per_second=1_000_000)
        processes = [self.start(), self.start()]
        outs = [process.communicate(timeout=60)[0] for process in processes]
        self.assertEqual([json.loads(out.splitlines()[-1])["event"] for out in outs], ["done", "done"])
        self.assertEqual(self.hub.sent_bytes(".safetensors"), len(files["model.safetensors"]))

    def test_a_run_whose_place_was_taken_away_while_it_waited_makes_another(self):
        self.hub.add("org/name", checkpoints.plain())
        self.directory.mkdir()
        handle = os.open(self.directory, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)
        process = self.start()
        deadline = time.monotonic() + 30
        while not self.hub.asked("/api/models/") and time.monotonic() < deadline:
            time.sleep(0.005)
        os.rmdir(self.directory)
        os.close(handle)
        out = process.communicate(timeout=60)[0]
        self.assertEqual(json.loads(out.splitlines()[-1])["event"], "done", out)

    def test_a_full_disk_is_told_before_and_during_the_download(self):
        disk = small_disk(self, 1 << 20)
        self.hub.add("org/name", checkpoints.plain(4_000_000))
        self.fails("disk_full", "GB", directory=disk / "place")
        # Somebody else fills it after it was looked at.
        script = SCRIPT.read_text().replace("SPARE_BYTES = 64 << 20", "SPARE_BYTES = -1 << 40")
        self.assertNotEqual(script, SCRIPT.read_text())
        self.fails("disk_full", "became full", directory=disk / "place", script=script)


def small_disk(test, size):
    """A file system of so many bytes; skips the test where none can be mounted."""
    directory = Path(test.enterContext(tempfile.TemporaryDirectory()))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", directory], capture_output=True, text=True)
    if mounted.returncode:
        print("skipped: a full disk, since no file system can be mounted here")
        test.skipTest("cannot mount")
    test.addCleanup(subprocess.run, ["umount", "-l", directory])
    return directory


class Names(unittest.TestCase):
    """Names of the hub."""

    def test_only_names_that_stay_inside_become_paths(self):
        for path in ("config.json", "1_Pooling/config.json", ".hidden"):
            self.assertTrue(download.is_safe(path), path)
        for path in ("", "/etc/passwd", "../x", "a/../x", "a//b", "a/", "a\\b", "a\0b", "./a", "x" * 600):
            self.assertFalse(download.is_safe(path), path)


if __name__ == "__main__":
    unittest.main()
