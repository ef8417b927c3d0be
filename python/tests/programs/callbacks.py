"""C function pointers from ``interp_guard.callback``: every way of passing arguments, refusals, closing, late calls;
under fire.

A refusal cannot be told from an answer by looking at Python: the native side checks what it gets.
"""

import atexit
import concurrent.futures
import ctypes
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from ctypes import CFUNCTYPE, POINTER, PYFUNCTYPE, Structure, c_bool, c_char, c_char_p, c_double, c_float, c_int, c_long
from ctypes import c_longdouble, c_short, c_ubyte, c_uint, c_ulong, c_ushort, c_byte, c_void_p, py_object

import cffi
import ig_test
import interp_guard

LONG = bool(os.environ.get("INTERP_GUARD_LONG"))
calls = ctypes.CDLL(os.path.join(os.path.dirname(ig_test.__file__), "calls.so"))
RIGHT, DEFAULT = 1, 2


class Pair(Structure):
    _fields_ = [("a", c_int), ("b", c_int)]


class Reals(Structure):
    _fields_ = [("a", c_double), ("b", c_float)]


class Mixed(Structure):
    _fields_ = [("a", c_long), ("b", c_double)]


class HalfTriple(Structure):
    _fields_ = [("a", c_float), ("b", c_float)]


class Triple(HalfTriple):  # the fields of both
    _fields_ = [("c", c_float)]


class Bytes(Structure):
    _fields_ = [("a", c_char), ("b", c_short * 3)]


class Large(Structure):
    _fields_ = [("a", c_long * 5)]


STRUCTS = """
typedef struct { int a, b; } pair; typedef struct { double a; float b; } reals;
typedef struct { long a; double b; } mixed; typedef struct { float a, b, c; } triple;
typedef struct { char a; short b[3]; } bytes; typedef struct { long a[5]; } large;
"""
ffi = cffi.FFI()
ffi.cdef(STRUCTS)


def small(*numbers):
    assert numbers == (-1, 255, -300, 65000, -70000, 4000000000, -5000000000, 9000000000000000000), numbers
    return -100


def reals(*numbers):
    assert numbers == tuple(n + 0.5 for n in range(10)), numbers
    return 8.5


def wide(a, b, c, d, e, f, g, long1, char, long2, last):
    numbers = (a, b, c, d, e, f, g, float(long1), char, float(long2), last)
    assert numbers == (0, 1, 2, 3, 4, 5, 6, 7.25, b"x", 9.125, 10.5), numbers
    return float(long1) + float(long2)


def structs(p, r, m, t, b, l, m2, p2, p3, m3):
    assert (p.a, p.b, r.a, r.b, m.a, m.b, t.a, t.b, t.c) == (1, -2, 3.5, 4.5, 5, 6.5, 7.5, 8.5, 9.5)
    assert (bytes(b.a) if isinstance(b.a, bytes) else b.a, list(b.b), list(l.a)) == (b"b", [1, 2, 3], [1, 2, 3, 4, 5])
    assert (m2.a, m2.b, p2.a, p2.b, p3.a, p3.b, m3.a, m3.b) == (11, 12.5, 13, 14, 15, 16, 17, 18.5)
    return 4711


def truth(number):
    assert number == 1
    return False


