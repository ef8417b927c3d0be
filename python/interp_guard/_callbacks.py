"""C function pointers for ctypes and cffi that ask before Python is entered."""

import os
import sys

import interp_guard
from . import _aapcs64, _native, _sysv

_abi = _aapcs64 if os.uname().machine == "aarch64" else _sysv

# Those that are not closed. Native code has their addresses, so that whoever made one need not keep it.
_open = {}

# More words of arguments than a page of stack has are a mistake.
_MOST_WORDS = 512


class Callback:
    """A C function pointer that ``callback`` made. It stays until it is closed, or its interpreter ends.

    Where it is made for ctypes, it is a function pointer of the given type, to be used as such; else ``pointer`` is
    one.
    """

    __module__ = "interp_guard"

    def __init__(self):
        raise TypeError("callbacks are made by interp_guard.callback()")

    @property
    def pointer(self):
        """What to give to native code: a ctypes or a cffi function pointer."""
        return self if self._pointer is None else self._pointer

    @property
    def address(self):
        """The address of the C function."""
        return self._address

    @property
    def view(self):
        """The interpreter in which the function runs."""
        return self._view

    @property
    def closed(self):
        return self._capsule is None

    def close(self):
        """Has native code get the default from now on, whenever it calls. Calls that have begun go on to their end. The
        address stays good for the life of the process."""
        self._capsule = None  # its end closes
        _open.pop(self._address, None)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def __reduce_ex__(self, protocol):
        raise TypeError("a callback cannot be copied or pickled")

    def __repr__(self):
        state = ", closed" if self.closed else ""
        return f"<interp_guard.Callback at {self._address:#x} for {int(self._view)}{state}>"


def _site_of(function):
    """Where a function is, for the ledger; None where that is unknown, or nobody asks."""
    code = getattr(function, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None and interp_guard._recording else None


def _make(library, kind, pointer, function, default):
    """A callback in front of ``pointer``, or of a function pointer of ``function``. Its type is one of ``library``."""
    arguments, result = library.signature(kind)
    words = _abi.words_on_stack(arguments, result)
    if words > _MOST_WORDS:
        raise TypeError(f"{8 * words} bytes of arguments are more than a callback can take")
    form, data = _abi.default_in_place(result, library.default(kind, default))
    if pointer is None:
        pointer = library.pointer(kind, function, default)
    target = library.address(pointer)
    if target == 0:
        raise ValueError("a null pointer cannot be called")
    capsule, address = _native.callback(target, pointer, words, form, data, _site_of(function))
    self = library.wrap(kind, address)
    self._capsule, self._address, self._view = capsule, address, interp_guard.current()
    _open[address] = self
    return self


def _library_of(prototype):
    """What knows about this type or function pointer, and which of the two it is; None for neither."""
    if "ctypes" in sys.modules:
        from . import _for_ctypes

        which = _for_ctypes.which(prototype)
        if which is not None:
            return _for_ctypes, which
    if "_cffi_backend" in sys.modules:
        from . import _for_cffi

        which = _for_cffi.which(prototype)
        if which is not None:
            return _for_cffi, which
    raise TypeError(
        f"{prototype!r} is neither a function type of ctypes (CFUNCTYPE) or cffi (ffi.typeof) nor a function pointer"
    )


def callback(prototype, fn=None, default=0):
    """A C function pointer that native code may call on any thread and at any time, also while Python ends and
    afterwards.

    It attaches the thread to the calling interpreter, which then cannot finalize, and runs ``fn`` there. Where that is
    refused, because the interpreter is finalizing or gone, or the callback is closed, it returns ``default`` and
    touches nothing of Python. ``prototype`` is a function type, of ctypes (``CFUNCTYPE(c_int, c_int)``) or cffi
    (``ffi.typeof("int(*)(int)")``). Without ``fn`` this is a decorator. Or ``prototype`` is a function pointer that
    there is already: what ctypes or ``ffi.callback`` made of a function, or that of an ``ffi.def_extern``.

    It is kept alive until it is closed. Its trampoline, some 150 bytes, is kept for good: make one for each function,
    not one for each call.
    """
    library, which = _library_of(prototype)
    if which == "pointer":
        if fn is not None:
            raise TypeError("a function pointer has its function already")
        return _make(library, library.type_of(prototype), prototype, None, default)

    def decorate(function):
        if not callable(function):
            raise TypeError(f"{function!r} is not callable")
        return _make(library, prototype, None, function, default)

    return decorate if fn is None else decorate(fn)
