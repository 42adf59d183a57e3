"""Downloads from a Hugging Face repository what vLLM loads of it, and goes on where an earlier run was cut off.

Usage: python download.py '{"repository": "org/name", "revision": "main", "directory": "/x", "installed": null}'

Runs in the engine's Python. Prints one JSON object per line on stdout: `layer` (how far a file is), then one `done`,
`unchanged` or `error`; exits 0 or 1. Below `directory` lies one directory per commit: `files/` holds what is complete
and verified, `partial/` what is on its way. It is there to stay until the caller has taken the files.

The hub is untrusted: every name is checked before it becomes a path, nothing grows beyond the size that was told, and
no code that comes from it is run. Neither the token nor the hub's address gets into a message.
"""

import concurrent.futures
import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import select
import shutil
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

WORKERS = 4  # files at a time
PERIOD = 0.05  # seconds between two looks at the progress
CHUNK_BYTES = 1 << 18  # what a kill loses at most, per file; also the steps of the progress
SPARE_BYTES = 64 << 20  # what must stay free on the disk
MAX_FILES = 2000
MAX_SMALL_BYTES = 256 << 20  # the largest file that holds no weights; vocabularies have some 30 MB
MAX_CODE_BYTES = 1 << 20
SOURCE_FILE = "vllama-source.json"  # says where the checkpoint came from

# Files without weights, by their path: what vLLM, transformers and sentence-transformers read, and the licence.
SMALL_FILES = re.compile(
    r"[^/]+\.(json|jinja|model|tiktoken|py)|(vocab|merges|added_tokens|special_tokens)\.txt|tokenizer\.model\.v\d+"
    r"|(LICEN[CS]E|NOTICE|COPYING|USE_POLICY)[^/]*|additional_chat_templates/[^/]+\.jinja|\d+_[A-Za-z]+/[^/]+\.json"
)
# Facts of other programs' weights, and of training.
NEEDLESS = re.compile(r"[^/]*(pytorch_model|tf_model|flax_model|consolidated)[^/]*\.json|trainer_state\.json|training_args.*")
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
MODULE_WEIGHTS = re.compile(r"\d+_[A-Za-z]+/model\.safetensors")
INDEX = "model.safetensors.index.json"


class Failure(Exception):
    """A failure the user can read: `code` for the caller, the text says what happened, why, what to do."""

    def __init__(self, code, message="", **facts):
        super().__init__(message)
        self.code = code
        self.facts = facts


def unsuitable(message):
    """The failure for a repository that vLLM cannot serve."""
    return Failure("unsuitable", message)


@dataclass
class File:
    """One file of the repository, and how far it is."""

    path: str
    size: int
    sha256: str | None  # of large files, which the hub keeps by it
    git_oid: str | None  # of small files: SHA-1 over a header and the contents
    completed: int = 0
    told: int = -1
    layer: int | None = None  # its number among the layers, once it has a digest


@dataclass
class Job:
    """What is being downloaded, and where to."""

    repository: str
    commit: str
    place: Path
    license: str | None
    files: list[File] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def complete(self):
        return self.place / "files"

    @property
    def partial(self):
        return self.place / "partial"


# What to take


def is_safe(path):
    """Whether a name of the hub may become a path below a directory of ours."""
    parts = path.split("/")
    return len(path) < 512 and "\\" not in path and "\0" not in path and all(part not in ("", ".", "..") for part in parts)


def small_files(files):
    """The files that are read beside the weights."""
    return [
        file
        for file in files
        if SMALL_FILES.fullmatch(file.path)
        and not NEEDLESS.fullmatch(file.path)
        and file.path != SOURCE_FILE
        and file.path != "vllama.json"
        and file.size <= (MAX_CODE_BYTES if file.path.endswith(".py") else MAX_SMALL_BYTES)
    ]


def weight_files(files, index):
    """The safetensors files that make up the model; `index` is what its index file says, if it has one."""
    found = {file.path: file for file in files if file.path.endswith(".safetensors")}
    modules = [file for path, file in found.items() if MODULE_WEIGHTS.fullmatch(path)]
    at_top = {path: file for path, file in found.items() if "/" not in path and not path.startswith("adapter_")}
    if index is not None:
        names = sorted(set(map(str, index.get("weight_map", {}).values())))
        missing = [name for name in names if name not in found]
        if not names or missing:
            raise unsuitable(f"the repository is incomplete: {INDEX} names {(missing or ['no file'])[0]}, which is not there. Tell its makers, or pull another one.")
        return [found[name] for name in names] + [file for file in modules if file.path not in names]
    if shards := [file for path, file in at_top.items() if SHARD.fullmatch(path)]:
        return shards + modules
    if "model.safetensors" in at_top:
        return [at_top["model.safetensors"], *modules]
    # Mistral's own format beside the hub's is the same weights twice.
    if others := [file for path, file in at_top.items() if not path.startswith("consolidated")]:
        return others + modules
    return list(at_top.values()) + modules


