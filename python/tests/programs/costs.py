"""Costs in nanoseconds, the best of interleaved rounds, and as ratios to the floor or to PyGILState's."""

import ig_test

ns = ig_test.costs()
floor = ns["floor"]
print(f"  two bare locked adds        {floor:7.2f} ns")
for name in ("InterpGuard_Lookup + Close", "FromView + Close", "FromCurrent + Close"):
    print(f"  {name:26}  {ns[name]:7.2f} ns  {ns[name] / floor:5.2f} of the adds")
for name in ("nested", "re-attach", "fresh"):
    ours, theirs = ns[name], ns["PyGILState " + name]
    print(f"  {name:26}  {ours:7.2f} ns  {ours / theirs:5.2f} of PyGILState's {theirs:.2f}")
print("ok")
