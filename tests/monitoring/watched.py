"""A vllama over the fake engine, with load on it, and Prometheus, Alertmanager and the blackbox exporter watching it as the project's
files say: only addresses and times are others."""

import http.client
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import yaml
from programs import PATIENCE, ROOT, Edge, Program, eventually, free_port, get

sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "tests/pull")]

import test_pull
from test_pull import BIN, FIRST

DOMAIN = "localhost"

# One GPU as vllama-gpu tells it, its figures fixed but for the temperature.
GPU_HELPER = """#!/usr/bin/env python3
import itertools, json, time
for beat in itertools.count():
    gpu = {"name": "Made GPU", "uuid": "GPU-0", "memory_total": 80 << 30, "memory_used": 60 << 30, "memory_free": 20 << 30,
           "utilization": 50, "temperature": 60 + beat % 5, "power": 300.5, "compute_capability": [9, 0], "ecc_errors": 0}
    print(json.dumps({"gpus": [gpu]}), flush=True)
    time.sleep(0.2)
"""

# What is asked again and again: route and body. What the fake engine does is told by words in the prompt.
REQUESTS = [
    ("/api/chat", {"model": FIRST, "messages": [{"role": "user", "content": "FAKE:count 20"}]}),
    ("/api/generate", {"model": FIRST, "prompt": "The capital of France is", "stream": False}),
    ("/v1/chat/completions", {"model": FIRST, "stream": True, "messages": [{"role": "user", "content": "FAKE:count 10"}]}),
    ("/v1/chat/completions", {"model": FIRST, "messages": [{"role": "user", "content": "FAKE:http500 0"}]}),
    ("/api/chat", {"model": "missing", "messages": [{"role": "user", "content": "hello"}]}),
    ("/api/chat", {"model": FIRST, "messages": [{"role": "user", "content": "hello"}]}, "sk-vllama-guessed"),
]


def has_keys():
    """Whether this vllama can be told to want keys."""
    return b"--keys " in subprocess.run([BIN / "vllama", "serve", "--help"], capture_output=True, check=True).stdout


class NoHub:
    address = "http://127.0.0.1:9"


