"""uvloop's loops end as asyncio's do: in a LoopThread, and on a thread of somebody's own that on_close stops."""

import importlib.metadata
import os

import loops

rounds = 200 if os.environ.get("INTERP_GUARD_LONG") else 4
for _ in range(rounds):
    loops.end("from uvloop import new_event_loop as new_loop")
release = importlib.metadata.version("uvloop")
print(f"record: uvloop's loops on threads while Python ends, {rounds} times | ended as asyncio's do, uvloop {release}")
print("ok")
