"""Ends that ought not to be: guards that nobody gives back, over-release, starvation, Ctrl-C, a second initialisation."""

import os
import re
import signal
import subprocess
import sys

import ig_test
import interp_guard
from shared import INTERPRETERS, UNTIL_CLOSING, press_until_it_ends, without_reports

# A shell starts background jobs with SIGINT ignored, and Python then leaves it so; these programs are to take it.
signal.signal(signal.SIGINT, signal.SIG_DFL)

START = "import sys, interp_guard, ig_test\n"


def start(code, begin=START, **environment):
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", begin + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def run(code, **environment):
    process = start(code, **environment)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def lines_until(stream, wanted):
    lines = []
    for line in stream:
        lines.append(line)
        if wanted in line:
            return lines
    raise AssertionError(f"{wanted!r} never came: {lines}")


# Inside an ensure of its own: told at once, status 1; what was printed is not lost.
status, out, err = run("assert ig_test.leave_level()\nprint('printed')\nsys.stdout.flush()\n")
assert status == 1 and out == "printed\n", (status, out, err)
assert "interpreter 0 cannot finalize: this thread is inside PyThreadState_Ensure" in err, err
print("record: self-hold by an ensure level |", "reported, exit status", status)

# So it is with a raw guard, if no other thread exists that could close it: nor has a signal a handler that might.
for begin, code in (
    (START, "assert ig_test.leave_guard() == 0\nprint('printed')\nsys.stdout.flush()\n"),
    (START, "guards = interp_guard.lookup(0), interp_guard.lookup(0)\nprint('printed')\n"),
    (START, INTERPRETERS + "guard = interp_guard.lookup(sub)\nprint('printed')\ninterpreters.destroy(sub)\n"),
):
    code = code.replace("guard = interp_guard.lookup(sub)", "sub = interpreters.create()\nassert not interpreters.run_string("
                        "sub, 'import interp_guard')\nguard = interp_guard.lookup(int(sub))")
    status, out, err = run(code, INTERP_GUARD_LEDGER="1")
    assert (status, out) == (1, "printed\n") and "is the only one that could close it" in err, (code, status, out, err)
    assert re.search(r"\n  MainThread  \d+\.\d s  .*, by the thread that waits\n", err), err
print("record: self-hold by a raw guard, no other thread | reported, exit status", status)
status, out, err = run(
    "import signal\n"
    "guard = interp_guard.lookup(0)\n"
    "signal.signal(signal.SIGALRM, lambda *_: guard.close())\n"
    "signal.setitimer(signal.ITIMER_REAL, 0.3)\n"
)
assert (status, without_reports(err)) == (0, ""), (status, out, err)

# A guard that another thread has, and does not give back, is reported, and again: with the ledger, by thread and call
# site.
for ledger in ("0", "1"):
    process = start("assert ig_test.leave_guard() == 0\nig_test.give_back()\n", INTERP_GUARD_LEDGER=ledger)
    first = lines_until(process.stderr, "cannot end yet")
    first += lines_until(process.stderr, "ig_test" if ledger == "1" else "INTERP_GUARD_LEDGER=1")
    again = lines_until(process.stderr, "cannot end yet")
    assert "Python cannot end yet: 1 guard of interpreter 0 is still out (" in again[-1], again
    report = " ".join("".join(first).replace(os.path.dirname(ig_test.__file__), "..").split())
    print(f"record: a guard that nobody gives back, ledger {'on' if ledger == '1' else 'off'} | {report}, and again")

    # Ctrl-C: the report; a second one: status 130.
    process.send_signal(signal.SIGINT)
    lines_until(process.stderr, "cannot end yet")
    press_until_it_ends(process)
print("record: Ctrl-C twice while it waits | the report, then status 130")

# Ctrl-C once, and then the guard comes back: the process ends as it would have.
process = start("assert ig_test.leave_guard() == 0\nig_test.give_back()\n")
lines_until(process.stderr, "cannot end yet")
process.send_signal(signal.SIGINT)
lines_until(process.stderr, "cannot end yet")
out, err = process.communicate("now", timeout=120)
assert process.returncode == 0, (process.returncode, out, err)

# A user's own handler runs while the hook waits, and the waiting goes on.
process = start(
    "import signal\n"
    "signal.signal(signal.SIGINT, lambda *_: print('mine', flush=True))\n"
    "assert ig_test.leave_guard() == 0\n"
    "ig_test.give_back()\n"
)
lines_until(process.stderr, "cannot end yet")
process.send_signal(signal.SIGINT)
assert process.stdout.readline() == "mine\n"
lines_until(process.stderr, "cannot end yet")
out, err = process.communicate("now", timeout=120)
assert process.returncode == 0, (process.returncode, out, err)

