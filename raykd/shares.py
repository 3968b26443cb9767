"""What processes take of the nodes of a cluster, and how many of them fit: numbers and names, no Ray in here.

    places(nodes, share) = sum over nodes of min over what a share takes of floor(what the node has / what it takes)

As Ray counts: in ten-thousandths, and a process gets a part of one GPU or whole ones, never parts of two. So three halves take
two GPUs, and a GPU on each of two nodes is not two for one process.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

UNIT = 10_000
OWN_OPTIONS = ("CPU", "GPU", "memory", "object_store_memory")
"""Resources that are not custom ones."""
PLAIN = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"


@dataclass(frozen=True)
class Share:
    """What one process takes of a node. None: not said. Not identity: it changes no result.

    Raises `ValueError` for an amount that is not more than 0, or a name that no node can have.
    """

    cpus: float | None = None
    gpus: float | None = None
    """A part of one, or a whole number."""
    custom: Mapping[str, float] = field(default_factory=dict)
    """Custom resources, which nodes are started with."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What the node must be labeled."""

    def __post_init__(self) -> None:
        for name, amount in self.amounts().items():
            if not 0 < amount < float("inf"):
                raise ValueError(f"{amount:g} of {name} for a process: more than 0 would be right")
        if self.gpus is not None and self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"{self.gpus:g} GPUs for a process: a part of one, or a whole number, would be right")
        for name in self.custom:
            if not name or name in OWN_OPTIONS:
                raise ValueError(f"{name!r} as a custom resource: a name that nodes are started with would be right")
        for name, value in self.labels.items():
            if not re.fullmatch(rf"([a-z0-9.-]+/)?{PLAIN}", name) or not re.fullmatch(PLAIN, value):
                raise ValueError(f"the label {name}={value}: letters, digits, and - _ . between them would be right")

    def amounts(self) -> dict[str, float]:
        """By Ray's names, what was said."""
        named = {"CPU": self.cpus, "GPU": self.gpus}
        return {name: amount for name, amount in named.items() if amount is not None} | dict(self.custom)

    def __str__(self) -> str:
        amounts = (f"{amount:g} {name}" for name, amount in self.amounts().items())
        return ", ".join([*amounts, *_pairs(self.labels)])


@dataclass(frozen=True)
class Node:
    """What a node has, by Ray's names, whether it is in use or not."""

    amounts: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)

    def labeled(self, labels: Mapping[str, str]) -> bool:
        """Whether it has these labels."""
        return all(self.labels.get(name) == value for name, value in labels.items())


