"""set_drain_timeout and INTERP_GUARD_DRAIN_TIMEOUT: the report, and then CPython goes on, or the process ends with status 1."""

import os
import subprocess
import sys

import interp_guard
from shared import INTERPRETERS, without_reports

MISUSE = (
    (("5",), TypeError),
    ((object(),), TypeError),
    ((-1,), ValueError),
    ((float("nan"),), ValueError),
    ((float("inf"),), ValueError),
    ((1, "abort"), ValueError),
    ((1, None), ValueError),
    ((None, "abort"), ValueError),
)
for arguments, wrong in MISUSE:
    try:
        interp_guard.set_drain_timeout(*arguments)
    except wrong:
        continue
    raise AssertionError(arguments)
interp_guard.set_drain_timeout(1e300, "exit")
interp_guard.set_drain_timeout(True)
interp_guard.set_drain_timeout(None)


def run(code, **environment):
    ended = subprocess.run(
        [sys.executable, "-c", "import interp_guard, sys, threading\n" + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=120,
        text=True,
        env={**os.environ, **environment},
    )
    return ended.returncode, ended.stdout, ended.stderr


# A thread that holds a guard and would never give it back.
HOLDS = """
guarded, never = threading.Semaphore(0), threading.Semaphore(0)
def hold(id):
    with interp_guard.lookup(id):
        guarded.release()
        never.acquire()
threading.Thread(target=hold, args=(0,), daemon=True, name="holds").start()
guarded.acquire()
print("printed")
sys.end = type("End", (), {"__del__": lambda self, write=sys.__stdout__.write: write("CPython went on\\n")})()
"""
OUT = ", as was asked for: 1 guard of interpreter 0 is still out; "
for code, environment, then in (
    ("interp_guard.set_drain_timeout(0.2)", {}, "report"),
    ("interp_guard.set_drain_timeout(0.2, 'report')", {}, "report"),
    ("interp_guard.set_drain_timeout(seconds=0.2, then='exit')", {}, "exit"),
    ("", {"INTERP_GUARD_DRAIN_TIMEOUT": "0.2"}, "report"),
    ("", {"INTERP_GUARD_DRAIN_TIMEOUT": "0.2:report"}, "report"),
    ("", {"INTERP_GUARD_DRAIN_TIMEOUT": ".2:exit"}, "exit"),
    ("interp_guard.set_drain_timeout(0, 'exit')", {"INTERP_GUARD_DRAIN_TIMEOUT": "900"}, "exit"),
    ("interp_guard.set_drain_timeout(0)", {"INTERP_GUARD_DRAIN_TIMEOUT": "900:exit"}, "report"),
):
    status, out, err = run(code + HOLDS, **environment, INTERP_GUARD_LEDGER="1")
    rest = without_reports(err)
    assert rest.startswith("interp_guard: the wait is over after ") and OUT in rest, (code, environment, err)
    assert "\n  holds  " in rest and "s  <string>:" in rest and rest.count("interp_guard: ") == 1, err
    if then == "exit":
        assert (status, out) == (1, "printed\n") and "the process ends with status 1" in rest, (code, status, out, err)
    else:
        assert (status, out) == (0, "printed\nCPython went on\n") and "Python goes on" in rest, (code, status, out, err)
print("record: a guard that nobody gives back, with a deadline | reported; CPython goes on, status 0; or status 1")

# The guard that comes back in time, and a deadline that is taken back: as without.
for code in (
    "interp_guard.set_drain_timeout(900, 'exit')\nthreading.Timer(0.1, never.release).start()",
    "interp_guard.set_drain_timeout(0, 'exit')\ninterp_guard.set_drain_timeout(None)\nthreading.Timer(0.1, never.release).start()",
):
    status, out, err = run(HOLDS + code)
    assert (status, out, without_reports(err)) == (0, "printed\nCPython went on\n", ""), (code, status, out, err)

# It is the application's, for every interpreter: one that is imported later in does not change it; a subinterpreter's
# end keeps to it, and goes on where CPython can: with a guard that no thread in it has.
SUB = INTERPRETERS + """
sub = interpreters.create()
assert not interpreters.run_string(sub, "import interp_guard")
guard = interp_guard.lookup(int(sub))
interpreters.destroy(sub)
print("destroyed")
"""
status, out, err = run("interp_guard.set_drain_timeout(0.2)\n" + SUB, INTERP_GUARD_DRAIN_TIMEOUT="900:exit")
assert (status, out) == (0, "destroyed\n") and "guard of interpreter 1 is still out; Python goes on" in err, (status, out, err)
status, out, err = run("interp_guard.set_drain_timeout(0.2, 'exit')\n" + SUB)
assert (status, out) == (1, "") and "the process ends with status 1" in err, (status, out, err)

# What cannot be understood is an error on import, which says what can.
for value in ("soon", "5:", "5:abort", ":exit", "-1", "nan", "inf", "1e3", "5:exit:exit", "0x10", " 5"):
    status, out, err = run("print('imported')", INTERP_GUARD_DRAIN_TIMEOUT=value)
    assert status == 1 and out == "" and "INTERP_GUARD_DRAIN_TIMEOUT is " in err and "`5:exit`" in err, (value, out, err)
for value in ("", "5", "0", "0.5", "5.", "5:exit", "99999999999999999999"):
    status, out, err = run("print('imported')", INTERP_GUARD_DRAIN_TIMEOUT=value)
    assert (status, out, err) == (0, "imported\n", ""), (value, status, out, err)
print("ok")
