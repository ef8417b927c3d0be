"""Shutdown under fire: native threads call a Python file-like object while everything around them ends.

Each process ends with the threads joined, after Python is gone: none may hang or have been killed.
"""

import collections
import concurrent.futures
import os
import subprocess
import sys

LONG = bool(os.environ.get("INTERP_GUARD_LONG"))

COMMON = """
import io, sys, time
import interp_guard, ig_test
class Log(io.RawIOBase):
    def __init__(self): self.lines = []
    def write(self, text):
        self.lines.append(text)
        if len(self.lines) > 100: self.lines.clear()
        return len(text)
def wait_for_calls(n):
    deadline = time.monotonic() + 60
    while ig_test.pool_calls() < n:
        assert time.monotonic() < deadline
        time.sleep(0.0005)
"""
try:
    import _interpreters

    CREATE = "import _interpreters as interpreters; create = lambda: interpreters.create('legacy')\n"
except ImportError:
    isolated = "isolated=False" if sys.version_info >= (3, 12) else ""
    if sys.version_info < (3, 10):
        isolated = ""
    CREATE = f"import _xxsubinterpreters as interpreters; create = lambda: interpreters.create({isolated})\n"

# PAUSE is for how many microseconds a thread of the pool is out of Python between two calls. Without a pause, all of them want the
# processors and the GIL all the time, and an import takes seconds.
PROGRAMS = {
    # the main interpreter finalizes
    "main": COMMON + "ig_test.start_pool(8, Log().write, 0)\nwait_for_calls(200)\n",
    # subinterpreters come and go, and then the main one finalizes
    "subs": COMMON
    + "ig_test.start_pool(4, Log().write, 0, PAUSE)\n"
    + "code = "
    + repr(COMMON + "ig_test.start_pool(2, Log().write, 0, PAUSE)\nwait_for_calls(ig_test.pool_calls() + 20)\n")
    + "\nfor _ in range(6): ig_test.sub_cycle(code)\n",
    # subinterpreters are left over when the main one finalizes
    "left": COMMON
    + CREATE
    + "ig_test.start_pool(4, Log().write, 0, PAUSE)\n"
    + "code = "
    + repr(COMMON + "ig_test.start_pool(2, Log().write, 0, PAUSE)\n")
    # in `sys`, which is cleared at the end: the pool keeps its callable, and so this module's variables, for ever
    + "\nsys.left_over = [create() for _ in range(3)]\n"
    + "assert not any([interpreters.run_string(sub, code) for sub in sys.left_over])\n"
    + "wait_for_calls(200)\n",
    # for comparison: the same on PyGILState_Ensure
    "legacy": COMMON + "ig_test.start_pool(8, Log().write, 1)\nwait_for_calls(200)\n",
}


def run(name, pause):
    program = PROGRAMS[name].replace("PAUSE", str(pause))
    process = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=5 if name == "legacy" else 120)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return "hangs", "", ""
    return process.returncode, out, err


PAUSE = 20
SCENARIOS = [
    ("main", 0, "main finalizes under 8 threads"),
    ("subs", PAUSE, "subinterpreters come and go under 16 threads"),
    ("left", PAUSE, "3 subinterpreters left over, 10 threads"),
]
if LONG:
    SCENARIOS += [(name, 0, title + " that never pause") for name, pause, title in SCENARIOS if pause]
rounds = 200 if LONG else 12
workers = concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0)))
for name, pause, title in SCENARIOS:
    threads = calls = 0
    for round, (status, out, err) in enumerate(workers.map(run, [name] * rounds, [pause] * rounds)):
        words = out.split()
        shape = words[::2] == ["threads", "calls", "hang", "killed"]
        assert status == 0 and shape and words[5] == words[7] == "0" and int(words[3]) > 0, (name, round, status, out, err)
        threads, calls = threads + int(words[1]), calls + int(words[3])
    print(f"record: {title} | {rounds} processes ended with status 0; {threads} threads, {calls} calls, 0 hang, 0 killed")

# What becomes of the first program without guards. Nothing is asserted: it depends on when who is where.
rounds = 200 if LONG else 2
ends = collections.Counter()
for status, out, err in workers.map(run, ["legacy"] * rounds, [0] * rounds):
    words = out.split()
    if status == "hangs":
        ends["hang"] += 1
    elif status < 0:
        ends[f"crash (signal {-status})"] += 1
    elif len(words) == 8 and status == 99:
        ends["have threads killed" if words[7] != "0" else "have threads that hang"] += 1
    else:
        ends[f"end with status {status}"] += 1
how = ", ".join(f"{count} {end}" for end, count in ends.most_common())
print(f"record: the same on PyGILState_Ensure | of {rounds} processes {how}")
print("ok")