def ask(port, path, body, key=None):
    """The status of an answer, read to its end; None where the connection ended before."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("POST", path, json.dumps(body), {"Authorization": f"Bearer {key}"} if key else {})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


class Load:
    """Clients that ask one thing after the other, until they are stopped."""

    def __init__(self, watched, clients=3):
        self.watched, self.over, self.go = watched, threading.Event(), threading.Event()
        self.go.set()
        self.resting = threading.Barrier(clients + 1)
        self.threads = [threading.Thread(target=self._run, args=[at], daemon=True) for at in range(clients)]
        for thread in self.threads:
            thread.start()

    def _run(self, at):
        while not self.over.is_set():
            if not self.go.is_set():
                self.resting.wait(PATIENCE)
                self.go.wait()
            self.watched.ask(*REQUESTS[at % len(REQUESTS)])
            at += 1
            self.over.wait(0.02)

    def pause(self):
        """Comes back when nobody asks any more."""
        self.go.clear()
        self.resting.wait(PATIENCE)

    def resume(self):
        self.go.set()

    def close(self):
        self.over.set()
        self.go.set()
        for thread in self.threads:
            thread.join(PATIENCE)


def configure(directory, addresses):
    """The project's files in `directory`, with other addresses and shorter times."""
    shutil.copytree(ROOT / "prometheus", directory)
    path = directory / "prometheus.yml"
    text = path.read_text()
    for name, address in addresses.items():
        assert name in text, name
        text = text.replace(name, address)
    configuration = yaml.safe_load(text)
    configuration["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    # No board and no rule asks for Caddy's own figures.
    configuration["scrape_configs"] = [job for job in configuration["scrape_configs"] if job["job_name"] != "caddy"]
    for job in configuration["scrape_configs"]:
        if job["job_name"] == "edge":
            # The exporter answers half a second before Prometheus gives up.
            job["scrape_interval"] = job["scrape_timeout"] = "1s"
    path.write_text(yaml.safe_dump(configuration))
    for path in (directory / "rules").glob("*.yml"):
        rules = yaml.safe_load(path.read_text())
        for group in rules["groups"]:
            for rule in group["rules"]:
                if "for" in rule:
                    rule["for"] = "1s"
        path.write_text(yaml.safe_dump(rules))
    path = directory / "alertmanager.yml"
    path.write_text(path.read_text().replace("group_wait: 30s", "group_wait: 1s"))


class Watched:
    """All of it, with load on it unless it shall not be `busy`. Further settings are vllama's. `close` ends it."""

    def __init__(self, directory, busy=True, patience=PATIENCE, **settings):
        self.closers = []
        try:
            self._start(directory, settings)
            eventually("vllama is ready", self.is_ready, patience)
            if busy:
                self.load = self._started(Load(self))
        except BaseException:
            self.close()
            raise

    def _started(self, what):
        self.closers.append(what.close)
        return what

    def _start(self, directory, wishes):
        helper = directory / "gpu-helper"
        helper.write_text(GPU_HELPER)
        helper.chmod(0o755)
        ports = {name: free_port() for name in ("metrics", "prometheus", "alertmanager", "blackbox")}
        settings = {"VLLAMA_METRICS_LISTEN": f"127.0.0.1:{ports['metrics']}", "VLLAMA_GPU_HELPER": str(helper)}
        settings |= {"VLLAMA_HEARTBEAT": "1s", "FAKE_VLLM_TOKEN_RATE": "200", "VLLAMA_START_TIMEOUT": "20s"}
        place = directory / "vllama"
        place.mkdir()
        # Where vllama has keys, they are on.
        settings |= {"VLLAMA_KEYS": str(place / "keys.json")} if has_keys() else {}
        self.metrics = ports["metrics"]
        self.vllama = self._started(test_pull.Vllama(place, NoHub, **(settings | wishes)))
        self.key = next(iter(re.findall(r"sk-vllama-[\w-]+", self.vllama.said())), None)
        edge = self._started(Edge(directory, DOMAIN))
        addresses = {f"{name}:{port}": f"127.0.0.1:{ports[ours]}" for name, port, ours in [
            ("vllama", 11435, "metrics"), ("localhost", 9090, "prometheus"), ("alertmanager", 9093, "alertmanager"),
            ("blackbox", 9115, "blackbox")]}
        files = directory / "prometheus"
        configure(files, addresses | {"caddy:443": f"127.0.0.1:{edge.port}"})

        def program(name, port, *arguments, ready="/-/ready"):
            arguments = [f"--web.listen-address=127.0.0.1:{port}", *arguments]
            return self._started(Program(directory, name, arguments, port, ready))

        self.alertmanager = program("prometheus-alertmanager", ports["alertmanager"], "--cluster.listen-address=",
                                    f"--config.file={files}/alertmanager.yml", f"--storage.path={directory}/alerts")
        self.blackbox = program("prometheus-blackbox-exporter", ports["blackbox"], f"--config.file={files}/blackbox.yml",
                                ready="/-/healthy")
        self.prometheus = program("prometheus", ports["prometheus"], f"--config.file={files}/prometheus.yml",
                                  f"--storage.tsdb.path={directory}/series")

    def is_ready(self):
        return get(self.metrics, "/health/ready")[0] == 200

    def break_engine(self, fault):
        """A request that does this to its engine; each is another one, because the like of one that kills engines is refused."""
        prompt = f"FAKE:{fault} 0 {time.monotonic_ns()}"
        return self.ask("/api/generate", {"model": FIRST, "prompt": prompt, "stream": False})

    def ask(self, path, body, key=None):
        """The status of an answer, read to its end; None where the connection ended before."""
        return ask(self.vllama.port, path, body, key or self.key)

    @contextmanager
    def engine_that_cannot_start(self):
        """The running engine is killed, and none starts."""
        engine = self.vllama.directory / "venv/vllm"
        broken = engine.with_name("broken")
        broken.write_text("#!/bin/sh\nexit 1\n")
        broken.chmod(0o755)
        whole = engine.rename(engine.with_name("whole"))
        engine.symlink_to(broken)
        try:
            self.break_engine("kill9")
            yield
        finally:
            whole.rename(engine)

    def active(self, inhibited="true"):
        """Names of the alerts about this vllama that Alertmanager has, with or without those that follow from others."""
        alerts = self.alertmanager.ask("/api/v2/alerts", filter=f'instance="127.0.0.1:{self.metrics}"', inhibited=inhibited)
        return {alert["labels"]["alertname"] for alert in alerts}

    def close(self):
        for close in reversed(self.closers):
            close()
