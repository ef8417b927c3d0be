"""The stress: subinterpreters come and go on the main thread, under real signals; the rest is native."""

import itertools
import json
import os
import platform
import signal
import sys
import time

import interp_guard
from . import _native


class _Interrupts:
    """Ctrl-C: the first stops the run, the second ends the process."""

    def __init__(self):
        self.stopped = False
        signal.signal(signal.SIGINT, self)

    def __call__(self, signum, frame):
        if self.stopped:
            os._exit(130)
        self.stopped = True


def _quantiles(samples):
    if not samples:
        return {"p50": 0, "p99": 0, "max": 0}
    samples = sorted(samples)
    last = len(samples) - 1
    return {"p50": samples[last // 2], "p99": samples[last * 99 // 100], "max": samples[last]}


def _progress(seconds, of):
    seen = _native.stress_counts()
    lookups = seen["hits"] + seen["finalizing"] + seen["not_found"]
    text = (
        f"{seconds}/{of} s  {seen['signals']:,} signals, {lookups:,} lookups, {seen['ensures']:,} ensures, "
        f"{seen['finalized']:,} finalized, {seen['violations']} violations"
    )
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)


def run(options):
    """Runs it, prints what came of it, and returns the exit status."""
    interrupts = _Interrupts()
    ran = []
    sys.setswitchinterval(0.0002)  # the main thread, which makes and ends subinterpreters, is not to wait for the others
    folder = os.path.dirname(os.path.dirname(os.path.abspath(interp_guard.__file__)))
    began = time.monotonic()
    ends, shown = [], 0
    with interp_guard.on_signal(signal.SIGUSR2, interp_guard.main(), lambda: ran.append(None)) as handler:
        _native.stress_start(options.threads, options.interpreters, folder)
        try:
            for seat in itertools.cycle(range(options.interpreters)):
                took = _native.stress_cycle(seat)
                if took:
                    ends.append(took)
                seconds = time.monotonic() - began
                if int(seconds) > shown:
                    shown = int(seconds)
                    _progress(shown, options.seconds)
                if seconds >= options.seconds or interrupts.stopped:
                    break
        finally:
            ends += _native.stress_finish()
        # What was left is run, and its guards are given up: the worker may not have come to the last.
        main, deadline = interp_guard.main(), time.monotonic() + 20
        while (handler.counts["left"] > len(ran) or interp_guard.holders(main)) and time.monotonic() < deadline:
            time.sleep(0.001)
        left, run, held = handler.counts["left"], len(ran), int(interp_guard.holders(main))
    took = time.monotonic() - began
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    if interrupts.stopped:
        print(f"stopped after {took:.1f} s", file=sys.stderr)

    seen = _native.stress_counts()
    said = seen["violated"].splitlines()
    violations = seen["violations"]
    for wrong, what in (
        (left != run, f"{left - run} pending calls were not run"),
        (seen["registered"] != seen["finalized"], "not every interpreter was finalized"),
        (held, f"{held} guards of the main interpreter are left"),
    ):
        if wrong:
            violations += 1
            said.append(what)
    result = {
        **{key: seen[key] for key in ("signals", "hits", "finalizing", "not_found", "ensures")},
        "lookups": seen["hits"] + seen["finalizing"] + seen["not_found"],
        "pending_run": run,
        "registered": seen["registered"],
        "finalized": seen["finalized"],
        "violations": violations,
        "violated": said,
        "counters": _native.counters(),
        "lookup_ns": dict(zip(("p50", "p99", "max"), seen["lookup_ns"])),
        "end_ns": _quantiles(ends),
        "seconds": round(took, 3),
        "python": platform.python_version(),
    }
    if options.json:
        print(json.dumps(result))
        print(_verdict(result), file=sys.stderr)
    else:
        _table(result, options)
        print(f"\n{_verdict(result)}")
    return 1 if violations else 0


def _verdict(result):
    """The last line."""
    violations = result["violations"]
    return (
        f"{'FAIL' if violations else 'PASS'}: {violations:,} violation{'' if violations == 1 else 's'} in "
        f"{result['lookups']:,} lookups and {result['ensures']:,} ensures under {result['signals']:,} signals, "
        f"{result['seconds']:.1f} s"
    )


def _table(result, options):
    def row(name, value):
        print(f"  {name:<44} {value}")

    def times(quantiles):
        return " / ".join(f"{quantiles[key]:,}" for key in ("p50", "p99", "max")) + " ns"

    row("Python, counters", f"{result['python']}, {result['counters']}")
    row("native threads, subinterpreters at a time", f"{options.threads}, {options.interpreters}")
    row("seconds", f"{result['seconds']:.1f}")
    row("SIGUSR1 delivered", f"{result['signals']:,}")
    row("lookups", f"{result['lookups']:,}")
    row("  guard", f"{result['hits']:,}")
    row("  finalizing", f"{result['finalizing']:,}")
    row("  not found", f"{result['not_found']:,}")
    row("ensures, each with a call into Python", f"{result['ensures']:,}")
    row("calls that SIGUSR2 left, run", f"{result['pending_run']:,}")
    row("subinterpreters registered", f"{result['registered']:,}")
    row("subinterpreters finalized", f"{result['finalized']:,}")
    row("lookup and close in a handler, p50 / p99 / max", times(result["lookup_ns"]))
    row("end of a subinterpreter, p50 / p99 / max", times(result["end_ns"]))
    row("violations", f"{result['violations']:,}")
    for line in result["violated"]:
        row("", line)
