"""The same object, from many threads at once: without a GIL nothing keeps them apart but the package."""

import importlib.machinery
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time

import interp_guard

THREADS = 8
ROUNDS = 100_000 if os.environ.get("INTERP_GUARD_LONG") else 10_000

me = interp_guard.current()


def at_once(work, threads=THREADS):
    """``work(number)`` on so many threads, which begin together. What any of them raises is raised."""
    barrier, wrong = threading.Barrier(threads), []

    def run(number):
        barrier.wait()
        try:
            work(number)
        except BaseException as error:
            wrong.append(error)

    all_of_them = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in all_of_them:
        thread.start()
    for thread in all_of_them:
        thread.join()
    if wrong:
        raise wrong[0]


def in_step(make, work):
    """``work(made, number)`` on two threads, of ``ROUNDS`` things that are made before: none begins with the next one before the
    other has come so far."""
    made = [make() for _ in range(ROUNDS)]
    at = [0, 0]

    def run(number):
        try:
            for place, each in enumerate(made):
                at[number] = place
                looked = 0
                while at[1 - number] < place:
                    looked += 1
                    if looked > 200:
                        time.sleep(0)  # the other thread may have no processor, or need the GIL
                work(each, number)
        finally:
            at[number] = ROUNDS

    at_once(run, 2)


def out():
    return interp_guard.holders(me).outstanding


# A guard that both close is closed once.
def close(guard, number):
    guard.close()


in_step(lambda: interp_guard.lookup(me), close)
assert out() == 0, out()


# One that one of them closes and the other duplicates: what a duplicate guards is guarded, or it is refused.
def close_or_duplicate(guard, number):
    if number % 2:
        guard.close()
        return
    try:
        another = guard.duplicate()
    except ValueError:
        return
    assert out() >= 1
    another.close()


in_step(lambda: interp_guard.lookup(me), close_or_duplicate)
assert out() == 0, out()

# on_close, and what takes it back.
called = []
functions = [lambda number=number: called.append(number) for number in range(THREADS)]


def register_and_cancel(number):
    for _ in range(ROUNDS // 10):
        interp_guard.on_close(functions[number])
        assert interp_guard.cancel_on_close(functions[number])


at_once(register_and_cancel)
assert not interp_guard._on_close._calls


# Handlers: the first of all are installed at once, each is closed at once.
def handle(number):
    for _ in range(max(3, ROUNDS // 5000)):
        with interp_guard.on_signal(signal.SIGRTMIN + number, me, lambda: None) as handler:
            at_once(lambda _: (handler.counts, handler.close()), 2)
            assert handler.closed and handler.counts["full"] == 0


at_once(handle)
ran = threading.Event()
with interp_guard.on_signal(signal.SIGRTMIN, me, ran.set):
    os.kill(os.getpid(), signal.SIGRTMIN)
    assert ran.wait(60)

# An interpreter is registered once, by whichever thread executes the module: also by hand, which no lock of the import system's
# keeps apart. It is done by the package's own import as well, which the first of them begins.
by_hand = """
import importlib.machinery, importlib.util, sys, threading

folders = importlib.util.find_spec("interp_guard").submodule_search_locations
spec = importlib.machinery.PathFinder.find_spec("interp_guard._native", folders)
barrier, wrong = threading.Barrier(int(sys.argv[1])), []

def load():
    barrier.wait()
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except BaseException as error:
        wrong.append(error)

threads = [threading.Thread(target=load) for _ in range(barrier.parties)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not wrong, wrong
import interp_guard

held = interp_guard.lookup(interp_guard.current())
kept = {module.Refused for module in (interp_guard, interp_guard._native)}
assert len(kept) == 1
interp_guard.on_close(lambda: (held.close(), print("closed")))
"""
for threads in [1, THREADS] * (10 if os.environ.get("INTERP_GUARD_LONG") else 3):
    ended = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", by_hand, str(threads)], capture_output=True, text=True, timeout=600
    )
    assert (ended.returncode, ended.stdout) == (0, "closed\n"), (threads, ended)

# Callbacks that are registered and unregistered with atexit while the end waits, by all of them.
late = """
import atexit, sys, threading
import interp_guard

ran, lock = [], threading.Lock()

def stays(): ran.append("stays")
def goes(): ran.append("goes")

def work():
    for _ in range(100):
        atexit.register(stays)
        atexit.register(goes)
        atexit.unregister(goes)

def work_late(guard):
    with guard:
        barrier.wait()
        work()

barrier = threading.Barrier(9)
threads = [threading.Thread(target=work_late, args=(interp_guard.lookup(0),), daemon=True) for _ in range(8)]
for thread in threads:
    thread.start()
interp_guard.on_close(lambda: begin.set())
begin = threading.Event()
def go():
    begin.wait()
    barrier.wait()
threading.Thread(target=go, daemon=True).start()

def check():
    assert ran.count("stays") == 8 * 100 and ran.count("goes") == 0, (ran.count("stays"), ran.count("goes"))
    print("checked")

sys.modules["interp_guard._late"] if "interp_guard._late" in sys.modules else None
import interp_guard._late as late_module
before = late_module.take
def take():
    callback = before()
    if callback is None and len(ran) >= 8 * 100 and not hasattr(take, "done"):
        take.done = True
        check()
    return callback
late_module.take = take
"""
ended = subprocess.run([sys.executable, "-X", "faulthandler", "-c", late], capture_output=True, text=True, timeout=600)
assert (ended.returncode, ended.stdout) == (0, "checked\n"), ended

print("ok")
