"""A first import while atexit callbacks run already: the interpreter gives out no guards, and its end waits for nobody. And one
that fails: it can be tried again."""

import subprocess
import sys

LATE = """
import atexit, functools, sys
def late(*_):
    import interp_guard
    finalizing = getattr(__builtins__, "PythonFinalizationError", RuntimeError)
    try:
        interp_guard.lookup(0)
    except finalizing as refused:
        print("refused:", refused)
    print(int(interp_guard.holders(0)))
class Late:
    def method(self):
        late()
    __call__ = method
class Shy:
    def __call__(self):
        print()
    def __getattr__(self, name):
        raise RuntimeError("nothing to see")
    def __eq__(self, other):
        raise RuntimeError("incomparable")
"""
for register in (
    "import threading; atexit.register(late)",
    "atexit.register(late)",
    "atexit.register(lambda: late())",
    "atexit.register(functools.partial(late, 7))",
    "atexit.register(Late().method)",
    "atexit.register(Late())",
    "atexit.register(print); atexit.register(late); atexit.register(len, ())",
):
    ended = subprocess.run(
        [sys.executable, "-c", LATE + register], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60, text=True
    )
    lines = ended.stdout.splitlines()
    assert (ended.returncode, ended.stderr) == (0, "") and len(lines) >= 2, (register, ended)
    assert lines[0].startswith("refused: interpreter 0 is finalizing") and lines[1] == "0", (register, ended)

# The same function, called before: in time, whatever is registered.
for register in (
    "atexit.register(print)",
    "from unittest.mock import Mock; atexit.register(Mock(side_effect=print))",
    "atexit.register(Shy())",
):
    ended = subprocess.run(
        [sys.executable, "-c", LATE + register + "; late()"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=60,
        text=True,
    )
    assert (ended.returncode, ended.stdout) == (0, "0\n\n"), (register, ended)

PROGRAM = """
import atexit, sys
register = atexit.register
def refuse(*_):
    raise MemoryError("asked to")
atexit.register = refuse
try:
    import interp_guard
except MemoryError as refused:
    print(refused)
atexit.register = register
for name in [name for name in sys.modules if name.startswith("interp_guard")]:
    del sys.modules[name]
import interp_guard
with interp_guard.lookup(0):
    print(int(interp_guard.holders(0)))
"""
ended = subprocess.run(
    [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60, text=True
)
assert (ended.returncode, ended.stdout, ended.stderr) == (0, "asked to\n1\n", ""), ended
print("ok")