def check_modules(small, weights):
    """Refuses an embedder of which a module would be missing: its vectors would be wrong without anybody noticing."""
    there = {file.path for file in weights}
    for file in small:
        module = re.fullmatch(r"(\d+_Dense)/config\.json", file.path)
        if module and f"{module[1]}/model.safetensors" not in there:
            raise unsuitable(f"the weights of {module[1]} are no safetensors file, and vLLM is not given other formats. Ask the makers for a conversion.")


def explain_missing_weights(repository, files):
    """Why a repository without safetensors cannot be served."""
    endings = {path.rsplit(".", 1)[-1].lower() for path in (file.path for file in files) if "." in path}
    if "gguf" in endings:
        return Failure("gguf", repository)
    if any(file.path.startswith("adapter_") for file in files):
        return unsuitable(f"{repository} is an adapter and no model: pull the model it was made for, and add it with `ADAPTER` in a create.")
    kind = next((f" (only .{ending})" for ending in ("bin", "pth", "pt", "onnx", "msgpack", "h5") if ending in endings), "")
    return unsuitable(f"{repository} has no safetensors files{kind}, and vLLM is not given other formats. Pull a repository that has them, or ask its makers for a conversion.")


# The hub


def authorization_hint(repository):
    """What to do where the hub refuses."""
    if os.environ.get("HF_TOKEN"):
        return f"the account of HF_TOKEN may not read {repository}; accept its terms at https://huggingface.co/{repository}, or give a token that may."
    return f"{repository} is gated or private; accept its terms at https://huggingface.co/{repository} and start vllama with HF_TOKEN set to a token of that account."


def explain(error, repository):
    """Any exception as a Failure; the hub's own words hold addresses and stay here."""
    import httpx2
    from huggingface_hub import errors

    if isinstance(error, Failure):
        return error
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return Failure("offline")
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return Failure("unauthorized", authorization_hint(repository))
    if isinstance(error, (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError)):
        return Failure("not_found")
    if status == 401:
        return Failure("unauthorized", "the hub does not accept HF_TOKEN; give a valid one, or unset it.")
    if status == 404:
        return Failure("not_found")
    if status is not None:
        return Failure("network", f"the hub answers with status {status}. Try again in a while; the download goes on where it was.")
    if isinstance(error, httpx2.HTTPError):
        reason = {"ConnectError": "no connection", "ConnectTimeout": "no connection in time"}.get(type(error).__name__, type(error).__name__)
        return Failure("network", f"{reason}. Check the network and HF_ENDPOINT, then try again; the download goes on where it was.")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failure("disk_full", "the disk became full during the download. Free some and pull again; the download goes on where it was.")
    if isinstance(error, OSError) and error.errno is None:
        return Failure("network", "a file came incomplete. Try again; the download goes on where it was.")
    if isinstance(error, OSError):
        return Failure("failed", f"reading or writing the model store failed ({error.strerror}). Check the disk and the directory's permissions.")
    return Failure("failed", f"the download ended unexpectedly ({type(error).__name__}). Please report this with the model's name.")


def look_up(repository, revision):
    """Asks the hub for a revision: its commit, its files and its licence."""
    from huggingface_hub import HfApi

    info = HfApi(library_name="vllama").model_info(repository, revision=revision, files_metadata=True, timeout=30)
    if not info.sha or not re.fullmatch(r"[0-9a-f]{40,64}", info.sha):
        raise Failure("failed", "the hub names no commit for the revision. Check HF_ENDPOINT.")
    siblings = info.siblings or []
    if len(siblings) > MAX_FILES:
        raise unsuitable(f"{repository} has {len(siblings)} files; a model has at most {MAX_FILES}.")
    files = []
    for sibling in siblings:
        path, size, lfs = sibling.rfilename, sibling.size, sibling.lfs
        if not is_safe(path) or size is None or size < 0:
            continue
        sha256 = lfs.sha256 if lfs else None
        if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise Failure("failed", "the hub names no SHA-256 for a file. Check HF_ENDPOINT.")
        files.append(File(path, size, sha256, None if lfs else sibling.blob_id))
    card = info.card_data.to_dict() if info.card_data else {}
    license_name = card.get("license_name") if card.get("license") == "other" else card.get("license")
    return info.sha, files, license_name if isinstance(license_name, str) else None


# One file


