#!/usr/bin/env python3
"""Checks the single edges of docs/orderings.md by the axioms of the Armv8 memory model: `models/litmus.py [TEXT]`.

The tests are in edges.litmus, which says how they are written. A test is a few CPUs with a few instructions each, and
an outcome. All candidate executions with that outcome are gone through: each way of telling which store each load
reads, in which order the stores to one location come, and where each membarrier strikes the other CPUs. The outcome
is *allowed* if one of them satisfies the three axioms, else *forbidden*:

  internal    program order to one location, reads-from, coherence and from-reads have no cycle
  atomic      no other store comes between the load and the store of a read-modify-write
  external    ordered-before has no cycle. It consists of what CPUs observe of each other (reads-from, coherence and
              from-reads between them) and of what one CPU keeps in order: dependencies, barriers, load-acquire and
              store-release

Where editions of the Arm architecture's manual differ, the weaker one is taken. Two things are added, both Linux's:

  membarrier      a barrier on the caller; then one at any place of each other CPU's program, an interrupt or a context
                  switch; then one on the caller. Each is ordered before the next
  leave, arrive   a context switch. Both are barriers, and the first is ordered before the second

With TEXT, only tests whose name contains it. Exit status: 0 if every verdict is as it should be, 1 if not, 2 if a
test cannot be read.
"""

import itertools
import pathlib
import sys
import time

INSTRUCTIONS = {"st", "stlr", "ld", "ldar", "ldapr", "add", "br", "dmb", "dmb.ld", "dmb.st", "isb", "membarrier"}


class Event:
    """A load, a store or a barrier."""

    def __init__(self, number, cpu, op, ctrl, name=None):
        self.number, self.cpu, self.op, self.name = number, cpu, op, name
        self.ctrl = frozenset(ctrl)  # registers on which a branch before it depends
        self.loc = self.reg = self.source = self.address = self.partner = None
        self.acquire = self.weak_acquire = self.release = self.lse = False


def events_of(cpus):
    """The events of a test, in program order, and the store that each location begins with."""
    events = []
    for cpu, program in enumerate(cpus):
        ctrl = set()

        def new(op, name=None):
            events.append(Event(len(events), cpu, op, ctrl, name))
            return events[-1]

        for step in (step.split() for step in program.split(";")):
            address = [word.removeprefix("addr=") for word in step if word.startswith("addr=")]
            op, *rest = [word for word in step if not word.startswith("addr=")]
            op, *marks = op.split(".") if op.startswith("add") else [op]
            if op in ("leave", "arrive"):
                new("dmb", (op, *rest))
            elif op not in INSTRUCTIONS:
                raise ValueError(f"no such instruction: {' '.join(step)}")
            elif op == "br":
                ctrl.update(rest)
            elif op == "membarrier":
                new("dmb", "begin"), new("dmb", "end")
            elif op in ("st", "stlr"):
                store = new("W")
                store.loc, value = rest
                register, _, more = value.partition("+")
                store.source = (None, int(value)) if value.isdigit() else (register, int(more or 0))
                store.release = op == "stlr"
            elif op == "add":
                load, store = new("R"), new("W")
                load.loc = store.loc = rest[0]
                load.reg, store.source = rest[1], (rest[1], int((rest + [1])[2]))
                load.partner, store.partner = store, load
                load.acquire, store.release = bool({"a", "al"} & set(marks)), bool({"l", "al"} & set(marks))
                store.lse = "lse" in marks
            elif op in ("ld", "ldar", "ldapr"):
                load = new("R")
                load.loc, load.reg = rest
                load.acquire, load.weak_acquire = op == "ldar", op == "ldapr"
            else:
                new(op)
            if address:
                events[-1].address = address[0]
    initial = {}
    for loc in sorted({e.loc for e in events if e.loc}):
        initial[loc] = Event(len(events), -1, "W", ())
        initial[loc].loc, initial[loc].source = loc, (None, 0)
        events.append(initial[loc])
    return events, initial


def before(a, b):
    """Program order."""
    return a.cpu == b.cpu >= 0 and a.number < b.number


