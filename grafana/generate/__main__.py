"""Writes Grafana's boards: grafana/boards/*.json, which are made here and nowhere else.

usage: python grafana/generate [DIRECTORY]     (default: grafana/boards)

Needs the grafana-foundation-sdk of tests/monitoring/requirements.txt; `make boards` installs it and runs this.
"""

import json
import sys
from pathlib import Path

import engines
import overview
import requests_and_keys
from grafana_foundation_sdk.cog.encoder import JSONEncoder

BOARDS = {"overview": overview, "engines": engines, "requests": requests_and_keys}


def main(directory):
    for name, board in BOARDS.items():
        text = json.dumps(board.build(), cls=JSONEncoder, indent=1, sort_keys=True, ensure_ascii=False)
        (directory / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / "boards")
