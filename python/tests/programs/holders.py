"""holders: how many, and with the ledger on who, where and since when; in a drain's report too."""

import os
import subprocess
import sys
import threading

import interp_guard

if os.environ.get("INTERP_GUARD_LEDGER") != "1":
    with interp_guard.lookup(0):
        found = interp_guard.holders(0)
        assert found == 1 == found.outstanding and found.details == () == tuple(found), found
        assert str(found).startswith("1 guard is out\n") and "INTERP_GUARD_LEDGER=1" in str(found), str(found)
        assert repr(found) == "<interp_guard.Holders: 1 out>", str(found)
    assert str(interp_guard.holders(0)).strip() == "no guard is out"
    try:
        interp_guard.holders(1 << 50)
    except interp_guard.InterpreterNotFound:
        pass
    else:
        raise AssertionError("holders of nobody")
    environment = {**os.environ, "INTERP_GUARD_LEDGER": "1"}
    subprocess.run([sys.executable, __file__], env=environment, check=True, timeout=60)
    sys.exit(print("ok"))

first = interp_guard.lookup(0)
line = sys._getframe().f_lineno - 1
between = interp_guard.current().guard()
second = between.duplicate()
between.close()
guards = []
thread = threading.Thread(target=lambda: guards.append(interp_guard.lookup(0)))
thread.start()
thread.join()
while os.path.exists(f"/proc/self/task/{thread.native_id}"):  # up to 3.12 join returns a little before the thread ends
    pass
with first, second, guards[0]:
    found = interp_guard.holders(0)
    assert found == 3 == len(found.details), str(found)
    assert [holder.site for holder in found] == [f"{__file__}:{line}", f"{__file__}:{line + 3}", f"{__file__}:{line + 6}"]
    assert [holder.by_this_thread for holder in found] == [True, True, False]
    assert [holder.thread_ended for holder in found] == [False, False, True]
    assert found.details[0].thread_id == threading.get_native_id() and not any(holder.in_handler for holder in found)
    ages = [holder.age for holder in found]
    assert ages == sorted(ages, reverse=True) and 0 < ages[-1] < 60, ages
    assert str(found).startswith("3 guards are out\n") and f"{__file__}:{line}" in str(found), str(found)
    try:
        interp_guard.drain(0, timeout=0)
    except TimeoutError as report:
        assert f"{__file__}:{line}" in str(report) and "3 guards are out" in str(report), report
    else:
        raise AssertionError("drained")
assert interp_guard.holders(0) == 0
print("ok")
