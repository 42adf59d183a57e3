"""A server that speaks as much of the Hugging Face hub's protocol as a download needs, and misbehaves on demand.

    with Hub() as hub:
        hub.add("org/name", {"config.json": b"{}", "model.safetensors": weights})
        ...  # HF_ENDPOINT=hub.address

Files in `large` are kept the way the hub keeps large files: with a SHA-256, served from another path after a redirect.
"""

import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Repository:
    """One repository at its only revision, and how it misbehaves."""

    files: dict[str, bytes]
    card: dict = field(default_factory=dict)
    gated: bool = False  # answers 401 to whoever brings no token
    private: bool = False  # as if it were not there, to whoever brings no token
    revisions: tuple = ("main",)
    bytes_per_second: float | None = None
    cut_after: int | None = None  # every answer of a large file ends after so many bytes
    lie: bool = False  # sends large files with one bit turned
    ranges: bool = True  # whether it can begin in the middle
    fail: int | None = None  # status of every file

    @property
    def commit(self):
        digest = hashlib.sha1(usedforsecurity=False)
        for path, data in sorted(self.files.items()):
            digest.update(path.encode() + b"\0" + data)
        return digest.hexdigest()


TOKEN = "hf_secretOfTheTests"


def is_large(path):
    """The files that the hub keeps by their SHA-256."""
    return path.endswith((".safetensors", ".bin", ".gguf", ".model"))


class Hub:
    """The server and what it counts."""

    def __init__(self):
        self.repositories = {}
        self.requests = []  # method, path, range
        self.sent = {}  # bytes of bodies, by path of the file
        self.lock = threading.Lock()
        self.gate = threading.Event()  # answers wait at `pause_at` bytes until it is set
        self.gate.set()
        self.pause_at = None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass  # clients hang up in these tests

        self.server = Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.gate.set()
        self.server.shutdown()
        self.server.server_close()

    def add(self, name, files, **facts):
        """Publishes a repository, instead of one of the same name."""
        self.repositories[name] = Repository(files, **facts)
        return self.repositories[name]

    def forget(self):
        """Begins to count anew."""
        with self.lock:
            self.requests.clear()
            # Anew, so that answers to clients that are gone still count where nobody looks.
            self.sent = {}

    def sent_bytes(self, ending=""):
        """Bytes of bodies of the files with that ending."""
        with self.lock:
            return sum(count for path, count in self.sent.items() if path.endswith(ending))

    def asked(self, pattern):
        """Requests whose path matches."""
        with self.lock:
            return [request for request in self.requests if re.search(pattern, request[1])]

    def answer(self, handler):
        path = handler.path.partition("?")[0]
        with self.lock:
            self.requests.append((handler.command, path, handler.headers.get("Range")))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/([^/]+)", path):
            self.describe(handler, *found.groups())
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.resolve(handler, *found.groups())
        elif found := re.fullmatch(r"/store/([^/]+/[^/]+)/(.+)", path):
            self.send_file(handler, *found.groups())
        else:
            self.refuse(handler, 404, "NotFound")

    def repository(self, handler, name):
        """The repository, for whoever may know of it."""
        known = self.repositories.get(name)
        authorized = handler.headers.get("Authorization") == f"Bearer {TOKEN}"
        if handler.headers.get("Authorization") and not authorized:
            self.refuse(handler, 401, None, "Invalid credentials in Authorization header")
            return None
        if known is None or (known.private and not authorized):
            self.refuse(handler, 404 if authorized else 401, "RepoNotFound")
            return None
        return known

    def describe(self, handler, name, revision):
        known = self.repository(handler, name)
        if known is None:
            return
        if revision not in (*known.revisions, known.commit):
            self.refuse(handler, 404, "RevisionNotFound")
            return
        siblings = []
        for path, data in known.files.items():
            sibling = {"rfilename": path, "size": len(data), "blobId": git_oid(data)}
            if is_large(path):
                sibling["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            siblings.append(sibling)
        body = {"_id": "0", "id": name, "modelId": name, "sha": known.commit, "private": known.private, "tags": []}
        body |= {"gated": known.gated, "downloads": 0, "likes": 0, "siblings": siblings, "cardData": known.card}
        self.send(handler, 200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def resolve(self, handler, name, revision, path):
        known = self.repository(handler, name)
        if known is None:
            return
        if known.gated and not handler.headers.get("Authorization"):
            self.refuse(handler, 401, "GatedRepo")
        elif known.fail:
            self.refuse(handler, known.fail, None)
        elif path not in known.files:
            self.refuse(handler, 404, "EntryNotFound")
        elif is_large(path):
            data = known.files[path]
            headers = {"X-Repo-Commit": known.commit, "X-Linked-Size": str(len(data))}
            headers |= {"X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"', "Location": f"/store/{name}/{path}"}
            self.send(handler, 302, b"", headers)
        else:
            data = known.files[path]
            self.send_file(handler, name, path, {"X-Repo-Commit": known.commit, "ETag": f'"{git_oid(data)}"'})

    def send_file(self, handler, name, path, headers=()):
        known = self.repositories[name]
        data = known.files[path]
        large = is_large(path)
        if known.lie and large:
            data = bytes([data[0] ^ 1]) + data[1:]
        headers = dict(headers) | {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        status, start = 200, 0
        wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range") or "")
        if wanted and known.ranges:
            status, start = 206, int(wanted[1])
            if start >= len(data):
                self.refuse(handler, 416, None)
                return
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        handler.send_response(status)
        for key, value in headers.items():
            handler.send_header(key, value)
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        if handler.command != "HEAD":
            self.send_body(handler, known, path, data[start:], large)

    def send_body(self, handler, known, path, data, large):
        step, sent = 16 << 10, self.sent
        for offset in range(0, len(data), step):
            piece = data[offset : offset + step]
            if large and known.cut_after is not None and offset + len(piece) > known.cut_after:
                handler.close_connection = True
                return
            if large and self.pause_at is not None and offset >= self.pause_at:
                self.gate.wait(30)
            handler.wfile.write(piece)
            with self.lock:
                sent[path] = sent.get(path, 0) + len(piece)
            if large and known.bytes_per_second:
                time.sleep(len(piece) / known.bytes_per_second)

    def refuse(self, handler, status, code, message=None):
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self.send(handler, status, b'{"error":"refused"}', {key: value for key, value in headers.items() if value})

    def send(self, handler, status, body, headers):
        handler.send_response(status)
        for key, value in headers.items():
            handler.send_header(key, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)


def git_oid(data):
    """The name git gives to contents."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
