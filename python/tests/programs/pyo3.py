"""The PyO3 crate: threads that attach until they are told that Python finalizes; none hangs, panics or is killed."""

import os
import subprocess
import sys

import attach_pool

LONG = bool(os.environ.get("INTERP_GUARD_LONG"))
assert attach_pool.check() is None, attach_pool.check()

PROGRAM = """
import time, attach_pool
lines = []
def write(line):
    lines.append(line)
    if len(lines) > 1000: lines.clear()
    if len(line) % 7 == 0: raise ValueError
attach_pool.start(8, write)
deadline = time.monotonic() + 60
while attach_pool.calls() < 500:
    assert time.monotonic() < deadline
    time.sleep(0.001)
"""
rounds = 200 if LONG else 10
calls = 0
for number in range(rounds):
    ended = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=120,
        text=True,
    )
    words = ended.stdout.split()
    assert (ended.returncode, ended.stderr) == (0, "") and words[:2] == ["threads", "8"], (number, ended)
    assert words[words.index("finalizes") + 1] == "8" and int(words[words.index("calls") + 1]) >= 500, (number, ended.stdout)
    calls += int(words[words.index("calls") + 1])
print(
    f"record: PyO3, 8 threads attaching while main finalizes | {rounds} processes ended with status 0; "
    f"{8 * rounds} threads, all told Finalizing; {calls} calls"
)
print("ok")
