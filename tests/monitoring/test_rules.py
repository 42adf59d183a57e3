"""Rules, alerts and runbooks: that they load, that each alert fires and stays silent, that each has its page.

Run: target/monitoring/bin/python -m unittest discover -s tests/monitoring     (after tests/monitoring/setup)
"""

import json
import re
import subprocess
import sys
import unittest
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))

import yaml
from programs import PROGRAMS
from queries import BOARDS, alerts, board_queries, metrics, panels, rule_queries, rules

TESTS = sorted((ROOT / "tests/monitoring/rules").glob("*.yml"))
RUNBOOKS = ROOT / "docs/runbooks"


def run(program, *arguments, **options):
    command = [PROGRAMS / program, *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, **options)


class Rules(unittest.TestCase):
    def accepted(self, program, *arguments, **options):
        checked = run(program, *arguments, **options)
        self.assertEqual(checked.returncode, 0, checked.stdout)
        return checked.stdout

    def test_prometheus_takes_its_configuration_and_rules(self):
        self.accepted("promtool", "check", "config", "--lint-fatal", ROOT / "prometheus/prometheus.yml")

    def test_alertmanager_takes_its_configuration(self):
        self.accepted("amtool", "check-config", ROOT / "prometheus/alertmanager.yml")

    def test_alertmanager_takes_each_example_of_a_receiver(self):
        text = (ROOT / "prometheus/alertmanager.yml").read_text()
        examples = "\n".join(line[1:] for line in re.findall(r"^#  .*", text, re.MULTILINE))
        receivers = yaml.safe_load(examples)
        self.assertEqual(["mail", "webhook", "chat"], [receiver["name"] for receiver in receivers])
        for receiver in receivers:
            with self.subTest(receiver["name"]):
                configuration = yaml.safe_load(text)
                configuration["receivers"].append(receiver)
                configuration["route"]["receiver"] = receiver["name"]
                self.accepted("amtool", "check-config", "/dev/stdin", input=yaml.safe_dump(configuration))

    def test_the_blackbox_exporter_takes_its_configuration(self):
        self.accepted("prometheus-blackbox-exporter", f"--config.file={ROOT}/prometheus/blackbox.yml", "--config.check")

    def test_alerts_fire_and_stay_silent_as_they_should(self):
        told = self.accepted("promtool", "test", "rules", *TESTS)
        self.assertEqual(told.count("SUCCESS"), len(TESTS), told)

    def test_every_alert_is_seen_to_fire_and_to_stay_silent(self):
        seen = Counter()
        for path in TESTS:
            for test in yaml.safe_load(path.read_text())["tests"]:
                for case in test["alert_rule_test"]:
                    seen[case["alertname"], bool(case["exp_alerts"])] += 1
        wanted = {(name, fires) for name in alerts() for fires in (True, False)}
        self.assertEqual(wanted, set(seen), "(alert, whether it fires)")
        print(f"{len(alerts())} alerts: {seen.total()} cases, {sum(n for (_, fires), n in seen.items() if fires)} of them firing")

    def test_both_severities_of_an_alert_are_seen_to_fire(self):
        seen = set()
        for path in TESTS:
            for test in yaml.safe_load(path.read_text())["tests"]:
                for case in test["alert_rule_test"]:
                    seen |= {(case["alertname"], alert["exp_labels"]["severity"]) for alert in case["exp_alerts"]}
        self.assertEqual({(rule["alert"], rule["labels"]["severity"]) for rule in rules() if "alert" in rule}, seen)


class Runbooks(unittest.TestCase):
    PARTS = ["**What it means.**", "**Who feels it.**", "**Look.**", "**Do.**", "**It is over**"]

    def test_every_alert_names_its_page_and_every_page_has_its_alert(self):
        named = {rule["alert"]: rule["annotations"]["runbook"] for rule in rules() if "alert" in rule}
        self.assertEqual(named, {name: f"docs/runbooks/{name}.md" for name in alerts()})
        pages = {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"}
        self.assertEqual(pages, alerts())

    def test_every_page_says_what_a_tired_person_needs_in_one_order(self):
        for name in alerts():
            with self.subTest(name):
                text = (RUNBOOKS / f"{name}.md").read_text()
                self.assertTrue(text.startswith(f"# {name}\n"), text[:40])
                places = [text.find(part) for part in self.PARTS]
                self.assertNotIn(-1, places)
                self.assertEqual(places, sorted(places))

    def test_links_between_pages_lead_somewhere(self):
        for path in RUNBOOKS.glob("*.md"):
            for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
                self.assertTrue((RUNBOOKS / target).is_file(), f"{path.name}: {target}")

    def test_panels_that_pages_send_to_are_on_the_boards(self):
        titles = {panel["title"] for path in BOARDS for panel in panels(json.loads(path.read_text()))}
        named = {title for name in alerts() for title in re.findall(r"(?<!\*)\*([^*\n]+)\*(?!\*)", (RUNBOOKS / f"{name}.md").read_text())}
        self.assertGreater(len(named), 10)
        self.assertEqual(named - titles, set())


class Names(unittest.TestCase):
    def test_what_is_asked_of_the_engine_was_told_by_a_real_one(self):
        page = (ROOT / "tests/golden/vllm/metrics.response.txt").read_text()
        asked = {name for _, query in [*board_queries(), *rule_queries()] for name in metrics(query) if name.startswith("vllm:")}
        self.assertGreater(len(asked), 5)
        self.assertEqual({name for name in asked if f"\n{name}{{" not in page}, set())

    def test_what_is_asked_of_vllama_is_in_its_table(self):
        table = (ROOT / "docs/metrics.md").read_text()
        asked = {name for _, query in [*board_queries(), *rule_queries()] for name in metrics(query) if name.startswith("vllama_")}
        families = {name.removesuffix("_bucket").removesuffix("_count") for name in asked}
        self.assertEqual({name for name in families if f"`{name}`" not in table}, set())

    def test_rules_are_named_as_prometheus_names_them(self):
        for rule in rules():
            with self.subTest(rule):
                if "alert" in rule:
                    self.assertRegex(rule["alert"], r"^Vllama([A-Z][a-z]+)+$")
                    self.assertIn(rule["labels"]["severity"], ("warning", "critical"))
                    self.assertEqual(set(rule["annotations"]), {"summary", "description", "runbook"})
                else:
                    self.assertRegex(rule["record"], r"^(instance|engine):\w+:\w+$")


if __name__ == "__main__":
    unittest.main()
