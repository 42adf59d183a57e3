"""The image, Compose and podman for real: the CPU target with the real engine, Caddy, Prometheus.

Run by tests/container/run. Tests are in order: an engine takes its time to start, so those of a class share a container.
"""

import contextlib
import http.client
import json
import os
import random
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))

import compose
import images
from images import MODEL, ROOT, VLLAMA, run, told

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
METHODS = {"get", "head", "post", "put", "patch", "delete"}
# Routes that are everybody's; `/health` tells no more than its status without a key (decision 0045).
OPEN = {"/", "/health", "/health/live", "/health/ready"}
READY_LIMIT = 600  # seconds; a start takes some 40, on a machine that does much else besides many more
# What a hardened container is run with.
HARDENED = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--tmpfs", "/tmp:exec,mode=1777", "--shm-size", "1g"]


def setUpModule():
    images.make_base()
    if not images.GIVEN:
        cpu, cuda = images.make_vllama()
        told("make image TARGET=cpu", cpu)
        told("make image TARGET=cuda on a stand-in", cuda)


def tearDownModule():
    images.remove()


def sizes():
    """Tells how large the image is, and of what."""
    total = int(run("docker", "image", "inspect", "-f", "{{.Size}}", VLLAMA))
    layers = run("docker", "history", "--no-trunc", "--human=false", "--format", "{{.Size}}\t{{.CreatedBy}}", VLLAMA)
    layers = [line.split("\t") for line in layers.splitlines() if "\t" in line]
    ours = [(int(size), by) for size, by in layers if int(size) and "/usr/local/bin" in by and "PATH" not in by]
    model = [(int(size), by) for size, by in layers if int(size) and "/usr/share/vllama" in by]
    print(f"  image {total / 1e6:.0f} MB; programs {sum(s for s, _ in ours) / 1e6:.1f} MB; model {sum(s for s, _ in model) / 1e6:.0f} MB", file=sys.stderr)
    return sum(size for size, _ in ours)


