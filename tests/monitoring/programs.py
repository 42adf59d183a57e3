"""The programs that watch, and what they watch: each started on free ports, in a directory of its own, and ended with the test."""

import http.client
import json
import os
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MONITORING = Path(os.environ.get("VLLAMA_TEST_MONITORING", ROOT / "target/monitoring"))
PROGRAMS = MONITORING / "usr/bin"
PATIENCE = 120  # seconds: longest wait for any state; the machine may be busy


def eventually(what, state, patience=PATIENCE):
    """Waits until `state()` gives something, so many seconds at most."""
    deadline = time.monotonic() + patience
    while not (found := state()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {patience} s")
        time.sleep(0.05)
    return found


def free_port():
    """A port that nobody has now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(port, path, **parameters):
    """The status and the text of an answer; (None, why) where there is none."""
    query = urllib.parse.urlencode(parameters)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path + ("?" + query if query else ""))
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except OSError as error:
        return None, str(error)
    finally:
        connection.close()


class Program:
    """One that listens on a port of 127.0.0.1."""

    def __init__(self, directory, name, arguments, port, ready="/-/ready"):
        self.port, self.log = port, directory / f"{name}.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([PROGRAMS / name, *arguments], stdout=log, stderr=log, cwd=directory)
        try:
            eventually(f"{name} is ready", lambda: self.lives() and get(port, ready)[0] == 200)
        except AssertionError as error:
            self.close()
            raise AssertionError(f"{error}\n{self.log.read_text()[-3000:]}") from None

    def lives(self):
        if self.process.poll() is not None:
            raise AssertionError(f"it has ended:\n{self.log.read_text()[-3000:]}")
        return True

    def close(self):
        self.process.terminate()
        self.process.wait(PATIENCE)

    def ask(self, path, **parameters):
        """What the API answers, which must be a success."""
        status, text = get(self.port, path, **parameters)
        if status != 200:
            raise AssertionError(f"{path} {parameters}: {status} {text}")
        return json.loads(text)


class Edge:
    """A TLS server with a certificate of its own for one name, as Caddy is to its clients while vllama is not ready."""

    def __init__(self, directory, name):
        key, certificate = directory / "edge.key", directory / "edge.crt"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-keyout", key, "-out", certificate, "-days", "90", "-subj", f"/CN={name}"]
        subprocess.run(command, check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        context.sni_callback = lambda connection, asked, _: None if asked == name else ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        self.listener = context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                with self.listener.accept()[0] as connection:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            except ssl.SSLError:
                pass  # it asked for another name
            except OSError:
                return  # closed

    def close(self):
        self.listener.close()
