"""Costs: medians of interleaved rounds, in nanoseconds; and medians of each round's ratio, to the floor or to PyGILState's."""

import statistics

import ig_test


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
print("ok")