# By name of the call: the types for ctypes, None where ctypes has no such callbacks; for cffi; the function; the
# default.
SIGNATURES = {
    "small": (
        CFUNCTYPE(c_byte, c_byte, c_ubyte, c_short, c_ushort, c_int, c_uint, c_long, c_ulong),
        "signed char(*)(signed char, unsigned char, short, unsigned short, int, unsigned, long, unsigned long)",
        small,
        -7,
    ),
    "reals": (
        CFUNCTYPE(c_double, c_double, c_float, *[c_double] * 7, c_float),
        "double(*)(double, float, double, double, double, double, double, double, double, float)",
        reals,
        1.25,
    ),
    "wide": (
        CFUNCTYPE(c_longdouble, *[c_int] * 7, c_longdouble, c_char, c_longdouble, c_double),
        "long double(*)(int, int, int, int, int, int, int, long double, char, long double, double)",
        wide,
        1.5,
    ),
    "structs": (
        CFUNCTYPE(c_long, Pair, Reals, Mixed, Triple, Bytes, Large, Mixed, Pair, Pair, Mixed),
        "long(*)(pair, reals, mixed, triple, bytes, large, mixed, pair, pair, mixed)",
        structs,
        -7,
    ),
    "float": (CFUNCTYPE(c_float, c_void_p, c_float), "float(*)(void *, float)", lambda text, number: 2 * number, 1.25),
    "pointer": (CFUNCTYPE(c_void_p, c_void_p), "char *(*)(char *)", lambda text: text, None),
    "void": (CFUNCTYPE(None, c_int), "void(*)(int)", lambda number: None, 0),
    "bool": (CFUNCTYPE(c_bool, c_uint), "_Bool(*)(unsigned)", truth, True),
    "unsigned": (CFUNCTYPE(c_ulong, c_long), "unsigned long(*)(long)", lambda number: 2**64 + number, 5),
    "mixed": (None, "mixed(*)(int, double)", lambda a, b: (a, b), (-7, 1.25)),
    "triple": (None, "triple(*)(float)", lambda x: (x, 2 * x, 3 * x), (1.0, 2.0, 3.0)),
    "large": (
        None,
        "large(*)(int, int, int, int, int, int, int)",
        lambda *numbers: ([numbers[0], 0, 0, 0, numbers[6]],),
        ([-7, 0, 0, 0, -11],),
    ),
}


def call(name, callback):
    """On this thread, and on one of its own."""
    address = c_void_p(callback.address)
    assert interp_guard.holders(interp_guard.current()) == 0
    answer = calls.call(name.encode(), address)
    assert calls.call_on_thread(name.encode(), address) == answer
    assert interp_guard.holders(interp_guard.current()) == 0
    return answer


failures = []
sys.unraisablehook = lambda what: failures.append(what.exc_value)
passed = 0
for name, (prototype, cffi_type, function, default) in SIGNATURES.items():
    made = [interp_guard.callback(ffi.typeof(cffi_type), function, default)]
    made.append(interp_guard.callback(ffi.callback(cffi_type, function), default=default))
    if prototype is not None:
        made.append(interp_guard.callback(prototype, function, default))
        made.append(interp_guard.callback(prototype, default=default)(function))
        made.append(interp_guard.callback(prototype(function), default=default))
        assert isinstance(made[-1], prototype) and made[-1].pointer is made[-1]
        assert ctypes.cast(made[-1], c_void_p).value == made[-1].address
    for callback in made:
        assert isinstance(callback, interp_guard.Callback) and not callback.closed
        assert call(name, callback) == RIGHT, (name, callback, failures)
        callback.close()
        assert callback.closed and repr(callback).endswith("closed>")
        assert call(name, callback) == (DEFAULT if name != "void" else RIGHT), (name, callback)
        passed += 1
assert not failures, failures
print(f"record: callbacks of {len(SIGNATURES)} signatures by ctypes and cffi, open and closed | {passed} right")

# What it is of itself: a context manager; not kept by anybody but itself; called from Python, stored in a structure.
UNSIGNED = CFUNCTYPE(c_ulong, c_long)
with interp_guard.callback(UNSIGNED, lambda number: 9, default=5) as kept:
    address = kept.address
    del kept
    gc.collect()
    assert UNSIGNED(address)(1) == 9

    class Table(Structure):
        _fields_ = [("call", UNSIGNED)]

    table = Table(UNSIGNED(address))
    assert table.call(1) == 9
assert UNSIGNED(address)(1) == 5
address = interp_guard.callback(ffi.typeof("unsigned long(*)(long)"), lambda number: 9, default=5).address
gc.collect()
assert UNSIGNED(address)(1) == 9