def until(what, question, limit=60):
    """Asks until the answer is true."""
    deadline = time.monotonic() + limit
    while not (answer := question()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come about within {limit} s")
        time.sleep(0.1)
    return answer


# Pulls a model from a hub inside the same container, as the build of an image would, and lists what is there then.
BAKING = """
import os, subprocess, sys
sys.path[:0] = ["/tests/support", "/tests/pull"]
import checkpoints
from hub import Hub
with Hub() as hub:
    hub.add("org/tiny", checkpoints.plain())
    environment = {**os.environ, "HF_ENDPOINT": hub.address}
    subprocess.run(["/bake", "org/tiny", ""], env=environment, check=True)
    assert subprocess.run(["/bake", "org/nobody", ""], env=environment).returncode == 1
subprocess.run(["find", "/usr/share/vllama/models", "-name", "vllama.json", "-o", "-perm", "/022", "!", "-type", "l"], check=True)
"""

# Asks from inside a container: method, path, body in JSON; prints status and body as they come.
ASKER = """
import sys, urllib.error, urllib.request
method, path, body = sys.argv[1:]
request = urllib.request.Request("http://127.0.0.1:11434" + path, body.encode() or None, method=method)
try:
    answer = urllib.request.urlopen(request)
except urllib.error.HTTPError as error:
    answer = error
print(answer.status, flush=True)
for line in answer:
    sys.stdout.write(line.decode())
    sys.stdout.flush()
"""


class Container:
    """A container of the image, asked from inside, so that it needs no network."""

    def __init__(self, *arguments, engine=("docker",), image=VLLAMA, command=("serve", MODEL)):
        self.engine = engine
        self.name = f"vllama-test-{os.getpid()}-{random.randrange(1 << 30):x}"
        self.began = time.monotonic()
        run(*engine, "run", "--detach", "--name", self.name, *arguments, image, *command)

    def exec(self, *command):
        return run(*self.engine, "exec", self.name, *command)

    def ask(self, method, path, body=None):
        said = self.exec("python", "-c", ASKER, method, path, json.dumps(body) if body else "")
        status, _, rest = said.partition("\n")
        return int(status), rest

    def logs(self):
        done = subprocess.run([*self.engine, "logs", "--tail", "60", self.name], capture_output=True, text=True)
        return done.stdout + done.stderr

    def runs(self):
        return run(*self.engine, "inspect", "-f", "{{.State.Running}}", self.name).strip() == "true"

    def is_ready(self):
        done = subprocess.run([*self.engine, "exec", self.name, "vllama", "health", "--ready"], capture_output=True, text=True)
        if done.returncode and not self.runs():
            raise AssertionError(f"the container has ended:\n{self.logs()}")
        return done.returncode == 0

    def ready(self):
        try:
            until("the engine's start", self.is_ready, READY_LIMIT)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    def capital(self, model=MODEL):
        status, body = self.ask("POST", "/api/chat", {"model": model, "messages": QUESTION, "stream": False, "options": {"temperature": 0}})
        assert status == 200, f"{status} {body}\n{self.logs()}"
        return json.loads(body)["message"]["content"]

    def processes(self):
        """Pid and command line of every process in it."""
        script = 'for p in /proc/[0-9]*; do printf "%s %s\\n" "${p#/proc/}" "$(tr "\\0" " " <$p/cmdline 2>/dev/null)"; done'
        lines = (line.split(" ", 1) for line in self.exec("sh", "-c", script).splitlines())
        return {int(pid): line for pid, line in lines if "/proc/[0-9]" not in line}

    def remove(self):
        subprocess.run([*self.engine, "rm", "--force", "--volumes", self.name], capture_output=True)


class Image(unittest.TestCase):
    """A hardened container without network: any user, nothing writable, no capability."""

    @classmethod
    def setUpClass(cls):
        cls.files = Path(tempfile.mkdtemp(prefix="vllama-test-"))
        cls.files.chmod(0o755)
        model = images.settings("engine/versions.env")["DEFAULT_MODEL_FILE"]
        venv = Path(os.environ.get("VLLAMA_TEST_VENV", ROOT / ".venv"))
        shutil.copy(venv / "share/vllama" / model, cls.files / "second.gguf")
        cls.uid = random.randrange(100_000, 1_000_000)
        cls.addClassCleanup(shutil.rmtree, cls.files)
        cls.container = Container(
            *HARDENED, "--network", "none", "--user", str(cls.uid), "--env", "HF_HUB_OFFLINE=1", "--volume", f"{cls.files}:/mnt:ro",
            # A stream may take its time on a machine that does much else besides.
            "--env", "VLLAMA_DRAIN=120s",
            # Docker's health check is asked often, to see it turn.
            "--health-interval", "1s",
        )
        cls.addClassCleanup(cls.container.remove)

    def loaded(self):
        return [model["name"] for model in json.loads(self.container.ask("GET", "/api/ps")[1])["models"]]

    def test_1_the_model_in_the_image_answers_without_network(self):
        self.container.ready()
        told("container start to ready", time.monotonic() - self.container.began)
        self.assertIn("Paris", self.container.capital())
        status, body = self.container.ask("POST", "/api/pull", {"model": "qwen2.5:7b", "stream": False})
        self.assertIn("HF_HUB_OFFLINE", body, f"{status}")

    def test_2_it_is_process_1_without_privileges(self):
        self.assertTrue(self.container.processes()[1].startswith("vllama serve"))
        status = dict(line.split(":\t", 1) for line in self.container.exec("cat", "/proc/1/status").splitlines() if ":\t" in line)
        self.assertEqual(status["Uid"].split()[0], str(self.uid))
        self.assertEqual((int(status["CapEff"], 16), int(status["CapBnd"], 16), status["NoNewPrivs"]), (0, 0, "1"))
        told_memory = int(status["VmRSS"].split()[0]) / 1024
        print(f"  resident memory of process 1: {told_memory:.1f} MiB", file=sys.stderr)
        self.assertLess(told_memory, 64)
        with self.assertRaises(AssertionError):
            self.container.exec("touch", "/usr/share/vllama/models/x")
        healthy = ["inspect", "-f", "{{.State.Health.Status}}", self.container.name]
        until("Docker's health check", lambda: run("docker", *healthy).strip() == "healthy")

    def test_3_a_second_model_is_imported_from_a_file(self):
        self.container.exec("vllama", "import", "/mnt/second.gguf", "second:1b")
        names = {model["name"] for model in json.loads(self.container.ask("GET", "/api/tags")[1])["models"]}
        self.assertEqual(names, {MODEL, "second:1b"})
        self.assertIn("Paris", self.container.capital("second:1b"))
        # From here on there is one engine again.
        self.container.ask("POST", "/api/generate", {"model": "second:1b", "keep_alive": 0})
        until("the second engine's end", lambda: self.loaded() == [MODEL])

    def test_4_a_killed_engine_comes_back(self):
        before = self.container.processes()
        engines = {pid for pid, line in before.items() if "vllm" in line.lower()}
        core = next(pid for pid, line in before.items() if line.startswith("VLLM::EngineCore"))
        # The image has no program `kill`, but every shell does.
        self.container.exec("sh", "-c", f"kill -KILL {core}")
        until("the death", lambda: not self.container.is_ready())
        self.assertIn("Paris", self.container.capital(), "the request waits for the next engine")
        left = self.container.processes()
        self.assertFalse(engines & set(left), "nothing of the old engine is left")

    def test_5_a_stop_lets_streams_finish(self):
        body = {"model": MODEL, "prompt": "Once upon a time", "stream": True, "options": {"num_predict": 30, "temperature": 0}, "raw": True}
        command = ["docker", "exec", self.container.name, "python", "-c", ASKER, "POST", "/api/generate", json.dumps(body)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stream:
            self.assertEqual(stream.stdout.readline().strip(), "200")
            stream.stdout.readline()
            began = time.monotonic()
            run("docker", "stop", "--time", "150", self.container.name)
            told("docker stop with a stream", time.monotonic() - began)
            last = json.loads(stream.stdout.read().splitlines()[-1])
        self.assertTrue(last.get("done") and last["done_reason"] in ("stop", "length"), last)
        self.assertEqual(run("docker", "inspect", "-f", "{{.State.ExitCode}}", self.container.name).strip(), "0", self.container.logs())

    def test_6_nothing_is_left_on_the_host(self):
        inspected = json.loads(run("docker", "inspect", self.container.name))[0]
        volumes = [mount["Name"] for mount in inspected["Mounts"] if mount["Type"] == "volume"]
        self.assertEqual(len(volumes), 1)
        self.container.remove()
        key = inspected["Id"]
        owned = [pid for pid in filter(str.isdigit, os.listdir("/proc")) if key in read(f"/proc/{pid}/cgroup")]
        users = [pid for pid in filter(str.isdigit, os.listdir("/proc")) if f"Uid:\t{self.uid}\t" in read(f"/proc/{pid}/status")]
        self.assertEqual((owned, users), ([], []))
        self.assertNotIn(key, read("/proc/mounts"))
        self.assertFalse([file for file in Path("/dev/shm").iterdir() if file.stat().st_uid == self.uid])
        self.assertFalse(set(volumes) & set(run("docker", "volume", "ls", "-q").split()))

    def test_7_the_programs_add_little_to_the_base(self):
        self.assertLess(sizes(), 15_000_000)

    def test_8_a_named_model_is_pulled_into_an_image(self):
        mounts = ["--volume", f"{ROOT}/tests:/tests:ro", "--volume", f"{ROOT}/engine/bake:/bake:ro"]
        # As in a build by `make image`: without network here, as root, with that much shared memory.
        said = run("docker", "run", "--rm", "--network", "none", "--user", "0", "--shm-size", "1g", *mounts, "--entrypoint", "python", VLLAMA, "-c", BAKING)
        self.assertIn("success", said)
        found = [line for line in said.splitlines() if line.startswith("/usr/share/vllama/models")]
        self.assertIn("/usr/share/vllama/models/registry.ollama.ai/org/tiny/latest/vllama.json", found)
        # Nothing that others may change.
        self.assertTrue(all(line.endswith("/vllama.json") for line in found), found)

    def test_9_the_other_target_is_made_alike(self):
        if images.GIVEN:
            self.skipTest("only one image was given")
        print("skipped: the CUDA target on vLLM's own image: no registry gives it here; it was made on a stand-in", file=sys.stderr)
        of = lambda name: json.loads(run("docker", "image", "inspect", name))[0]["Config"]
        for key in ("Entrypoint", "Cmd", "User", "ExposedPorts", "Volumes", "Healthcheck", "StopSignal"):
            self.assertEqual(of(images.CUDA).get(key), of(VLLAMA).get(key), key)
        self.assertTrue(run("docker", "run", "--rm", images.CUDA, "version").startswith("vllama "))


def call(connection, method, path, body=None, **headers):
    """One request; status, headers and body of the answer."""
    text = json.dumps(body) if body is not None else None
    connection.request(method, path, text, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


class Composed(unittest.TestCase):
    """`docker compose up` with what can be had here: clients come in through Caddy, with a key."""

    @classmethod
    def setUpClass(cls):
        for service, why in compose.MISSING.items():
            print(f"skipped: {service} in Compose: {why}", file=sys.stderr)
        images.make_others()
        cls.project = compose.Project()
        cls.addClassCleanup(cls.project.down)
        began = time.monotonic()
        cls.project.up()
        told("docker compose up to healthy", time.monotonic() - began)
        cls.key = {"Authorization": f"Bearer {cls.project.key()}"}
        until("the engine's start", lambda: cls.out("GET", "/health/ready")[0] == 200, READY_LIMIT)
        told("docker compose up to ready", time.monotonic() - began)

    @classmethod
    def out(cls, method, path, body=None, **headers):
        """Asks through Caddy, on a connection of its own."""
        connection = cls.project.outside()
        try:
            return call(connection, method, path, body, **headers)
        finally:
            connection.close()

    def chat(self, connection, tokens=16):
        """A chat that streams: seconds to each line, the text, and the seconds that the engine wrote for."""
        body = {"model": MODEL, "messages": QUESTION, "options": {"num_predict": tokens, "temperature": 0, "seed": 1}}
        began = time.monotonic()
        connection.request("POST", "/api/chat", json.dumps(body), self.key)
        answer = connection.getresponse()
        self.assertEqual(answer.status, 200)
        moments, text = [], ""
        while line := answer.readline():
            moments.append(time.monotonic() - began)
            last = json.loads(line)
            text += last["message"]["content"]
        return moments, text, last["eval_duration"] / 1e9

    def test_1_a_chat_over_tls_with_the_printed_key(self):
        with contextlib.closing(self.project.outside()) as connection:
            moments, text, written = self.chat(connection)
        self.assertIn("Paris", text)
        self.assertGreater(len(moments), 4)
        # Held back to the end, all lines would come at once.
        self.assertGreater(moments[-1] - moments[0], written / 2, moments)

    def test_2_the_first_byte_is_not_later_than_without_caddy(self):
        direct, caddy = self.project.inside(), self.project.outside()
        self.addCleanup(direct.close)
        self.addCleanup(caddy.close)
        first = {direct: [], caddy: []}
        # The best of each, in turns: a busy machine only takes more turns until one of Caddy's has been undisturbed, too.
        for turn in range(1, 61):
            for connection, times in first.items():
                times.append(self.chat(connection, 4)[0][0])
            direct_best, caddy_best = (min(times) for times in first.values())
            if turn >= 12 and caddy_best < direct_best * 1.1:
                break
        print(f"  first byte, best of {turn}: direct {direct_best * 1e3:.1f} ms, through Caddy {caddy_best * 1e3:.1f} ms", file=sys.stderr)
        self.assertLess(caddy_best, direct_best * 1.1)

    def test_3_a_client_that_leaves_ends_its_request(self):
        def running():
            return json.loads(self.out("GET", "/health", **self.key)[2])["engine"]["running"]

        # In the middle of a stream, and while nothing of the answer has come yet.
        for stream in (True, False):
            with contextlib.closing(self.project.outside()) as connection:
                body = {"model": MODEL, "prompt": "Once upon a time", "raw": True, "stream": stream, "options": {"num_predict": 5000}}
                connection.request("POST", "/api/generate", json.dumps(body), self.key)
                if stream:
                    # The answer holds the socket: it has to be shut for the server to see that its client is gone.
                    answer = connection.getresponse()
                    self.addCleanup(answer.close)
                    answer.readline()
                until("the request's start", lambda: running() == 1)
                connection.sock.shutdown(socket.SHUT_RDWR)
            # Long before its 5000 tokens would be there.
            until("the end of the request", lambda: running() == 0, 30)

    def test_4_wrong_keys_are_refused_on_every_route(self):
        document = yaml.safe_load(self.out("GET", "/openapi.yaml", **self.key)[2])
        routes = [(method.upper(), path) for path, item in document["paths"].items() for method in item if method in METHODS]
        self.assertGreater(len(routes), 30)
        let_in = []
        for method, path in routes:
            path = re.sub(r"\{[^}]*\}", "x", path)
            if path in OPEN:
                continue
            for headers in ({}, {"Authorization": "Bearer sk-vllama-wrong"}, {"x_api_key": "sk-vllama-wrong"}):
                status = self.out(method, path, {} if method == "POST" else None, **headers)[0]
                if status not in (401, 404 if path.startswith(("/metrics", "/vllama")) else 401):
                    let_in.append(f"{method} {path} {headers} {status}")
        self.assertEqual(let_in, [])
        told_to_all = json.loads(self.out("GET", "/health")[2])
        self.assertLessEqual(set(told_to_all), {"status", "reason", "version"})

    def test_5_what_operators_look_at_is_not_outside(self):
        for path in ("/metrics", "/metrics/", "//metrics", "/%6detrics", "/./metrics", "/METRICS", "/x/../metrics", "/vllama/queue", "/vllama"):
            status, _, body = self.out("GET", path, **self.key)
            self.assertEqual(status, 404, path)
            self.assertNotIn(b"vllama_", body, path)
        published = run("docker", "ps", "--filter", f"label=com.docker.compose.project={self.project.name}", "--format", "{{.Names}} {{.Ports}}")
        open_ports = [line for line in published.splitlines() if "->" in line]
        self.assertEqual(len(open_ports), 1, published)
        self.assertIn("caddy", open_ports[0])
        self.assertNotIn("2019", open_ports[0])

    def test_6_the_answers_have_what_browsers_and_operators_want(self):
        status, headers, _ = self.out("GET", "/api/version", X_Request_Id="a-request-of-mine", **self.key)
        self.assertEqual((status, headers["X-Request-Id"]), (200, "a-request-of-mine"))
        self.assertEqual((headers["X-Content-Type-Options"], headers["X-Frame-Options"]), ("nosniff", "DENY"))
        self.assertIn('h3=":443"', headers["Alt-Svc"])
        self.assertNotIn("Strict-Transport-Security", headers, "this is localhost")
        context = ssl.create_default_context(cafile=self.project.place / "root.crt")
        context.set_alpn_protocols(["h2", "http/1.1"])
        with socket.create_connection(("localhost", self.project.https)) as plain, context.wrap_socket(plain, server_hostname="localhost") as secure:
            self.assertEqual(secure.selected_alpn_protocol(), "h2")
        with contextlib.closing(http.client.HTTPConnection("localhost", self.project.http, timeout=10)) as connection:
            status, headers, _ = call(connection, "GET", "/")
        self.assertEqual((status, headers["Location"]), (308, "https://localhost/"))
        self.assertNotIn(self.key["Authorization"][7:], self.project.logs("caddy"))

    def test_7_clients_with_http_3_are_answered_and_get_their_streams_as_they_come(self):
        if not (python := os.environ.get("VLLAMA_TEST_CLIENTS")):
            print("skipped: HTTP/3, since VLLAMA_TEST_CLIENTS names no Python that has a client; `make test` sets it", file=sys.stderr)
            self.skipTest("no client")
        key = self.key["Authorization"].removeprefix("Bearer ")
        said = run(python, ROOT / "tests/container/http3.py", self.project.place / "root.crt", self.project.https, key, MODEL)
        told_by_it = json.loads(said)
        self.assertEqual((told_by_it["status"], told_by_it["chat"]), (200, 200), told_by_it)
        self.assertEqual(told_by_it["headers"]["x-content-type-options"], "nosniff")
        self.assertIn("Paris", told_by_it["text"])
        # Held back to the end, all of it would come at once.
        self.assertGreater(told_by_it["moments"][-1], told_by_it["written"] / 2, told_by_it)

    def test_8_prometheus_sees_vllama_and_caddy(self):
        def up():
            said = self.project.exec("prometheus", "wget", "-q", "-O", "-", "http://127.0.0.1:9090/api/v1/targets?state=active")
            health = {target["labels"]["job"]: target["health"] for target in json.loads(said)["data"]["activeTargets"]}
            return all(health.get(job) == "up" for job in ("vllama", "caddy", "prometheus", "alertmanager", "blackbox", "edge"))

        until("Prometheus's targets", up)

    def test_9_everything_goes(self):
        self.project.down()
        self.assertEqual(self.project.leftovers(), "")


class Podman(unittest.TestCase):
    """podman runs the same image, hardened the same way.

    It gets the image's layers where Docker keeps them, below a layer of its own, and the image's command and environment:
    copying 7 GB into podman's store would take minutes.
    """

    @classmethod
    def setUpClass(cls):
        if why := images.podman_missing():
            print(f"skipped: podman: {why}", file=sys.stderr)
            raise unittest.SkipTest(why)
        cls.place = Path(tempfile.mkdtemp(prefix="vllama-test-podman-"))
        cls.engine = ("podman", "--root", str(cls.place / "root"), "--runroot", str(cls.place / "run"), "--storage-driver", "vfs",
                      "--runtime", "runc", "--cgroup-manager", "cgroupfs")
        cls.addClassCleanup(cls.clean)
        image = json.loads(run("docker", "image", "inspect", VLLAMA))[0]
        cls.config, layers = image["Config"], image["GraphDriver"]["Data"]
        if image["GraphDriver"]["Name"] != "overlay2":
            print(f"skipped: podman: Docker keeps its layers as {image['GraphDriver']['Name']}", file=sys.stderr)
            raise unittest.SkipTest("no overlay2")
        for part in ("upper", "work", "all"):
            (cls.place / part).mkdir()
        lower = ":".join(filter(None, (layers["UpperDir"], layers.get("LowerDir"))))
        options = f"lowerdir={lower},upperdir={cls.place}/upper,workdir={cls.place}/work"
        run("mount", "-t", "overlay", "overlay", "-o", options, cls.place / "all")

    @classmethod
    def clean(cls):
        subprocess.run([*cls.engine, "rm", "--all", "--force", "--volumes", "--time", "5"], capture_output=True)
        subprocess.run(["umount", str(cls.place / "all")], capture_output=True)
        shutil.rmtree(cls.place)

    def test_it_answers_and_stops_cleanly(self):
        # Where a container may not raise limits, as where the tests run in one, podman has to be told lower ones.
        limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"]
        environment = [word for pair in self.config["Env"] for word in ("--env", pair)]
        volumes = [word for place in self.config["Volumes"] for word in ("--volume", place)]
        command = (*self.config["Entrypoint"], *self.config["Cmd"], MODEL)
        hardened = [*HARDENED, *limits, *environment, *volumes, "--network", "none", "--user", "234567:0"]
        container = Container(*hardened, "--rootfs", engine=self.engine, image=str(self.place / "all"), command=command)
        self.addCleanup(container.remove)
        container.ready()
        told("podman run to ready", time.monotonic() - container.began)
        self.assertIn("Paris", container.capital())
        self.assertTrue(container.processes()[1].startswith("vllama serve"))
        run(*self.engine, "stop", "--time", "60", container.name)
        self.assertEqual(run(*self.engine, "inspect", "-f", "{{.State.ExitCode}}", container.name).strip(), "0")


def read(path):
    """What a file says; nothing where it is gone."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


if __name__ == "__main__":
    unittest.main()
