"""The shield: an extension that knows nothing of this package, whose threads call Python until the process ends."""

import collections
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile

import interp_guard
import pool
from shared import INTERPRETERS

LONG = bool(os.environ.get("INTERP_GUARD_LONG"))
ENDS_THREADS = sys.version_info < (3, 14)  # later versions stop them
rounds = 200 if LONG else 4
folder = tempfile.mkdtemp()
# A shell starts background jobs with SIGINT ignored, and Python then leaves it so.
signal.signal(signal.SIGINT, signal.SIG_DFL)


def write(name, text):
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
    return path


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **environment},
    )


def run(*arguments, **environment):
    process = start(*arguments, **environment)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def shielded(program, *options, **environment):
    return run("-m", "interp_guard", "run", *options, write("program.py", program), **environment)


def prevented(err):
    """What the report says, without the rest of standard error: how many came late."""
    (line,) = re.findall(r"^interp_guard: the shield: (.*)$", err, re.M)
    late = re.match(r"(\d+) threads? called into Python while it was ending", line)
    return int(late[1]) if late else 0, line


# Four ways to call Python. Without the shield some process fails; with it none.
BAD = """
import sys, time, pool
def work():
    return sum(range(200))
pool.start(work, {way!r}, 8)
until = time.monotonic() + 120
while pool.calls() < 1000 and time.monotonic() < until:
    time.sleep(0.001)
assert pool.calls() >= 1000
"""
WAYS = {"g": "PyGILState_Ensure", "o": "states of its own", "s": "sections without the GIL", "a": "PyEval_AcquireThread"}
for way, what in WAYS.items():
    program = BAD.format(way=way)
    path = write("bad.py", program)
    ends = collections.Counter()
    for _ in range(rounds if LONG else 2):
        ends[run(path)[0]] += 1
    for _ in range(400 if way == "g" and ENDS_THREADS else 0):
        if sum(ends[status] for status in ends if status != 0) > 0:
            break
        ends[run(path)[0]] += 1
    failed, of = sum(times for status, times in ends.items() if status != 0), sum(ends.values())
    assert failed > 0 or way != "g" or not ENDS_THREADS, ends
    late = 0
    for number in range(rounds):
        status, out, err = shielded(program, "--report")
        assert (status, out) == (0, "") and err.count("\n") == 1, (way, number, status, out, err)
        late += prevented(err)[0]
    assert late > 0, (way, err)
    print(f"record: {what}, 8 threads until the process ends | without: {failed} of {of} fail; with the shield: 0 of {rounds}")
if ENDS_THREADS:
    assert f"without the shield CPython 3.{sys.version_info.minor} would have ended" in err, err
for wanted, message in (("1", ""), ("0", ""), ("yes", "must be 0 or 1")):
    status, out, err = run("-c", "import interp_guard.shield\nprint(interp_guard.shield.status()['installed'])",
                           INTERP_GUARD_SHIELD=wanted)
    assert (out == "" if message else out == f"{wanted == '1'}\n") and message in err and (status != 0) == bool(message), err
assert run("-c", "import interp_guard\n" + BAD.format(way="g"), INTERP_GUARD_SHIELD="1") == (0, "", "")

# A callback that never returns: the end comes after `grace`, and says who that is. One that returns is waited for.
STUCK = """
import threading, pool
inside, never = threading.Semaphore(0), threading.Event()
def stuck():
    inside.release()
    never.wait()
pool.call_once(stuck)
inside.acquire()
"""
status, out, err = shielded(STUCK, "--grace", "0.5", "--report")
assert (status, out) == (0, ""), (status, out, err)
said = re.search(r"interp_guard: Python ends, after (\d+\.\d) s, although 1 thread is still inside a call into it\n"
                 r"  \S.* \(\d+\)  \d+\.\d s  .*pool", err)
assert said and float(said[1]) >= 0.5, err
assert re.search(r"The end waited 0\.\d+ s for 1 thread that was inside a call into it, and went on although 1 thread is", err), err
status, out, err = shielded(
    "import threading, time, pool\ninside, ends = threading.Semaphore(0), threading.Event()\n"
    "def returns():\n    inside.release()\n    ends.wait()\n    print('returned', flush=True)\n"
    "pool.call_once(returns)\ninside.acquire()\n"
    "import atexit\natexit.register(ends.set)\n", "--grace", "120"
)
assert (status, out, err) == (0, "returned\n", ""), (status, out, err)
print("record: a callback that never returns, a grace of 0.5 s | reported, Python ends, status 0")

