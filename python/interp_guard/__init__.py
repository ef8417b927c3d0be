"""Keep a Python interpreter from finalizing while you use it.

A *guard* is a strong reference to an interpreter: while one exists, the interpreter cannot finalize. A *view* is a weak
one: it remembers an interpreter and can be turned into a guard while that is alive. Importing this package registers the
calling interpreter; an interpreter in which nobody imported it is unknown here.

C and C++ extensions include ``pep788.h`` from ``get_include()``.
"""

import operator as _operator
import os as _os
import sys as _sys
import warnings as _warnings

try:
    from . import _native
except ImportError:
    from . import _misfit

    _misfit.explain()
    raise
from ._native import InterpreterFinalizing, InterpreterNotFound, Refused
from ._native import _C_API  # noqa: F401  what pep788.h imports

__all__ = [
    "Callback",
    "Guard",
    "Holder",
    "Holders",
    "InterpreterFinalizing",
    "InterpreterNotFound",
    "Refused",
    "SignalHandler",
    "View",
    "callback",
    "cancel_on_close",
    "cffi_cdef",
    "current",
    "drain",
    "get_include",
    "holders",
    "lookup",
    "main",
    "on_close",
    "on_signal",
    "set_drain_timeout",
]
__version__ = "0.1.0"

# Does the ledger write down who takes each guard? Decided when the process registers its first interpreter.
_recording = _native.is_recording()


def _site():
    """Where this package was called from, for the ledger."""
    if not _recording:
        return None
    frame = _sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__package__") == __name__:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


class View(int):
    """A weak reference to an interpreter: its ID, which is never used again for another one."""

    __slots__ = ()

    def __bool__(self):
        return True  # also that of interpreter 0

    @property
    def id(self):
        return int(self)

    def guard(self):
        """Takes a guard, if the interpreter is alive. The same as ``lookup``."""
        return self._lookup(self)

    def __repr__(self):
        return f"interp_guard.View({int(self)})"

    def __str__(self):
        return int.__repr__(self)


class Guard:
    """A strong reference to an interpreter. Made by ``lookup``; a context manager that closes itself.

    One that is forgotten closes itself too, with a ``ResourceWarning``.
    """

    __slots__ = ("_id", "_capsule", "__weakref__")

    def __init__(self):
        raise TypeError("guards are made by interp_guard.lookup()")

    @classmethod
    def _of(cls, id, capsule):
        self = object.__new__(cls)
        self._id = id
        self._capsule = capsule  # has the guard, and gives it up when it goes, whatever is raised meanwhile
        return self

    @property
    def id(self):
        return self._id

    @property
    def closed(self):
        return self._capsule is None

    def view(self):
        """A view of the same interpreter."""
        return View(self._id)

    def duplicate(self):
        """Another guard of the same interpreter. Succeeds also while that is closing."""
        capsule = self._capsule  # once: another thread may close this meanwhile
        if capsule is None:
            raise ValueError("the guard is closed")
        return Guard._of(self._id, _native.duplicate(capsule, _site()))

    def close(self):
        """Gives the guard up. Closing it again does nothing."""
        capsule, self._capsule = self._capsule, None
        if capsule is not None:
            _native.release(capsule)

    def __reduce_ex__(self, protocol):
        raise TypeError("a guard cannot be copied or pickled: duplicate() takes another")

    def __enter__(self):
        if self._capsule is None:
            raise ValueError("the guard is closed")
        return self

    def __exit__(self, *exception):
        self.close()

    def __del__(self, _warn=_warnings.warn):
        if getattr(self, "_capsule", None) is not None:
            self._capsule = None
            _warn(f"guard of interpreter {self._id} was never closed", ResourceWarning, 2, source=self)

    def __repr__(self):
        state = " closed" if self._capsule is None else ""
        return f"<interp_guard.Guard of {self._id}{state}>"


def current():
    """A view of the calling interpreter."""
    return View(_native.current_id())


def main():
    """A view of the main interpreter."""
    return View(_native.main_id())


# A century of seconds: native code cannot take much more in nanoseconds.
_FOREVER = 3.2e9


