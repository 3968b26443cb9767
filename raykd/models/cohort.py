"""Several networks as one: all see the same inputs, each through its own preprocessing, and none sees another.

    raw inputs ─┬─► preprocess 0 ──► peer0 ──► "peer0", which are the logits of the whole
                ├─► preprocess 1 ──► peer1 ──► "peer1"
                └─► ...

So networks that learn from each other at every step are one student (`methods/mutual.py`).

Shapes: B batch, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from raykd.models.architecture import Architecture
from raykd.models.preprocess import Preprocess


@dataclass(frozen=True)
class Cohort(Architecture):
    """Peers of the same classes and raw inputs. Taps: peer0, peer1, ..., and what is in them, such as peer1.fc.

    Raises `ValueError` for no peers, for peers that differ in these, and for a preprocessing of the whole.
    """

    peers: tuple[Architecture, ...]
    classes: int = field(default=0, kw_only=True)
    """Those of the peers."""
    shape: tuple[int, ...] = field(default=(), kw_only=True)
    """That of the peers."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "peers", tuple(self.peers))
        if not self.peers:
            raise ValueError("Cohort has no peers: at least one")
        for name, given, found in (
            ("classes", self.classes, [peer.classes for peer in self.peers]),
            ("shape", tuple(self.shape), [peer.shape for peer in self.peers]),
        ):
            if {*found, given or found[0]} != {found[0]}:
                raise ValueError(
                    f"Cohort {name}={given or 'as its peers'} with peers of {name} {found}: all are the same"
                )
            object.__setattr__(self, name, found[0])
        super().__post_init__()
        if self.preprocess != Preprocess():
            raise ValueError(f"Cohort preprocess={self.preprocess}: each peer has its own")

    def __str__(self) -> str:
        return "+".join(map(str, self.peers))

    def body(self) -> nn.Module:
        """The bodies of the peers, side by side; each draws its own initial weights, in their order."""
        return _SideBySide(self.peers)

    def stages(self) -> dict[str, str]:
        """The logits of each peer."""
        return {f"peer{i}": f"peer{i}" for i in range(len(self.peers))}


class _SideBySide(nn.Module):
    def __init__(self, peers: Sequence[Architecture]):
        super().__init__()
        self._peers = tuple(peers)
        for i, peer in enumerate(peers):
            self.add_module(f"peer{i}", peer.body())

    def forward(self, inputs_B: Tensor) -> Tensor:
        """The first peer's logits. [B, C]"""
        logits = [
            body(peer.preprocess(inputs_B, peer.channels))
            for peer, body in zip(self._peers, self.children(), strict=True)
        ]
        return logits[0]  # type: ignore[no-any-return]
