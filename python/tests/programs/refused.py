"""Refused: one class for every refusal, from Python and from C, on every version; and a thread that is refused ends in silence."""

import builtins
import pickle
import subprocess
import sys

import ig_test
import ig_test_v1
import interp_guard
from shared import without_reports

# What each refusal was before, it still is.
finalization_error = getattr(builtins, "PythonFinalizationError", RuntimeError)
Refused, Finalizing, NotFound = interp_guard.Refused, interp_guard.InterpreterFinalizing, interp_guard.InterpreterNotFound
assert Finalizing.__mro__[1:3] == (Refused, finalization_error) and issubclass(Finalizing, RuntimeError)
assert NotFound.__mro__[1:3] == (Refused, LookupError) and Refused.__mro__[1] is Exception
assert not issubclass(Finalizing, LookupError) and not issubclass(NotFound, RuntimeError)
for kind in (Refused, Finalizing, NotFound):
    assert kind.__module__ == "interp_guard" and kind.__doc__, kind
    assert type(pickle.loads(pickle.dumps(kind("why")))) is kind


def refusal(call, *arguments):
    try:
        call(*arguments)
    except Refused as refused:
        return type(refused)
    raise AssertionError(f"{call} was not refused")


for ask in (interp_guard.lookup, interp_guard.holders, interp_guard.drain, interp_guard.View(77).guard):
    assert refusal(ask, *([] if ask.__name__ == "guard" else [77])) is NotFound, ask
assert refusal(interp_guard.on_signal, 10, 77, print) is NotFound

# In a subinterpreter, while it closes and when it is gone, by every way in. `finalizing` is the class that C code has
# as well.
IN_SUB = """
import builtins, sys
import interp_guard, ig_test, ig_test_v1
asks = (interp_guard.current().guard, lambda: interp_guard.lookup(interp_guard.current()), ig_test.from_current, ig_test_v1.hold)
def refusals():
    said = []
    for ask in asks:
        try:
            guard = ask()
            if guard: guard.close()
        except interp_guard.Refused as refused:
            said.append(type(refused).__name__)
    return said
"""
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
sub = interpreters.create()


def in_sub(code):
    failed = interpreters.run_string(sub, code)
    assert not failed, failed


in_sub(f"import sys\nsys.path = {sys.path!r}")
in_sub(IN_SUB + "assert refusals() == []")
guard = interp_guard.lookup(int(sub))
try:
    interp_guard.drain(int(sub), timeout=0)
except TimeoutError:
    pass
in_sub("assert refusals() == ['InterpreterFinalizing'] * 4, refusals()")
assert refusal(interp_guard.lookup, int(sub)) is Finalizing
guard.close()
interp_guard.drain(int(sub))
in_sub("assert refusals() == ['InterpreterNotFound'] * 2 + ['InterpreterFinalizing'] * 2, refusals()")
interpreters.destroy(sub)


def run(code):
    ended = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120, text=True
    )
    return ended.returncode, ended.stdout, without_reports(ended.stderr)


# While modules are torn down, when nothing can be imported any more.
LATE = """
import sys, builtins, ig_test, ig_test_v1, interp_guard
class Late:
    def __init__(self):
        self.asks = [ig_test.from_current, ig_test_v1.hold, interp_guard.current().guard, interp_guard.main().guard]
        self.write = sys.__stdout__.write
        self.kinds = (interp_guard.Refused, getattr(builtins, "PythonFinalizationError", RuntimeError))
    def __del__(self):
        for ask in self.asks:
            try:
                ask()
            except BaseException as error:
                self.write(f"{type(error).__name__} {all(isinstance(error, kind) for kind in self.kinds)}\\n")
sys.late = Late()
"""
status, out, err = run(LATE)
lines = out.splitlines()
assert (status, err) == (0, "") and lines[:2] == ["InterpreterFinalizing True"] * 2, (status, out, err)
assert all(line.split()[0] in ("InterpreterFinalizing", "InterpreterNotFound") for line in lines[2:]), lines
assert len(lines) == 4, lines
print("record: a guard of the current interpreter in module teardown |", lines[0].split()[0])

