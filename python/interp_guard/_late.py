"""What the standard library is asked for while the end of the interpreter waits, and would be lost: see ``src/end/late.rs``."""

import atexit
import sys

_waiting = False
_register = _unregister = None
_callbacks = []  # [function, arguments, keywords], or [] once it is unregistered; the latest last
_before = 0  # how many callbacks atexit had when the wait began
_known = set()  # threads that were there already, where threading has not begun to shut down


def _late_register(func, /, *args, **kwargs):
    if not _waiting:
        return _register(func, *args, **kwargs)
    if not callable(func):
        raise TypeError("the first argument must be callable")
    _callbacks.append([func, args, kwargs])
    return func


def _late_unregister(func, /):
    for callback in list(_callbacks):
        parts = tuple(callback)
        if parts and parts[0] == func:
            callback.clear()  # and not taken out: others may come and go meanwhile
    return _unregister(func)


def begin():
    """From now on ``atexit.register`` keeps callbacks here: the module itself would drop them uncalled."""
    global _waiting, _register, _unregister, _before
    if not _waiting:
        _register, _unregister = atexit.register, atexit.unregister
        atexit.register, atexit.unregister = _late_register, _late_unregister
        _waiting = True
        _before = atexit._ncallbacks()
        _known.clear()
        if not _is_shutting_down():
            _known.update(_threads())
    return 0


def _threading():
    return sys.modules.get("threading")


def _is_shutting_down():
    return getattr(_threading(), "_SHUTTING_DOWN", False)


def _threads():
    """Those that nobody joins any more: no daemons, started since ``threading`` has joined the others."""
    threading = _threading()
    if threading is None:
        return []
    spared = (threading.main_thread(), threading.current_thread())
    return [
        thread for thread in threading.enumerate() if not thread.daemon and thread not in spared and thread not in _known
    ]


def join():
    """Waits a little for one of those threads. How many there were."""
    threads = _threads()
    if threads:
        threads[0].join(0.1)
    return len(threads)


def report():
    names = ", ".join(thread.name for thread in _threads())
    print(f"interp_guard: waiting for threads that were started while Python was about to end: {names}", file=sys.stderr)
    return 0


def take():
    """The latest callback that nobody has called yet, or None."""
    while _callbacks:
        callback = tuple(_callbacks.pop())
        if callback:
            return callback
    return None


def end():
    """From now on ``atexit.register`` is the module's own again. How many callbacks went past this, and are lost."""
    global _waiting
    if not _waiting:
        return 0
    _waiting = False
    if atexit.register is _late_register:
        atexit.register = _register
    if atexit.unregister is _late_unregister:
        atexit.unregister = _unregister
    return max(0, atexit._ncallbacks() - _before)
