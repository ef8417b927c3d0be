"""How long the end of an interpreter may wait, chosen by the application."""

import math
import operator

from . import _native


def set_drain_timeout(seconds, then="report"):
    """Limits how long the end of an interpreter waits, in this process, for guards and for threads that had one.

    Off by default; ``None`` turns it off. When the time is over, who is waited for is reported. Then, with ``"report"``,
    CPython goes on although guards are out: threads that come back to Python are ended or stopped by it. With ``"exit"`` the
    process ends at once, with status 1; what is left in ``sys.stdout`` and ``sys.stderr`` is written first.

    ``INTERP_GUARD_DRAIN_TIMEOUT`` in the environment says the same for a program that does not call this: ``5`` or
    ``5:exit``.
    """
    if then not in ("report", "exit"):
        raise ValueError(f"then is 'report' or 'exit', not {then!r}")
    if seconds is None:
        _native.set_drain_timeout(-1.0, False)
        return
    if isinstance(seconds, (str, bytes)) or not hasattr(type(seconds), "__float__"):
        seconds = operator.index(seconds)  # an integer of another kind, or a TypeError
    number = float(seconds)
    if not 0 <= number < math.inf:
        raise ValueError(f"seconds is a number from 0 on, or None, not {seconds!r}")
    _native.set_drain_timeout(number, then == "exit")