class Room:
    """What is left of nodes while shares are taken, from the first node that has room."""

    def __init__(self, nodes: Iterable[Node]):
        self._nodes = list(nodes)
        self._left = [
            {name: _units(amount) for name, amount in node.amounts.items() if name != "GPU"} for node in self._nodes
        ]
        self._gpus = [[UNIT] * int(node.amounts.get("GPU", 0)) for node in self._nodes]
        self._begin: dict[str, int] = {}  # by share, the first node that may have room: nothing is given back

    def places(self, share: Share) -> int:
        """How many of the same share fit into what is left."""
        return sum(self._places(node, share) for node in range(len(self._nodes)))

    def take(self, share: Share, count: int = 1) -> bool:
        """Take so many of a share, all or none; whether they fit."""
        if count > 1 and self.places(share) < count:
            return False
        taken = [self._take(share) for _ in range(count)]
        return all(taken)

    def _take(self, share: Share) -> bool:
        begin = self._begin.get(repr(share), 0)
        for node in range(begin, len(self._nodes)):
            self._begin[repr(share)] = node
            if self._places(node, share):
                for name, amount in share.amounts().items():
                    if name != "GPU":
                        self._left[node][name] -= _units(amount)
                self._take_gpus(self._gpus[node], _units(share.gpus or 0))
                return True
        return False

    @staticmethod
    def _take_gpus(gpus: list[int], wanted: int) -> None:
        if 0 < wanted < UNIT:  # the fullest that has room, so that whole ones stay whole
            fitting = min((i for i, left in enumerate(gpus) if left >= wanted), key=lambda i: gpus[i])
            gpus[fitting] -= wanted
            return
        for _ in range(wanted // UNIT):
            gpus.remove(UNIT)

    def _places(self, node: int, share: Share) -> int:
        """How many fit on one node."""
        if not self._nodes[node].labeled(share.labels):
            return 0
        rest = {name: _units(amount) for name, amount in share.amounts().items() if name != "GPU"}
        found = [self._left[node].get(name, 0) // amount for name, amount in rest.items()]
        gpus = _units(share.gpus or 0)
        if 0 < gpus < UNIT:
            found.append(sum(left // gpus for left in self._gpus[node]))
        elif gpus:
            found.append(self._gpus[node].count(UNIT) * UNIT // gpus)
        assert found, "a share takes something"
        return min(found)


def places(nodes: Iterable[Node], share: Share) -> int:
    """How many of a share fit on nodes that do nothing else."""
    return Room(nodes).places(share)


def beside(nodes: Sequence[Node], taken: Share, count: int, wanted: Share) -> Room:
    """What is left beside so many of a share, as far as they fit, which take first what `wanted` cannot use."""
    room = Room(sorted(nodes, key=lambda node: places([node], wanted) > 0))
    while count and room.take(taken):
        count -= 1
    return room


def apart(nodes: Iterable[Node], one: Share, other: Share) -> bool:
    """Whether no node has a place for both."""
    return not any(places([node], one) and places([node], other) for node in nodes)


def settled(share: Share, nodes: Iterable[Node], *, cpus: float, cpus_of_gpu: float) -> Share:
    """The same with what was not said: a GPU and `cpus_of_gpu` cores if nodes of its kind have GPUs, else `cpus` cores."""
    if share.gpus is None and has_gpus(nodes, share):
        share = replace(share, gpus=1.0)
    return replace(share, cpus=share.cpus or (cpus_of_gpu if share.gpus else cpus))


def has_gpus(nodes: Iterable[Node], share: Share) -> bool:
    """Whether there are GPUs on nodes of the kind that the share names by labels and custom resources."""
    return any(node.amounts.get("GPU", 0) > 0 for node in nodes if _kind(node, share))


def threads(nodes: Iterable[Node], share: Share, count: int) -> int:
    """Threads of each of so many processes that spread over the nodes where one fits."""
    cores = [int(node.amounts.get("CPU", 0)) for node in nodes if places([node], share)]
    return max(1, min(cores, default=1) // -(-count // max(1, len(cores))))


def check(nodes: Sequence[Node], share: Share, count: int, *, kind: str, who: str) -> None:
    """Raise `ValueError` if so many do not fit, naming what is asked and what exists.

    `kind`: "worker" or "teacher", by which options are named; `who`: them, in words.
    """
    for name, value in share.labels.items():
        if not any(node.labels.get(name) == value for node in nodes):
            there = Counter(pair for node in nodes for pair in _pairs(node.labels) if "ray.io/node-id=" not in pair)
            known = f"labels of the nodes: {_counted(there)}" if there else "the nodes have no labels"
            raise ValueError(f"--{kind}-label {name}={value}: no node has it; {known}")
    for name, amount in share.custom.items():
        if max((node.amounts.get(name, 0) for node in nodes), default=0) < amount:
            there = Counter(f"{each}={have:g}" for node in nodes for each, have in _custom(node).items())
            known = f"resources of the nodes: {_counted(there)}" if there else "the nodes have no custom resources"
            raise ValueError(f"--{kind}-resource {name}={amount:g}: no node has so much; {known}")
    found = places(nodes, share)
    if found < count:
        have = Counter(
            f"{node.amounts.get('CPU', 0):g} CPU, {node.amounts.get('GPU', 0):g} GPU"
            for node in nodes
            if _kind(node, share)
        )
        room = f"{found} fit" if found else "no node has room for one"
        raise ValueError(f"{who}, each {share}: {room}; the nodes for them have {_counted(have) or 'nothing'}")


def _kind(node: Node, share: Share) -> bool:
    """Whether the node is of the kind that is named by labels and custom resources."""
    return node.labeled(share.labels) and all(node.amounts.get(name, 0) >= n for name, n in share.custom.items())


def _custom(node: Node) -> dict[str, float]:
    """A node's custom resources, without those that Ray makes up."""
    return {name: n for name, n in node.amounts.items() if name not in OWN_OPTIONS and ":" not in name}


def _pairs(labels: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in labels.items()]


def _counted(found: Counter[str]) -> str:
    return ", ".join(f"{what} ({count})" for what, count in sorted(found.items()))


def _units(amount: float) -> int:
    return round(amount * UNIT)
