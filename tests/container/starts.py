"""How long a container takes to be ready: vllama's beside vLLM's own in the same image, in turns.

Run: make start-times NAME=vllama:cpu [IMAGE_OPTIONS='--gpus all']

The image must have the model in it (`make image … MODEL=… MODEL_NAME=smollm2:135m`). For each turn and each kind a fresh container: nothing is
cached but what the image has. `vllm, vllama's flags` is the command that `vllama explain` shows, on a port of its own; `vllm,
default flags` has none but the model (on CPUs with the 2 GiB of cache without which it does not start). Ready is what
`/health/ready` or vLLM's `/health` says, asked from outside every 20 ms.
"""

import contextlib
import http.client
import json
import random
import shlex
import statistics
import subprocess
import sys
import time

from images import MODEL, run

LIMIT = 900  # seconds
HARDENED = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--tmpfs", "/tmp:exec,mode=1777", "--shm-size", "1g"]
ENGINES_PORT = 8000


def explained(image, more):
    """Environment and arguments of the engine, as vllama starts it."""
    text = run("docker", "run", "--rm", *HARDENED, *more, image, "explain", MODEL)
    words = shlex.split(text.split("\nCommand\n")[1].replace("\\\n", " "))
    end = next(place for place, word in enumerate(words) if "=" not in word)
    return words[:end], words[words.index("serve") + 1 :]


def answers(address, port, path):
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(http.client.HTTPConnection(address, port, timeout=5)) as connection:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    return False


def ready(image, port, path, options=(), command=()):
    """Seconds from `docker run` to the answer that it is ready."""
    name = f"vllama-test-start-{random.randrange(1 << 30):x}"
    began = time.monotonic()
    try:
        run("docker", "run", "--detach", "--name", name, *HARDENED, *options, image, *command)
        network = json.loads(run("docker", "inspect", name))[0]["NetworkSettings"]["Networks"]
        address = next(iter(network.values()))["IPAddress"]
        while not answers(address, port, path):
            if run("docker", "inspect", "-f", "{{.State.Running}}", name).strip() != "true" or time.monotonic() > began + LIMIT:
                logs = subprocess.run(["docker", "logs", "--tail", "40", name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
                raise AssertionError(f"not ready after {time.monotonic() - began:.0f} s:\n{logs.stdout}")
            time.sleep(0.02)
        return time.monotonic() - began
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", name], capture_output=True, check=False)


def main(image, options="", turns=3, *kinds):
    more = shlex.split(options)
    environment, arguments = explained(image, more)
    planned = [word for pair in environment for word in ("--env", pair)]
    needed = [word for pair in environment if pair.startswith("VLLM_CPU_KVCACHE_SPACE=") for word in ("--env", pair)]
    bare = ["--entrypoint", "vllm"]
    port = ["--host", "0.0.0.0", "--port", str(ENGINES_PORT)]
    ways = {
        "vllama": (11434, "/health/ready", [], ["serve", MODEL]),
        "vllm, vllama's flags": (ENGINES_PORT, "/health", [*planned, *bare], ["serve", *arguments, *port]),
        "vllm, default flags": (ENGINES_PORT, "/health", [*needed, *bare], ["serve", arguments[0], *port]),
    }
    seconds = {way: [] for way in kinds or ways}
    for _ in range(int(turns)):
        for way, times in seconds.items():
            its_port, path, its_own, command = ways[way]
            times.append(ready(image, its_port, path, [*more, *its_own], command))
            print(f"  {way}: {times[-1]:.1f} s", file=sys.stderr, flush=True)
    for way, times in seconds.items():
        print(f"{way}: median {statistics.median(times):.1f} s of {len(times)}, best {min(times):.1f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
