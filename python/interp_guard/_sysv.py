"""Where a C function of x86-64 Linux finds its arguments and leaves its result (System V ABI), as far as a trampoline
cares.

A trampoline passes on all registers. What it has to know: how much of the stack is arguments, and what to put where if
it returns by itself.
"""

import collections

# What a scalar is, as far as registers go.
INTEGER, FLOAT, LONG_DOUBLE = "integer", "float", "long double"

# The forms of a default, as src/calls/callbacks.rs numbers them.
IN_REGISTERS, ON_X87, IN_MEMORY = 0, 1, 2

Value = collections.namedtuple("Value", "size alignment scalars")
Value.__doc__ = """A type of C. Its ``scalars`` are what it is made of: ``(offset, size, what)`` each."""


def scalar(size, what):
    return Value(size, size, ((0, size, what),))


def _registers(value):
    """What each eight bytes of it are, if it is passed in registers; else None."""
    if value.size > 16 or any(what == LONG_DOUBLE or offset % size for offset, size, what in value.scalars):
        return None
    parts = [None] * ((value.size + 7) // 8)
    for offset, _, what in value.scalars:
        at = offset // 8
        parts[at] = INTEGER if INTEGER in (what, parts[at]) else FLOAT
    if None in parts:
        raise TypeError("a structure of which eight bytes are padding cannot be passed")
    return parts


def _is_on_x87(value):
    return [what for _, _, what in value.scalars] == [LONG_DOUBLE] and value.size == 16


def words_on_stack(arguments, result):
    """How many words of the arguments are passed on the stack."""
    free = {INTEGER: 6, FLOAT: 8}
    if result is not None and not _is_on_x87(result) and _registers(result) is None:
        free[INTEGER] -= 1  # where to put it
    end = 0
    for value in arguments:
        parts = _registers(value)
        if parts is not None and all(parts.count(what) <= free[what] for what in free):
            for what in free:
                free[what] -= parts.count(what)
        else:
            alignment = max(8, value.alignment)
            end = (end + alignment - 1) // alignment * alignment + (value.size + 7) // 8 * 8
    return end // 8


def default_in_place(result, data):
    """``(form, bytes)``: how the value whose bytes these are is returned."""
    if result is None:
        return IN_REGISTERS, bytes(32)
    if _is_on_x87(result):
        return ON_X87, data
    parts = _registers(result)
    if parts is None:
        return IN_MEMORY, data
    words = [bytes(8)] * 4  # rax, rdx, xmm0, xmm1
    at = {INTEGER: 0, FLOAT: 2}
    for number, what in enumerate(parts):
        words[at[what]] = data[8 * number : 8 * number + 8].ljust(8, b"\0")
        at[what] += 1
    return IN_REGISTERS, b"".join(words)
