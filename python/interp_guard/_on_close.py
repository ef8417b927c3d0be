"""What is called when the interpreter closes."""

import interp_guard
from . import _native

# Callables by number. Native code has the numbers, in the order in which they were registered, and comes here through `_call`.
_calls = {}


def _call(number):
    function = _calls.pop(number, None)
    if function is not None:
        function()


def on_close(callable):
    """Has ``callable()`` called when the calling interpreter closes, and returns it, so that this can decorate a function.

    That is when its ``atexit`` hook runs: after the callbacks that were registered with ``atexit`` since this package was first
    imported, and before the others. It is called on the thread that closes, when nobody gets a guard any more and *before
    anybody waits for those that are out*: so it can ask who holds one to come to an end. It should ask, and not wait. Of
    several, the latest is called first. What it raises goes to ``sys.unraisablehook``. It is called as well where the
    program runs ``atexit._run_exitfuncs()`` itself, and by ``drain()``.

    Raises ``PythonFinalizationError`` (``RuntimeError`` before 3.13) if the interpreter is closing already.
    """
    if not hasattr(callable, "__call__"):
        raise TypeError(f"{callable!r} is not callable")
    number = _native.new_number()
    _calls[number] = callable
    refused = _native.on_close(number)
    if refused is not None:
        del _calls[number]
        interp_guard._refuse(interp_guard.current(), refused)
    return callable


def cancel_on_close(callable):
    """Takes back what ``on_close`` was given, and says whether it was waiting to be called."""
    numbers = [number for number, kept in list(_calls.items()) if kept == callable]
    forgotten = [number for number in numbers if _native.forget_on_close(number)]
    for number in forgotten:
        _calls.pop(number, None)
    return bool(forgotten)


on_close.__module__ = cancel_on_close.__module__ = "interp_guard"
