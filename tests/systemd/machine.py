"""A container with systemd as its PID 1 and the units of `systemd/` in it, as an operator would install them."""

import http.client
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120  # seconds: longest wait for any state; the machine may be busy
PORT = 11434
MODEL = "smollm2:135m"
BIN = ROOT / "target/debug"

# What systemd needs of its container, and the tests to look into a service; not --privileged, which wants more than many
# machines may give.
AS_PID_1 = [
    *("--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN", "--cap-add", "SYS_PTRACE"),
    *("--security-opt", "seccomp=unconfined"),
    *("--cgroupns", "host", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw"),
    *("--tmpfs", "/run", "--tmpfs", "/tmp", "--tmpfs", "/run/lock", "--shm-size", "1g"),
]

# Users that systemd makes up (systemd.exec(5), DynamicUser=).
DYNAMIC_USERS = range(61184, 65520)

# For the tests: seen from outside of the container, and an engine whose tokens take time and which does not clean up.
ENVIRONMENT = f"""\
OLLAMA_HOST=0.0.0.0:{PORT}
VLLAMA_ENGINE_ENV=FAKE_VLLM_TOKEN_RATE,FAKE_VLLM_LEAVE_FILES,FAKE_VLLM_STRAYS
FAKE_VLLM_TOKEN_RATE=25
FAKE_VLLM_STRAYS=2
FAKE_VLLM_LEAVE_FILES=1
"""


class Unusable(Exception):
    """There can be no such machine here."""


def eventually(what, state):
    """Waits until `state()` gives something."""
    deadline = time.monotonic() + PATIENCE
    while not (found := state()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {PATIENCE} s")
        time.sleep(0.02)
    return found


def run(*command, check=True, **options):
    """The standard output of a command."""
    ended = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    if check and ended.returncode:
        raise AssertionError(f"{command}: {ended.returncode}\n{ended.stdout}{ended.stderr}")
    return ended.stdout.strip()


def usable(*command):
    """The last line of a script that says by 77 that something cannot be had here."""
    ended = subprocess.run(command, text=True, stdout=subprocess.PIPE)
    lines = ended.stdout.splitlines() or [""]
    if ended.returncode == 77:
        raise Unusable(lines[-1])
    if ended.returncode:
        raise AssertionError(f"{command} ended with {ended.returncode}")
    return lines[-1]


class Machine:
    """Runs from its making to `close`."""

    def __init__(self, name):
        usable(ROOT / "tests/container/docker")
        base = usable(ROOT / "tests/systemd/base", ROOT / "target/systemd")
        self.name = name
        self.files = Path(tempfile.mkdtemp(prefix="vllama-"))
        run("docker", "import", base, name)
        try:
            run("docker", "run", "--detach", "--name", name, *AS_PID_1, name, "/sbin/init")
            self.starts()
            self.install()
        except BaseException:
            self.close()
            raise
        address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        self.address = run("docker", "inspect", "--format", address, name)

    def starts(self):
        """Waits for systemd; some machines let no container run it."""
        ended = subprocess.run(
            ["docker", "exec", self.name, "sh", "-c", "until [ -e /run/systemd/private ]; do sleep 0.05; done; systemctl is-system-running --wait"],
            text=True, capture_output=True, timeout=PATIENCE, check=False,
        )
        if ended.stdout.strip() != "running":
            log = run("docker", "logs", self.name, check=False)
            raise Unusable(f"systemd does not run in a container here: {ended.stdout}{ended.stderr}{log}".strip())

    def install(self):
        """Puts all files where docs/deployment.md says, and the model into the store of an image."""
        for program in ["vllama", "vllama-gpu"]:
            self.copy(BIN / program, f"/usr/local/bin/{program}")
        self.copy(BIN / "fake-vllm", "/opt/vllm/bin/vllm")
        for unit in ["vllama.service", "vllama.socket"]:
            self.copy(ROOT / "systemd" / unit, f"/etc/systemd/system/{unit}")
        self.write("/etc/vllama/environment", ENVIRONMENT)
        sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "tests/pull")]
        import checkpoints

        place = self.files / "models/registry.ollama.ai/library" / MODEL.replace(":", "/")
        place.mkdir(parents=True)
        (place / "config.json").write_text(json.dumps(checkpoints.CONFIG))
        (place / "model.safetensors").write_bytes(checkpoints.safetensors({}))
        facts = {"name": MODEL, "digest": "0" * 64, "size": 1, "format": "gguf", "quantization": "Q4_1", "license": None}
        (place / "vllama.json").write_text(json.dumps(facts | {"parameters": 7}))
        self.copy(self.files / "models", "/usr/share/vllama/models")
        # systemd's test of the address, over the whole network.
        self.write("/etc/systemd/system/vllama.socket.d/test.conf", f"[Socket]\nListenStream=\nListenStream=0.0.0.0:{PORT}\n")
        self.systemctl("daemon-reload")

    def close(self):
        """Leaves nothing of it."""
        run("docker", "rm", "--force", "--volumes", self.name, check=False)
        run("docker", "rmi", "--force", self.name, check=False)
        shutil.rmtree(self.files)

    def inside(self, *command, check=True):
        """What a command says in the container."""
        return run("docker", "exec", self.name, *command, check=check)

    def systemctl(self, *arguments, check=True):
        return self.inside("systemctl", *arguments, check=check)

    def signal(self, name, pid):
        self.inside("sh", "-c", f"kill -{name} {pid}")

    def copy(self, source, place):
        self.inside("mkdir", "--parents", str(Path(place).parent))
        run("docker", "cp", str(source), f"{self.name}:{place}")

    def write(self, place, text):
        """A file with this text."""
        self.inside("mkdir", "--parents", str(Path(place).parent))
        run("docker", "exec", "--interactive", self.name, "sh", "-c", 'cat > "$0"', place, input=text)

    def shown(self, name):
        """A property of the service."""
        return self.systemctl("show", "--property", name, "--value", "vllama.service")

    def main(self):
        """The pid of vllama, 0 where there is none."""
        return int(self.shown("MainPID"))

    def processes(self):
        """Names of all processes of vllama's user, by pid; zombies, too, and what has left its session."""
        names, found = {}, {}
        for line in self.inside("sh", "-c", "grep -sE '^(Name|Uid):' /proc/[0-9]*/status; true").splitlines():
            path, field, value = line.split(":", 2)
            pid = int(path.split("/")[2])
            if field == "Name":
                names[pid] = value.strip()
            elif int(value.split()[1]) in DYNAMIC_USERS:
                found[pid] = names[pid]
        return found

    def journal(self, since):
        """Entries of the service's journal, from this cursor on."""
        self.inside("journalctl", "--sync")
        cursor = ["--after-cursor", since] if since else []
        lines = self.inside("journalctl", "--unit", "vllama", "--output", "json", "--no-pager", "--quiet", *cursor)
        return [json.loads(line) for line in lines.splitlines()]

    def cursor(self):
        """Where the journal ends now."""
        self.inside("journalctl", "--sync")
        lines = self.inside("journalctl", "--lines", "0", "--show-cursor", "--quiet").splitlines()
        return lines[-1].removeprefix("-- cursor: ") if lines else None

    def connection(self):
        return http.client.HTTPConnection(self.address, PORT, timeout=PATIENCE)

    def ask(self, method, path, body=None, headers=None):
        """Status and body of an answer, on a connection of its own."""
        connection = self.connection()
        try:
            connection.request(method, path, body and json.dumps(body), headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def chat(self, text, stream=False):
        """Status and lines of a chat's answer."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "stream": stream}
        status, body = self.ask("POST", "/api/chat", body)
        return status, [json.loads(line) for line in body.splitlines()]

    def is_ready(self):
        try:
            return self.ask("GET", "/health/ready")[0] == 200
        except (OSError, http.client.HTTPException):
            return False
