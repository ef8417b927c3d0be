"""python -m interp_guard: the doctor, and the stress with its progress, its table, Ctrl-C, and its exit statuses."""

import json
import os
import re
import signal
import subprocess
import sys

LONG = bool(os.environ.get("INTERP_GUARD_LONG"))


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "interp_guard", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def run(*arguments, **environment):
    process = start(*arguments, **environment)
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


status, out, err = run()
assert status == 0 and "counters" in out and "possible cpus" in out, (out, err)
assert run("doctor")[1] == out
assert re.match(r"OK: (per-CPU|shared) counters\n\nVerdict\ncounters ", out), out
assert re.search(r"\n\nMachine\nrseq .*\n\nMemory at a capacity of \d+ interpreters\n.*\n\nPython\npython ", out, re.S), out
assert re.search(r"^mapped bytes  +[1-9]\d*$", out, re.M) and "not known" not in out, out
assert run("doctor", INTERP_GUARD_COUNTERS="shared")[1].startswith("OK: shared counters\n"), out
status, out, err = run("doctor", "--json", INTERP_GUARD_COUNTERS="shared", INTERP_GUARD_LEDGER="1")
facts = json.loads(out)
assert (status, err) == (0, "") and facts["counters"] == "shared" and facts["ledger"] is True, (facts, err)
assert facts["counters_why"] == "INTERP_GUARD_COUNTERS=shared" and facts["registered"] == 1, facts
assert os.path.isfile(os.path.join(facts["include"], "pep788_v1.h"))

for bad in (("stress", "--seconds", "0"), ("stress", "--threads", "many"), ("stress", "--nothing"), ("nothing",)):
    status, out, err = run(*bad)
    assert (status, out) == (2, "") and err.startswith("usage:"), (bad, status, out, err)
for arguments in (("--help",), ("stress", "--help")):
    status, out, err = run(*arguments)
    assert (status, err) == (0, "") and "stress" in out and "exit status" in out, (out, err)

# The whole of it.
for counters in ("per-cpu", "shared"):
    for seconds in (20, 60) if LONG else (2, 10, 60):
        status, out, err = run(
            "stress", "--seconds", str(seconds), "--json", INTERP_GUARD_COUNTERS=counters, INTERP_GUARD_LEDGER="0"
        )
        seen = json.loads(out)
        assert status == 0 and seen["violations"] == 0, (status, seen, err)
        assert seen["counters"] == counters and seen["registered"] == seen["finalized"] > 0, seen
        assert seen["lookups"] == seen["hits"] + seen["finalizing"] + seen["not_found"], seen
        met = min(seen[key] for key in ("signals", "hits", "not_found", "ensures", "pending_run", "lookups"))
        if met > 0:
            break  # a busy machine may need longer
    assert met > 0, seen
    assert 0 < seen["lookup_ns"]["p50"] <= seen["lookup_ns"]["p99"] <= seen["lookup_ns"]["max"], seen
    assert 0 < seen["end_ns"]["p50"] <= seen["end_ns"]["max"] and seen["seconds"] >= 2, seen
    assert re.search(r"^\d+/\d+ s .* signals, ", err, re.M), err
    assert err.splitlines()[-1].startswith(f"PASS: 0 violations in {seen['lookups']:,} lookups and "), err
    print(
        f"record: python -m interp_guard stress, {counters} | {seen['signals']} signals, {seen['lookups']} lookups, "
        f"{seen['ensures']} ensures, {seen['finalized']} subinterpreters, {seen['violations']} violations"
    )

# Ctrl-C stops it early and prints the table all the same. (A shell starts background jobs with SIGINT ignored.)
signal.signal(signal.SIGINT, signal.SIG_DFL)
process = start("stress", "--seconds", "3600", "--threads", "2", "--interpreters", "2")
assert re.match(r"\d+/3600 s ", process.stderr.readline())
process.send_signal(signal.SIGINT)
out, err = process.communicate(timeout=200)
assert process.returncode == 0 and "stopped after" in err, (process.returncode, out, err)
assert "SIGUSR1 delivered" in out and "violations" in out, out
last = out.splitlines()[-1]
assert re.fullmatch(r"PASS: 0 violations in [\d,]+ lookups and [\d,]+ ensures under [\d,]+ signals, [\d.]+ s", last), out

# A violation is status 1, and is said: what the native part counts is what decides.
program = """
import sys
from interp_guard import _native, __main__
counts = _native.stress_counts
_native.stress_counts = lambda: {**counts(), "violations": 3, "violated": "3 x something that must not be"}
options = __main__._parser().parse_args(["stress", "--seconds", "1", "--threads", "1", "--interpreters", "1"])
sys.exit(options.run(options))
"""
ended = subprocess.run(
    [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=200, text=True
)
assert ended.returncode == 1 and "3 x something that must not be" in ended.stdout, ended
assert ended.stdout.splitlines()[-1].startswith("FAIL: 3 violations in "), ended
print("ok")
