"""vllama behind nginx as docs/deployment.md sets it up, and behind Caddy with caddy/Caddyfile, with the fake engine.

Run: python3 -m unittest discover -s tests/proxies
Waits are scaled: what nginx would cut off after a minute by itself is cut off after a second here, unless the example says
otherwise.
"""

import hashlib
import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "tests/pull")]

import test_pull

HOST = "vllama.example"
FIRST_TOKEN = 1.6  # seconds: longer than the scaled default of proxies
RATE = 20  # tokens a second
TOKENS = 20
PATIENCE = 120  # seconds: longest wait for any state

directory = None
vllama = None


class NoHub:
    address = "http://127.0.0.1:9"


def setUpModule():
    global directory, vllama
    programs = subprocess.run([ROOT / "tests/proxies/programs", ROOT / "target/proxies"], stdout=subprocess.PIPE, text=True)
    if programs.returncode == 77:
        print(f"skipped: vllama behind proxies: {programs.stdout.splitlines()[-1]}")
        raise unittest.SkipTest(programs.stdout)
    programs.check_returncode()
    directory = tempfile.TemporaryDirectory(prefix="vllama-")
    place = Path(directory.name)
    subject = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", place / "privkey.pem"]
    subprocess.run(
        ["openssl", "req", "-x509", "-days", "2", *key, "-out", place / "fullchain.pem", *subject],
        check=True, capture_output=True,
    )
    environment = {"FAKE_VLLM_TOKEN_RATE": str(RATE), "FAKE_VLLM_FIRST_TOKEN_MS": str(round(FIRST_TOKEN * 1000))}
    vllama = test_pull.Vllama(place / "vllama", NoHub, **environment)
    ready = lambda: health("/ready")[0] == 200
    test_pull.eventually("the model is loaded", ready)


def tearDownModule():
    if vllama:
        vllama.close()
    if directory:
        directory.cleanup()


