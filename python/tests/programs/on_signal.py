"""on_signal: real signals run a callable in the interpreter that was asked for, main or sub, and never in another."""

import os
import signal
import subprocess
import sys
import threading
import time

import interp_guard
from shared import without_reports

try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

sys.path.insert(0, os.path.dirname(__file__))
reading, writing = os.pipe()
os.environ["TEST_PIPE"] = str(writing)
USR1, USR2 = signal.SIGUSR1, signal.SIGUSR2


def send(signum, times=1):
    for _ in range(times):
        os.kill(os.getpid(), signum)


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


# In the calling interpreter, on a thread of its own; what was installed before runs as well.
pythons, ran, threads = [], [], set()
signal.signal(USR1, lambda *_: pythons.append(1))
arrived = threading.Semaphore(0)


def here():
    ran.append(interp_guard.current())
    threads.add(threading.get_ident())
    arrived.release()


handler = interp_guard.on_signal(USR1, interp_guard.current(), here)
assert handler.signum == USR1 and handler.view == interp_guard.main() and not handler.closed
for number in range(20):
    send(USR1)
    assert arrived.acquire(timeout=60)
assert ran == [0] * 20 and handler.counts["left"] == 20, (ran, handler.counts)
assert threading.get_ident() not in threads
until(lambda: len(pythons) >= 1)

# An exception goes to sys.unraisablehook, and the worker goes on.
caught = []
sys.unraisablehook = lambda args: (caught.append((args.exc_type, args.object)), arrived.release())


def raises():
    raise ZeroDivisionError


with interp_guard.on_signal(USR2, 0, raises) as second:
    for number in range(2):
        send(USR2)
        assert arrived.acquire(timeout=60)
    assert caught == [(ZeroDivisionError, raises)] * 2, caught
assert second.closed and second.counts["left"] == 2
send(USR2)  # ignored now: its default action, which would end the process, does not come back
sys.unraisablehook = sys.__unraisablehook__

# Another interpreter: by name, and in that one.
views = []
for own_gil in (False, True) if sys.version_info >= (3, 12) else (False,):
    if sys.version_info >= (3, 13):
        sub = interpreters.create("isolated" if own_gil else "legacy")
    elif sys.version_info >= (3, 12):
        sub = interpreters.create(isolated=own_gil)
    else:
        sub = interpreters.create()
    assert not interpreters.run_string(sub, f"import sys\nsys.path = {sys.path!r}\nimport interp_guard")
    import called_elsewhere

    for function in (called_elsewhere.write_current, "called_elsewhere:write_current"):
        with interp_guard.on_signal(USR2, int(sub), function) as third:
            send(USR2)
            assert os.read(reading, 100) == b"%d\n" % int(sub)
    for bad, error in (
        (lambda: 0, ValueError),
        (here, ValueError),  # of __main__
        ("called_elsewhere:nothing", ValueError),
        ("called_elsewhere:not_callable", ValueError),
        ("no colon", ValueError),
    ):
        try:
            interp_guard.on_signal(USR2, int(sub), bad)
        except error:
            continue
        raise AssertionError(bad)
    # A handler for an interpreter that is closing or gone runs nothing, and counts.
    fourth = interp_guard.on_signal(USR2, int(sub), "called_elsewhere:write_current")
    guard = interp_guard.lookup(int(sub))
    try:
        interp_guard.drain(int(sub), timeout=0.01)
    except TimeoutError:
        pass
    send(USR2)
    until(lambda: fourth.counts["finalizing"] == 1)
    guard.close()
    interp_guard.drain(int(sub))
    send(USR2)
    until(lambda: fourth.counts["not_found"] == 1)
    assert fourth.counts == {"left": 0, "full": 0, "finalizing": 1, "not_found": 1}, fourth.counts
    fourth.close()
    interpreters.destroy(sub)
    try:
        interp_guard.on_signal(USR2, int(sub), "called_elsewhere:write_current")
    except interp_guard.InterpreterNotFound:
        pass
    else:
        raise AssertionError("a handler for an interpreter that is gone")

# What cannot be handled is refused; so is what cannot be called.
for arguments, error in (
    ((signal.SIGKILL, 0, here), ValueError),
    ((signal.SIGSEGV, 0, here), ValueError),
    ((12345, 0, here), ValueError),
    ((USR2, 0, 7), TypeError),
    ((None, 0, print), TypeError),
    (("10", 0, print), TypeError),
    ((USR2, 2**63, print), interp_guard.InterpreterNotFound),
):
    try:
        interp_guard.on_signal(*arguments)
    except error:
        continue
    raise AssertionError(arguments)

# A later on_signal is on top again, whoever replaced the first meanwhile.
pythons_later = []
signal.signal(USR1, lambda *_: pythons_later.append(1))
with interp_guard.on_signal(USR1, 0, arrived.release):
    send(USR1)
    assert arrived.acquire(timeout=60)
    until(lambda: pythons_later)  # Python was in the chain from the beginning
handler.close()
handler.close()
assert not interp_guard._signals._calls and not interp_guard.SignalHandler._open

# In a child of os.fork there is a worker too, and no descriptor of its parent's.
if hasattr(os, "fork"):
    with interp_guard.on_signal(USR1, 0, arrived.release):
        descriptors = len(os.listdir("/proc/self/fd"))
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            send(USR1)
            heard = arrived.acquire(timeout=50)
            os._exit(0 if heard and len(os.listdir("/proc/self/fd")) == descriptors else 1)
        assert os.waitpid(child, 0)[1] == 0

# Signals until after the end: each call that was left is run before the interpreter ends, and none of them kills the process,
# although CPython takes its handler away.
program = """
import functools, interp_guard, os, signal, sys, time
from interp_guard import _native
if PYTHON: signal.signal(signal.SIGUSR1, lambda *_: None)
ran = []
handler = interp_guard.on_signal(signal.SIGUSR1, 0, lambda: (time.sleep(0.001), ran.append(1)))
class Late:
    def __init__(self):
        self.kill = functools.partial(os.kill, os.getpid(), signal.SIGUSR1)
        self.counts, self.ran = functools.partial(_native.counts, handler._installed), ran
        self.write = sys.__stdout__.write
    def __del__(self):
        self.kill()
        self.write(f"late: {len(self.ran) == self.counts()[0] >= 2}\\n")
sys.late = Late()
for _ in range(50): os.kill(os.getpid(), signal.SIGUSR1); time.sleep(0.0005)
"""
for pythons_too in (True, False):
    ended = subprocess.run(
        [sys.executable, "-c", program.replace("PYTHON", str(pythons_too))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=60,
        text=True,
    )
    # The signals that came too late were counted as such, or, with Python's handler gone, ignored.
    assert (ended.returncode, ended.stdout) == (0, "late: True\n"), (pythons_too, ended)
    assert without_reports(ended.stderr) == "", (pythons_too, ended)
print("ok")
