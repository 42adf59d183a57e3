"""The units of `podman/`, read by podman's own generator."""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/systemd")]

from machine import Unusable, usable

generator = None


def setUpModule():
    global generator
    try:
        generator = usable(ROOT / "tests/systemd/quadlet", ROOT / "target/systemd")
    except Unusable as reason:
        print(f"skipped: the units for podman: {reason}")
        raise unittest.SkipTest(str(reason)) from None


def generated(edit=lambda text: text):
    """What the generator makes of the units, after this edit, and what it complains about."""
    with tempfile.TemporaryDirectory(prefix="vllama-") as place:
        for unit in (ROOT / "podman").iterdir():
            (Path(place) / unit.name).write_text(edit(unit.read_text()))
        environment = {"PATH": os.environ["PATH"], "QUADLET_UNIT_DIRS": place}
        ended = subprocess.run([generator, "-dryrun"], env=environment, text=True, capture_output=True, check=False)
        complaints = [line for line in ended.stderr.splitlines() if "Loading source unit file" not in line]
        return ended.stdout, complaints


class Podman(unittest.TestCase):
    def test_the_generator_knows_every_key_and_makes_the_service(self):
        text, complaints = generated()
        self.assertEqual(complaints, [])
        (line,) = [line for line in text.splitlines() if line.startswith("ExecStart=/usr/bin/podman run ")]
        for option in [
            "--name vllama",
            "--sdnotify=container",
            "--stop-timeout 90",
            "--shm-size 8g",
            "--device nvidia.com/gpu=all",
            "--cap-drop all",
            "--security-opt=no-new-privileges",
            "--read-only ",
            "-v vllama:/var/lib/vllama",
            "--publish 127.0.0.1:11434:11434",
            '--health-cmd "vllama health"',
        ]:
            self.assertIn(option, line)
        self.assertTrue(line.endswith(" localhost/vllama:cuda serve"), line)
        self.assertIn("Type=notify", text.splitlines())
        (limit,) = [int(line.split("=")[1]) for line in text.splitlines() if line.startswith("TimeoutStopSec=")]
        self.assertGreater(limit, 90, "systemd waits longer than podman, and podman longer than vllama drains")

    def test_the_generator_would_complain(self):
        _, complaints = generated(lambda text: text.replace("ShmSize=", "SharedMemory="))
        self.assertTrue(any("SharedMemory" in line for line in complaints), complaints)


if __name__ == "__main__":
    unittest.main()
