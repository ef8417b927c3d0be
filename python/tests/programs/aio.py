"""interp_guard.aio: a loop on a thread of its own ends in an orderly way, and what is guarded across an await is done by then."""

import asyncio
import concurrent.futures
import os
import threading
import warnings

import interp_guard
from interp_guard import aio
from shared import run_program

warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later, about threads and fork: the very subject

BEGIN = """
import asyncio, gc, os, sys, threading
import interp_guard
from interp_guard import aio

def say(what):
    sys.stdout.write(what + "\\n")
    sys.stdout.flush()
"""


def run(code):
    out, err = run_program(BEGIN + code, "-W", "error")
    return out.splitlines(), err


# At the end of Python: what is guarded goes on, with the tasks that it starts itself; then the rest is cancelled, and cleans up.
END = """
closing = threading.Event()
interp_guard.on_close(closing.set)          # told before the loop: the latest first
background = aio.LoopThread()
begun = threading.Semaphore(0)

async def until_closing():
    while not closing.is_set():
        await asyncio.sleep(0.001)

async def guarded():
    async with aio.guard() as held:
        begun.release()
        await until_closing()
        for _ in range(20):
            await asyncio.wait_for(asyncio.sleep(0.001), 60)
        await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0.001))
        assert not held.closed
        try:
            async with aio.guard():
                say("another guard")
        except (RuntimeError, LookupError):
            say("no more guards")
        say("guarded: done")

async def unguarded():
    begun.release()
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0.001)
        say("unguarded: cancelled, and cleaned up")

async def generator():
    try:
        yield 1
        yield 2
    finally:
        say("generator: closed")

async def keeps_generator():
    kept.append(generator())
    await kept[0].__anext__()

kept = []
background.run(keeps_generator()).result(60)
for coroutine in (guarded, unguarded):
    background.run(coroutine())
    begun.acquire()
    gc.collect()                            # nobody has kept what `run` gave
"""
said, err = run(END)
assert said == ["no more guards", "guarded: done", "unguarded: cancelled, and cleaned up", "generator: closed"], (said, err)
assert err == "", err
print("record: a LoopThread at the end | what is guarded is done, then the rest is cancelled, then the loop is closed")

# So with a loop of somebody's own: one that on_close stops.
said, err = run("""
def serve():
    with guard:
        asyncio.set_event_loop(loop)
        loop.run_forever()
        loop.close()
        say("closed")
guard, loop = interp_guard.lookup(0), asyncio.new_event_loop()
interp_guard.on_close(lambda: loop.call_soon_threadsafe(loop.stop))
threading.Thread(target=serve, daemon=True).start()
""")
assert (said, err) == (["closed"], ""), (said, err)

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
said, err = run("""
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
