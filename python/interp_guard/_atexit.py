"""Whether the interpreter runs its ``atexit`` callbacks already, so that one registered now is never called; and who does."""

import atexit
import functools
import sys
import types


class _Spy:
    """Compared with every callback that is registered, and equal to none."""

    def __init__(self):
        self.seen = []

    def __eq__(self, callback):
        self.seen.append(callback)
        return False

    __hash__ = None


def _code(callback):
    """The code that a callback runs, if it is Python's. Asks for its type alone: a mock has every attribute, a proxy may raise."""
    while type(callback) is functools.partial:
        callback = callback.func
    if type(callback) not in (types.FunctionType, types.MethodType):
        callback = getattr(type(callback), "__call__", None)
    if type(callback) is types.MethodType:
        callback = callback.__func__
    return callback.__code__ if type(callback) is types.FunctionType else None


def is_shutting_down():
    """``threading`` notes when its part of the shutdown began, which comes first."""
    return getattr(sys.modules.get("threading"), "_SHUTTING_DOWN", False)


def is_in_multiprocessing():
    """Is what runs on this thread below the functions with which a child of ``multiprocessing`` begins and ends?"""
    frame = sys._getframe()
    while frame is not None:
        if str(frame.f_globals.get("__name__")).startswith("multiprocessing."):
            return True
        frame = frame.f_back
    return False


def is_running():
    """CPython does not say. But ``threading`` may have noted the shutdown; and without it, a callback that is being run is the
    outermost function of its thread."""
    if is_shutting_down():
        return True
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
    spy = _Spy()
    try:
        atexit.unregister(spy)
    except Exception:  # that of a callback which does not like to be compared
        pass
    return any(_code(callback) is frame.f_code for callback in spy.seen)
