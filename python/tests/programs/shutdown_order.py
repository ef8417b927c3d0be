"""The main interpreter's hook closes every interpreter before it drains any, waits for every guard, newest first."""

import subprocess
import sys

from shared import INTERPRETERS, UNTIL_CLOSING, without_reports

PROGRAM = INTERPRETERS + """
import sys, threading, time
import interp_guard

sub = interpreters.create()
assert not interpreters.run_string(sub, "import interp_guard")
main_guard, sub_guard = interp_guard.lookup(0), interp_guard.lookup(int(sub))
finalizing = getattr(__builtins__, "PythonFinalizationError", RuntimeError)
unknown = interp_guard.InterpreterNotFound

def state(id):
    try:
        interp_guard.lookup(id).close()
        return "live"
    except unknown:
        return "gone"
    except finalizing:
        return "closing"

def worker():
    while state(0) == "live":
        time.sleep(0.001)
    seen = [state(0), state(int(sub))]      # both closed before either is drained
    sub_guard.close()
    while state(int(sub)) == "closing":     # drained first
        time.sleep(0.001)
    seen += [state(0), state(int(sub))]
    sys.stdout.write(" ".join(seen) + "\\n")
    sys.stdout.flush()
    main_guard.close()

threading.Thread(target=worker, daemon=True).start()
if DESTROY:
    import atexit
    atexit.register(print, "before")        # later than ours, so called before it
"""

ended = subprocess.run(
    [sys.executable, "-c", PROGRAM.replace("DESTROY", "True")],
    stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60, text=True,
)
lines = ended.stdout.splitlines()
assert lines == ["before", "closing closing closing gone"], (lines, ended.stderr)
# 3.9 to 3.13 end what is left of a subinterpreter themselves, or refuse to, after our hook; that is theirs.
print(ended.returncode, ended.stderr.splitlines()[-1:])
assert "interp_guard" not in without_reports(ended.stderr), ended.stderr

# What registers while the main interpreter's hook waits has come too late: nobody would wait for its guards.
LATE = INTERPRETERS + UNTIL_CLOSING + """
import sys, threading

guard = interp_guard.lookup(0)

def worker():
    until_closing(0)
    sub = interpreters.create()
    failed = interpreters.run_string(sub, "import interp_guard")
    try:
        interp_guard.lookup(int(sub)).close()
        said = "gives out guards"
    except finalizing as refused:
        said = str(refused)
    interpreters.destroy(sub)
    sys.stdout.write(f"{failed} {said}\\n")
    sys.stdout.flush()
    guard.close()

threading.Thread(target=worker, daemon=True).start()
"""
ended = subprocess.run(
    [sys.executable, "-c", LATE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60, text=True
)
assert ended.returncode == 0 and ended.stdout.startswith("None interpreter "), ended
assert ended.stdout.endswith("is finalizing and gives out no more guards\n"), ended
assert without_reports(ended.stderr) == "", ended

# Main never imported the package, so its end waits for nobody. Up to 3.13 CPython ends what is left over when it
# finalizes already, and no thread can give a guard back; later versions before they do, and the subinterpreter's own
# hook finds that nobody could.
LEFT_OVER = INTERPRETERS + """
sub = interpreters.create()
code = "import interp_guard; guard = interp_guard.lookup(interp_guard.current())"
assert not interpreters.run_string(sub, code)
"""


ended = subprocess.run([sys.executable, "-c", LEFT_OVER], stderr=subprocess.PIPE, timeout=60, text=True)
assert "interp_guard: " in ended.stderr and "1 guard of interpreter 1 is still out" in ended.stderr, ended
if "nobody can wait any more" in ended.stderr:
    assert ended.returncode == 0, ended
else:
    assert sys.version_info >= (3, 14)
    assert ended.returncode == 1 and "is the only one that could close it" in ended.stderr, ended
print("ok")
