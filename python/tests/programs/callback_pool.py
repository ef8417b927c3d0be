"""``python/examples/callback_pool``: built by its own build files, called from, and ended under fire."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile

import ways
from shared import INTERPRETERS

LONG = bool(os.environ.get("INTERP_GUARD_LONG"))
folder = os.path.join(tempfile.mkdtemp(), "callback_pool")
shutil.copytree(os.path.join(ways.EXAMPLES, "callback_pool"), folder)
# As pip does with --no-build-isolation.
ways.build(folder, sys.executable, "-c", "from setuptools import build_meta; build_meta.build_wheel('dist')")
(wheel,) = os.listdir(os.path.join(folder, "dist"))
assert wheel.startswith("callback_pool-0.1.0-cp"), wheel
installed = tempfile.mkdtemp()
with zipfile.ZipFile(os.path.join(folder, "dist", wheel)) as archive:
    archive.extractall(installed)


def run(program, complaint="", timeout=120):
    """It ends by itself, well, and says nothing but that."""
    ran = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "ignore::DeprecationWarning", "-c", program],
        env=ways.environment(installed), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout,
    )
    err = re.sub(r"^interp_guard: .* cannot end yet: .*\n(?:  .*\n)*", "", ran.stderr, flags=re.M)
    assert ran.returncode == 0 and (err == "" if complaint == "" else complaint in err), (program, ran)
    return ran.stdout


with open(os.path.join(folder, "README.md")) as readme:
    (shown,) = re.findall(r"^```python\n(.*?)^```$", readme.read(), re.DOTALL | re.MULTILINE)
run(shown)

# Every call is made once, on threads of the pool; an exception is shown, and a thread of the pool survives it.
said = run("""
import callback_pool, threading
count, callers, done = 1000, set(), threading.Semaphore(0)
def call():
    callers.add(threading.get_ident())
    done.release()
def fail():
    try:
        1 / 0
    finally:
        done.release()
for _ in range(8):
    callback_pool.submit(fail)
for _ in range(count):
    callback_pool.submit(call)
for _ in range(count + 8):
    assert done.acquire(timeout=60)
assert not done.acquire(blocking=False)
assert 1 <= len(callers) <= 4 and threading.get_ident() not in callers
try:
    callback_pool.submit(1)
except TypeError as wrong:
    print(wrong)
""", complaint="ZeroDivisionError")
assert said == "submit() takes a callable\n", said

# What is queued when the interpreter ends is dropped, and given back: its destructor runs while Python is whole.
said = run("""
import sys, threading
import interp_guard
held, go_on, begun = interp_guard.current().guard(), threading.Event(), threading.Semaphore(0)
interp_guard.on_close(go_on.set)  # before the pool's own, so called after it
import callback_pool
class Callable:
    def __call__(self):
        begun.release()
        go_on.wait()
    def __del__(self):
        sys.stdout.write("dropped\\n")
for _ in range(7):
    callback_pool.submit(Callable())
for _ in range(4):
    assert begun.acquire(timeout=60)
def let_go():
    with held:  # nothing ends before all four have been let go
        go_on.wait()
threading.Thread(target=let_go, daemon=True).start()
""")
assert said == "dropped\n" * 7, said

FIRE = """
import callback_pool, threading
calls, enough = [], threading.Event()
def again():
    calls.append(None)
    if len(calls) >= 200:
        enough.set()
    callback_pool.submit(again)
for _ in range(8):
    callback_pool.submit(again)
assert enough.wait(60)
"""
rounds = 200 if LONG else 8
for _ in range(rounds):
    run(FIRE)
# A subinterpreter that ends, and the main one's calls that go on, and have the GIL before each of its own: a second each time.
run(INTERPRETERS + FIRE + f"""
import interp_guard
for _ in range({rounds}):
    sub = interpreters.create()
    interpreters.run_string(sub, {FIRE!r})
    interp_guard.drain(int(sub))
    interpreters.destroy(sub)
calls.clear()
enough.clear()
assert enough.wait(60)
""", timeout=15 * rounds)
# A forked child has a pool of its own.
run("""
import callback_pool, os, threading
def one_call():
    called = threading.Event()
    callback_pool.submit(called.set)
    return called.wait(60)
assert one_call()
child = os.fork()
if child == 0:
    os._exit(0 if one_call() else 1)
assert os.waitpid(child, 0)[1] == 0 and one_call()
""")
print(f"record: callback_pool, called while Python ends | {rounds} processes and {rounds} subinterpreters ended well")
print("ok")
