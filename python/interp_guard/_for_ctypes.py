"""What ``callback`` needs to know of ctypes."""

import ctypes
import operator

from . import _sysv
from ._callbacks import Callback

_FLOATS = {"f": _sysv.FLOAT, "d": _sysv.FLOAT, "g": _sysv.LONG_DOUBLE}
_POINTERS = "PzZ"
_INTEGERS = "cbBhHiIlLqQ?u"
_FunctionPointer = ctypes._CFuncPtr
_Pointer = ctypes._Pointer
_Simple = ctypes._SimpleCData


def which(prototype):
    if isinstance(prototype, type) and issubclass(prototype, _FunctionPointer) and hasattr(prototype, "_flags_"):
        return "type"
    return "pointer" if isinstance(prototype, _FunctionPointer) else None


def type_of(pointer):
    return pointer


def pointer(prototype, function, default):
    return prototype(function)


def address(pointer):
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0


def _fields(structure):
    """The fields of a structure, inherited ones too: ``(offset, kind)`` each."""
    for base in reversed(structure.__mro__):
        for name, kind, *_ in vars(base).get("_fields_", ()):
            yield getattr(base, name).offset, kind


def _scalars(kind, at=0):
    if issubclass(kind, ctypes.Array):
        for number in range(kind._length_):
            yield from _scalars(kind._type_, at + number * ctypes.sizeof(kind._type_))
    elif issubclass(kind, ctypes.Structure):
        for offset, of in _fields(kind):
            yield from _scalars(of, at + offset)
    elif issubclass(kind, (_Pointer, _FunctionPointer)):
        yield at, 8, _sysv.INTEGER
    elif issubclass(kind, _Simple) and kind._type_ in _FLOATS:
        yield at, ctypes.sizeof(kind), _FLOATS[kind._type_]
    elif issubclass(kind, _Simple) and kind._type_ in _INTEGERS + _POINTERS + "O":
        yield at, ctypes.sizeof(kind), _sysv.INTEGER
    else:
        raise TypeError(f"interp_guard.callback does not know how {kind.__name__} is passed")


def _value(kind):
    if not isinstance(kind, type) or not hasattr(kind, "from_buffer"):
        raise TypeError(f"{kind!r} is not a type of ctypes")
    return _sysv.Value(ctypes.sizeof(kind), ctypes.alignment(kind), tuple(_scalars(kind)))


def _types(function):
    """The arguments and the result of a function type, or of a function pointer, which can have its own."""
    if isinstance(function, type):
        return getattr(function, "_argtypes_", None), getattr(function, "_restype_", None)
    return function.argtypes, function.restype


def signature(function):
    arguments, result = _types(function)
    if arguments is None:
        raise TypeError("a function pointer without argtypes does not say what is on the stack")
    return [_value(kind) for kind in arguments], None if result is None else _value(result)


def default(function, value):
    """The bytes of a default."""
    _, result = _types(function)
    if result is None:
        if value not in (None, 0):
            raise TypeError(f"a function that returns nothing has no default {value!r}")
        return b""
    simple = getattr(result, "_type_", None) if issubclass(result, _Simple) else None
    if simple == "O":
        raise TypeError("an object cannot be a default: native code may get it when Python is gone")
    if issubclass(result, (_Pointer, _FunctionPointer)) or simple and simple in _POINTERS:
        try:
            # An address, and no object that has one: it may get this, too, when Python is gone.
            return operator.index(0 if value is None else value).to_bytes(8, "little")
        except TypeError:
            raise TypeError(f"the default of a pointer is None or an address, not {value!r}") from None
    if not simple:
        if not isinstance(value, result) and value != 0:
            raise TypeError(f"the default of a {result.__name__} is one of those, or 0, not {value!r}")
        return bytes(value) if isinstance(value, result) else bytes(ctypes.sizeof(result))
    if value == 0:
        return bytes(max(8, ctypes.sizeof(result)))
    stored = result(value)
    if simple in _FLOATS or simple in "cu":
        return bytes(stored).ljust(8, b"\0")
    if stored.value != value:
        raise OverflowError(f"{value!r} does not fit into a {result.__name__}")
    return int(stored.value).to_bytes(8, "little", signed=stored.value < 0)


def wrap(function, address):
    """A function pointer with this address that is a ``Callback`` as well."""
    prototype = function if isinstance(function, type) else type(function)
    arguments, result = _types(function)
    # Each class of function pointers says these itself.
    members = {"_flags_": prototype._flags_, "_argtypes_": tuple(arguments), "_restype_": result}
    kind = type(prototype)("Callback", (Callback, prototype), members)
    self = kind.__new__(kind, address)
    self._pointer = None
    return self
