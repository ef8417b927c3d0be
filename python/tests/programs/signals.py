"""Real SIGUSR1 whose handler looks up and releases, aimed at whoever is in the middle of something."""

import os

import ig_test

count = 1_000_000 if os.environ.get("INTERP_GUARD_LONG") else 10_000
AIMED_AT = {
    "guards": "3 threads looping on guards",
    "ensure": "3 threads looping on ensure",
    "subs": "the thread that creates and ends subinterpreters",
}
for by_view in (0, 1):
    for target in AIMED_AT:
        seen = ig_test.signals(target, by_view, count)
        how = "PyInterpreterGuard_FromView" if by_view else "InterpGuard_Lookup"
        text = "{delivered} delivered; {found} guards, {finalizing} finalizing, {not_found} not found, {wrong} wrong"
        if target == "subs":
            text += "; {cycles} subinterpreters"
        print(f"record: {how} in a handler, aimed at {AIMED_AT[target]} |", text.format(**seen))
        assert seen["delivered"] >= count and seen["wrong"] == 0, seen
        assert seen["found"] >= count and seen["not_found"] >= count, seen
print("ok")
