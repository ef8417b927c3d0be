"""Loops on threads when Python ends: one of interp_guard.aio, and one of somebody's own."""

from shared import run_program

BEGIN = """
import asyncio, gc, os, sys, threading
import interp_guard
from interp_guard import aio

def say(what):
    sys.stdout.write(what + "\\n")
    sys.stdout.flush()
"""

# What is guarded goes on, with the tasks that it starts itself; then the rest is cancelled, and cleans up.
LOOP_THREAD = """
closing = threading.Event()
interp_guard.on_close(closing.set)          # told before the loop: the latest first
background = aio.LoopThread(loop_factory=new_loop)
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

# So with a loop of somebody's own: one that on_close stops.
OWN_LOOP = """
def serve():
    with guard:
        asyncio.set_event_loop(loop)
        loop.run_forever()
        loop.close()
        say("closed")
guard, loop = interp_guard.lookup(0), new_loop()
interp_guard.on_close(lambda: loop.call_soon_threadsafe(loop.stop))
threading.Thread(target=serve, daemon=True).start()
"""


def run(code):
    """What the program wrote, by lines, and its standard error; a warning is an error."""
    out, err = run_program(BEGIN + code, "-W", "error")
    return out.splitlines(), err


def end(new_loop):
    """Ends Python with loops made so: `new_loop` is a line that defines the function of that name."""
    said, err = run(new_loop + LOOP_THREAD)
    done = ["no more guards", "guarded: done", "unguarded: cancelled, and cleaned up", "generator: closed"]
    assert (said, err) == (done, ""), (said, err)
    said, err = run(new_loop + OWN_LOOP)
    assert (said, err) == (["closed"], ""), (said, err)
