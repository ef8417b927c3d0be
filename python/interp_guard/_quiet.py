"""A thread that is refused while its interpreter ends has nothing to say: it ends as by ``SystemExit``.

What such a thread raises reaches a hook, ``threading``'s or, for ``_thread``'s own threads, ``sys.unraisablehook``. Ours
goes in front of the one that is there, when the end begins or at the first refusal, and lets everything else through. The
functions need no names of this module: they are called while modules are torn down, too.
"""

import sys

from . import _native


def _is_refusal(refused=_native.Refused, current_id=_native.current_id):
    """A test whether an exception says that this interpreter is ending, and nothing else."""
    own = current_id()

    def is_refusal(exception):
        while isinstance(exception, refused) and getattr(exception, "_interpreter", own) == own:
            exception = exception.__cause__ or exception.__context__
            if exception is None:
                return True
        return False

    return is_refusal


def hush_threading(sys=sys, make=_is_refusal):
    threading = (getattr(sys, "modules", None) or {}).get("threading")
    before = getattr(threading, "excepthook", None)
    if before is None or getattr(before, "_interp_guard", False):
        return
    is_refusal = make()

    def excepthook(args):
        if not (getattr(args.thread, "daemon", False) and is_refusal(args.exc_value)):
            before(args)

    excepthook._interp_guard = True
    threading.excepthook = excepthook


def _hush_threads(sys=sys, make=_is_refusal):
    before = getattr(sys, "unraisablehook", None)
    if before is None or getattr(before, "_interp_guard", False):
        return
    is_refusal = make()

    def unraisablehook(args):
        if not ("thread started by" in (args.err_msg or "") and is_refusal(args.exc_value)):
            before(args)

    unraisablehook._interp_guard = True
    sys.unraisablehook = unraisablehook


def hush(hush_threading=hush_threading, hush_threads=_hush_threads):
    hush_threading()
    hush_threads()
