"""What is said while the end waits: one clock, threads by `threading`'s names, and what Python's people can do."""

import os
import re
import subprocess
import sys
import tempfile

import interp_guard
from shared import INTERPRETERS

HOLD = """import sys, threading, interp_guard
def hold(started, told):
    with interp_guard.lookup(0):
        started.release()
        told.wait()
started, told = threading.Semaphore(0), threading.Event()
"""
START = "threading.Thread(target=hold, args=(started, told), name={!r}, daemon=True).start()\nstarted.acquire()\n"


def reports(code, count=1, folder=None, **environment):
    """The first reports of a program, as lists of lines; the program is then ended."""
    with tempfile.TemporaryDirectory() as here:
        with open(os.path.join(here, "hold.py"), "w") as file:
            file.write(code)
        process = subprocess.Popen(
            [sys.executable, os.path.join(here, "hold.py") if folder else "hold.py"],
            cwd=folder or here,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        found = [[]]
        for line in process.stderr:
            if line.startswith("interp_guard: ") and found[-1]:
                found.append([])
            if len(found) > count:
                break
            found[-1].append(line.rstrip("\n"))
        process.kill()
        process.communicate()
        return found[:count], os.path.realpath(here)


def matches(pattern, line):
    assert re.fullmatch(pattern, line), (pattern, line)


# With the ledger: a line for each guard. The clock of the first line is the wait's, and the same in the next report.
(first, second), _ = reports(HOLD + START.format("worker"), 2, INTERP_GUARD_LEDGER="1")
for report, seconds in ((first, r"0\.\d"), (second, r"[12]\.\d")):
    matches(rf"interp_guard: Python cannot end yet: 1 guard of interpreter 0 is still out \({seconds} s\)", report[0])
    matches(r"  worker  \d\.\d s  hold\.py:3", report[1])
    assert len(report) == 2, report
print("record: a report, with the ledger |", first[0], "/", first[1].strip())

# Names as long as they are, aligned; one that changes; a thread that has ended; one that threading does not know.
MANY = HOLD + START.format("first") + START.format("the second of them, \u00fc") + """
import _thread, os
threading.enumerate()[1].name = "renamed"
def unknown():
    guards.append(interp_guard.lookup(0))
    started.release()
    told.wait()
guards = []
_thread.start_new_thread(unknown, ())
started.acquire()
thread = threading.Thread(target=lambda: guards.append(interp_guard.lookup(0)), name="gone")
thread.start()
thread.join()
while os.path.exists(f"/proc/self/task/{thread.native_id}"): pass
guards.append(interp_guard.lookup(0))
print(*sorted(holder.thread_name for holder in interp_guard.holders(0)), sep=", ", file=sys.stderr)
"""
(said, report), _ = reports(MANY, 2, INTERP_GUARD_LEDGER="1", PYTHONIOENCODING="utf-8", PYTHONUTF8="1")
assert re.fullmatch(r"MainThread, gone, python\S*, renamed, the second of them, \u00fc", said[0]), said
matches(r"interp_guard: Python cannot end yet: 5 guards of interpreter 0 are still out \(0\.\d s\)", report[0])
assert [re.sub(r"  +\d\.\d s  hold\.py:\d+", "|", line) for line in report[1:3]] == ["  renamed|", "  the second of them, \u00fc|"], report
matches(r"  python\S* \(\d+\) +\d\.\d s  hold\.py:\d+", report[3])
matches(r"  gone \(ended\) +\d\.\d s  hold\.py:\d+", report[4])
matches(r"  MainThread +\d\.\d s  hold\.py:\d+, by the thread that waits", report[5])
assert len({line.index(" s  hold.py") for line in report[1:]}) == 1, report

# From another folder the whole path is there.
(report,), here = reports(HOLD + START.format("worker"), 1, folder="/", INTERP_GUARD_LEDGER="1")
assert report[1].endswith(f"s  {here}/hold.py:3"), (report, here)

# Without the ledger: how to get them. No advice that is for Rust.
(first, second), _ = reports(HOLD + START.format("worker"), 2, INTERP_GUARD_LEDGER="0")
assert first[1:] == second[1:] and len(first) == 2 and first[1].startswith("  with INTERP_GUARD_LEDGER=1 in the environment "), first
print("record: a report, without it |", first[0], "/", first[1].strip())
for text in (first[1], str(interp_guard.holders(0)), interp_guard.__doc__):
    assert "Registry" not in text and "::" not in text, text

# A thread of a subinterpreter has the name that it has there, whoever waits.
SUB = HOLD + INTERPRETERS + """
sub = interpreters.create("legacy") if sys.version_info >= (3, 13) else interpreters.create(isolated=False)
CODE = f"import sys; sys.path = {sys.path!r}" + '''
import threading, interp_guard
started, never = threading.Semaphore(0), threading.Semaphore(0)
def hold():
    with interp_guard.lookup(interp_guard.current()):
        started.release()
        never.acquire()
threading.Thread(target=hold, name="within", daemon=True).start()
started.acquire()
'''
failed = interpreters.run_string(sub, CODE)
assert not failed, failed
"""
(report,), _ = reports(SUB, INTERP_GUARD_LEDGER="1")
matches(r"interp_guard: Python cannot end yet: 1 guard of interpreter 1 is still out \(0\.\d s\)", report[0])
matches(r"  within  \d\.\d s  <(string|script)>:5", report[1])

# So it is in what drain() raises.
TIMEOUT = HOLD + START.format("worker") + """
try:
    interp_guard.drain(0, timeout=0.01)
except TimeoutError as late:
    sys.stderr.write(f"{late}\\ninterp_guard: ")
"""
(report,), _ = reports(TIMEOUT, INTERP_GUARD_LEDGER="1")
matches(r"interpreter 0: 1 guard is out after 0\.\d s", report[0])
matches(r"  worker  \d\.\d s  hold\.py:3", report[1])
print("ok")
