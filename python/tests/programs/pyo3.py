"""The PyO3 crate: threads that attach until they are told that Python finalizes; none hangs, panics or is killed."""

import collections
import os
import subprocess
import sys

import attach_pool
from shared import without_reports

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
    assert ended.returncode == 0 and words[:2] == ["threads", "8"] and without_reports(ended.stderr) == "", (number, ended)
    assert words[words.index("finalizes") + 1] == "8" and int(words[words.index("calls") + 1]) >= 500, (number, ended.stdout)
    calls += int(words[words.index("calls") + 1])
print(
    f"record: PyO3, 8 threads attaching while main finalizes | {rounds} processes ended with status 0; "
    f"{8 * rounds} threads, all told Finalizing; {calls} calls"
)

ends = collections.Counter()
for _ in range(20 if LONG else 1):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.replace("start(", "start_unguarded(")], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        out, err = process.communicate(timeout=5)
        told = "threads were never told" if b"never told" in out else ""
        ends[f"status {process.returncode} {told}".strip()] += 1
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        ends["hangs"] += 1
said = ", ".join(f"{times} of {sum(ends.values())}: {how}" for how, times in sorted(ends.items()))
print(f"record: for comparison, PyO3's Python::attach | {said}")
print("ok")
