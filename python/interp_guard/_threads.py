"""What ``threading`` calls the threads of this interpreter. Native code asks, for its reports."""

import os
import sys
from _thread import get_ident, get_native_id


def _known():
    """``threading``'s table, if anybody imported that: a module that is only a guest does not."""
    return getattr(sys.modules.get("threading"), "_active", {})


def own_name():
    thread = _known().get(get_ident())
    if thread is None and get_native_id() == os.getpid():
        return "MainThread"
    return getattr(thread, "name", None)


def names():
    found = [(os.getpid(), "MainThread")]  # or what it is called below
    for thread in list(_known().values()):
        native_id, name = getattr(thread, "native_id", None), getattr(thread, "name", None)
        if type(native_id) is int and type(name) is str:
            found.append((native_id, name))
    return found
