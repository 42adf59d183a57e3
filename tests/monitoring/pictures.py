"""Draws the boards into docs/pictures/*.png, from the answers of a real Prometheus that watches a real, loaded vllama.

usage: python tests/monitoring/pictures.py SECONDS [ENGINE]

  SECONDS   how long the load lasts
  ENGINE    the real engine's environment, made by engine/setup (.venv); else the tests' engine and a made GPU

Needs tests/monitoring/setup and the packages of pictures.txt beside this file. Grafana draws the same queries in its own looks; it
cannot be had from Debian or PyPI, so this draws them with matplotlib: the same panels at the same places, with the same
names, units and limits.
"""

import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from drawing import Drawer
from programs import ROOT
from queries import BOARDS
from watched import BIN, FIRST, Watched

PICTURES = ROOT / "docs/pictures"
QUESTIONS = ["Tell me a story about a lighthouse.", "What is the capital of France?", "Write a poem about rain.", "Why is the sky blue?"]


def load(watched, over):
    """A client as people are: a question now and then, longer and shorter answers, sometimes a mistake."""
    while not over.is_set():
        words = [{"role": "user", "content": random.choice(QUESTIONS)}]
        model = random.choices([FIRST, "missing:7b"], [30, 1])[0]
        limit = random.choice([20, 40, 80, 120])
        if random.random() < 0.6:
            watched.ask("/api/chat", {"model": model, "messages": words, "options": {"num_predict": limit}})
        else:
            watched.ask("/v1/chat/completions", {"model": model, "messages": words, "max_tokens": limit, "stream": True})
        over.wait(random.expovariate(1))


def real(engine, models):
    """Settings for a vllama with the real engine and its default model; nothing is made up, so there may be no GPU."""
    [checkpoint] = (engine / "share/vllama").glob("*.gguf")
    command = [BIN / "vllama", "import", "--engine", engine / "bin/vllm", "--models-dir", models, checkpoint, FIRST]
    subprocess.run(command, check=True)
    return {"VLLAMA_ENGINE": str(engine / "bin/vllm"), "VLLAMA_MODELS": str(models), "VLLAMA_GPU_HELPER": str(BIN / "vllama-gpu"),
            "VLLAMA_HEARTBEAT": "2m", "VLLAMA_START_TIMEOUT": "10m"}


def fake():
    """Settings for one with the tests' engine at the pace of a real one."""
    start = "import:4000,config:500,load:3000,profile:1500,serving:500"
    return {"FAKE_VLLM_TOKEN_RATE": "60", "FAKE_VLLM_FIRST_TOKEN_MS": "150", "FAKE_VLLM_START": start, "VLLAMA_HEARTBEAT": "10s"}


def main(seconds, engine=None):
    with tempfile.TemporaryDirectory(prefix="vllama-") as folder:
        directory = Path(folder)
        settings = real(engine, directory / "models") if engine else fake()
        watched = Watched(directory, busy=False, patience=400, **settings)
        try:
            began, over = time.time() - 20, threading.Event()
            clients = []
            for _ in range(12):
                clients.append(threading.Thread(target=load, args=[watched, over], daemon=True))
                clients[-1].start()
                time.sleep(seconds / 24)
            if not engine:
                watched.break_engine("kill9")
            time.sleep(seconds / 2)
            PICTURES.mkdir(exist_ok=True)
            drawer = Drawer(watched.prometheus, began, time.time())
            for path in BOARDS:
                drawer.board(json.loads(path.read_text()), PICTURES / f"{path.stem}.png")
            over.set()
        finally:
            watched.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]).resolve() if len(sys.argv) > 2 else None)
