"""Where a C function of AArch64 Linux finds its arguments and leaves its result (AAPCS64), as far as a trampoline cares.
See ``_sysv``, whose values these are."""

from ._sysv import IN_MEMORY, IN_REGISTERS, INTEGER


def _floats(value):
    """How many registers of floating-point numbers it takes, one for each of its parts; 0 if it goes elsewhere."""
    count = len(value.scalars)
    kinds = {(size, what) for _, size, what in value.scalars}
    if not 1 <= count <= 4 or len(kinds) != 1:
        return 0
    size, what = kinds.pop()
    return count if what != INTEGER and count * size == value.size else 0


def words_on_stack(arguments, result):
    """How many words of the arguments are passed on the stack."""
    integers = floats = end = 0
    for value in arguments:
        size, alignment = value.size, max(8, value.alignment)
        count = _floats(value)
        if count:
            floats += count
            if floats <= 8:
                continue
            floats = 8  # none of those that follow gets one that is left
        else:
            if size > 16:
                size, alignment = 8, 8  # its address
            words = (size + 7) // 8
            if alignment > 8:
                integers += integers % 2
            integers += words
            if integers <= 8:
                continue
            integers = 8
        end = (end + alignment - 1) // alignment * alignment + (size + 7) // 8 * 8
    return end // 8


def default_in_place(result, data):
    """``(form, bytes)``: how the value whose bytes these are is returned."""
    if result is None:
        return IN_REGISTERS, bytes(80)  # x0, x1, and v0 to v3
    count = _floats(result)
    if count:
        size = result.size // count
        parts = [data[size * number : size * (number + 1)].ljust(16, b"\0") for number in range(count)]
        return IN_REGISTERS, bytes(16) + b"".join(parts).ljust(64, b"\0")
    if result.size > 16:
        return IN_MEMORY, data
    return IN_REGISTERS, data.ljust(80, b"\0")
