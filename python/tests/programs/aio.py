"""interp_guard.aio: a loop on a thread of its own ends in an orderly way, and what is guarded across an await is done by then."""

import asyncio
import concurrent.futures
import os
import threading
import warnings

import interp_guard
import loops
from interp_guard import aio

warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later, about threads and fork: the very subject

# At the end of Python.
loops.end("new_loop = asyncio.new_event_loop")
print("record: a LoopThread at the end | what is guarded is done, then the rest is cancelled, then the loop is closed")

# Closed before: nothing is left of it, and it says so.
threads = threading.active_count()
with aio.LoopThread(name="mine") as background:
    assert background.run(asyncio.sleep(0, "slept")).result(60) == "slept" and not background.closed
    assert interp_guard.holders(0) == 1 and "mine" in [thread.name for thread in threading.enumerate()]
    forever = background.run(asyncio.sleep(3600))
    entered = threading.Event()

    async def hold():
        async with aio.guard():
            entered.set()
            await asyncio.sleep(0.01)
            return "held"

    held = background.run(hold())
    assert entered.wait(60)
    child = os.fork()
    if child == 0:
        background.close()  # the parent's: nothing to wait for
        os._exit(0 if background.closed else 1)
    assert os.waitpid(child, 0)[1] == 0
assert background.closed and background.loop.is_closed() and held.result(60) == "held" and interp_guard.holders(0) == 0
try:
    forever.result(60)
except concurrent.futures.CancelledError:
    pass
else:
    raise AssertionError("slept for an hour")
background.close()
try:
    background.run(asyncio.sleep(0))
except RuntimeError as ended:
    assert "has ended" in str(ended)
else:
    raise AssertionError("ran on a loop that has ended")
assert "ended" in repr(background)


# One that cannot be made leaves nothing behind.
def no_loop():
    raise OSError("no loop")


try:
    aio.LoopThread(loop_factory=no_loop)
except OSError:
    assert interp_guard.holders(0) == 0
else:
    raise AssertionError("there is a loop")


# On any loop: a guard across awaits, which is given back whatever happens.
async def across():
    held = aio.guard(interp_guard.main())
    async with held as inside:
        assert inside.id == 0 and interp_guard.holders(0) == 1
        await asyncio.sleep(0)
        try:
            await held.__aenter__()
        except RuntimeError:
            pass
        else:
            raise AssertionError("entered twice")
        assert interp_guard.holders(0) == 1
        raise ValueError("as asked")


try:
    asyncio.run(across())
except ValueError:
    assert interp_guard.holders(0) == 0

# It ends under work from four threads, whose futures all come to an end.
said, err = loops.run("""
background = aio.LoopThread()
results = []
begun = threading.Semaphore(0)
def press():
    try:
        while True:
            results.append(background.run(asyncio.sleep(0)))
            begun.release()
    except RuntimeError:
        pass
threads = [threading.Thread(target=press) for _ in range(4)]
for thread in threads:
    thread.start()
for _ in range(100):
    begun.acquire()
background.close()
for thread in threads:
    thread.join()
import concurrent.futures
done, pending = concurrent.futures.wait(results, 60)
say(f"{len(pending)} pending")
""")
assert (said, err) == (["0 pending"], ""), (said, err[:2000])
print("record: a LoopThread that is closed under work from four threads | each future comes to an end")
print("ok")
