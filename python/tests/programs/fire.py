"""Shutdown under fire: native threads call a Python file-like object while everything around them ends.

Each process ends with the threads joined, after Python is gone: none may hang or have been killed.
"""

import collections
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

PROGRAMS = {
    # the main interpreter finalizes
    "main": COMMON + "ig_test.start_pool(8, Log().write, 0)\nwait_for_calls(200)\n",
    # subinterpreters come and go, and then the main one finalizes
    "subs": COMMON
    + "ig_test.start_pool(4, Log().write, 0)\n"
    + "code = "
    + repr(COMMON + "ig_test.start_pool(2, Log().write, 0)\nwait_for_calls(ig_test.pool_calls() + 20)\n")
    + "\nfor _ in range(6): ig_test.sub_cycle(code)\n",
    # subinterpreters are left over when the main one finalizes
    "left": COMMON
    + CREATE
    + "ig_test.start_pool(4, Log().write, 0)\n"
    + "code = "
    + repr(COMMON + "ig_test.start_pool(2, Log().write, 0)\n")
    # in `sys`, which is cleared at the end: the pool keeps its callable, and so this module's variables, for ever
    + "\nsys.left_over = [create() for _ in range(3)]\n"
    + "assert not any([interpreters.run_string(sub, code) for sub in sys.left_over])\n"
    + "wait_for_calls(200)\n",
    # for comparison: the same on PyGILState_Ensure
    "legacy": COMMON + "ig_test.start_pool(8, Log().write, 1)\nwait_for_calls(200)\n",
}


def run(name):
    process = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", PROGRAMS[name]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=10 if name == "legacy" else 120)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return "hangs", "", ""
    return process.returncode, out, err


rounds = 200 if LONG else 5
for name in ("main", "subs", "left"):
    for round in range(rounds):
        status, out, err = run(name)
        words = out.split()
        good = status == 0 and words[0] == "threads" and words[-3:] == ["0", "killed", "0"] and int(words[3]) > 0
        assert good and words[5] == "0", (name, round, status, out, err)
    print(f"{name}: {rounds} processes, each thread came to its own end; the last: {out.strip()}")

ends = collections.Counter()
for _ in range(20 if LONG else 2):
    status, out, err = run("legacy")
    words = out.split()
    how = f"status {status}" if len(words) < 8 else f"status {status}: {words[5]} hang, {words[7]} killed of {words[1]}"
    ends[how] += 1
print("for comparison, PyGILState_Ensure:", dict(ends))
print("ok")