def _make_lookup(view, guard, site, index, native, refusals, hush):
    """``lookup`` and what it needs, so that it needs no name of this module: it is called while modules are torn down, too,
    when all those are ``None``."""
    acquire, current_id = native.acquire, native.current_id
    finalizing, not_found = refusals
    unknown = native.NOT_FOUND

    def refuse(id, status):
        if status == unknown:
            refused = not_found(f"no interpreter {id}: nobody imported interp_guard in it, or it has finalized")
        else:
            refused = finalizing(f"interpreter {id} is finalizing and gives out no more guards")
        refused._interpreter = id
        if id == current_id():
            hush()
        raise refused

    def view_of(id):
        """A view of the interpreter that has this ID, which may be anything that is an integer."""
        number = index(id)
        if not -(2**63) <= number < 2**63:
            refuse(number, unknown)  # native code has no such numbers, and no interpreter has one
        return view(number)

    def lookup(id):
        """Takes a guard of the interpreter that has this ID.

        Raises ``Refused`` if there is none to be had: ``InterpreterNotFound``, which is a ``LookupError`` too, if nobody has
        this ID; ``InterpreterFinalizing``, which is a ``PythonFinalizationError`` too (``RuntimeError`` before 3.13), if it is
        closing. A thread may be told either while its own interpreter ends: it catches ``Refused``. One that does not ends in
        silence, if nothing depends on it: a daemon thread, or one that ``_thread`` started.
        """
        id = view_of(id)
        found = acquire(id, site())
        if isinstance(found, int):
            refuse(id, found)
        return guard._of(id, found)

    for function in (refuse, view_of, lookup):
        function.__qualname__ = function.__name__
    return refuse, view_of, lookup


from . import _quiet, _threads  # noqa: E402, F401  native code looks for them

_refuse, _view, lookup = _make_lookup(
    View, Guard, _site, _operator.index, _native, (InterpreterFinalizing, InterpreterNotFound), _quiet.hush
)
View._lookup = staticmethod(lookup)


def drain(id, timeout=None):
    """Closes an interpreter for good and waits, at most ``timeout`` seconds, until nobody guards it.

    What it is good for: a subinterpreter whose owner is about to destroy it from another interpreter. Raises
    ``TimeoutError``, which says who holds guards; the interpreter stays closed then, and can be drained again.
    """
    id = _view(id)
    status, report = _native.drain(id, -1 if timeout is None else int(max(0, min(timeout, _FOREVER)) * 1e9))
    if status == _native.OK:
        return
    if status == _native.TIMEOUT:
        raise TimeoutError(report)
    if status == _native.WOULD_DEADLOCK:
        raise RuntimeError(f"this thread is inside an ensure of interpreter {id} and would wait for itself")
    if status == _native.ALREADY_CLOSING:
        raise RuntimeError(f"another thread is draining interpreter {id}")
    if status == _native.NOT_FOUND:
        _refuse(id, status)
    raise RuntimeError(report)


def holders(id):
    """Who holds the guards of an interpreter. Raises ``InterpreterNotFound`` if there is no such interpreter.

    The answer is the number of guards that are out. With ``INTERP_GUARD_LEDGER=1`` in the environment its ``details`` say of
    each guard which thread took it, where, and how long ago; printed, it is a table.
    """
    id = _view(id)
    found = _native.holders(id)
    if found is None:
        _refuse(id, _native.NOT_FOUND)
    return Holders._of(*found)


def get_include():
    """The directory that has ``pep788.h``, ``pep788_v1.h``, ``interp_guard.hpp`` and ``interp_guard_cffi.h``."""
    return _os.path.join(_os.path.dirname(_os.path.abspath(__file__)), "include")


def cffi_cdef():
    """For ``ffi.cdef`` of a module whose C source includes ``interp_guard_cffi.h``, found by ``get_include()``."""
    with open(_os.path.join(get_include(), "interp_guard.cdef")) as declarations:
        return declarations.read()


from ._deadline import set_drain_timeout  # noqa: E402
from ._holders import Holder, Holders  # noqa: E402
from ._callbacks import Callback, callback  # noqa: E402
from ._on_close import cancel_on_close, on_close  # noqa: E402
from ._signals import SignalHandler, on_signal  # noqa: E402  these need what is above

from . import shield  # noqa: E402, F401

if current() == main():
    from . import _multiprocessing

    _multiprocessing.arrange()
    shield._from_environment()
