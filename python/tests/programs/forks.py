"""Forks while four native threads are in and out of ensure: every child ends, whatever its parent's threads held."""

import atexit
import collections
import os
import signal
import subprocess
import sys
import time
import warnings

import interp_guard
import ig_test

warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later, about threads and fork: the very subject
long = bool(os.environ.get("INTERP_GUARD_LONG"))
# What they call keeps little: a child that ends frees all that it finds.
ig_test.start_pool(4, collections.deque(maxlen=100).append, 0)
deadline = time.monotonic() + 60
while ig_test.pool_calls() < 50:
    assert time.monotonic() < deadline

# os.fork: the child runs atexit and ends by sys.exit.
forks = 1000 if long else 20
with interp_guard.lookup(0) as mine:
    for number in range(forks):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # the child that hangs is killed, and noticed
            # The parent's guards protect nothing here; this one is the child's own.
            assert interp_guard.holders(0) == 0, interp_guard.holders(0)
            with interp_guard.lookup(0):
                assert interp_guard.holders(0) == 1
            mine.close()
            assert interp_guard.holders(0) == 0
            os.close(reader)
            atexit.register(os.write, writer, b"atexit")
            sys.exit(7)
        os.close(writer)
        with os.fdopen(reader, "rb") as told:
            assert told.read() == b"atexit", number
        _, status = os.waitpid(child, 0)
        assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 7, (number, status)
print(f"record: os.fork with 4 threads in ensure | {forks} children ran atexit and ended by sys.exit")

# Raw fork(2): our table works in the child, which ends by _exit.
forks = 200 if long else 10
ig_test.raw_forks(forks)
print(f"record: raw fork with 4 threads in ensure | {forks} children looked up, dropped, closed, drained and ended by _exit")


# os.fork inside an ensure: the level is the child's too.
def fork_inside():
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        status = 1
        try:
            ig_test.ensure_release()
            status = 0 if interp_guard.holders(0) == 1 else 2
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert status == 0, status


for _ in range(3):
    ig_test.call_in_native_thread(fork_inside)

# With the ledger, an inherited guard protects nothing either, also where its place has been given to one of the child's own.
PROGRAM = """
import os, signal, interp_guard
with interp_guard.lookup(0) as inherited:
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        own = interp_guard.lookup(0)
        try:
            inherited.duplicate()
            os._exit(1)
        except ValueError:
            os._exit(0 if interp_guard.holders(0) == 1 else 2)
    _, status = os.waitpid(child, 0)
assert status == 0, status
"""
subprocess.run([sys.executable, "-c", PROGRAM], env={**os.environ, "INTERP_GUARD_LEDGER": "1"}, check=True)
print("ok")
