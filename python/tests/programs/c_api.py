"""pep788.h: the scenarios of PEP 788, in C, on native threads and in subinterpreters; and destructors at odd times."""

import os
import subprocess
import sys
import tempfile
import threading

import interp_guard
import ig_test

print(*ig_test.run_scenarios())
assert interp_guard.holders(0) == 0

# A destructor that ensures while release clears the thread state.
attached = []
local = threading.local()


class Late:
    def __del__(self):
        attached.append(ig_test.ensure_release())


def leave():
    local.late = Late()


ig_test.call_in_native_thread(leave)
assert attached == [True], attached
assert interp_guard.holders(0) == 0

# One that ensures while the interpreter is torn down is refused.
ended = subprocess.run(
    [
        sys.executable,
        "-c",
        "import sys, ig_test\n"
        "class Late:\n"
        "    def __init__(self): self.ensure, self.write = ig_test.ensure_release, sys.__stdout__.write\n"
        "    def __del__(self): self.write(f'{self.ensure()}\\n')\n"
        "sys.late = Late()\n",
    ],
    stdout=subprocess.PIPE,
    timeout=60,
    text=True,
)
assert ended.returncode == 0 and ended.stdout.split() == ["False"], (ended.returncode, ended.stdout)
# An extension whose import finds no package says what is missing, and how to get it; one that finds a broken package, what is
# wrong with it.
assert os.path.isfile(os.path.join(os.path.dirname(__file__), "..", "..", "pyproject.toml")), "`./python` is elsewhere"
folder = os.path.dirname(ig_test.__file__)
with tempfile.TemporaryDirectory() as broken:
    os.mkdir(os.path.join(broken, "interp_guard"))
    with open(os.path.join(broken, "interp_guard", "__init__.py"), "w") as package:
        package.write("raise MemoryError('no room')")
    for path, status, what in (
        ([folder], "ImportError", "in a checkout of its repository, pip install ./python"),
        ([folder, broken], "MemoryError", "no room"),
    ):
        ended = subprocess.run(
            [sys.executable, "-S", "-c", "import ig_test"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=60,
            text=True,
        )
        assert ended.returncode == 1 and f"{status}: " in ended.stderr and what in ended.stderr, ended
print("ok")
