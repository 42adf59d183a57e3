"""The real thing: Prometheus with the project's rules scrapes a loaded vllama, every query finds something, and alerts reach
Alertmanager and clear.

VLLAMA_TEST_BIN names the directory of `vllama` and `fake-vllm` (target/debug where it is not set).
"""

import sys
import tempfile
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from programs import PATIENCE, eventually
from queries import board_queries, metrics, rule_queries, selectors
from watched import Watched, has_keys


def needs_keys(query):
    """Whether a query can have no answer, because this vllama has no keys; says so."""
    unanswerable = not has_keys() and ("vllama_key_" in query or 'status="401"' in query)
    if unanswerable:
        print(f"\nskipped: {query}: this vllama has no keys")
    return unanswerable


class Watching(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="vllama-")
        cls.addClassCleanup(folder.cleanup)
        cls.began = time.time()
        cls.watched = Watched(Path(folder.name))
        cls.addClassCleanup(cls.watched.close)
        cls.let_engines_die()

    @classmethod
    def let_engines_die(cls):
        """One engine is killed under load and one hangs, so that there are restarts, replays and hangs to see."""
        watched = cls.watched
        watched.break_engine("kill9")
        eventually("it is ready again", watched.is_ready)
        # Other requests would move the engine on.
        watched.load.pause()
        watched.break_engine("hang")
        eventually("it is ready again", watched.is_ready)
        watched.load.resume()

    def found(self, query):
        """What a query answered at any time since the beginning."""
        span = {"start": self.began, "end": time.time(), "step": "1s"}
        return self.watched.prometheus.ask("/api/v1/query_range", query=query, **span)["data"]["result"]

    def all_found(self, queries):
        """Waits until each of these queries, which have names, had an answer: a rate needs two scrapes of one engine."""
        empty = dict(queries)
        deadline = time.monotonic() + PATIENCE
        while True:
            empty = {query: name for query, name in empty.items() if not self.found(query)}
            if not empty or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        self.assertEqual("\n".join(empty.values()), "", "these have no answer")

    def test_every_target_answers(self):
        def ailing():
            """What is wrong with each target whose last scrape failed; on a busy machine one may take longer than half a second."""
            targets = self.watched.prometheus.ask("/api/v1/targets")["data"]["activeTargets"]
            self.assertEqual({target["labels"]["job"] for target in targets}, {"vllama", "prometheus", "alertmanager", "blackbox", "edge"})
            return [(target["scrapeUrl"], target["lastError"]) for target in targets if (target["health"], target["lastError"]) != ("up", "")]

        deadline = time.monotonic() + PATIENCE
        while (wrong := ailing()) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.assertEqual(wrong, [])

    def test_every_rule_can_be_evaluated(self):
        def seen():
            groups = self.watched.prometheus.ask("/api/v1/rules")["data"]["groups"]
            return [(rule["name"], rule["health"], rule.get("lastError", "")) for group in groups for rule in group["rules"]]

        eventually("each has had its turn", lambda: "unknown" not in {health for _, health, _ in seen()})
        states = seen()
        self.assertEqual({state for state in states if state[1:] != ("ok", "")}, set())
        self.assertEqual(len(states), len(list(rule_queries())))

    def test_every_query_of_every_board_has_an_answer(self):
        queries = list(board_queries())
        self.all_found({query: f"{where}: {query}" for where, query in queries if not needs_keys(query)})
        print(f"{len(queries)} queries of boards have answers")

    def test_everything_that_boards_and_rules_look_at_is_there(self):
        wanted = {selector for _, query in [*board_queries(), *rule_queries()] for selector in selectors(query)}
        self.all_found({selector: selector for selector in sorted(wanted) if not needs_keys(selector)})
        print(f"{len(wanted)} selections of {len({m for s in wanted for m in metrics(s)})} metrics are there")

    def test_every_recorded_figure_is_recorded(self):
        self.all_found({name: name for name, _ in rule_queries() if ":" in name})

    def test_an_alert_about_an_engine_that_is_gone_reaches_alertmanager_and_clears(self):
        watched = self.watched
        watched.load.pause()
        try:
            with watched.engine_that_cannot_start():
                eventually("VllamaNotReady is active", lambda: "VllamaNotReady" in watched.active())
                self.assertNotIn("VllamaDown", watched.active())
            eventually("it is ready again", watched.is_ready)
        finally:
            watched.load.resume()
        eventually("VllamaNotReady is over", lambda: "VllamaNotReady" not in watched.active())

    def test_an_alert_about_a_killed_vllama_reaches_alertmanager_alone_and_clears(self):
        watched = self.watched
        watched.load.pause()
        try:
            watched.vllama.kill()
            # What follows from it is not told beside it.
            eventually("VllamaDown alone is active", lambda: watched.active(inhibited="false") == {"VllamaDown"})
            watched.vllama.start()
        finally:
            watched.load.resume()
        eventually("it is ready again", watched.is_ready)
        eventually("VllamaDown is over", lambda: "VllamaDown" not in watched.active())


if __name__ == "__main__":
    unittest.main()