class Sink:
    """A file on its way in: counted, hashed, never longer than it should be, and able to start again."""

    def __init__(self, path, file, stopped):
        self.file = file
        self.stopped = stopped
        self.stream = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b", buffering=0)
        self.position = 0
        self.reset()

    def reset(self):
        """Forgets what was counted and hashed."""
        self.position = self.file.completed = 0
        self.sha256 = hashlib.sha256()
        # Only what the hub does not keep by a SHA-256.
        self.git = None if self.file.sha256 else hashlib.sha1(b"blob %d\0" % self.file.size, usedforsecurity=False)

    def take_up(self):
        """Counts and hashes what an earlier run left, and returns how much that is."""
        while chunk := self.stream.read(CHUNK_BYTES * 4):
            if self.position + len(chunk) > self.file.size:
                self.seek(0)
                self.truncate()
                break
            self.count(chunk)
        return self.position

    def count(self, chunk):
        self.sha256.update(chunk)
        if self.git:
            self.git.update(chunk)
        self.position += len(chunk)
        self.file.completed = self.position

    def write(self, chunk):
        if self.stopped.is_set():
            raise InterruptedError
        if self.position + len(chunk) > self.file.size:
            raise Failure("failed", f"the hub sends more of {self.file.path} than it told. Check HF_ENDPOINT.")
        rest = memoryview(chunk)
        while rest:
            rest = rest[self.stream.write(rest) :]
        self.count(chunk)
        return len(chunk)

    # The hub's library starts again like this when a server cannot go on in the middle.
    def tell(self):
        return self.position

    def seek(self, position):
        assert position == 0, "a download starts again from its beginning"
        self.stream.seek(0)
        self.reset()
        return 0

    def truncate(self):
        self.stream.truncate(self.position)
        return self.position

    def digest_mismatch(self):
        """The digest that was promised and the one that came, where they differ."""
        if self.file.sha256 is not None:
            want, got = f"sha256:{self.file.sha256}", f"sha256:{self.sha256.hexdigest()}"
        elif self.file.git_oid is not None:
            want, got = f"sha1:{self.file.git_oid}", f"sha1:{self.git.hexdigest()}"
        else:
            return None
        return None if want == got else (want, got)

    def close(self):
        """Brings the bytes to the disk."""
        os.fsync(self.stream.fileno())
        self.stream.close()


def fetch(job, file):
    """Downloads one file and verifies it."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    target = job.complete / file.path
    if target.is_file() and target.stat().st_size == file.size:
        # Verified before it got this name.
        if file.sha256 is None:
            file.sha256 = hashlib.sha256(target.read_bytes()).hexdigest()
        file.completed = file.size
        return
    partial = job.partial / hashlib.sha256(file.path.encode()).hexdigest()[:32]
    sink = Sink(partial, file, job.stopped)
    try:
        have = sink.take_up()
        # Ranges count the bytes on the wire, so they must be the bytes of the file.
        headers = {**build_hf_headers(library_name="vllama"), "Accept-Encoding": "identity"}
        url = hf_hub_url(job.repository, file.path, revision=job.commit)
        if have < file.size:
            http_get(url, sink, resume_size=have, headers=headers, expected_size=file.size)
        if mismatch := sink.digest_mismatch():
            partial.unlink()
            raise Failure("digest", want=mismatch[0], got=mismatch[1])
    finally:
        sink.close()
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(partial, target)
    file.sha256 = sink.sha256.hexdigest()


def fetch_all(job, files):
    """Downloads files side by side and tells how far they are."""
    check_space(job, files)
    pool = concurrent.futures.ThreadPoolExecutor(WORKERS)
    try:
        left = {pool.submit(fetch, job, file) for file in files}
        while left:
            ended, left = concurrent.futures.wait(left, PERIOD, concurrent.futures.FIRST_EXCEPTION)
            for future in ended:
                future.result()
            tell_layers(job)
    finally:
        # Without waiting: after a failure a transfer may hang for as long as the network likes.
        job.stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)
        job.stopped = threading.Event()


def check_space(job, files):
    """Refuses a download that cannot fit."""

    def there(file):
        partial = job.partial / hashlib.sha256(file.path.encode()).hexdigest()[:32]
        sizes = [path.stat().st_size for path in (job.complete / file.path, partial) if path.is_file()]
        return max(sizes, default=0)

    needed = sum(max(file.size - there(file), 0) for file in files)
    free = shutil.disk_usage(job.place).free
    if needed and needed + SPARE_BYTES > free:
        gigabytes = [f"{number / 1e9:.1f} GB" for number in (needed, free)]
        raise Failure("disk_full", f"{gigabytes[0]} are still to be downloaded and {gigabytes[1]} are free. Free some, or choose another directory with OLLAMA_MODELS.")


def tell_layers(job):
    """Tells of every file that got further. A layer is known by its digest, so small files come when they are complete."""
    for file in job.files:
        if file.sha256 is None or file.told == file.completed:
            continue
        if file.layer is None:
            file.layer = sum(other.layer is not None for other in job.files)
        file.told = file.completed
        tell("layer", layer=file.layer, digest=file.sha256, total=file.size, completed=file.told)


# What came


def parse_json(path):
    """A JSON object of the checkpoint; None where it is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else None


