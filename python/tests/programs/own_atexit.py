"""A program that runs or clears the atexit callbacks itself, and goes on: main stays known, guarded work is waited for, and it is
said what happened. At the end the hook runs as ever."""

import os
import sys

from shared import INTERPRETERS, run_program

# Guarded work that is done only when somebody has begun to wait for it: `closing` and `waiting` tell.
BEGIN = """
import atexit, os, sys, threading, time
import interp_guard
refusals = (RuntimeError, LookupError)

def say(what):
    sys.stdout.write(what + "\\n")
    sys.stdout.flush()

def work(until):
    guard = interp_guard.lookup(0)
    def run():
        with guard:
            until()
            say("delivered")
    threading.Thread(target=run, daemon=True).start()

def closing():
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            interp_guard.lookup(0).close()
        except refusals:
            return
        time.sleep(0.001)

waiting = threading.Event()
@interp_guard.on_close
def tell():
    waiting.set()
"""
RAN, CLEARED = "ran the atexit callbacks itself", "cleared the atexit callbacks"


def run(code, status=0):
    out, err = run_program(BEGIN + code, status=status)
    return out.split(), err


# Run, and then on: what was out is waited for, main is live, and its end waits again.
said, err = run("""
work(waiting.wait)
atexit._run_exitfuncs()
say("ran")
with interp_guard.lookup(0):
    say("live")
work(closing)
""")
assert said == ["delivered", "ran", "live", "delivered"] and err.count(RAN) == 1 == err.count("\n"), (said, err)
print("record: atexit._run_exitfuncs(), and then on | delivered both times, main stays live, and it is said")

# Twice, and again.
said, err = run("for _ in range(3): atexit._run_exitfuncs()\nwork(closing)\n")
assert said == ["delivered"] and err.count(RAN) == 3, (said, err)

# Run, and then out without any end.
said, err = run("work(waiting.wait)\natexit._run_exitfuncs()\nos._exit(7)\n", 7)
assert said == ["delivered"] and err.count("\n") <= 1, (said, err)  # it may be said before os._exit

# Run by a callback at the end: that is the end, and the callbacks from before the package too.
said, err = run("""
def once(ran=[]):
    if not ran:
        ran.append(1)
        atexit._run_exitfuncs()
atexit.register(once)
work(closing)
""")
assert said == ["delivered"] and "Traceback" not in err, (said, err)

# Cleared, by the main thread and by another one; once and twice.
for clear in ("atexit._clear()", "atexit._clear(); atexit._clear()", "t = threading.Thread(target=atexit._clear); t.start(); t.join()"):
    said, err = run(f"{clear}\nwork(closing)\n")
    assert said == ["delivered"] and 1 <= err.count(CLEARED) == err.count("\n") <= 2, (clear, said, err)
print("record: atexit._clear(), and then on | delivered at the end, and it is said")

# Cleared by a callback at the end.
said, err = run("atexit.register(atexit._clear)\nwork(closing)\n")
assert said == ["delivered"], (said, err)
# From 3.14 on CPython calls callbacks by a copy of its list, and the hook all the same.
assert err == "" if sys.version_info >= (3, 14) else "is closed here instead" in err, err

# The program's own callbacks are called as well.
said, err = run("atexit.register(say, 'called')\natexit._run_exitfuncs()\nsay('on')\n")
assert said == ["called", "on"] and err.count(RAN) == 1, (said, err)

# In a subinterpreter: both, and it is drained when it ends.
SUB = INTERPRETERS + """
code = '''
import atexit, interp_guard, threading, time
CALL
assert interp_guard.lookup(interp_guard.current()).closed is False
'''
sub = interpreters.create()
assert not interpreters.run_string(sub, "import interp_guard")
failed = interpreters.run_string(sub, code)
assert not failed, failed
time.sleep(0)                           # a bytecode of the main interpreter's, for its pending calls
interp_guard.lookup(int(sub)).close()
told = []
assert not interpreters.run_string(sub, "import interp_guard\\n@interp_guard.on_close\\ndef tell(): print('told', flush=True)")
interpreters.destroy(sub)
try:
    interp_guard.lookup(int(sub))
except LookupError:
    say("gone")
"""
for call in ("atexit._run_exitfuncs()", "atexit._clear()"):
    said, err = run(SUB.replace("CALL", call))
    assert said == ["told", "gone"], (call, said, err)
    assert (RAN if "run" in call else CLEARED) in err, (call, err)
print("record: both in a subinterpreter | it stays live, and its end closes it")
print("ok")
