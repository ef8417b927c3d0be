"""While the end waits, guarded work asks the standard library for what it has ended already: what can be run is run."""

import subprocess
import sys

from shared import INTERPRETERS, UNTIL_CLOSING, without_reports

# `body` runs on a thread with a guard, when the hook of the interpreter waits. In a subinterpreter, where such a thread cannot be a
# daemon, it runs in the hook itself.
BEGIN = UNTIL_CLOSING + """
import atexit, sys, threading

def say(what):
    sys.stdout.write(what + "\\n")
    sys.stdout.flush()

def ask():
    try:
        body()
    except BaseException as raised:
        say(f"raised {type(raised).__name__}: {raised}")

def run(guard):
    with guard:
        until_closing(interp_guard.current())
        ask()

def start():
    if interp_guard.current() != interp_guard.main():
        return interp_guard.on_close(ask)
    threading.Thread(target=run, args=(interp_guard.lookup(interp_guard.current()),), daemon=True, name="guarded").start()
"""
IN_SUB = INTERPRETERS + """
sub = interpreters.create()
failed = interpreters.run_string(sub, CODE)
assert not failed, failed
interpreters.destroy(sub)
"""


def run(code, *options):
    ended = subprocess.run(
        [sys.executable, "-X", "faulthandler", *options, "-c", code],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120,
    )
    assert ended.returncode == 0, ended
    return ended.stdout.splitlines(), without_reports(ended.stderr)


def run_both(code, threads=False):
    """In the main interpreter, and in a subinterpreter, unless it has threads: up to 3.12 CPython ends some before their states are
    gone, or lets nobody have any."""
    found = run(BEGIN + code)
    return [found] if threads and sys.version_info < (3, 13) else [found, run(IN_SUB.replace("CODE", repr(BEGIN + code)))]


# Callbacks for atexit: the latest first, also such as a callback registers; unregistered ones not.
CALLBACKS = """
atexit.register(say, "from before")
def body():
    atexit.register(say, "first")
    def nested():
        atexit.register(say, "nested")
        say("second")
    atexit.register(nested)
    gone = lambda: say("gone")
    atexit.register(gone)
    atexit.unregister(gone)
    assert atexit.register(say, what="third") is say
    atexit.register(lambda: 1 / 0)
start()
"""
for said, err in run_both(CALLBACKS):
    assert said == ["from before", "third", "second", "nested", "first"], (said, err)
    assert err.count("ZeroDivisionError") == 1 and "interp_guard" not in err, err
print("record: atexit.register while the end waits | called, the latest first")

# By a reference from before it cannot be, and that is said.
said, err = run(BEGIN + "register = atexit.register\ndef body():\n    register(say, 'kept')\nstart()\n")
assert "1 callbacks that were registered with atexit" in err and said == [], (said, err)

# A thread that is no daemon: joined, and what it asks for too. 3.12 lets nobody start one.
THREAD = """
def body():
    def work():
        while any(thread.name == "guarded" for thread in threading.enumerate()):
            time.sleep(0.001)
        atexit.register(say, "callback")
        say("worked")
    threading.Thread(target=work, daemon=False).start()
start()
"""
for said, err in run_both(THREAD, threads=True):
    if sys.version_info[:2] == (3, 12):
        assert said == ["raised RuntimeError: can't create new thread at interpreter shutdown"], (said, err)
    else:
        assert said == ["worked", "callback"] and err == "", (said, err)
print(f"record: a new thread, no daemon, while the end waits | {said[0]}")

# Executors have ended, on every version, and say so to whoever asks.
for ask in (
    "from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(1)\npool.submit(int).result()\n"
    "def body():\n    pool.submit(int).result()\nstart()\n",
    "import asyncio, concurrent.futures.thread\ndef body():\n    async def main():\n"
    "        await asyncio.get_running_loop().run_in_executor(None, int)\n    asyncio.run(main())\nstart()\n",
):
    for said, err in run_both(ask, threads=True):
        assert len(said) == 1 and said[0].startswith("raised RuntimeError: can"), (said, err)
        assert "schedule new futures after" in said[0] or "create new thread at interpreter shutdown" in said[0], said
print("record: ThreadPoolExecutor, asyncio.to_thread while the end waits |", said[0])

# Pending calls are run while it waits, since guarded work may wait for one; and those left at the last.
PENDING = """
import ctypes
CALL = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
def add(function):
    call = CALL(function)
    kept.append(call)
    assert ctypes.pythonapi.Py_AddPendingCall(call, None) == 0
kept = []
done = threading.Event()
def pending(_):
    say("pending")
    done.set()
    return 0
def last(_):
    say("last")
    add(lambda _: say("chained") or 0)
    return 0
def body():
    add(pending)
    assert done.wait(60)
    add(last)
start()
"""
said, err = run(BEGIN + PENDING)
assert said == ["pending", "last", "chained"] and err == "", (said, err)

# So in drain(), which waits in the same thread.
DRAIN = BEGIN + PENDING.replace("start()\n", "") + INTERPRETERS + """
sub = interpreters.create()
assert not interpreters.run_string(sub, "import interp_guard")
guard = interp_guard.lookup(int(sub))
def release():
    with guard:
        add(pending)
        assert done.wait(60)
threading.Thread(target=release).start()
interp_guard.drain(int(sub), 60)
interpreters.destroy(sub)
"""
said, err = run(DRAIN)
assert said == ["pending"] and err == "", (said, err)
print("record: Py_AddPendingCall while the end waits | called")
print("ok")