# One that sleeps without the GIL, inside its ensure: no wait.
SLEEPS = "import threading, time, pool\nwas = threading.Semaphore(0)\npool.sleeper(was.release)\nwas.acquire()\n"
for _ in range(10):
    status, out, err = shielded(SLEEPS, "--grace", "100", "--report")
    assert (status, out) == (0, ""), (status, out, err)
    waited = re.search(r"The end waited (\d+\.\d+) s", err)  # where it is on its way back from the call
    assert waited is None or float(waited[1]) < 50, err
    if waited is None:
        break
assert waited is None and prevented(err)[1] == "no thread called into Python while it was ending.", err
print("record: a thread that sleeps without the GIL inside its ensure | no wait")

# Threads of Python's own. A daemon comes back from C++ while Python is being taken apart; the others are joined before.
DAEMON = """
import os, threading, pool, interp_guard
from interp_guard import _native
read, write = os.pipe()
waiting = threading.Semaphore(0)
def wait():
    waiting.release()
    pool.wait_for_byte(read)
    print("came back", flush=True)
thread = threading.Thread(target=wait, daemon={daemon})
thread.start()
waiting.acquire()
class Late:
    def __del__(self, write=os.write, file=write, status=_native.shield_status, sleep=__import__("time").sleep):
        write(file, b"x")
        for _ in range(60_000 if {daemon} else 0):
            if status()[4] == 1:
                break
            sleep(0.001)
if {daemon}:
    import sys
    sys.kept = Late()  # goes with the module `sys`, in the end
else:
    os.write(write, b"x")
"""
status, out, err = shielded(DAEMON.format(daemon=True), "--report")
assert (status, out, prevented(err)[0]) == (0, "", 1), (status, out, err)
status, out, err = shielded(DAEMON.format(daemon=False), "--report")
assert (status, out, prevented(err)[0]) == (0, "came back\n", 0), (status, out, err)
# One that was in C++ when the shield came is a daemon as before: the end does not wait for it.
status, out, err = run("-c", """
import os, threading, pool, interp_guard
read, write = os.pipe()
waiting, back = threading.Semaphore(0), threading.Semaphore(0)
def wait():
    waiting.release()
    pool.wait_for_byte(read)
    back.release()
    threading.Event().wait()
threading.Thread(target=wait, daemon=True).start()
waiting.acquire()
syscall = f"/proc/self/task/{threading.enumerate()[1].native_id}/syscall"
while True:  # until it is in read(), if the kernel tells
    try:
        with open(syscall) as file:
            if file.read().split()[0] == "0":
                break
    except OSError:
        break
interp_guard.shield.install(100, report=True)
os.write(write, b"x")
assert back.acquire(timeout=100)
""")
assert (status, out) == (0, "") and "The end waited" not in err, (status, out, err)
print("record: threads of Python's own in C++ without the GIL | a daemon is parked, the others are joined")