# An exception goes where ctypes and cffi send it, and cffi's default is ours.
def raises(number):
    raise ValueError("on purpose")


assert call("unsigned", interp_guard.callback(UNSIGNED, raises, default=5)) == 0
assert len(failures) == 2 and all(str(failure) == "on purpose" for failure in failures), failures

# The error number is the callee's, and else the caller's.
calls.set_errno.argtypes = [c_int]
native = interp_guard.callback(ctypes.cast(calls.set_errno, CFUNCTYPE(None, c_int)))
assert call("errno", native) == 1
native.close()
assert call("errno", native) == 2

# Closed while calls are in it: they go on, what comes later gets the default, and the function goes when the last one
# is over.
inside, go_on = threading.Event(), threading.Event()


class Function:
    def __call__(self, number):
        inside.set()
        assert go_on.wait(60)
        gc.collect()
        return 2**64 + number


function = Function()
gone = weakref.ref(function)
callback = interp_guard.callback(UNSIGNED, function, default=5)
del function
assert calls.start_call(b"unsigned", c_void_p(callback.address)) == 0
assert inside.wait(60)
assert interp_guard.holders(interp_guard.current()) == 1
callback.close()
assert calls.call(b"unsigned", c_void_p(callback.address)) == DEFAULT and gone() is not None
go_on.set()
assert calls.wait_for_call() == RIGHT
gc.collect()
assert gone() is None and interp_guard.holders(interp_guard.current()) == 0


# One that closes itself.
def once(number):
    itself.close()
    gc.collect()
    return 2**64 + number


itself = interp_guard.callback(UNSIGNED, once, default=5)
assert calls.call_on_thread(b"unsigned", c_void_p(itself.address)) == RIGHT
assert call("unsigned", itself) == DEFAULT

# More than one page of them; each has its own address, for good, also when it is closed.
many = [interp_guard.callback(UNSIGNED, lambda number, n=n: n, default=100000 + n) for n in range(1000)]
assert len({callback.address for callback in many}) == 1000
for n, callback in enumerate(many):
    if n % 2:
        callback.close()
many += [interp_guard.callback(UNSIGNED, lambda number, n=n: n) for n in range(1000, 1100)]
assert len({callback.address for callback in many}) == 1100
assert [callback(1) for callback in many[:1000]] == [100000 + n if n % 2 else n for n in range(1000)]
for callback in many:
    callback.close()

# Attached, too: PYFUNCTYPE keeps the GIL.
held = PYFUNCTYPE(c_ulong, c_long)
assert held(interp_guard.callback(UNSIGNED, lambda number: 11, default=5).address)(1) == 11


def refuses(error, *arguments, **keywords):
    try:
        interp_guard.callback(*arguments, **keywords)
    except error as raised:
        assert str(raised)
    else:
        raise AssertionError((arguments, keywords))


class Union(ctypes.Union):
    _fields_ = [("a", c_int)]


refuses(TypeError, int)
refuses(TypeError, 5, lambda: 5)
refuses(TypeError, c_int, lambda: 5)
refuses(TypeError, ffi.typeof("int"), lambda: 5)
refuses(TypeError, ffi.new("int *"), lambda: 5)
refuses(TypeError, UNSIGNED, 5)
refuses(TypeError, UNSIGNED, lambda number: 5, "a default")
refuses(OverflowError, CFUNCTYPE(c_byte), lambda: 5, 300)
refuses(OverflowError, CFUNCTYPE(c_uint), lambda: 5, -1)
refuses(OverflowError, ffi.typeof("unsigned char(*)(void)"), lambda: 5, 300)
refuses(TypeError, CFUNCTYPE(None), lambda: None, 5)
refuses(TypeError, ffi.typeof("void(*)(void)"), lambda: None, 5)
refuses(TypeError, CFUNCTYPE(c_char_p), lambda: None, b"an object")
refuses(TypeError, ffi.typeof("char *(*)(void)"), lambda: None, ffi.new("char[]", b"an object"))
refuses(OverflowError, CFUNCTYPE(c_void_p), lambda: None, 2**64)
refuses(TypeError, CFUNCTYPE(py_object), lambda: None, None)
refuses(TypeError, ffi.typeof("int(*)(int, ...)"), lambda: 5)
refuses(TypeError, UNSIGNED(lambda number: 5), lambda number: 5)
refuses(ValueError, UNSIGNED(0))
refuses(ValueError, ffi.cast("int(*)(int)", 0))
refuses(TypeError, ctypes.CDLL(None).qsort)  # no argtypes
refuses(TypeError, CFUNCTYPE(c_int, *[Large] * 103), lambda *all: 5)
for wrong in (interp_guard.Callback, lambda: __import__("pickle").dumps(itself)):
    try:
        wrong()
    except TypeError:
        continue
    raise AssertionError(wrong)

