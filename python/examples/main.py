"""Runs one of the programs: ``main.py with_ctypes``. It ends while the core's threads log."""

import importlib
import sys
import time

way = importlib.import_module(sys.argv[1])
way.start(4)
deadline = time.monotonic() + 60
while way.events() < 200:
    assert time.monotonic() < deadline
    time.sleep(0.001)
