"""Every query of the boards and rules, and what it looks at."""

import json
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
BOARDS = sorted((ROOT / "grafana/boards").glob("*.json"))
RULES = sorted((ROOT / "prometheus/rules").glob("*.yml"))

# What Grafana puts in: all models and engines, and times that fit a run of a minute.
FILLED = {"$model": ".*", "$engine": ".*", "$__rate_interval": "20s", "$__range": "1m"}

# A metric with its labels; what may stand before or after it is not part of it.
SELECTOR = re.compile(
    r"\b((?:vllama_|vllama:|vllm:|instance:|engine:|process_|probe_|prometheus_|alertmanager_)\w[\w:]*|up\b|ALERTS\b)(\{[^}]*\})?"
)


def panels(board):
    """The panels of a board, those of folded rows, too."""
    for panel in board["panels"]:
        yield panel
        yield from panel.get("panels", [])


def board_queries():
    """(board and panel, query) for every query of every panel, filled in."""
    for path in BOARDS:
        for panel in panels(json.loads(path.read_text())):
            for target in panel.get("targets", []):
                query = target["expr"]
                for name, value in FILLED.items():
                    query = query.replace(name, value)
                yield f"{path.stem}: {panel['title']}", query


def rules():
    """Every rule, as it stands in its file."""
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


def alerts():
    """The names of all alerts."""
    return {rule["alert"] for rule in rules() if "alert" in rule}


def rule_queries():
    """(rule, query) for every rule."""
    for rule in rules():
        yield rule.get("alert") or rule["record"], rule["expr"]


def selectors(query):
    """Each metric a query looks at, with its labels; without what only text holds."""
    without_groups = re.sub(r"\b(by|on|without|ignoring)\s*\([^)]*\)", "", query)
    return {name + labels for name, labels in SELECTOR.findall(without_groups)}


def metrics(query):
    """The names of the metrics a query looks at."""
    return {selector.split("{")[0] for selector in selectors(query)}
