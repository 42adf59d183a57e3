"""The boards: that the committed files are what the script makes, and what Grafana's schema has a place for."""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from queries import BOARDS, panels

register_default_plugins()


def provisioned(kind):
    """What Grafana finds at its start."""
    [path] = (ROOT / "grafana/provisioning" / kind).glob("*.yml")
    return yaml.safe_load(path.read_text())


class Boards(unittest.TestCase):
    def setUp(self):
        self.assertEqual([path.stem for path in BOARDS], ["engines", "overview", "requests"])
        self.boards = [json.loads(path.read_text()) for path in BOARDS]

    def test_the_committed_boards_are_what_the_script_makes(self):
        with tempfile.TemporaryDirectory() as directory:
            subprocess.run([sys.executable, ROOT / "grafana/generate", directory], check=True)
            for path in BOARDS:
                self.assertEqual((Path(directory) / path.name).read_text(), path.read_text(), f"{path.name}: run `make boards`")

    def test_grafanas_schema_has_a_place_for_everything_in_them(self):
        # What the schema does not know is lost on the way through its types.
        for board in self.boards:
            through = json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder))
            self.assertEqual(through, board)

    def test_uids_are_fixed_and_data_comes_from_the_provisioned_source(self):
        uids = {source["uid"]: source["type"] for source in provisioned("datasources")["datasources"]}
        self.assertEqual(uids, {"vllama-prometheus": "prometheus", "vllama-alertmanager": "alertmanager"})
        self.assertEqual([board["uid"] for board in self.boards], ["vllama-engines", "vllama-overview", "vllama-requests"])
        for board in self.boards:
            places = [panel for panel in panels(board) if panel["type"] != "row"] + board["templating"]["list"]
            places += [target for panel in panels(board) for target in panel.get("targets", [])]
            for place in places:
                self.assertEqual(place["datasource"], {"type": "prometheus", "uid": "vllama-prometheus"})

    def test_every_panel_says_what_it_shows_and_has_a_place_of_its_own(self):
        for board in self.boards:
            taken = {}
            self.assertEqual(len({panel["id"] for panel in panels(board)}), len(list(panels(board))))
            for panel in panels(board):
                self.assertTrue(panel["type"] == "row" or panel["description"], panel["title"])
                place = panel["gridPos"]
                self.assertLessEqual(place["x"] + place["w"], 24, panel["title"])
                for x in range(place["x"], place["x"] + place["w"]):
                    for y in range(place["y"], place["y"] + place["h"]):
                        self.assertIsNone(taken.setdefault((x, y), None), f"{panel['title']} lies over {taken[x, y]}")
                        taken[x, y] = panel["title"]

    def test_a_choice_of_model_or_engine_is_offered_where_a_query_takes_it(self):
        for board in self.boards:
            offered = {variable["name"] for variable in board["templating"]["list"]}
            used = {name for name in ("model", "engine") if f"${name}" in json.dumps(board["panels"])}
            self.assertEqual(offered, used)

    def test_boards_are_read_where_they_are_mounted_and_not_changed_there(self):
        [provider] = provisioned("dashboards")["providers"]
        self.assertEqual(provider["options"]["path"], "/etc/grafana/boards")
        self.assertFalse(provider["allowUiUpdates"])


if __name__ == "__main__":
    unittest.main()
