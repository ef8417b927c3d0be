"""Who holds the guards of an interpreter."""

import collections

Holder = collections.namedtuple(
    "Holder", "thread_id thread_name thread_ended site age in_handler by_this_thread", module="interp_guard"
)
Holder.__doc__ = """One guard that is out, as the ledger has it.

``thread_id`` is the kernel's, as ``threading.get_native_id``; ``site`` says where the guard was taken; ``age`` is in seconds.
"""


class Holders(int):
    """How many guards of an interpreter are out; with the ledger on, also who holds them."""

    __module__ = "interp_guard"

    @classmethod
    def _of(cls, outstanding, report, details):
        self = cls(outstanding)
        self._report = report
        self._details = tuple(
            Holder(id, name, bool(ended), site, age, bool(in_handler), bool(mine))
            for id, name, ended, site, age, in_handler, mine in details
        )
        return self

    @property
    def outstanding(self):
        """How many guards are out, recorded or not: the number itself."""
        return int(self)

    @property
    def details(self):
        """A ``Holder`` for each guard that the ledger has, oldest first; none with the ledger off."""
        return self._details

    def __iter__(self):
        return iter(self._details)

    def __repr__(self):
        return f"<interp_guard.Holders: {int(self)} out>"

    def __str__(self):
        if not self:
            return self._report
        return f"{int(self)} guard{' is' if self == 1 else 's are'} out\n{self._report}"
