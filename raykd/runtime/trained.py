"""What a runner returns: a stage that is real."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from raykd.models import Network
from raykd.models.weights import load_into
from raykd.runtime.counts import Counts
from raykd.stage import Stage


@dataclass(frozen=True)
class Trained:
    """A finished stage."""

    stage: Stage
    weights: str
    """Path of its weights, the best on validation."""
    metrics: Mapping[str, float]
    """`val_*` and `test_*` of `top1` and `nll` (nats); `agreement` with its teachers on the test split."""
    counts: Counts
    """What the run that returned it did."""

    @cached_property
    def network(self) -> Network:
        """The network itself, in evaluation mode, on the CPU."""
        network = self.stage.student.build()
        load_into(network, self.weights)
        network.eval()
        return network