def data_of(store):
    """The register that a store's value depends on; not of an atomic add, which is one instruction or a loop."""
    return None if store.partner else store.source[0]


def acyclic(nodes, edges):
    following, waits = [[] for _ in range(nodes)], [0] * nodes
    for a, b in edges:
        following[a].append(b)
        waits[b] += 1
    ready, gone = [n for n in range(nodes) if waits[n] == 0], 0
    while ready:
        gone += 1
        for n in following[ready.pop()]:
            waits[n] -= 1
            if waits[n] == 0:
                ready.append(n)
    return gone == nodes


def kept_in_order(a, b, memory, barriers):
    """Does one CPU keep a before b, whatever is read? `memory` and `barriers` are its other events."""
    if a.op == "dmb" or b.op == "dmb":
        return True
    if b.op == "dmb.ld" or a.op == "dmb.ld":
        return a.op == "R" or b.op in "RW"
    if b.op == "dmb.st" or a.op == "dmb.st":
        return a.op == "W" or b.op == "W"
    if not (a.loc and b.loc):
        return False
    if a.acquire or a.weak_acquire or b.release or a.release and b.acquire:
        return True
    if any(
        w.lse and w.release and w.partner.acquire and before(a, w.partner) and before(w, b)
        for w in memory
        if w.op == "W" and w.partner
    ):
        return True
    if a.op != "R":
        return False
    addressed = [c for c in memory if before(a, c) and c.address == a.reg]
    if a.partner is b or b.address == a.reg or b.op == "W" and data_of(b) == a.reg:
        return True
    if b.op == "W":
        return a.reg in b.ctrl or any(before(c, b) for c in addressed)
    synchronised = [isb for isb in barriers if isb.op == "isb" and before(isb, b)]
    return any(a.reg in isb.ctrl or any(before(c, isb) for c in addressed) for isb in synchronised)


def values_of(events, reads_from):
    """What each event reads or writes, and each register holds; or None if that hangs in the air."""
    values, registers, left = {}, {None: 0}, [e for e in events if e.loc]
    while left:
        later = []
        for e in left:
            if e.op == "W" and e.source[0] in registers:
                values[e] = registers[e.source[0]] + e.source[1]
            elif e.op == "R" and reads_from[e] in values:
                values[e] = registers[e.reg] = values[reads_from[e]]
            else:
                later.append(e)
        if len(later) == len(left):
            return None
        left = later
    return values, registers


