"""A thread that had a guard and is still in a subinterpreter: the end waits for it, a drain too, and says so when it takes long."""

import os
import re
import subprocess
import sys

import ig_test
from shared import INTERPRETERS, without_reports

LONG = bool(os.environ.get("INTERP_GUARD_LONG"))
rounds = 200 if LONG else 8
ABORTS = sys.version_info < (3, 14)  # CPython itself, where a thread is left in a subinterpreter that ends


def run(code, **environment):
    ended = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=300,
        text=True,
        env={**os.environ, **environment},
    )
    return ended.returncode, ended.stdout, ended.stderr


# Refused, it tidies up. What it writes in the end shows that it was not cut off.
TIDIES = """
import _thread, os, time, interp_guard
view, started = interp_guard.current(), _thread.allocate_lock()
started.acquire()
def f():
    with view.guard():
        started.release()
        while True:
            try:
                view.guard().close()
                time.sleep(0)  # gives the GIL away: 3.12 does not ask a busy thread of another interpreter for it
            except interp_guard.Refused:
                break
    for _ in range(20):
        time.sleep(0.001)
    os.write(WRITE, b"x")
START(f)
started.acquire()
"""
WAYS = {
    "_thread": "_thread.start_new_thread(f, ())",
    "threading": "__import__('threading').Thread(target=f, daemon=True).start()",
}
HOST = """
import os, ig_test
read, write = os.pipe()
for number in range({rounds}):
    assert ig_test.host_script({script!r}.replace("WRITE", str(write)), {drain}) == (0, 0)
    assert os.read(read, 100) == b"x", number
"""
for name, way in WAYS.items():
    for drain, how in enumerate(("Py_EndInterpreter alone", "InterpGuard_Drain inside, then it", "InterpGuard_Drain outside, then it")):
        script = TIDIES.replace("START(f)", way)
        status, out, err = run(HOST.format(rounds=rounds, script=script, drain=drain))
        assert (status, out, without_reports(err)) == (0, "", ""), (name, how, status, out, err)
print(f"record: a thread tidies up after its guard, {rounds} ends of a subinterpreter | all ended, each thread came to its end")

# The same in an interpreter of the `_interpreters` module: drained from main, destroyed; or left for the end of main.
VISITS = INTERPRETERS + """
import os, sys, threading, interp_guard
read, write = os.pipe()
sub = interpreters.create("legacy") if sys.version_info >= (3, 13) else interpreters.create(isolated=False)  # with threads
CODE = f"import sys; sys.path = {sys.path!r}" + '''
SCRIPT
'''.replace("WRITE", str(write))
threading.Thread(target=interpreters.run_string, args=(sub, CODE), daemon=True).start()
"""
IN_THE_VISIT = TIDIES[: TIDIES.index("START(f)")].replace("started.release()", 'os.write(WRITE, b"v")') + "f()\n"
STARTED = TIDIES.replace("START(f)", WAYS["_thread"]) + 'os.write(WRITE, b"v")\n'
for what, script in (("a visit by run_string", IN_THE_VISIT), ("a thread that was started in it", STARTED)):
    for how, end in (
        ("drained and destroyed", "interp_guard.drain(int(sub))\nassert os.read(read, 9) == b'x'\ninterpreters.destroy(sub)"),
        ("left for the end of main", "0"),
    ):
        code = VISITS.replace("SCRIPT", script) + "assert os.read(read, 1) == b'v'\n" + end
        for number in range(rounds // 4):
            status, out, err = run(code)
            # From 3.14 on CPython warns of interpreters that are left over, and ends them.
            said = re.sub("^.* RuntimeWarning: remaining subinterpreters.*\n", "", without_reports(err), flags=re.M)
            assert (status, said) == (0, ""), (what, how, number, status, out, err)
    print(f"record: {what}, tidies up after its guard, {rounds // 4} times drained and destroyed, and ends of main | status 0")

# Who stays is named while the end waits, and when it ceases to. From then on it is CPython's: up to 3.13 it ends the
# process.
STAYS = """
import threading, interp_guard
view = interp_guard.current()
lock, started = threading.Lock(), threading.Semaphore(0)
lock.acquire()
def stay():
    with view.guard():
        started.release()
    lock.acquire()
threading.Thread(target=stay, name="stays", daemon=True).start()
started.acquire()
"""
for then in ("report", "exit"):
    code = f"import ig_test\nig_test.host_script({STAYS!r}, 0)\nprint('went on')\n"
    status, out, err = run(code, INTERP_GUARD_DRAIN_TIMEOUT=f"0.9:{then}", INTERP_GUARD_LEDGER="1")
    said = "interpreter 1 cannot end yet: 1 thread that had a guard of interpreter 1 is still in it "
    assert re.search(re.escape(said) + r"\(\d+\.\d s\)", err), err
    assert re.search(r"\n  stays  \d+\.\d s  <string>:7\n", err), err
    over = re.search(r"interp_guard: the wait is over after (\d+\.\d) s", err)
    assert over and float(over[1]) >= 0.9, err
    if then == "exit":
        assert (status, out) == (1, "") and "the process ends with status 1" in err, (status, out, err)
    elif ABORTS:
        assert status == -6 and "not the last thread" in err and "Python goes on" in err, (status, out, err)
    else:
        assert (status, out) == (0, "went on\n") and "Python goes on" in err, (status, out, err)

# Without a deadline it waits for ten seconds.
status, out, err = run(f"import ig_test\nig_test.host_script({STAYS!r}, 0)\nprint('went on')\n")
on = re.search(r"interp_guard: Python goes on after (\d+)", err)
assert on and int(on[1]) >= 10 and err.count("cannot end yet: 1 thread") >= 3, err
assert (status, out) == ((-6, "") if ABORTS else (0, "went on\n")), (status, out, err)
print("ok")
