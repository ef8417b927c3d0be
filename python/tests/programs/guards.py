"""Guards and views from Python: coexisting, outliving, closing, leaking."""

import copy
import gc
import pickle
import signal
import sys
import threading
import time
import warnings

import interp_guard

finalizing = getattr(__builtins__, "PythonFinalizationError", RuntimeError)
main = interp_guard.main()

# Two guards coexist; each is closed for itself, and closing again does nothing.
first, second = main.guard(), interp_guard.lookup(int(main))
assert first and second and interp_guard.holders(main) == 2
first.close()
first.close()
assert first.closed and not second.closed and interp_guard.holders(main) == 1
with second.duplicate() as third:
    second.close()
    assert interp_guard.holders(main) == 1 and third.view() == main
assert interp_guard.holders(main) == 0
for use in (first.duplicate, first.__enter__):
    try:
        use()
    except ValueError:
        continue
    raise AssertionError("a closed guard was used")

# It cannot be copied: a copy would keep nothing alive.
for copied in (copy.copy, copy.deepcopy, pickle.dumps):
    with main.guard() as guard:
        try:
            copied(guard)
        except TypeError:
            continue
    raise AssertionError(f"{copied} went through")
assert interp_guard.holders(main) == 0

# A view is true, also that of interpreter 0; an ID is an integer, and none that is too large is known.
assert main and interp_guard.View(0)
for ask in (interp_guard.lookup, interp_guard.holders, interp_guard.drain):
    for id, wrong in (
        (-1, interp_guard.InterpreterNotFound),
        (2**62, interp_guard.InterpreterNotFound),
        (2**63, interp_guard.InterpreterNotFound),
        (-(2**70), interp_guard.InterpreterNotFound),
        ("main", TypeError),
        ("0", TypeError),
        (0.9, TypeError),
        (None, TypeError),
    ):
        try:
            ask(id)
        except wrong:
            continue
        raise AssertionError(f"{ask} took {id!r}")
for timeout in (float("inf"), 1e300, -1e300):
    try:
        interp_guard.drain(12345, timeout)
    except interp_guard.InterpreterNotFound:
        continue
    raise AssertionError("there is no such interpreter")

# A forgotten guard closes itself, and says so.
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    interp_guard.lookup(main)
    gc.collect()
assert [warning.category for warning in caught] == [ResourceWarning], caught
assert interp_guard.holders(main) == 0

# An exception that a signal handler raises, wherever it strikes, loses no guard.
def interrupt(*_):
    raise InterruptedError


signal.signal(signal.SIGALRM, interrupt)
kept, interrupted = main.guard(), 0
unraisable, sys.unraisablehook = sys.unraisablehook, lambda _: None  # where it strikes a finalizer
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what is cut off closes itself, and says so
    while interrupted < 1000:
        try:
            signal.setitimer(signal.ITIMER_REAL, 20e-6)
            for _ in range(1000):
                interp_guard.lookup(main).close()
                with kept.duplicate():
                    pass
            signal.setitimer(signal.ITIMER_REAL, 0)
            time.monotonic()  # or it strikes here
        except InterruptedError:
            interrupted += 1
signal.signal(signal.SIGALRM, signal.SIG_DFL)
sys.unraisablehook = unraisable
gc.collect()
assert interp_guard.holders(main) == 1, interp_guard.holders(main)
kept.close()

# A view outlives its interpreter; drain waits for a guard, names the number, and can be repeated.
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

sub = interpreters.create()
assert not interpreters.run_string(sub, "import interp_guard")
view = interp_guard.View(int(sub))
guard = view.guard()
try:
    interp_guard.drain(view, timeout=0.05)
except TimeoutError as late:
    assert "1 guard is out" in str(late), late
else:
    raise AssertionError("drained with a guard out")
try:
    view.guard()
except finalizing:
    pass
else:
    raise AssertionError("a closing interpreter gave out a guard")
with guard.duplicate():  # the holder's own guard holds the interpreter already
    assert interp_guard.holders(view) == 2

closer = threading.Timer(0.2, guard.close)
began = time.monotonic()
closer.start()
interp_guard.drain(view)
assert time.monotonic() - began >= 0.1
closer.join()
interpreters.destroy(sub)
try:
    view.guard()
except interp_guard.InterpreterNotFound:
    pass
else:
    raise AssertionError("a view of a finalized interpreter gave a guard")

assert sys.getsizeof(view) <= 64
print("ok")