# In a subinterpreter: its function runs there, on whichever thread; refused once that is closing, without touching it.
SUB = f"""
import ctypes, sys
sys.path[:] = {sys.path!r}
import interp_guard
UNSIGNED = ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_long)
here = interp_guard.current()
@interp_guard.callback(UNSIGNED, default=5)
def answer(number):
    return number if interp_guard.current() == here != 0 else 1
ctypes.c_ulong.from_address({{place}}).value = answer.address
"""
try:
    import _interpreters as interpreters

    create = lambda: interpreters.create("legacy")  # noqa: E731
except ImportError:
    import _xxsubinterpreters as interpreters

    create = (lambda: interpreters.create(isolated=False)) if sys.version_info >= (3, 10) else interpreters.create
place = c_ulong(0)
sub = create()
failed = interpreters.run_string(sub, SUB.format(place=ctypes.addressof(place)))
assert not failed, failed
of_sub = c_void_p(place.value)
assert calls.call_on_thread(b"unsigned", of_sub) == RIGHT
if sys.version_info >= (3, 12):
    assert calls.call(b"unsigned", of_sub) == RIGHT  # this thread is the main interpreter's
else:
    # PyGILState_Ensure inside would deadlock: refused, and said.
    assert calls.call(b"unsigned", of_sub) == DEFAULT
assert interp_guard.holders(int(sub)) == 0
interp_guard.drain(int(sub))
assert calls.call_on_thread(b"unsigned", of_sub) == DEFAULT
interpreters.destroy(sub)
assert calls.call_on_thread(b"unsigned", of_sub) == DEFAULT == calls.call(b"unsigned", of_sub)

# In a child of os.fork.
forked = interp_guard.callback(UNSIGNED, lambda number: 2**64 + number, default=5)
child = os.fork()
if child == 0:
    os._exit(calls.call_on_thread(b"unsigned", c_void_p(forked.address)))
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == RIGHT

COMMON = """
import atexit, ctypes, os, sys, time, threading
calls = ctypes.CDLL(CALLS)
calls.pool_answers.restype = ctypes.c_long
UNSIGNED = ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_long)
VOID = ctypes.CFUNCTYPE(None, ctypes.c_int)
def wait_for(answers):
    deadline = time.monotonic() + 60
    while calls.pool_answers() < answers:
        assert time.monotonic() < deadline
        time.sleep(0.0005)
"""


def run(program, status=0, **environment):
    program = COMMON.replace("CALLS", repr(calls._name)) + program
    process = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=120,
        text=True,
        env=dict(os.environ, **environment),
    )
    assert process.returncode == status, (program, process)
    return process


# atexit callbacks that come after ours still get their own callbacks' answers, on the thread on which Python ends:
# nothing is lost that worked without us. A destructor of native code, which calls when Python is gone, gets the
# default.
ended = run("""
def sort():
    values = (ctypes.c_int * 5)(5, 3, 9, 1, 2)
    ctypes.CDLL(None).qsort(values, 5, 4, compare)
    print(list(values))
atexit.register(sort)
import interp_guard
@interp_guard.callback
@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
def compare(a, b):
    return a[0] - b[0]
@interp_guard.callback
@VOID
def never(number):
    print("called at the very end")
calls.call_at_the_end(never)
""")
assert ended.stdout == "[1, 2, 3, 5, 9]\n" and ended.stderr == "", ended

