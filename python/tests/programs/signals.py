"""Real SIGUSR1 whose handler looks up and releases, aimed at whoever is in the middle of something."""

import os

import ig_test

count = 1_000_000 if os.environ.get("INTERP_GUARD_LONG") else 10_000
for by_view in (0, 1):
    for target in ("guards", "ensure", "subs"):
        seen = ig_test.signals(target, by_view, count)
        print("FromView" if by_view else "Lookup", target, seen)
        assert seen["delivered"] >= count and seen["wrong"] == 0, seen
        assert seen["found"] >= count and seen["not_found"] >= count, seen
print("ok")
