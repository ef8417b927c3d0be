"""What several programs have in common."""

import re
import signal
import subprocess
import sys

# For programs that are run with `-c`: both ways to make subinterpreters, and a wait until the package refuses guards of one.
INTERPRETERS = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
"""
UNTIL_CLOSING = """
import interp_guard, time
finalizing = getattr(__builtins__, "PythonFinalizationError", RuntimeError)
def until_closing(id):
    while True:
        try:
            interp_guard.lookup(id).close()
        except finalizing:
            return
        time.sleep(0.001)
"""


def without_reports(err):
    """Standard error but for the reports of a hook that waits: on a busy machine it may take the half second that they need."""
    return re.sub(r"^interp_guard: .* cannot end yet: .*\n(?:  .*\n)*", "", err, flags=re.M)


def run_program(program, *options, status=0):
    """Runs it in a Python of its own, which ends with that status: what it wrote, and its standard error without reports."""
    ended = subprocess.run(
        [sys.executable, "-X", "faulthandler", *options, "-c", program],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120,
    )
    assert ended.returncode == status, ended
    return ended.stdout, without_reports(ended.stderr)


def press_until_it_ends(process):
    """Ctrl-C, twice; more often, where two come as one."""
    while True:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        _, err = process.communicate()
        assert process.returncode == 130 and "interrupted again" in err, (process.returncode, err)
        break