def candidates(cpus, outcome):
    """How many candidate executions have the outcome, and how many of those the axioms allow."""
    events, initial = events_of(cpus)
    reads = [e for e in events if e.op == "R"]
    writes = {loc: [e for e in events if e.op == "W" and e.loc == loc and e.cpu >= 0] for loc in initial}
    registers = {e.reg for e in reads}
    if unclear := outcome.keys() - registers - initial.keys() or registers & initial.keys():
        raise ValueError(f"neither a register nor a location, or both: {', '.join(unclear)}")
    memory, barriers = [e for e in events if e.loc and e.cpu >= 0], [e for e in events if not e.loc]
    po_loc = [(a.number, b.number) for a in memory for b in memory if a.loc == b.loc and before(a, b)]
    always = {
        (a.number, b.number)
        for a, b in itertools.permutations(events, 2)
        if before(a, b) and kept_in_order(a, b, memory, barriers)
    }
    named = {e.name: e for e in events if e.name}
    for name, left in named.items():
        if name[0] == "leave":
            always.add((left.number, named["arrive", name[1]].number))

    # Where a membarrier strikes each other CPU: before its first event, or after the first, and so on.
    strikes = [set()]
    if "begin" in named:
        begin, end = named["begin"], named["end"]
        others = [[e for e in events if e.cpu == cpu] for cpu in range(len(cpus)) if cpu != begin.cpu]
        strikes = []
        for places in itertools.product(*(range(len(own) + 1) for own in others)):
            edges = set()
            for node, (own, place) in enumerate(zip(others, places), len(events)):
                edges |= {(begin.number, node), (node, end.number)}
                edges |= {(e.number, node) for e in own[:place]} | {(node, e.number) for e in own[place:]}
            strikes.append(edges)
    nodes = len(events) + len(cpus)

    seen = allowed = 0
    for choice in itertools.product(*([initial[r.loc], *writes[r.loc]] for r in reads)):
        reads_from = dict(zip(reads, choice))
        known = values_of(events, reads_from)
        if known is None or any(known[1].get(name, value) != value for name, value in outcome.items()):
            continue
        values = known[0]
        for order in itertools.product(*(itertools.permutations(writes[loc]) for loc in initial)):
            order = [[initial[loc], *rest] for loc, rest in zip(initial, order)]
            if any(values[of[-1]] != outcome.get(of[-1].loc, values[of[-1]]) for of in order):
                continue
            seen += len(strikes)
            place = {w: n for of in order for n, w in enumerate(of)}
            co = [pair for of in order for pair in itertools.combinations(of, 2)]
            fr = [(r, w) for r in reads for w in writes[r.loc] if place[w] > place[reads_from[r]]]
            rf = [(w, r) for r, w in reads_from.items()]
            if not acyclic(nodes, po_loc + [(a.number, b.number) for a, b in co + fr + rf]):
                continue
            if any(r.partner and place[reads_from[r]] + 1 != place[r.partner] for r in reads):
                continue
            external = {(a.number, b.number) for a, b in co + fr + rf if a.cpu != b.cpu}
            for w, r in rf:  # forwarded: what the store depends on is before the load, too
                if before(w, r):
                    external |= {(d.number, r.number) for d in reads if before(d, w) and d.reg == data_of(w)}
                    if w.partner and (r.acquire or r.weak_acquire):
                        external.add((w.number, r.number))
            for w, next_w in co:  # what a store waits for, a later one to the same location waits for
                if before(w, next_w):
                    waits = [d for d in reads if before(d, w) and d.reg == data_of(w)]
                    waits += [e for e in memory if before(e, w) and w.release]
                    external |= {(e.number, next_w.number) for e in waits}
            allowed += sum(acyclic(nodes, always | external | strike) for strike in strikes)
    return seen, allowed


def tests():
    kind = None
    for line in pathlib.Path(__file__).with_name("edges.litmus").read_text().splitlines() + ["end||"]:
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith(" "):
            cpus.append(line)
            continue
        if kind:
            yield kind, name, outcome, cpus
        kind, name, wanted = (part.strip() for part in line.split("|"))
        outcome, cpus = {key: int(value) for key, value in (one.split("=") for one in wanted.split())}, []


def main(only):
    verdicts = {"allowed": "allowed", "forbidden": "forbidden", "holds": "forbidden", "twin": "allowed"}
    counts, failed, executions, began = dict.fromkeys(verdicts, 0), 0, 0, time.monotonic()
    print(f"{'kind':<9} {'candidates':>10} {'allowed':>8}  {'verdict':<10} test")
    for kind, name, outcome, cpus in tests():
        if only not in name:
            continue
        try:
            seen, allowed = candidates(cpus, outcome)
        except (ValueError, IndexError, KeyError) as error:
            print(f"models/litmus.py: cannot read the test '{name}': {error!r}", file=sys.stderr)
            return 2
        verdict = "allowed" if allowed else "forbidden"
        wrong = verdict != verdicts[kind] or seen == 0  # an outcome that no candidate has is a misprint
        counts[kind], failed, executions = counts[kind] + 1, failed + wrong, executions + seen
        said = f"  FAILED: should be {verdicts[kind]}" if wrong else ""
        print(f"{kind:<9} {seen:>10} {allowed:>8}  {verdict:<10} {name}{said}")
    print(
        f"{counts['allowed'] + counts['forbidden']} known verdicts, {counts['holds']} edges, {counts['twin']} twins;"
        f" {executions} candidate executions in {time.monotonic() - began:.0f} s; {failed} not as they should be"
    )
    return 1 if failed or not any(counts.values()) else 0


if __name__ == "__main__":
    if len(sys.argv) > 2 or sys.argv[1:] in (["--help"], ["-h"]):
        print(__doc__)
        sys.exit(2 if len(sys.argv) > 2 else 0)
    sys.exit(main(*sys.argv[1:] or [""]))
