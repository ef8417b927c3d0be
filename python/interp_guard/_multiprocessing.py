"""The end of ``multiprocessing``'s children, which end by ``os._exit`` where they were forked.

Up to 3.12 such a child runs no ``atexit`` callbacks; from 3.13 on it runs some, after it has dropped those that it inherited. On every
version it runs its finalizers (``multiprocessing.util.Finalize``), which close its queues and proxies. So ours is one of them, made
by what ``multiprocessing`` runs after its fork and after it has cleared the finalizers. A child by ``spawn`` ends as any Python does.
"""

import sys

from . import _native

# Before the finalizers that close queues and proxies (10), to which guarded work may have something to add; after those that
# end pools (15).
_PRIORITY = 11

_arranged = False


def arrange():
    """Called when the package is imported, and in each child of ``os.fork``: ``multiprocessing`` may be in use, or not."""
    global _arranged
    util, process = sys.modules.get("multiprocessing.util"), sys.modules.get("multiprocessing.process")
    register, parent_process = getattr(util, "register_after_fork", None), getattr(process, "parent_process", None)
    if _arranged or register is None or parent_process is None:
        return  # a child of multiprocessing has both, and one that is forked by this process inherits what is arranged
    _arranged = True
    register(sys.modules[__name__], _after_fork)
    if parent_process() is not None:  # this is a child, and well past its fork
        _after_fork()


def _after_fork(_=None):
    context = sys.modules["multiprocessing.context"]._default_context
    if context.get_start_method(allow_none=True) in ("fork", "forkserver", None):
        sys.modules["multiprocessing.util"].Finalize(None, _end, exitpriority=_PRIORITY)


def _end():
    """As any Python ends: first the threads that are no daemons, then the hook."""
    import threading

    threading._shutdown()  # the child's own call of this, a little later, finds it done
    _native.end()