# Ctrl-C twice ends it also if Python code had a handler only when it imported the package, as `asyncio.run` has; and where
# a subinterpreter ends, whether or not the main interpreter imported the package.
OTHER_HANDLER = """
import signal
before = signal.signal(signal.SIGINT, lambda *_: None)
import interp_guard, ig_test
signal.signal(signal.SIGINT, before)
assert ig_test.leave_guard() == 0
ig_test.give_back()
"""
SUB = INTERPRETERS + """
import threading
threading.Thread(target=threading.Event().wait, daemon=True).start()  # which might close a guard
sub = interpreters.create()
assert not interpreters.run_string(sub, "import interp_guard; guard = interp_guard.lookup(interp_guard.current())")
interpreters.destroy(sub)
"""
for begin, code in (("", OTHER_HANDLER), (START, SUB), ("", SUB)):
    process = start(code, begin)
    lines_until(process.stderr, "cannot end yet")
    press_until_it_ends(process)

# So it is in InterpGuard_Drain, and in a subinterpreter's drain(); after that Python sees the Ctrl-C that came once.
DRAIN = INTERPRETERS + UNTIL_CLOSING + """
import threading
def tell():
    until_closing(0)
    print("closing", flush=True)
assert ig_test.leave_guard() == 0
ig_test.give_back()
threading.Thread(target=tell, daemon=True).start()
try:
    CALL
    time.sleep(120)
except KeyboardInterrupt:
    print("interrupted")
"""
IN_A_SUB = 'interpreters.run_string(interpreters.create(), "import interp_guard; interp_guard.drain(0)")'
for call in ("ig_test.drain(0)", IN_A_SUB):
    for once in (True, False):
        process = start(DRAIN.replace("CALL", call))
        assert process.stdout.readline() == "closing\n"
        process.send_signal(signal.SIGINT)
        lines_until(process.stderr, "interp_guard: the drain waits: 1 guard of interpreter 0 is still out (")
        if once:
            out, err = process.communicate("now", timeout=120)
            assert (process.returncode, out) == (0, "interrupted\n"), (process.returncode, out, err)
        else:
            press_until_it_ends(process)

# A handler that is put in place of ours meanwhile stays, and CPython's is called after it.
status, out, err = run(INTERPRETERS + UNTIL_CLOSING + """
import os, signal, threading
sub = interpreters.create()
assert not interpreters.run_string(sub, "import interp_guard")
guard, called = interp_guard.lookup(1), threading.Semaphore(0)
def install():
    until_closing(1)
    global handler
    handler = interp_guard.on_signal(signal.SIGINT, 0, called.release)
    guard.close()
threading.Thread(target=install).start()
assert ig_test.drain(1) == 0
for _ in range(3):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(120)
    except KeyboardInterrupt:
        assert called.acquire(timeout=60)
        print("both")
interpreters.destroy(sub)
""")
assert (status, out, without_reports(err)) == (0, "both\n" * 3, ""), (status, out, err)

# A guard closed twice is zeroed the first time: a status.
status, out, err = run("print(ig_test.close_twice())\n")
assert (status, out, err) == (0, "6\n", ""), (status, out, err)
print("record: a zeroed guard closed again | INTERP_GUARD_INVALID")

# A copied guard closed twice: found by the drain; with the ledger, at once.
status, out, err = run("print(ig_test.close_copy())\n", INTERP_GUARD_LEDGER="0")
assert (status, out) == (0, "0\n") and "more guards were closed than taken" in err, (status, out, err)
print("record: a copied guard closed again | found at the drain")
status, out, err = run("print(ig_test.close_copy())\n", INTERP_GUARD_LEDGER="1")
assert (status, out) == (0, "6\n") and "interp_guard" not in err, (status, out, err)
print("record: the same with the ledger | INTERP_GUARD_INVALID at once")

# Overlapping guards of four threads do not keep an interpreter from ending.
rounds = 200 if os.environ.get("INTERP_GUARD_LONG") else 20
ratios = sorted(took / longest for took, longest in (ig_test.starve() for _ in range(rounds)))
print(
    f"record: 4 threads with overlapping 500 us guards: how long the drain took, in longest holds | median "
    f"{ratios[rounds // 2]:.2f}, 90th percentile {ratios[rounds * 9 // 10]:.2f}, at most {ratios[-1]:.2f}, of {rounds}"
)

# Python initialised a second time, when it knows of no virtual environment: IDs and views from before are refused.
path = os.pathsep.join(os.path.dirname(os.path.abspath(found)) for found in (interp_guard.__path__[0], ig_test.__file__))
status, out, err = run("ig_test.reinitialize_at_exit()\n", PYTHONPATH=path)
assert status == 0 and "second epoch: reached" in out, (status, out, err)
print("record: old views and numbers after re-initialisation | refused")
print("ok")
