"""The package imports, everywhere; IDs are CPython's; one table serves all interpreters; a second copy is refused."""

import os
import re
import shutil
import subprocess
import sys
import tempfile

import interp_guard

assert interp_guard.current() == interp_guard.main() == 0
assert isinstance(interp_guard.current(), interp_guard.View)
assert os.path.isfile(os.path.join(interp_guard.get_include(), "pep788.h"))
assert "interp_guard._C_API" in repr(interp_guard._C_API)

# The header's numbers are those that native code answers.
with open(os.path.join(interp_guard.get_include(), "pep788.h")) as header:
    numbers = dict(re.findall(r"^    INTERP_GUARD_([A-Z_]+) = (\d+)", header.read(), re.MULTILINE))
for name in ("OK", "NOT_FOUND", "FINALIZING", "INVALID", "TIMEOUT", "WOULD_DEADLOCK", "ALREADY_CLOSING", "INTERNAL"):
    assert int(numbers.pop(name)) == getattr(interp_guard._native, name), name
assert not numbers, numbers

# A subinterpreter registers itself by importing, and is seen from here.
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

ids = []
for own_gil in (False, True) if sys.version_info >= (3, 12) else (False,):
    if sys.version_info >= (3, 13):
        sub = interpreters.create("isolated" if own_gil else "legacy")
    elif sys.version_info >= (3, 12):
        sub = interpreters.create(isolated=own_gil)
    else:
        sub = interpreters.create()
    number = int(sub)
    try:
        interp_guard.lookup(number)
    except interp_guard.InterpreterNotFound as unknown:
        assert isinstance(unknown, LookupError)
    else:
        raise AssertionError("an interpreter that never imported the package was found")
    code = (
        "import interp_guard\n"
        f"assert interp_guard.current() == {number}, interp_guard.current()\n"
        "assert interp_guard.main() == 0\n"
        "interp_guard.lookup(0).close()\n"
    )
    failed = interpreters.run_string(sub, code)
    assert not failed, failed
    with interp_guard.lookup(number) as guard:
        assert guard and guard.id == number
        assert interp_guard.holders(number) == 1
    interp_guard.drain(number)
    interpreters.destroy(sub)
    ids.append(number)

for number in ids:
    try:
        interp_guard.lookup(number)
    except interp_guard.InterpreterNotFound:
        continue
    raise AssertionError("a finalized interpreter was found")

# A second copy of the shared object is a second table.
package = os.path.dirname(interp_guard.__file__)
with tempfile.TemporaryDirectory() as folder:
    shutil.copytree(package, os.path.join(folder, "interp_guard"))
    program = (
        "import sys, interp_guard\n"
        "for name in [name for name in sys.modules if name.startswith('interp_guard')]: del sys.modules[name]\n"
        f"sys.path.insert(0, {folder!r})\n"
        "try:\n    import interp_guard\n"
        "except ImportError as error: assert 'another copy' in str(error), error\n"
        "else: raise AssertionError('two tables in one process')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)

print("ok")
