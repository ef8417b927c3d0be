"""Costs: medians of interleaved rounds, in nanoseconds; and medians of each round's ratio, to the floor or to PyGILState's."""

import statistics

import ig_test
import interp_guard.shield
import pool


def median_of(rounds, number):
    return statistics.median(number(one) for one in rounds)


rounds = ig_test.costs()
print(f"  two bare locked adds           {median_of(rounds, lambda ns: ns['floor']):7.2f} ns")
for title, name in (
    ("two empty calls in the table", "calls"),
    ("InterpGuard_Lookup + Close", "lookup"),
    ("FromView + Close", "view"),
    ("FromCurrent + Close", "current"),
):
    ratio = median_of(rounds, lambda ns: ns[name] / ns["floor"])
    print(f"  {title:29}  {median_of(rounds, lambda ns: ns[name]):7.2f} ns  {ratio:5.2f} of the adds")
for name in ("nested", "re-attach", "fresh"):
    ratio = median_of(rounds, lambda ns: ns[name] / ns["PyGILState " + name])
    theirs = median_of(rounds, lambda ns: ns["PyGILState " + name])
    print(f"  {name:29}  {median_of(rounds, lambda ns: ns[name]):7.2f} ns  {ratio:5.2f} of PyGILState's {theirs:.2f}")

# By ID among many: flat? Of main, the oldest sub, the newest one; and one that nobody has.
for subs in (1, 10, 100, 1000):
    rounds = [ig_test.costs_among(subs) for _ in range(25)]
    names = ("main", "the oldest", "the newest", "nobody's")
    each = (f"{name} {median_of(rounds, lambda ns: ns[i] / ns[0]):.2f}" for i, name in enumerate(names, 1))
    print(f"  among {subs:4} subinterpreters, in adds: {', '.join(each)}", flush=True)
ig_test.end_many()

# An extension's own calls, bare and under the shield, in turn.
bare, shielded = [], []
for _ in range(15):
    bare.append(pool.costs())
    interp_guard.shield.install()
    shielded.append(pool.costs())
    interp_guard.shield.uninstall()
for at, name in enumerate(("nested", "attached again", "from nothing", "a section without the GIL")):
    before, after = (statistics.median(one[at] for one in rounds) for rounds in (bare, shielded))
    print(f"  under the shield, {name:26}{after:7.2f} ns  {after / before:5.2f} of the bare calls' {before:.2f}")
print("ok")
