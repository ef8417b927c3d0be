"""Ends that ought not to be: guards that nobody gives back, over-release, starvation, Ctrl-C, a second initialisation."""

import os
import signal
import subprocess
import sys

import ig_test
import interp_guard

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

# A raw guard that nobody gives back is reported, and again: with the ledger, by thread and call site.
for ledger in ("0", "1"):
    process = start("assert ig_test.leave_guard() == 0\n", INTERP_GUARD_LEDGER=ledger)
    first = lines_until(process.stderr, "interp_guard: waiting")
    if ledger == "1":
        first += lines_until(process.stderr, "ig_test")  # the call site's library
    again = lines_until(process.stderr, "interp_guard: waiting")
    assert "1 guard is out" in again[-1], again
    report = " ".join("".join(first).replace(os.path.dirname(ig_test.__file__), "..").split())
    print(f"record: self-hold by a raw guard, ledger {'on' if ledger == '1' else 'off'} | {report}, and again")

    # Ctrl-C: the report at once; a second one: status 130.
    process.send_signal(signal.SIGINT)
    lines_until(process.stderr, "interp_guard: waiting")
    process.send_signal(signal.SIGINT)
    lines_until(process.stderr, "interrupted again")
    process.stderr.read()
    assert process.wait(60) == 130, process.returncode
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()
print("record: Ctrl-C twice while it waits | the report, then status 130")

# Ctrl-C once, and then the guard comes back: the process ends as it would have.
process = start("assert ig_test.leave_guard() == 0\nig_test.give_back()\n")
lines_until(process.stderr, "interp_guard: waiting")
process.send_signal(signal.SIGINT)
lines_until(process.stderr, "interp_guard: waiting")
out, err = process.communicate("now", timeout=120)
assert process.returncode == 0, (process.returncode, out, err)

# A user's own handler runs while the hook waits, and the waiting goes on.
process = start(
    "import signal\n"
    "signal.signal(signal.SIGINT, lambda *_: print('mine', flush=True))\n"
    "assert ig_test.leave_guard() == 0\n"
    "ig_test.give_back()\n"
)
lines_until(process.stderr, "interp_guard: waiting")
process.send_signal(signal.SIGINT)
assert process.stdout.readline() == "mine\n"
lines_until(process.stderr, "interp_guard: waiting")
out, err = process.communicate("now", timeout=120)
assert process.returncode == 0, (process.returncode, out, err)

# So it is where a subinterpreter ends, also if the main interpreter never imported the package.
SUB = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
sub = interpreters.create()
assert not interpreters.run_string(sub, "import interp_guard; guard = interp_guard.lookup(interp_guard.current())")
interpreters.destroy(sub)
"""
for begin in ("", START):
    process = start(SUB, begin)
    lines_until(process.stderr, "interp_guard: waiting")
    process.send_signal(signal.SIGINT)
    lines_until(process.stderr, "interpreter 1: 1 guard is out")
    process.send_signal(signal.SIGINT)
    lines_until(process.stderr, "interrupted again")
    process.communicate(timeout=120)
    assert process.returncode == 130, (begin, process.returncode)

# And so it is in InterpGuard_Drain; after it Python sees the Ctrl-C that came once.
DRAIN = """
import threading, time
def tell():
    while True:
        try:
            interp_guard.lookup(0).close()
        except RuntimeError:
            return print("closing", flush=True)
        time.sleep(0.001)
assert ig_test.leave_guard() == 0
ig_test.give_back()
threading.Thread(target=tell, daemon=True).start()
try:
    ig_test.drain(0)
    time.sleep(120)
except KeyboardInterrupt:
    print("interrupted")
"""
for once in (True, False):
    process = start(DRAIN)
    assert process.stdout.readline() == "closing\n"
    process.send_signal(signal.SIGINT)
    lines_until(process.stderr, "interp_guard: waiting: interpreter 0: 1 guard is out")
    if not once:
        process.send_signal(signal.SIGINT)
        lines_until(process.stderr, "interrupted again")
    out, err = process.communicate("now" if once else None, timeout=120)
    assert (process.returncode, out) == ((0, "interrupted\n") if once else (130, "")), (process.returncode, out, err)

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