# One that ends Python itself would wait for itself: told, as for an ensure.
ended = run(
    """
import interp_guard
@interp_guard.callback
@VOID
def end(number):
    ctypes.pythonapi.Py_Exit(0)
calls.call(b"void", ctypes.c_void_p(end.address))
print("went on")
""",
    status=1,
)
assert ended.stdout == "" and "would wait for itself" in ended.stderr, ended

# A child that is forked inside a callback has the thread that is in it, and can end.
ended = run("""
import interp_guard
@interp_guard.callback
@UNSIGNED
def fork(number):
    if os.fork() == 0:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(7)
    return os.wait()[1] >> 8
print(fork(1), interp_guard.holders(0).outstanding)
""")
assert ended.stdout == "7 0\n", ended

# With the ledger, what holds is the function's line.
ended = run(
    """
import interp_guard
inside, go_on = threading.Event(), threading.Event()
def hold(number):
    inside.set()
    go_on.wait(60)
    return number
callback = interp_guard.callback(UNSIGNED, hold)
calls.start_call(b"unsigned", ctypes.c_void_p(callback.address))
inside.wait(60)
print([holder.site for holder in interp_guard.holders(0)], hold.__code__.co_firstlineno)
go_on.set()
calls.wait_for_call()
""",
    INTERP_GUARD_LEDGER="1",
)
site, line = ended.stdout.rsplit(None, 1)
assert site == f"['<string>:{line}']", ended

# Where memory that becomes executable is forbidden, a file in memory does; where both are, an error says so.
forbidden = """
import interp_guard, resource
TARGET = UNSIGNED(ctypes.cast(calls.set_errno, ctypes.c_void_p).value)
if ctypes.CDLL(None, use_errno=True).prctl(65, 1, 0, 0, 0) != 0:  # PR_SET_MDWE, since Linux 6.3
    print("no MDWE")
    sys.exit()
"""
ended = run(forbidden + "print(interp_guard.callback(TARGET, default=5).address > 0)\n")
have_mdwe = ended.stdout != "no MDWE\n"
assert ended.stdout in ("True\n", "no MDWE\n"), ended
if have_mdwe:
    ended = run(
        forbidden
        + "first = interp_guard.callback(TARGET)\n"
        + "resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))\n"
        + "try:\n    for made in range(1000): interp_guard.callback(TARGET)\n"
        + "except OSError as error: print('told', made, error)\n"
    )
    assert ended.stdout.startswith("told 255 interp_guard.callback has no executable memory"), ended
print(f"record: memory that becomes executable forbidden (MDWE) | {'works' if have_mdwe else 'not on this kernel'}")

# Under fire: a pool calls back all the time, while callbacks are closed and made anew, and while Python ends.
FIRE = """
import interp_guard
echo = lambda: interp_guard.callback(UNSIGNED, lambda number: number, default=5)
open = [echo() for _ in range(8)]
calls.pool_start(open[0])
for round in range(ROUNDS):
    for number in range(8):
        calls.pool_exchange(number, echo_now := echo())
        open[number].close()
        open[number] = echo_now
wait_for(100)
"""


def fire(number):
    ended = run(FIRE.replace("ROUNDS", "3" if number % 2 else "0"))
    words = ended.stdout.split()
    assert words[:4] == ["threads", "8", "ended", "8"] and words[-4:] == ["defaults", "1", "wrong", "0"], ended
    assert ended.stderr == "", ended
    return int(words[5])


rounds = 200 if LONG else 12
with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as workers:
    answers = list(workers.map(fire, range(rounds)))
print(
    f"record: ctypes callbacks of 8 native threads while Python ends, by interp_guard.callback | {rounds} processes "
    f"ended with status 0; {8 * rounds} threads, all of them at their own end; {sum(answers)} answers, then defaults"
)
print("ok")
