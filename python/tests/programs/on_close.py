"""on_close: who holds a guard is told that the end has come, before the end waits for it, in its place among atexit's callbacks."""

import gc
import os
import subprocess
import sys
import weakref

import ig_test
import interp_guard
from shared import INTERPRETERS, run_program

BEGIN = """
import atexit, os, sys, threading

def say(what):
    sys.stdout.write(what + "\\n")
    sys.stdout.flush()
"""


def run(code, status=0):
    out, err = run_program(BEGIN + code, status=status)
    return out.splitlines(), err


# The order: atexit's later callbacks, those of on_close, latest first and C's among them, guards, atexit's earlier ones.
said, err = run("""
atexit.register(say, "atexit before")
import interp_guard, ig_test
atexit.register(say, "atexit after")
guard = interp_guard.lookup(0)

@interp_guard.on_close
def stop():
    say("stop")
    try:
        interp_guard.lookup(0)
    except RuntimeError as refused:
        say(f"{refused}")
    try:
        interp_guard.on_close(stop)
    except RuntimeError as refused:
        say("no more")
    told.set()

assert ig_test.on_close(0, "say('in C')") == 0
interp_guard.on_close(lambda: say("latest"))
interp_guard.on_close(lambda: 1 / 0)
assert ig_test.on_close(0, "say('raise')") == 0
assert ig_test.on_close(0, None) == 6 and ig_test.on_close(1 << 39, "") == 1
told = threading.Event()

def hold():
    with guard:
        told.wait()
        say("asked to leave")

threading.Thread(target=hold, daemon=True).start()
""")
assert said == [
    "atexit after", "raise", "latest", "in C", "stop", "interpreter 0 is finalizing and gives out no more guards", "no more",
    "asked to leave", "atexit before",
], (said, err)
assert err.count("ZeroDivisionError") == 1 and err.count("left by an on_close function") == 1, err
print("record: on_close | after atexit's later callbacks, latest first, before the wait, before atexit's earlier callbacks")

# Taken back, and given back: the callable is not kept.
class Stop:
    def __call__(self):
        raise AssertionError("called")


stop = Stop()
assert interp_guard.on_close(stop) is stop and interp_guard.cancel_on_close(stop) and not interp_guard.cancel_on_close(stop)
gone = weakref.ref(stop)
del stop
gc.collect()
assert gone() is None
try:
    interp_guard.on_close(7)
except TypeError:
    pass
else:
    raise AssertionError("7 was taken")

# A subinterpreter's run in it: at its end, by a drain from the main interpreter, from a thread without a state, and when the
# main interpreter's end closes it.
SUB = INTERPRETERS + """
import interp_guard
code = '''
import interp_guard, sys
here = interp_guard.current()
@interp_guard.on_close
def stop():
    sys.stdout.write(f"stop {here} in {interp_guard.current()}\\\\n")
    sys.stdout.flush()
'''
sub = interpreters.create()
failed = interpreters.run_string(sub, code)
assert not failed, failed
"""
for end in (
    "interpreters.destroy(sub)",
    "interp_guard.drain(int(sub)); interpreters.destroy(sub)",
    "import ig_test; assert ig_test.drain(int(sub)) == 0; interpreters.destroy(sub)",
    "import ig_test; assert ig_test.drain_unattached(int(sub)) == 0; interpreters.destroy(sub)",
    "import ig_test; assert ig_test.on_close(int(sub), 'stop()') == 0; interp_guard.drain(int(sub)); interpreters.destroy(sub)",
):
    code = end.replace("stop()", "import interp_guard; print(interp_guard.current(), flush=True)")
    said, err = run(SUB + code)
    assert said == (["1"] if "on_close" in end else []) + ["stop 1 in 1"] and err == "", (end, said, err)
# What 3.9 to 3.13 make of a subinterpreter that is left over is theirs.
ended = subprocess.run([sys.executable, "-c", BEGIN + SUB], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120)
assert ended.stdout == "stop 1 in 1\n", ended
print("record: on_close of a subinterpreter | called in it: by its end, by each drain, by the main interpreter's end")

# A forked child has them too; in that of a raw fork Python cannot be entered, and nothing hangs.
said, err = run("""
import interp_guard
interp_guard.on_close(lambda: say(f"told {os.getpid() == parent}"))
parent = os.getpid()
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
""")
assert said == ["told False", "told True"], (said, err)
said, err = run("import ig_test, interp_guard\ninterp_guard.on_close(lambda: say('told'))\nig_test.raw_forks(3)\n")
assert said == ["told"] and err == "", (said, err)

# A program that runs the atexit callbacks inside an ensure of its own is not made to wait for itself.
said, err = run("""
import ig_test, interp_guard
interp_guard.on_close(lambda: say("told"))
ig_test.call_in_native_thread(lambda: atexit._run_exitfuncs())
say("on")
""")
assert said == ["told", "on"] and "inside PyThreadState_Ensure of interpreter 0" in err, (said, err)
print("ok")
