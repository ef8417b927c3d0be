"""pep788_v1.h: references by pointer and by handle, daemons, forks, and lookup and release in real signal handlers."""

import os
import subprocess
import sys

import interp_guard
import ig_test_v1

LONG = bool(os.environ.get("INTERP_GUARD_LONG"))


def run(code, **environment):
    ended = subprocess.run(
        [sys.executable, "-c", "import interp_guard, ig_test_v1\n" + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=120,
        text=True,
        env={**os.environ, **environment},
    )
    return ended.returncode, ended.stdout, ended.stderr


ig_test_v1.run_scenarios()
assert interp_guard.holders(0) == 0
# The same with each reference recorded; at exit nothing is out and nothing was released too often.
status, out, err = run("ig_test_v1.run_scenarios()\nprint(int(interp_guard.holders(0)))", INTERP_GUARD_LEDGER="1")
assert (status, out, err) == (0, "0\n", ""), (status, out, err)

# A daemon does not hold off the end.
for ledger in ("0", "1"):
    status, out, err = run(
        "ig_test_v1.start_daemon(lambda: sum(range(100)))\n"
        "while not ig_test_v1.daemon_is_running(): pass\n"
        "print(int(interp_guard.holders(0)))\n",
        INTERP_GUARD_LEDGER=ledger,
    )
    assert (status, out, err) == (0, "0\n", ""), (status, out, err)

# A release without an ensure is a fatal error.
status, out, err = run("ig_test_v1.release_without_ensure()")
assert status != 0 and "this thread is in no PyThreadState_Ensure" in err, (status, out, err)

# Real signals.
# (with subinterpreters, how many, nanoseconds between two, so that the target gets on; the short form's library is slow)
ROUNDS = ((False, 10_000, 150_000), (True, 2_000, 400_000))
if LONG:
    ROUNDS = ((False, 1_000_000, 40_000), (True, 1_000_000, 200_000))
for subs, count, between in ROUNDS:
    seen = ig_test_v1.signals(subs, count, between)
    target = "the thread that creates and ends subinterpreters" if subs else "a thread looping on references and ensure"
    print(
        f"record: PyInterpreterState_Lookup in a handler, aimed at {target} | {seen['delivered']} delivered; "
        f"{seen['found']} found, {seen['refused']} refused, {seen['wrong']} wrong"
    )
    assert seen["delivered"] >= count and seen["wrong"] == 0, seen
    assert seen["refused"] > 0 and (seen["found"] > 0) == subs, seen
assert interp_guard.holders(0) == 0
# With the ledger each lookup makes system calls, so that the handler takes longer.
ledger = (
    "for subs in False, True:\n"
    "    seen = ig_test_v1.signals(subs, 200, 800_000)\n"
    "    assert seen['wrong'] == 0, seen\n"
    "assert interp_guard.holders(0) == 0\n"
)
status, out, err = run(ledger, INTERP_GUARD_LEDGER="1")
assert (status, err) == (0, ""), (status, out, err)
print("ok")