# Ways to end.
WORKING = BAD.format(way="g")
for ending, expected in (
    ("sys.exit(3)", 3),
    ("raise ValueError('mine')", 1),
    ("import os; os._exit(4)", 4),
    ("import signal, os; os.kill(os.getpid(), signal.SIGTERM); time.sleep(100)", -signal.SIGTERM),
    ("pool.end_inside()", 0),
    ("raise KeyboardInterrupt", -signal.SIGINT),
):
    for _ in range(max(rounds // 4, 2)):
        status, out, err = shielded(WORKING + ending)
        assert (status, out) == (expected, "") and (status in (1, -2) or err == ""), (ending, status, out, err)
        assert status != 1 or err.endswith("\nValueError: mine\n"), err
print("record: sys.exit, an uncaught exception, os._exit, a signal, Ctrl-C, Py_FinalizeEx inside an ensure | as without")

# Ctrl-C while the end waits: it says for whom, and goes on.
PRESSED = """
import os, threading, time, pool, interp_guard.shield
inside = threading.Semaphore(0)
def stuck():
    inside.release()
    while not interp_guard.shield.status()["came_late"]:
        pool.call_once(int)
        time.sleep(0.001)
    os.write(1, b"waits\\n")
    while True:
        time.sleep(1)
pool.call_once(stuck)
inside.acquire()
"""
process = start("-m", "interp_guard", "run", "--grace", "200", write("pressed.py", PRESSED))
assert process.stdout.readline() == "waits\n"
process.send_signal(signal.SIGINT)
out, err = process.communicate(timeout=100)
assert process.returncode == 0 and "Python ends, interrupted after" in err, (process.returncode, out, err)
print("record: Ctrl-C while the end waits | reported, Python ends, status 0")

# A fork: both sides go on, and both end. The child has the calling thread alone, and may start others.
FORK = WORKING + """
import os
for number in range({forks}):
    child = os.fork()
    if child == 0:
        if number % 2:
            pool.start(work, "g", 4)
        break
    assert os.waitpid(child, 0)[1] == 0, number
before = pool.calls()
if child == 0 and sys.version_info >= (3, 15):
    os._exit(0)  # its end waits for what threads of the parent hold, without this package as well
"""
status, out, err = shielded(FORK.format(forks=20 if sys.version_info >= (3, 12) else 6))
err = re.sub(r"^.*DeprecationWarning: .*fork.*\n(?:  .*\n)?", "", err, flags=re.M)
assert (status, out, err) == (0, "", ""), (status, out, err)
# Inside a callback, on a native thread.
status, out, err = shielded("""
import os, threading, pool
done = threading.Semaphore(0)
def fork():
    child = os.fork()
    if child == 0:
        os._exit(5)
    assert os.waitpid(child, 0)[1] >> 8 == 5
    done.release()
pool.call_once(fork)
assert done.acquire(timeout=100)
""")
assert (status, out) == (0, ""), (status, out, err)
print("record: os.fork, in the main thread and in a callback | both sides go on and end")

# multiprocessing's children.
PROCESSES = """
import multiprocessing, sys, time, pool
def work():
    return sum(range(200))
def child(ends):
    import interp_guard
    pool.start(work, "g", 4)
    while pool.calls() < 100:
        time.sleep(0.001)
    ends.put(pool.calls())
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    pool.start(work, "g", 2)
    ends = context.Queue()
    children = [context.Process(target=child, args=(ends,)) for _ in range(3)]
    for process in children: process.start()
    for process in children: assert ends.get(timeout=200) >= 100
    for process in children: process.join()
    assert [process.exitcode for process in children] == [0, 0, 0], [process.exitcode for process in children]
    print("ended")
"""
path = write("processes.py", PROCESSES)
for method in ("spawn", "forkserver") + (("fork",) if sys.version_info >= (3, 12) else ()):
    status, out, err = run("-m", "interp_guard", "run", path, method, INTERP_GUARD_SHIELD="1")
    assert (status, out) == (0, "ended\n"), (method, status, out, err)
print("record: multiprocessing's children with such threads | end with status 0")

# Subinterpreters are left alone: they come and go, and call C without the GIL, while threads call the main one.
SUBS = INTERPRETERS + WORKING + """
CODE = '''
import select
for _ in range(10): select.select([], [], [], 0.0001)
{also}
'''
for number in range(5):
    sub = interpreters.create()
    failed = interpreters.run_string(sub, CODE.format(also=ALSO))
    assert not failed, failed
    interpreters.destroy(sub)
"""
REFUSES = "try:\n    import interp_guard\n    interp_guard.shield.install()\nexcept RuntimeError as error:\n    assert 'main' in str(error)\nelse:\n    raise AssertionError"
status, out, err = shielded(SUBS.replace("ALSO", repr("")))
assert (status, out, err) == (0, "", ""), (status, out, err)
alone = INTERPRETERS + f"sub = interpreters.create()\nfailed = interpreters.run_string(sub, {REFUSES!r})\n" \
                       "assert not failed, failed\ninterpreters.destroy(sub)\n"
status, out, err = shielded(alone)
assert (status, out, err) == (0, "", ""), (status, out, err)
print("record: subinterpreters under the shield | come and go; they cannot install it")

# Threads that somebody joins: in an atexit callback that runs after ours, and when the process exits.
JOINED = "import atexit, sys, pool\natexit.register(pool.join)\n" + """
import interp_guard.shield
interp_guard.shield.install(100, report=True)
def work():
    return sum(range(200))
pool.start_joined(work, 4)
"""
for _ in range(rounds):
    status, out, err = run("-c", JOINED)
    assert (status, out, prevented(err)[0]) == (0, "", 0), (status, out, err)
    status, out, err = run("-c", JOINED.replace("atexit.register(pool.join)", ""))
    assert (status, out) == (0, "joined\n"), (status, out, err)
print("record: a pool that is joined, by an earlier atexit callback and by a static destructor | no hang")

# A Python that is initialised anew is without a shield, until it asks for one.
AGAIN = """
import pool, threading, time
came = threading.Semaphore(0)
pool.call_once(came.release)
assert came.acquire(timeout=100)
import interp_guard
assert not SHIELD or interp_guard.shield.status()["came_late"] >= 0
interp_guard.shield.install(100)
pool.call_once(came.release)
assert came.acquire(timeout=100)
pool.start(int, "g", 4)
while pool.calls() < 100: time.sleep(0.001)
"""
# It does not find a virtual environment again.
search = [os.path.dirname(os.path.dirname(interp_guard.__file__)), *os.environ["PYTHONPATH"].split(os.pathsep)]
search = os.pathsep.join(os.path.abspath(path) for path in search)
for threads in ("", "pool.start(int, 'g', 2)\n"):
    first = "import pool\npool.begin_again(PROGRAM)\n" + ("" if not threads else "pool.call_once(int)\n")
    status, out, err = shielded(first.replace("PROGRAM", repr(AGAIN.replace("SHIELD", "True"))), PYTHONPATH=search)
    assert (status, out, err) == (0, "", ""), (status, out, err)
print("record: Python initialised a second time | passes without a shield, and can have one again")

# What is redirected, and put back; what is somebody else's already is left, and named.
TABLES = """
import sys, json, pool, interp_guard.shield as shield
first = pool.where()
assert first[0] == first[1] and not shield.status()["installed"] and shield.status()["objects"] == {{}}
{before}
for _ in range(3):
    shield.install(7)
    status = shield.status()
    assert status["installed"] and status["grace"] == 7.0
    (names,) = (names for path, names in status["objects"].items() if path.endswith("pool.so"))
    assert set(names) == set(status["functions"]) - {{"pthread_join", "pthread_exit", "dlsym", "PyThreadState_Delete"}}, names
    table, data = pool.where()
    assert table != first[0] and (data == table) == (not status["not_redirected"]), (first, table, data)
    assert ["dlsym", "pthread_exit"] in [sorted(names) for names in status["objects"].values()], status
    shield.uninstall()
    assert shield.status()["objects"] == {{}} and not shield.status()["installed"]
    assert pool.where()[0] == first[0]
print(json.dumps(status["not_redirected"]))
"""
status, out, err = run("-c", TABLES.format(before=""))
assert (status, json.loads(out or "0"), err) == (0, [], ""), (status, out, err)
status, out, err = run("-c", TABLES.format(before="pool.hook()"))
assert status == 0 and re.search(r"pool.so: PyGILState_Ensure leads to .*pool.so already", json.loads(out)[0]), (out, err)

# Objects of all kinds, loaded before and after; what dlsym finds is ours as well.
source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "extension", "pool.cpp")
KINDS = {
    "bound at once, tables read-only": ["-Wl,-z,now,-z,relro"],
    "bound lazily": ["-Wl,-z,lazy"],
    "bound lazily, no procedure linkage table": ["-fno-plt", "-Wl,-z,lazy"],
    "-Bsymbolic": ["-Wl,-Bsymbolic"],
    "stripped": ["-s", "-Wl,--build-id=none"],
    "no read-only tables": ["-Wl,-z,norelro"],
    "only the old hash table": ["-Wl,--hash-style=sysv"],
}
kinds = os.path.join(folder, "kinds")
os.mkdir(kinds)
for kind, options in KINDS.items():
    built = subprocess.run(
        ["c++", "-std=c++17", "-O2", "-shared", "-fPIC", "-pthread", "-isystem", sysconfig.get_path("include"), source,
         *options, "-o", os.path.join(kinds, "pool.so")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    assert built.returncode == 0, (kind, built.stdout)
    where = kinds + os.pathsep + search
    status, out, err = run("-c", TABLES.format(before=""), PYTHONPATH=where)
    assert (status, json.loads(out or "0"), err) == (0, [], ""), (kind, status, out, err)
    for flag in ("RTLD_LOCAL", "RTLD_GLOBAL"):
        begin = f"import sys, os\nsys.setdlopenflags(os.RTLD_NOW | os.{flag})\n"
        status, out, err = shielded(begin + WORKING, "--report", PYTHONPATH=where)
        assert (status, out) == (0, "") and err.count("\n") == 1, (kind, status, out, err)
print(f"record: objects {', '.join(KINDS)}; RTLD_LOCAL and RTLD_GLOBAL | all redirected, and put back")
POINTERS = """
import ctypes, os, time, pool, interp_guard.shield as shield
address = lambda function: ctypes.cast(function, ctypes.c_void_p).value
before = address(ctypes.CDLL(None).PyGILState_Ensure)
shield.install(100, report=True)
assert address(ctypes.CDLL(None).PyGILState_Ensure) == pool.where()[0] != before
assert address(ctypes.CDLL(None).dlsym) and address(ctypes.CDLL(None).getpid)
try:
    ctypes.CDLL("libm.so.6").PyGILState_Ensure
except AttributeError:
    pass
else:
    raise AssertionError
@ctypes.CFUNCTYPE(None)
def called():
    sum(range(100))
pool.start_pointer(address(called), 6)
while pool.calls() < 500: time.sleep(0.001)
"""
for _ in range(rounds):
    status, out, err = run("-c", POINTERS)
    assert (status, out) == (0, "") and prevented(err)[0] > 0 and err.count("\n") == 1, (status, out, err)
print(f"record: ctypes callbacks on native threads, and pointers by dlsym | with the shield: 0 of {rounds} fail")

# The program of docs/guide/shield.md.
guide = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "docs", "guide", "shield.md")
with open(guide, encoding="utf-8") as page:
    (shown,) = re.findall(r"^```python\n(.*?)^```$", page.read(), re.DOTALL | re.MULTILINE)
assert run("-c", shown) == (0, "True\n", ""), shown

# `run` runs a program as Python does: names, arguments, folders, modules, and what it says of a script that is not there.
SHOWS = """
import sys, __main__
print(__name__, sys.argv[1:], __main__.__dict__ is globals(), sys.path[0] == FOLDER, __file__ == sys.argv[0])
"""
shows = write("shown/shows.py", SHOWS.replace("FOLDER", repr(os.path.join(folder, "shown"))))
write("shown/__main__.py", SHOWS.replace("FOLDER", repr(os.path.join(folder, "shown"))))
expected = "__main__ ['--grace', '-m', 'x'] True True True\n"
begin = ("-m", "interp_guard", "run", "--grace=1")
for program in (shows, os.path.join(folder, "shown")):
    status, out, err = run(*begin, program, "--grace", "-m", "x")
    assert (status, err) == (0, "") and (out == expected or program != shows and out == expected.replace("True\n", "False\n")), out
    assert out.split("]")[1] == run(program, "--grace", "-m", "x")[1].split("]")[1], out
status, out, err = run(*begin, "-m", "json.tool", "--help")
assert status == 0 and "json" in out, (status, out, err)
status, out, err = run(*begin, "nothing.py")
assert status == 2 and "can't open file 'nothing.py': [Errno 2]" in err, err
for bad in ((), ("--grace", "-1", shows), ("--grace", "much", shows), ("--what", shows), ("-m",)):
    status, out, err = run("-m", "interp_guard", "run", *bad)
    assert (status, out) == (2, "") and "usage:" in err, (bad, status, out, err)
for bad, error in (("-1", ValueError), ("float('nan')", ValueError), ("'5'", TypeError), ("None", TypeError)):
    status, out, err = run("-c", f"import interp_guard\ninterp_guard.shield.install({bad})")
    assert status == 1 and error.__name__ in err, (bad, err)
status, out, err = run("-c", "import atexit, interp_guard\n@atexit.register\ndef late():\n    try:\n        interp_guard.shield"
                             ".install()\n    except RuntimeError as error:\n        print(error)")
assert (status, out, err) == (0, "Python ends: too late for a shield\n", ""), (status, out, err)
shutil.rmtree(folder)
print("ok")
