"""A project of Compose with what can be had here, under a name and ports of its own."""

import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import tempfile
from pathlib import Path

import images
from images import ROOT, run

# What no registry gives here.
MISSING = {"grafana": "Grafana's image is in neither Debian nor PyPI", "webui": "Open WebUI's image is in neither Debian nor PyPI"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Project:
    """The project; `up` starts it, `down` removes everything of it."""

    services = ["vllama", "caddy", "prometheus", "alertmanager", "blackbox"]

    def __init__(self):
        self.name = f"vllama-test-{os.getpid()}"
        self.https, self.http = free_port(), free_port()
        self.place = Path(tempfile.mkdtemp(prefix="vllama-test-"))
        pictures = {"CADDY": images.CADDY, **{name.upper(): image for name, image in images.WATCHERS.items()}}
        settings = {
            "VLLAMA_IMAGE": images.VLLAMA,
            "VLLAMA_MODEL": images.MODEL,
            "HTTPS_PORT": self.https,
            "HTTP_PORT": self.http,
            **{f"{name}_IMAGE": image for name, image in pictures.items()},
        }
        lines = (ROOT / ".env.example").read_text() + "".join(f"{key}={value}\n" for key, value in settings.items())
        (self.place / "env").write_text(lines)

    def compose(self, *arguments):
        files = ["-f", ROOT / "compose.yaml", "-f", ROOT / "compose.cpu.yaml"]
        return run("docker", "compose", "-p", self.name, "--env-file", self.place / "env", "--progress", "quiet", *files, *arguments)

    def up(self):
        self.compose("up", "--detach", "--no-build", "--pull", "never", "--wait", "--wait-timeout", "300", *self.services)
        self.compose("cp", "caddy:/data/caddy/pki/authorities/local/root.crt", self.place / "root.crt")

    def down(self):
        subprocess.run(["rm", "-f", str(self.place / "root.crt")])
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "60")

    def logs(self, service):
        return self.compose("logs", "--no-log-prefix", "--no-color", service)

    def exec(self, service, *command):
        return self.compose("exec", "--no-TTY", service, *command)

    def address(self, service, network="front"):
        """The service's address on a network of the project, which this machine reaches."""
        container = self.compose("ps", "--quiet", service).strip()
        networks = json.loads(run("docker", "inspect", container))[0]["NetworkSettings"]["Networks"]
        return networks[f"{self.name}_{network}"]["IPAddress"]

    def outside(self, **more):
        """A connection to Caddy, whose authority is trusted."""
        context = ssl.create_default_context(cafile=self.place / "root.crt")
        return http.client.HTTPSConnection("localhost", self.https, context=context, timeout=120, **more)

    def inside(self):
        """A connection to vllama itself."""
        return http.client.HTTPConnection(self.address("vllama"), 11434, timeout=120)

    def key(self):
        """The key that the first start has made and told."""
        keys = re.findall(r"sk-vllama-[A-Za-z0-9_-]+", self.logs("vllama"))
        assert len(keys) == 1, f"{len(keys)} keys in the log"
        return keys[0]

    def leftovers(self):
        """Containers, networks and volumes of the project."""
        label = f"label=com.docker.compose.project={self.name}"
        return "".join(run("docker", *what, "-q", "--filter", label) for what in (["ps", "-a"], ["network", "ls"], ["volume", "ls"]))