def read_json(path):
    """A JSON object of the checkpoint."""
    value = parse_json(path)
    if value is None:
        raise unsuitable(f"{path.name} of the repository is no JSON object. Tell its makers, or pull another one.")
    return value


def check_config(path):
    """Refuses a configuration that names no model, before gigabytes are fetched for it."""
    architectures = (parse_json(path) or {}).get("architectures")
    if not (isinstance(architectures, list) and architectures and isinstance(architectures[0], str) and architectures[0]):
        raise unsuitable("vLLM cannot serve this repository: config.json: it names no architecture. Tell its makers, or pull another one.")


def remove_others(job):
    """Removes what is no part of the checkpoint any more: an earlier choice of files."""
    wanted = {job.complete / file.path for file in job.files} | {job.complete / SOURCE_FILE}
    for path in [path for path in job.complete.rglob("*") if path.is_file()]:
        if path not in wanted:
            path.unlink()


# The whole


@contextlib.contextmanager
def locked(directory):
    """Keeps another download to the same place waiting: one that has outlived its vllama, or that of a second one."""
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        fcntl.flock(handle, fcntl.LOCK_EX)
        # Whoever had it may have installed the files and removed the directory; then there has to be another.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(directory)):
                break
        os.close(handle)
    try:
        yield
    finally:
        os.close(handle)


def download(order):
    """Does what the order says and tells the last event."""
    repository, installed = order["repository"], order["installed"]
    directory = Path(order["directory"])
    with contextlib.ExitStack() as stack:
        commit, files, license_name = look_up(repository, order["revision"])
        job = Job(repository, commit, directory / commit, license_name)
        small = small_files(files)
        if commit == installed:
            job.files = small + [file for file in files if file.path.endswith(".safetensors")]
            for file in job.files:
                file.completed = file.size
            tell_layers(job)
            tell("unchanged")
            return
        if not any(file.path.endswith(".safetensors") for file in files):
            raise explain_missing_weights(repository, files)
        if not any(file.path == "config.json" for file in small):
            raise unsuitable(f"{repository} has no config.json, so vLLM cannot tell what model it is. Pull a repository in Hugging Face's format.")
        stack.enter_context(locked(directory))
        for other in directory.iterdir():
            if other.name != commit:
                shutil.rmtree(other, ignore_errors=True)
        job.complete.mkdir(parents=True, exist_ok=True)
        job.partial.mkdir(parents=True, exist_ok=True)
        job.files = small
        fetch_all(job, small)
        index = job.complete / INDEX
        weights = weight_files(files, read_json(index) if any(file.path == INDEX for file in small) else None)
        if not weights:
            raise explain_missing_weights(repository, [file for file in files if not file.path.endswith(".safetensors")])
        check_modules(small, weights)
        check_config(job.complete / "config.json")
        job.files = small + weights
        fetch_all(job, weights)
        remove_others(job)
        source = json.dumps({"repository": repository, "commit": commit})
        (job.complete / SOURCE_FILE).write_text(source, encoding="utf-8")
        tell("done", files=str(job.complete), license=job.license)


def tell(event, **facts):
    """Prints one event as a JSON line."""
    print(json.dumps({"event": event, **facts}), file=EVENTS, flush=True)


def end_with_listener():
    """Ends this process as soon as nobody reads its events any more, even while nothing is told."""
    poll = select.poll()
    poll.register(EVENTS.fileno(), 0)
    poll.poll()
    os._exit(1)


def main(arguments):
    """Runs the download and returns the exit status."""
    order = json.loads(arguments[0])
    threading.Thread(target=end_with_listener, daemon=True).start()
    os.environ.update(HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_TELEMETRY="1")
    try:
        from huggingface_hub import constants
    except ImportError:
        tell("error", code="failed", message="the engine's Python has no huggingface_hub package. Install vLLM again.")
        return 1
    # Its warnings name addresses.
    logging.disable(logging.CRITICAL)
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK_BYTES
    try:
        download(order)
        return 0
    except Exception as error:
        failure = explain(error, order["repository"])
        tell("error", code=failure.code, message=str(failure), **failure.facts)
        return 1


if __name__ == "__main__":
    # Libraries may print on stdout: events keep the real one, everything else goes to stderr.
    EVENTS = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    status = main(sys.argv[1:])
    EVENTS.flush()
    # Without waiting for transfers that were given up.
    os._exit(status)