# A thread that catches Refused ends well, whichever it is told.
CATCHES = """
import _thread, time, interp_guard
view = interp_guard.current()
def f():
    while True:
        try:
            guard = view.guard()
        except interp_guard.Refused:
            return
        with guard:
            if started.locked(): started.release()
            time.sleep(0)  # gives the GIL away: 3.12 does not ask a busy thread of another interpreter for it
started = _thread.allocate_lock()
started.acquire()
_thread.start_new_thread(f, ())
started.acquire()
"""
# One that does not, says nothing, whether threading or _thread started it; what is an error for other reasons is
# printed.
CATCHES_NOT = """
import _thread, threading, time, ig_test, interp_guard
view = interp_guard.current()
started = threading.Semaphore(0)
def f(ask=view.guard):
    with view.guard():
        started.release()
    while True:
        with view.guard():
            time.sleep(0)
def in_c():
    with view.guard():
        started.release()
    while True:
        ig_test.from_current()
        time.sleep(0)
threading.Thread(target=f, daemon=True).start()
threading.Thread(target=in_c, daemon=True).start()
_thread.start_new_thread(f, ())
for _ in range(3): started.acquire()
"""
rounds = 20
code = f"import ig_test\nfor _ in range({rounds}): assert ig_test.host_script({{!r}}, 0) == (0, 0)\n"
for what, script in (("catches Refused", CATCHES), ("catches nothing", CATCHES_NOT)):
    status, out, err = run(code.format(script))
    assert (status, out, err) == (0, "", ""), (what, status, out, err)
    status, out, err = run(script)
    assert (status, out, err) == (0, "", ""), (what, status, out, err)
    print(f"record: a thread that {what}, {rounds} closed subinterpreters and the end | nothing is printed, status 0")

OTHERWISE = """
import threading, time, interp_guard
view = interp_guard.current()
def another(): interp_guard.lookup(77)
def chained():
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        view.guard().close(); view.guard()
def wrapped():
    try:
        view.guard()
    except interp_guard.Refused as refused:
        raise OSError("wrapped") from refused
def after(f):
    with view.guard():  # closed before the hook is called: the end of a subinterpreter waits for the thread besides
        started.release()
        while True:
            try: view.guard().close(); time.sleep(0)
            except interp_guard.Refused: break
        f()
started = threading.Semaphore(0)
threading.Thread(target=after, args=(THIS,), daemon=True).start()
started.acquire()
"""
for this, printed in (("another", "no interpreter 77"), ("chained", "ZeroDivisionError\n"), ("wrapped", "OSError: wrapped")):
    status, out, err = run(f"import ig_test\nig_test.host_script({OTHERWISE.replace('THIS', this)!r}, 0)")
    assert status == 0 and "Traceback" in err and printed in err, (this, status, err)

# A hook that the program has set is still called for all others, and so is one that is set later.
HOOKS = """
import threading, time, interp_guard
def hook(args): print("hook", args.exc_type.__name__, flush=True)
threading.excepthook = hook
view, started = interp_guard.current(), threading.Semaphore(0)
def refused(then):
    with view.guard():
        started.release()
        while True:
            try: view.guard().close(); time.sleep(0)
            except interp_guard.Refused: break
        then()
threading.Thread(target=refused, args=(lambda: 1 / 0,), daemon=True).start()
threading.Thread(target=refused, args=(view.guard,), daemon=True).start()
for _ in range(2): started.acquire()
"""
status, out, err = run(f"import ig_test\nig_test.host_script({HOOKS!r}, 0)")
assert (status, out, err) == (0, "hook ZeroDivisionError\n", ""), (status, out, err)

# Before the end a refusal is an error like any other.
status, out, err = run("import interp_guard, threading\nt = threading.Thread(target=interp_guard.lookup, args=(77,), daemon=True)\nt.start()\nt.join()")
assert status == 0 and "no interpreter 77" in err, (status, err)
status, out, err = run("import interp_guard\ninterp_guard.lookup(77)")
assert status == 1 and "InterpreterNotFound: no interpreter 77" in err, (status, err)
print("ok")
