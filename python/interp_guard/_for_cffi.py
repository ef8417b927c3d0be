"""What ``callback`` needs to know of cffi."""

import operator

import _cffi_backend

from . import _sysv
from ._callbacks import Callback

_FLOATS = {"float": _sysv.FLOAT, "double": _sysv.FLOAT, "long double": _sysv.LONG_DOUBLE}


class _Callback(Callback):
    __slots__ = ("_pointer", "_address", "_view", "_capsule")
    __module__, __qualname__ = "interp_guard", "Callback"


def which(prototype):
    if isinstance(prototype, _cffi_backend.CType):
        return "type" if prototype.kind == "function" else None
    if isinstance(prototype, _cffi_backend._CDataBase) and _cffi_backend.typeof(prototype).kind == "function":
        return "pointer"
    return None


def type_of(pointer):
    return _cffi_backend.typeof(pointer)


def pointer(prototype, function, default):
    """What cffi makes of the function. It returns the default also where that raises."""
    error = () if prototype.result.kind == "void" or default in (None, 0) else (default,)
    return _cffi_backend.callback(prototype, function, *error)


def address(pointer):
    return int(_cffi_backend.cast(_cffi_backend.new_primitive_type("uintptr_t"), pointer))


def _scalars(kind, at=0):
    if kind.kind == "array":
        for number in range(kind.length):
            yield from _scalars(kind.item, at + number * _cffi_backend.sizeof(kind.item))
    elif kind.kind in ("struct", "union"):
        for _, field in kind.fields:
            yield from _scalars(field.type, at + field.offset)
    elif kind.kind in ("pointer", "function"):
        yield at, 8, _sysv.INTEGER
    elif kind.kind == "primitive" and kind.cname in _FLOATS:
        yield at, _cffi_backend.sizeof(kind), _FLOATS[kind.cname]
    elif kind.kind == "enum" or kind.kind == "primitive" and "omplex" not in kind.cname:
        yield at, _cffi_backend.sizeof(kind), _sysv.INTEGER
    else:
        raise TypeError(f"interp_guard.callback does not know how {kind.cname} is passed")


def _value(kind):
    return _sysv.Value(_cffi_backend.sizeof(kind), _cffi_backend.alignof(kind), tuple(_scalars(kind)))


def signature(function):
    if function.ellipsis:
        raise TypeError(f"{function.cname} does not say how many arguments there are")
    result = function.result
    return [_value(kind) for kind in function.args], None if result.kind == "void" else _value(result)


def default(function, value):
    """The bytes of a default."""
    result = function.result
    if result.kind == "void":
        if value not in (None, 0):
            raise TypeError(f"a function that returns nothing has no default {value!r}")
        return b""
    size = _cffi_backend.sizeof(result)
    if value is None or isinstance(value, int) and value == 0:
        return bytes(max(8, size))
    if result.kind in ("pointer", "function"):
        try:
            # An address, and no object that has one: native code may get it when Python and its objects are gone.
            return operator.index(value).to_bytes(8, "little")
        except TypeError:
            raise TypeError(f"the default of a pointer is None or an address, not {value!r}") from None
    one = _cffi_backend.newp(_cffi_backend.new_pointer_type(result), value)
    data = bytes(_cffi_backend.buffer(one))
    if result.kind in ("struct", "union") or result.cname in _FLOATS:
        return data.ljust(8, b"\0")
    stored = int(_cffi_backend.cast(_cffi_backend.new_primitive_type("long long"), one[0]))
    return (stored % 2**64).to_bytes(8, "little")  # widened


def wrap(function, address):
    self = object.__new__(_Callback)
    self._pointer = _cffi_backend.cast(function, address)
    return self
