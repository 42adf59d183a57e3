"""The units of `systemd/` under a real systemd, in a container, with the fake engine.

Run: python3 -m unittest discover -s tests/systemd
Where no container can run systemd this is skipped, and says why.
"""

import json
import os
import sys
import threading
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/systemd")]

from machine import DYNAMIC_USERS, Machine, Unusable, eventually

ERROR, WARNING, INFO = 3, 4, 6  # priorities of syslog

machine = None


def setUpModule():
    global machine
    try:
        machine = Machine(f"vllama-test-systemd-{os.getpid()}")
    except Unusable as reason:
        print(f"skipped: the units under a real systemd: {reason}")
        raise unittest.SkipTest(str(reason)) from None


def tearDownModule():
    if machine:
        machine.close()


class Stream(threading.Thread):
    """A chat whose lines come one by one, in a thread."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens, self.status, self.lines = tokens, None, []
        self.start()
        eventually("the stream has begun", lambda: self.lines)

    def run(self):
        connection = machine.connection()
        message = {"role": "user", "content": f"FAKE:count {self.tokens}"}
        connection.request("POST", "/api/chat", json.dumps({"model": "smollm2:135m", "messages": [message]}))
        answer = connection.getresponse()
        self.status = answer.status
        for line in answer:
            self.lines.append(json.loads(line))
        connection.close()

    def has_come_to_its_end(self):
        self.join()
        last = self.lines[-1]
        return self.status == 200 and last.get("done") and last.get("eval_count", 0) >= self.tokens


class Units(unittest.TestCase):
    def setUp(self):
        self.began = machine.cursor()
        machine.systemctl("start", "vllama.service")
        eventually("the model is loaded", machine.is_ready)
        self.addCleanup(self.ends)

    def ends(self):
        machine.systemctl("stop", "vllama.socket", "vllama.service")
        machine.systemctl("reset-failed")

    def drop_in(self, text):
        """More of the unit, for this test."""
        place = "/etc/systemd/system/vllama.service.d/test.conf"
        machine.write(place, text)
        machine.systemctl("daemon-reload")
        self.addCleanup(machine.systemctl, "daemon-reload")
        self.addCleanup(machine.inside, "rm", place)

    def assert_new_vllama(self, main, before):
        """vllama is back under another pid, and nothing of the one before lives or lies about."""
        # Its own pid goes first; then systemd sweeps, and only then starts the next one.
        eventually("systemd has started vllama again", lambda: machine.main() not in (0, main))
        eventually("the model is loaded again", machine.is_ready)
        now = machine.processes()
        self.assertEqual(before.keys() & now.keys(), set(), (before, now))
        self.assertEqual(len([name for name in now.values() if name == "vllama"]), 1, now)
        # One segment of each generation that lives: that of the new one.
        self.assertEqual(machine.inside("sh", "-c", "ls /dev/shm | grep -c psm_fake_"), "1")
        self.assertEqual(machine.chat("FAKE:count 3")[0], 200)

    def test_it_is_started_when_it_listens_and_its_status_tells_of_the_model(self):
        self.drop_in("[Service]\nWatchdogSec=4\n")  # requests are told of at this pace
        machine.systemctl("restart", "vllama.service")
        self.assertEqual(machine.ask("GET", "/health/live")[0], 200, "it listens as soon as systemd counts it started")
        eventually("the status tells of the model", lambda: machine.shown("StatusText") == "smollm2:135m ready")
        stream = Stream(150)
        running = "smollm2:135m ready, 1 running"
        eventually("the status tells of the request", lambda: machine.shown("StatusText") == running)
        self.assertTrue(stream.has_come_to_its_end())

    def test_it_is_confined_with_its_engines_and_lacks_nothing(self):
        score = machine.inside("systemd-analyze", "security", "--threshold=30", "vllama.service")
        self.assertIn("Overall exposure level", score)
        machine.inside("systemd-analyze", "verify", "vllama.service", "vllama.socket")
        processes = machine.processes()
        self.assertGreater(len(processes), 3, "vllama, what reads the GPUs, the engine and its workers")
        for pid, name in processes.items():
            lines = [line.split(":", 1) for line in machine.inside("cat", f"/proc/{pid}/status").splitlines()]
            status = {key: value.split() for key, value in lines}
            with self.subTest(name=name):
                self.assertIn(int(status["Uid"][1]), DYNAMIC_USERS)
                self.assertEqual((status["CapEff"], status["CapBnd"]), (["0" * 16], ["0" * 16]))
                self.assertEqual((status["NoNewPrivs"], status["Seccomp"]), (["1"], ["2"]))
        main = machine.main()
        engine = next(pid for pid, name in processes.items() if not name.startswith("vllama"))
        score = lambda pid: int(machine.inside("cat", f"/proc/{pid}/oom_score_adj"))
        # Only a container that may lower a score shows it at work.
        self.assertEqual(machine.shown("OOMScoreAdjust"), "-500")
        self.assertGreater(score(engine), score(main), "the kernel takes an engine first")

        def try_(script):
            """Whether a shell in vllama's place and with its user can do this."""
            user = machine.inside("stat", "--format", "%u", f"/proc/{main}")
            entered = ["nsenter", "--target", str(main), "--mount", "--setuid", user, "--setgid", user]
            return machine.inside(*entered, "sh", "-c", f"({script}) >/dev/null 2>&1 && echo yes || echo no") == "yes"

        self.assertFalse(try_("echo > /etc/vllama/x") or try_("echo > /usr/local/bin/x") or try_("echo > /var/log/x"))
        # What kernels are compiled to is loaded from there; shared memory is how workers talk.
        for place in ["/var/lib/vllama", "/run/vllama"]:
            self.assertTrue(try_(f"cd {place} && cp /bin/true x && ./x && rm x"), f"compiled kernels run in {place}")
        self.assertTrue(try_("echo > /dev/shm/x && rm /dev/shm/x"), "shared memory")
        self.assertEqual(machine.shown("MemoryDenyWriteExecute"), "no", "Triton compiles at run time")
        self.assertIn("char-nvidia-uvm rw", machine.shown("DeviceAllow"))

    def test_killed_it_comes_back_and_no_engine_of_before_is_left(self):
        main, before = machine.main(), machine.processes()
        machine.signal("KILL", main)
        self.assert_new_vllama(main, before)
        self.assertEqual(machine.shown("NRestarts"), "1")

    def test_hung_it_is_found_by_the_watchdog_and_comes_back(self):
        self.drop_in("[Service]\nWatchdogSec=4\n")
        machine.systemctl("restart", "vllama.service")
        eventually("the model is loaded", machine.is_ready)
        main, before = machine.main(), machine.processes()
        machine.signal("STOP", main)
        self.assert_new_vllama(main, before)
        told = [entry["MESSAGE"] for entry in machine.journal(self.began)]
        self.assertTrue(any("watchdog" in str(text).lower() for text in told), told)

    def test_a_stop_lets_a_stream_come_to_its_end_and_leaves_nothing(self):
        stream = Stream(50)
        machine.systemctl("stop", "vllama.service")
        self.assertTrue(stream.has_come_to_its_end(), stream.lines[-1])
        self.assertEqual((machine.shown("ActiveState"), machine.shown("Result")), ("inactive", "success"))
        self.assertEqual(machine.processes(), {})
        self.assertEqual(machine.inside("ls", "/dev/shm"), "")
        self.assertEqual(machine.inside("sh", "-c", "ls -d /run/vllama 2>/dev/null; true"), "")
        self.assertFalse([entry for entry in machine.journal(self.began) if "SIGKILL" in str(entry["MESSAGE"])])

    def test_its_log_is_in_the_journal_with_priorities(self):
        self.assertEqual(machine.chat("FAKE:count 3")[0], 200)
        machine.chat("FAKE:kill9 1", stream=True)
        eventually("the engine is back", machine.is_ready)
        entries = [entry for entry in machine.journal(self.began) if entry.get("_TRANSPORT") == "stdout"]
        ranks = {"ERROR": ERROR, "WARN": WARNING, "INFO": INFO}
        seen = set()
        for entry in entries:
            line = json.loads(entry["MESSAGE"])
            self.assertEqual(int(entry["PRIORITY"]), ranks[line["level"]], entry)
            seen.add(line["level"])
        self.assertLessEqual({"INFO", "WARN"}, seen, "a request and a crash")

    def test_what_it_cannot_be_told_keeps_it_down_and_says_why(self):
        machine.write("/etc/vllama/vllama.toml", 'max_queue = "many"\n')
        self.addCleanup(machine.inside, "rm", "/etc/vllama/vllama.toml")
        machine.systemctl("restart", "vllama.service", check=False)
        self.assertEqual(machine.shown("ActiveState"), "failed")
        entries = machine.journal(self.began)
        told = [entry for entry in entries if "vllama.toml:1: max_queue" in str(entry["MESSAGE"])]
        self.assertTrue(told, [entry["MESSAGE"] for entry in entries])
        self.assertEqual({int(entry["PRIORITY"]) for entry in told}, {ERROR})

    def test_a_reload_takes_the_configuration_up_without_a_restart(self):
        asked = lambda: machine.ask("GET", "/api/version", headers={"Origin": "https://a.example"})[0]
        self.assertEqual(asked(), 403)
        main = machine.main()
        machine.write("/etc/vllama/vllama.toml", 'origins = ["https://a.example"]\n')
        self.addCleanup(machine.inside, "rm", "/etc/vllama/vllama.toml")
        machine.systemctl("reload", "vllama.service")
        eventually("the origin may ask", lambda: asked() == 200)
        self.assertEqual(machine.main(), main)
        self.assertEqual(machine.shown("ActiveState"), "active")

    def test_with_its_socket_a_restart_under_load_turns_nobody_away(self):
        machine.systemctl("stop", "vllama.service")
        machine.systemctl("start", "vllama.socket")
        self.assertEqual(machine.shown("ActiveState"), "inactive")
        self.assertEqual(machine.ask("GET", "/api/version")[0], 200, "who comes starts it")
        eventually("the model is loaded", machine.is_ready)
        main, over, answers, lock = machine.main(), threading.Event(), [], threading.Lock()

        def load():
            while not over.is_set():
                for ask in [lambda: machine.ask("GET", "/api/version")[0], lambda: machine.chat("FAKE:count 2")[0]]:
                    try:
                        status = ask()
                    except OSError as error:
                        status = repr(error)
                    with lock:
                        answers.append(status)

        threads = [threading.Thread(target=load) for _ in range(6)]
        for thread in threads:
            thread.start()
        stream = Stream(40)
        machine.systemctl("restart", "vllama.service")
        self.assertTrue(stream.has_come_to_its_end(), stream.lines[-1])
        asked = len(answers)
        eventually("the new one is under load", lambda: len(answers) > asked + 50)
        over.set()
        for thread in threads:
            thread.join()
        self.assertNotEqual(machine.main(), main)
        # Who had already come in when the drain began is told to come again (503); nobody is refused or cut off.
        self.assertLessEqual(set(answers), {200, 503}, set(answers))
        self.assertGreater(answers.count(200), 50)


if __name__ == "__main__":
    unittest.main()
