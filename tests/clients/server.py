"""The vllama under test: its models, and what it is doing."""

import json
import os
import time
import urllib.request

HOST = os.environ["OLLAMA_HOST"]
CHAT = "smollm2:135m"
EMBEDDING = "all-minilm"

# What the small model answers when it is asked for the likeliest words.
CAPITAL = "What is the capital of France?"
PARIS = "The capital of France is Paris."
GREEDY = {"temperature": 0}


def running():
    """Number of requests that hold a place in an engine."""
    with urllib.request.urlopen(f"http://{HOST}/vllama/queue", timeout=10) as answer:
        return sum(model["running"] for model in json.load(answer)["models"])


def wait_until_idle():
    """Waits until nothing runs, as it must soon after a client has gone."""
    deadline = time.monotonic() + 5
    while running():
        assert time.monotonic() < deadline, "the engine still works for a client that has gone"
        time.sleep(0.02)
