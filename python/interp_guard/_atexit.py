"""Whether the interpreter runs its ``atexit`` callbacks already, so that one registered now is never called."""

import atexit
import sys


class _Spy:
    """Compared with every callback that is registered, and equal to none."""

    def __init__(self):
        self.seen = []

    def __eq__(self, callback):
        self.seen.append(callback)
        return False

    __hash__ = None


def _code(callback):
    """The code that a callback runs, if it is Python's."""
    while hasattr(callback, "func"):  # functools.partial
        callback = callback.func
    callback = getattr(callback, "__func__", callback)
    if not hasattr(callback, "__code__"):
        callback = getattr(type(callback), "__call__", None)
    return getattr(callback, "__code__", None)


def is_running():
    """CPython does not say. But ``threading`` notes when its part of the shutdown began, which comes first; and without
    it, a callback that is being run is the outermost function of its thread."""
    if getattr(sys.modules.get("threading"), "_SHUTTING_DOWN", False):
        return True
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
    spy = _Spy()
    atexit.unregister(spy)
    return any(_code(callback) is frame.f_code for callback in spy.seen)
