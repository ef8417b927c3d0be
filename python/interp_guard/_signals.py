"""Real signal handlers that leave a call for an interpreter, and what runs there."""

import operator
import sys

import interp_guard
from . import _native

# Callables that signals run in this interpreter, by number. Native code comes here through the three functions below.
_calls = {}


def _kept(number):
    return _calls.get(number)


def _forget(number):
    _calls.pop(number, None)


def _keep_by_name(number, name):
    """Keeps what ``module:qualified.name`` names here."""
    module, _, path = name.partition(":")
    __import__(module)
    found = sys.modules[module]
    for attribute in path.split("."):
        found = getattr(found, attribute)
    if not callable(found):
        raise TypeError(f"{name} is not callable")
    _calls[number] = found


def _name_of(function):
    """How another interpreter finds a function; objects themselves cannot be shared."""
    if isinstance(function, str):
        if not all(part.isidentifier() for side in function.split(":") for part in side.split(".")) or (
            function.count(":") != 1
        ):
            raise ValueError(f"{function!r} is not of the form 'module:name'")
        return function
    module, path = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not module or not path or module == "__main__" or not all(part.isidentifier() for part in path.split(".")):
        raise ValueError(
            f"{function!r} cannot be found by name in another interpreter: give a function of an importable module, or "
            "'module:name'"
        )
    return f"{module}:{path}"


class SignalHandler:
    """A handler that ``on_signal`` installed. It stays until it is closed, or the interpreter that installed it ends."""

    __module__ = "interp_guard"
    __slots__ = ("_signum", "_view", "_number", "_installed", "_counts")
    _open = set()  # whoever does not keep what on_signal returns wants it to stay

    def __init__(self):
        raise TypeError("signal handlers are made by interp_guard.on_signal()")

    @property
    def signum(self):
        return self._signum

    @property
    def view(self):
        """The interpreter in which the callable runs."""
        return self._view

    @property
    def closed(self):
        return self._installed is None

    @property
    def counts(self):
        """What came of the signals so far: how many left a call, and how many found the queue full, the interpreter closing,
        or no interpreter."""
        installed = self._installed  # once: another thread may close this meanwhile
        if installed is not None:
            self._counts = _native.counts(installed)
        return dict(zip(("left", "full", "finalizing", "not_found"), self._counts))

    def close(self):
        """Uninstalls the handler. Signals that came before it may still be run. The signal's default action does not come
        back: it is then ignored, or goes to the handler that was there before."""
        installed, self._installed = self._installed, None
        if installed is None:
            return
        self._counts = _native.counts(installed)
        del installed  # the capsule's end uninstalls
        SignalHandler._open.discard(self)
        if self._view == interp_guard.current():
            _forget(self._number)
        else:
            _native.forget_in(self._view, self._number)

    def __reduce_ex__(self, protocol):
        raise TypeError("a signal handler cannot be copied or pickled")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def __repr__(self):
        state = "closed" if self.closed else "installed"
        return f"<interp_guard.SignalHandler of signal {self._signum} for {int(self._view)}, {state}>"


def on_signal(signum, interpreter_id, callable):
    """Has ``callable()`` run in an interpreter whenever this process gets a signal, whichever thread the signal interrupts.

    The handler looks the interpreter up and leaves the call; a native thread attaches to the interpreter and runs it there,
    soon, one after the other, in the order in which the signals came. A signal that comes while the interpreter is
    closing or gone runs nothing. What the callable raises goes to ``sys.unraisablehook``. Handlers that were installed
    before the first ``on_signal`` of that signal are called as well; one that is installed afterwards, by ``signal.signal``
    say, replaces this, and is replaced by the next ``on_signal``.

    For another interpreter than the calling one, ``callable`` has to be found there by name: a function of an importable
    module, or ``"module:name"``.
    """
    signum, view = operator.index(signum), interp_guard._view(interpreter_id)
    number = _native.new_number()
    with interp_guard.lookup(view):
        if view == interp_guard.current():
            if isinstance(callable, str):
                _keep_by_name(number, _name_of(callable))
            elif hasattr(callable, "__call__"):
                _calls[number] = callable
            else:
                raise TypeError(f"{callable!r} is not callable")
        else:
            wrong = _native.keep_in(view, number, _name_of(callable))
            if wrong is not None:
                raise ValueError(f"interpreter {view} does not have {_name_of(callable)}: {wrong}")
        self = object.__new__(SignalHandler)
        self._signum, self._view, self._number, self._counts = signum, view, number, (0, 0, 0, 0)
        self._installed = None
        try:
            self._installed = _native.install(self._signum, view, number)
        finally:
            if self._installed is None:
                _forget(number) if view == interp_guard.current() else _native.forget_in(view, number)
        SignalHandler._open.add(self)
        return self
