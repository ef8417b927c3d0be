"""asyncio, on a thread of its own, that ends in an orderly way when its interpreter does.

A loop on a daemon thread is cut off wherever it is when Python ends, and a loop on any other thread keeps Python from ending. This
one holds a guard, is told by ``on_close``, and ends before the interpreter does::

    from interp_guard import aio

    background = aio.LoopThread()                  # loop_factory=uvloop.new_event_loop, where that is wanted
    future = background.run(fetch(url))            # a concurrent.futures.Future

    async def deliver(batch):
        async with aio.guard():                    # the end waits for this, and cancels nothing meanwhile
            await send(batch)
"""

import asyncio
import os
import threading
import weakref

import interp_guard

__all__ = ["LoopThread", "guard"]


class _State:
    """Of a loop: how many guards its tasks are inside of, and whether it ends. Only the loop's thread writes it."""

    def __init__(self):
        self.held = 0
        self.ending = False
        self.idle = None  # an asyncio.Event, once somebody waits for that


_states = weakref.WeakKeyDictionary()


def _state(loop):
    return _states.setdefault(loop, _State())


class guard:
    """A guard for as long as an ``async with`` lasts, across every ``await`` in it: ``async with aio.guard() as held:``.

    The interpreter, by default the calling one, does not finalize meanwhile; a ``LoopThread`` that is to end goes on until nothing
    on it is inside one, and cancels what is left after that. Raises what ``lookup`` raises, and ``RuntimeError`` on a loop that is
    to end.
    """

    def __init__(self, interpreter_id=None):
        self._id = interpreter_id
        self._guard = self._state = None

    async def __aenter__(self):
        if self._guard is not None:
            raise RuntimeError("this guard is in use: make another one")
        state = _state(asyncio.get_running_loop())
        if state.ending:
            raise RuntimeError("this loop is to end")
        self._guard = interp_guard.lookup(interp_guard.current() if self._id is None else self._id)
        self._state = state
        state.held += 1
        return self._guard

    async def __aexit__(self, *exception):
        state, self._state = self._state, None
        held, self._guard = self._guard, None
        state.held -= 1
        if not state.held and state.idle is not None:
            state.idle.set()
        held.close()


class LoopThread:
    """An event loop that runs on a daemon thread, from here on until ``close()``, or until the interpreter closes.

    It holds a guard: the interpreter ends after it. When it is to end, it goes on until no task is inside ``aio.guard``, cancels
    the tasks that are left, waits for them, and closes the loop. A context manager that closes itself. Raises what ``lookup``
    raises, and ``RuntimeError`` in a subinterpreter that has no daemon threads.
    """

    def __init__(self, *, loop_factory=asyncio.new_event_loop, name="interp_guard.aio"):
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._open = True  # under the lock
        self._ended = threading.Event()
        self._running = set()  # loops know their tasks weakly: one that nobody else knows would be collected, unfinished
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._hold = interp_guard.lookup(interp_guard.current())
        self._loop = None
        try:
            self._loop = loop_factory()
            interp_guard.on_close(self._stop)
            self._thread.start()
        except BaseException:
            interp_guard.cancel_on_close(self._stop)
            if self._loop is not None:
                self._loop.close()
            self._hold.close()
            raise

    @property
    def loop(self):
        """The loop, for ``call_soon_threadsafe`` and the like."""
        return self._loop

    @property
    def closed(self):
        """Has it ended? In a forked child it has: the thread is the parent's."""
        return self._ended.is_set() or self._process != os.getpid()

    def run(self, coroutine):
        """Runs a coroutine there; a ``concurrent.futures.Future`` has what comes of it. ``RuntimeError`` once the loop ends."""
        with self._lock:
            if self._open and not self.closed:
                future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
                self._running.add(future)
                future.add_done_callback(self._running.discard)
                return future
        coroutine.close()
        raise RuntimeError("this loop ends, or has ended")

    def close(self):
        """Has the loop end, and waits for that; called on the loop's own thread it does not wait. Doing so again does nothing."""
        interp_guard.cancel_on_close(self._stop)
        self._stop()
        if not self.closed and threading.current_thread() is not self._thread:
            self._ended.wait()

    def _stop(self):
        """Asks it to end, from any thread."""
        if not self.closed:
            try:
                self._loop.call_soon_threadsafe(self._loop.stop)
            except RuntimeError:
                pass  # closed just now

    def _run(self):
        loop = self._loop
        try:
            asyncio.set_event_loop(loop)
            loop.run_forever()
            loop.run_until_complete(self._end(_state(loop)))
        finally:
            asyncio.set_event_loop(None)
            loop.close()
            interp_guard.cancel_on_close(self._stop)
            self._ended.set()
            self._hold.close()

    async def _end(self, state):
        state.ending, state.idle = True, asyncio.Event()
        with self._lock:
            self._open = False
        await asyncio.sleep(0)  # what `run` has left is a task after this
        while state.held:
            state.idle.clear()
            await state.idle.wait()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            if not task.cancelled() and task.exception() is not None:
                self._loop.call_exception_handler(
                    {"message": "a task failed while its loop ended", "exception": task.exception(), "task": task}
                )
        await self._loop.shutdown_asyncgens()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def __repr__(self):
        return f"<interp_guard.aio.LoopThread, {'ended' if self.closed else 'running'}>"