def health(part=""):
    """Status and JSON of vllama itself."""
    connection, answer = vllama.ask("GET", f"/health{part}")
    body = json.loads(answer.read())
    connection.close()
    return answer.status, body


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Proxy:
    """A running proxy before vllama; TLS at `port`."""

    def __init__(self, command, port, name, **options):
        self.port, self.name, self.options = port, name, options
        self.log = open(Path(directory.name) / f"{port}.log", "w+b")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, **options)
        try:
            test_pull.eventually("the proxy answers", self.answers)
        except BaseException:
            self.close()
            raise AssertionError(self.said()) from None

    def answers(self):
        if self.process.poll() is not None:
            raise AssertionError("it has ended")
        try:
            return self.ask("GET", "/api/version").status == 200
        except OSError:
            return False

    def said(self):
        self.log.seek(0)
        return self.log.read().decode()

    def close(self):
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.said_last = self.said()
        self.log.close()

    def connect(self, protocols=()):
        """A TLS connection with the name that the proxy serves."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if protocols:
            context.set_alpn_protocols(list(protocols))
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        return context.wrap_socket(plain, server_hostname=self.name)

    def connection(self):
        connection = http.client.HTTPConnection(self.name, self.port)
        connection.sock = self.connect()
        return connection

    def ask(self, method, path, body=None, headers=None):
        """The answer, its body read."""
        connection = self.connection()
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        answer.body = answer.read()
        connection.close()
        return answer


def chat(tokens=TOKENS):
    message = {"role": "user", "content": f"FAKE:count {tokens}"}
    return json.dumps({"model": test_pull.FIRST, "messages": [message]})


def example():
    """The example of the documentation."""
    text = (ROOT / "docs/deployment.md").read_text()
    (found,) = re.findall(r"^```nginx\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return found


def without(*words):
    """Takes the lines with these words out of a text."""

    def edit(text):
        lines = text.splitlines(True)
        left = [line for line in lines if not any(word in line for word in words)]
        assert len(lines) - len(left) == len(words), f"the example has changed: {words}"
        return "".join(left)

    return edit


def nginx(edit=lambda text: text):
    """nginx with the example, after this edit, in a configuration whose defaults are scaled."""
    place = Path(tempfile.mkdtemp(dir=directory.name))
    port = free_port()
    text = edit(example())
    for before, after in [
        ("127.0.0.1:11434", f"127.0.0.1:{vllama.port}"),
        ("listen 443 ", f"listen 127.0.0.1:{port} "),
        ("/etc/ssl/vllama", directory.name),
    ]:
        assert text.count(before), f"the example has changed: {before}"
        text = text.replace(before, after)
    paths = "".join(f"{name}_temp_path {place}/{name};\n" for name in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
    (place / "nginx.conf").write_text(
        f"daemon off;\nworker_processes 1;\npid {place}/pid;\nerror_log stderr;\nuser {os.environ.get('USER') or 'root'};\n"
        "events {}\n"
        f"http {{\n{paths}access_log off;\nproxy_read_timeout 1s;\nproxy_send_timeout 1s;\n{text}}}\n"
    )
    command = [ROOT / "target/proxies/nginx", "-e", "stderr", "-p", place, "-c", place / "nginx.conf"]
    return Proxy(command, port, HOST)


def caddy():
    """Caddy with the file that Compose mounts; only addresses are other ones."""
    place = Path(tempfile.mkdtemp(dir=directory.name))
    port, chats, metrics = free_port(), free_port(), free_port()
    text = (ROOT / "caddy/Caddyfile").read_text()
    for before, after in [
        ("vllama:11434", f"127.0.0.1:{vllama.port}"),
        (":2020 {", f"127.0.0.1:{metrics} {{"),
        # Nothing of the test goes into this machine's list of authorities, and port 80 may be taken.
        ("admin localhost:2019", f"admin off\n\tskip_install_trust\n\thttp_port {free_port()}"),
    ]:
        assert text.count(before), f"the Caddyfile has changed: {before}"
        text = text.replace(before, after)
    (place / "Caddyfile").write_text(text)
    environment = {"HOME": str(place), "XDG_DATA_HOME": str(place / "data"), "XDG_CONFIG_HOME": str(place / "config")}
    environment |= {"VLLAMA_DOMAIN": f"localhost:{port}", "VLLAMA_WEBUI_DOMAIN": f"chat.localhost:{chats}"}
    command = [ROOT / "target/proxies/caddy", "run", "--adapter", "caddyfile", "--config", place / "Caddyfile"]
    return Proxy(command, port, "localhost", env=environment)


def connections():
    """Connections to vllama that are or have just been."""
    port = f":{vllama.port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {frozenset(line[1:3]) for line in lines if line[2].endswith(port) or (line[1].endswith(port) and line[3] != "0A")}


class Behind:
    """What holds behind every proxy."""

    def test_a_stream_comes_as_it_is_made_after_a_long_wait(self):
        connection = self.proxy.connection()
        began = time.monotonic()
        connection.request("POST", "/api/chat", chat())
        answer = connection.getresponse()
        self.assertEqual(answer.status, 200)
        arrivals, last = [], None
        for line in answer:
            arrivals.append(time.monotonic() - began)
            last = json.loads(line)
        connection.close()
        self.assertTrue(last["done"], last)
        self.assertGreaterEqual(arrivals[0], FIRST_TOKEN, "the engine said nothing before")
        # In one piece at the end this would be nothing; a busy machine takes a part of it away.
        self.assertGreater(arrivals[-1] - arrivals[0], 0.2 * TOKENS / RATE, arrivals)

    def test_bodies_larger_than_a_megabyte_pass(self):
        blob = os.urandom(5 << 20)
        digest = hashlib.sha256(blob).hexdigest()
        self.assertEqual(self.proxy.ask("POST", f"/api/blobs/sha256:{digest}", blob).status, 201)
        self.assertEqual(self.proxy.ask("HEAD", f"/api/blobs/sha256:{digest}").status, 200)
        padded = json.dumps({"model": "nope", "options": {"stop": ["x" * (2 << 20)]}})
        self.assertEqual(self.proxy.ask("POST", "/api/show", padded).status, 404, "vllama itself has read it")

    def test_connections_to_vllama_are_used_again(self):
        before = connections()
        for _ in range(20):
            self.assertEqual(self.proxy.ask("GET", "/api/version").status, 200)
        self.assertLess(len(connections() - before), 10)

    def test_a_client_that_leaves_ends_the_work_on_its_request(self):
        running = lambda: health()[1]["engine"]["running"]
        connection = self.proxy.connection()
        connection.request("POST", "/api/chat", chat(100_000))
        answer = connection.getresponse()
        answer.readline()
        self.assertEqual(running(), 1)
        connection.sock.close()
        answer.close()
        connection.close()
        test_pull.eventually("the request has ended", lambda: running() == 0)

    def test_the_clients_id_of_a_request_comes_back(self):
        answer = self.proxy.ask("GET", "/api/version", headers={"X-Request-Id": "from-afar"})
        self.assertEqual(answer.headers["X-Request-Id"], "from-afar")

    def test_what_is_for_operators_stays_inside(self):
        for path in ["/metrics", "/vllama/queue"]:
            answer = self.proxy.ask("GET", path)
            self.assertEqual(answer.status, 404, path)
            self.assertNotIn(b"queue", answer.body)

    def test_http2_is_spoken(self):
        with self.proxy.connect(["h2", "http/1.1"]) as connection:
            self.assertEqual(connection.selected_alpn_protocol(), "h2")


class Nginx(Behind, unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.proxy = nginx()
        cls.addClassCleanup(cls.proxy.close)

    def test_a_stream_is_not_buffered_where_nobody_has_forbidden_it_either(self):
        whole, self.proxy = self.proxy, nginx(without("proxy_buffering"))
        self.addCleanup(setattr, self, "proxy", whole)
        self.addCleanup(self.proxy.close)
        self.test_a_stream_comes_as_it_is_made_after_a_long_wait()

    def test_without_its_lines_the_same_requests_fail(self):
        proxy = nginx(without("client_max_body_size", "proxy_read_timeout"))
        self.addCleanup(proxy.close)
        self.assertEqual(proxy.ask("POST", "/api/blobs/sha256:" + "0" * 64, os.urandom(2 << 20)).status, 413)
        self.assertEqual(proxy.ask("POST", "/api/chat", chat()).status, 504)


class Caddy(Behind, unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if not (ROOT / "caddy/Caddyfile").exists():
            print("skipped: vllama behind Caddy: there is no caddy/Caddyfile")
            raise unittest.SkipTest("no Caddyfile")
        cls.proxy = caddy()
        cls.addClassCleanup(cls.proxy.close)


if __name__ == "__main__":
    unittest.main()
