"""The page of /metrics, read by those who will read it: Prometheus' own parsers and promtool.

Run: .venv/bin/python -m unittest discover -s tests/metrics
The engine's Python has the `prometheus_client` package. VLLAMA_TEST_BIN names the directory of `vllama` and `fake-vllm`
(target/debug where it is not set). promtool is Debian's package prometheus.
"""

import shutil
import subprocess
import sys
import tempfile
import unittest
import urllib.request
from pathlib import Path

from prometheus_client import parser as text_parser
from prometheus_client.openmetrics import parser as open_parser

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "tests/pull")]

import test_pull

REAL_PAGE = ROOT / "tests/golden/vllm/metrics.response.txt"
OPEN_METRICS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
# What promtool says against vLLM's names, which are not ours to change.
NOT_OURS = "vllm:"


class NoHub:
    address = "http://127.0.0.1:9"


class Page(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="vllama-")
        self.addCleanup(folder.cleanup)
        # What a real engine told, without the head of its answer.
        page = Path(folder.name) / "engine.txt"
        page.write_text(REAL_PAGE.read_text().split("\n\n", 1)[1])
        self.vllama = test_pull.Vllama(Path(folder.name), NoHub, FAKE_VLLM_METRICS=str(page))
        self.addCleanup(self.vllama.close)
        test_pull.eventually("it is ready", lambda: self.status("/health/ready") == 200)
        for stream in (True, False):
            body = {"model": "smollm2:135m", "prompt": "FAKE:count 5", "stream": stream}
            self.vllama.post("/api/generate", body)
        # A request is counted when its answer has been taken.
        counted = 'vllama_requests_total{route="/api/generate",model="smollm2:135m",status="200"} 2'
        test_pull.eventually("both are counted", lambda: counted in self.page("text/plain"))

    def status(self, path):
        connection, answer = self.vllama.ask("GET", path)
        connection.close()
        return answer.status

    def page(self, accept):
        request = urllib.request.Request(f"http://127.0.0.1:{self.vllama.port}/metrics", headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read().decode()

    def test_both_parsers_read_the_same_of_both_formats(self):
        """The parser of OpenMetrics is strict: it refuses what is told twice, out of order, or under a wrong name."""
        text = self.samples(text_parser.text_string_to_metric_families(self.page("text/plain")))
        open_metrics = self.samples(open_parser.text_string_to_metric_families(self.page(OPEN_METRICS)))
        self.assertEqual(set(text), set(open_metrics))
        self.assertEqual(len(text), len(set(text)), "no sample is told twice")
        self.assertGreater(len({name for name, _ in text if name.startswith("vllama_")}), 30)
        engines = {name for name, _ in text if name.startswith("vllm:")}
        self.assertIn("vllm:iteration_tokens_total_bucket", engines)
        self.assertGreater(len(engines), 15)

    @staticmethod
    def samples(families):
        def labels(sample):
            # The two formats write the bound of a bucket in their own ways: 10 and 10.0.
            return frozenset((name, str(float(value)) if name == "le" else value) for name, value in sample.labels.items())

        return [(sample.name, labels(sample)) for family in families for sample in family.samples]

    def test_promtool_has_nothing_to_say_against_the_page(self):
        promtool = shutil.which("promtool")
        if not promtool:
            print("skipped: no promtool; Debian has it in the package prometheus")
            self.skipTest("no promtool")
        run = subprocess.run([promtool, "check", "metrics"], input=self.page("text/plain"), capture_output=True, text=True)
        complaints = [line for line in (run.stdout + run.stderr).splitlines() if line and not line.startswith(NOT_OURS)]
        self.assertEqual(complaints, [])


if __name__ == "__main__":
    unittest.main()
