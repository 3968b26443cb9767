"""A teacher's distribution at some classes, and what is left for all the others: never [B, C].

    symbols   id_1 ... id_K | tail            the alphabet of a row: its stored classes, and one symbol for the rest
    p_tau     softmax(values / tau | tail_tau)         the teacher on that alphabet, exact at every declared temperature

Values are logits up to a constant of the row, so any temperature divides them; the tail is a sum over classes that are not
there, so it is known only at the temperatures at which it was taken.

Shapes: B batch, K stored classes, S declared temperatures, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

NOWHERE = -1e30  # stands for log 0: exp of it is 0, and unlike with -inf 0 * log 0 is 0, in the gradient too


@dataclass(frozen=True, eq=False)
class Sparse:
    """Where a dense teacher has logits [B, C]. Rows are indexed, moved and pinned as those of a tensor are."""

    ids_BK: Tensor
    """Stored classes, int64. No class twice in a row, but for padding, which repeats one of the row's classes."""
    values_BK: Tensor
    """Their logits up to a constant of the row, float32; -inf is padding."""
    tails_BS: Tensor
    """log sum exp(value / tau) over the classes that are not stored, for each temperature; -inf if nothing is left."""
    temperatures: tuple[float, ...]
    classes: int

    def log_probabilities(self, tau_B: Tensor) -> Tensor:
        """The teacher on its alphabet, the tail last. [B, K + 1]; `NOWHERE`, about, is the log of 0.

        Raises `ValueError` for an undeclared temperature in a `tau_B` on the CPU. On an accelerator looking would make
        every step wait, so there the row is NaN: `Objective.check_stored` finds it when the stage is written.
        """
        symbols = torch.cat([self.values_BK / tau_B[:, None], self._tail_B(tau_B)[:, None]], 1)
        return symbols.clamp(min=NOWHERE).log_softmax(-1)

    def student_log_probabilities(self, logits_BC: Tensor, tau_B: Tensor) -> Tensor:
        """The student on the teacher's alphabet, with its gradient. [B, K + 1]

        The tail is summed over its own classes: one minus the stored ones would be noise below 1e-7.
        """
        z_BC = logits_BC.float() / tau_B[:, None]
        stored_BK = z_BC.gather(1, self.ids_BK).masked_fill(~self._present_BK(), NOWHERE)
        tail_B = z_BC.scatter(1, self.ids_BK, NOWHERE).logsumexp(1)
        return torch.cat([stored_BK, tail_B[:, None]], 1).clamp(min=NOWHERE).log_softmax(-1)

    def probability_of(self, labels_B: Tensor) -> Tensor:
        """Probability of each row's label at temperature 1; classes not stored share the tail evenly. [B]"""
        p = self.log_probabilities(torch.ones_like(self.values_BK[:, 0])).exp()
        found_BK = self.ids_BK == labels_B[:, None]
        each_B = p[:, -1] / (self.classes - self._present_BK().sum(1)).clamp(min=1)
        return torch.where(found_BK.any(1), (p[:, :-1] * found_BK).sum(1), each_B)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Sparse:
        """The same on `device`."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Sparse:
        """The same in memory that a device copies from by itself."""
        return self._each(lambda tensor: tensor.pin_memory())

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.ids_BK.device

    def __len__(self) -> int:
        return len(self.ids_BK)

    def __getitem__(self, rows: Any) -> Sparse:
        return self._each(lambda tensor: tensor[rows])

    def _each(self, change: Any) -> Sparse:
        return replace(
            self, ids_BK=change(self.ids_BK), values_BK=change(self.values_BK), tails_BS=change(self.tails_BS)
        )

    def _present_BK(self) -> Tensor:
        return self.values_BK > -torch.inf

    def _tail_B(self, tau_B: Tensor) -> Tensor:
        tail_B = torch.full_like(tau_B, torch.nan)
        for tau, declared_B in zip(self.temperatures, self.tails_BS.unbind(1), strict=True):
            tail_B = torch.where(tau_B == tau, declared_B, tail_B)
        if tau_B.device.type == "cpu" and (undeclared := tau_B[tail_B.isnan()]).numel():
            raise undeclared_temperature(float(undeclared[0]), self.temperatures)
        return tail_B


def undeclared_temperature(tau: float, declared: tuple[float, ...]) -> ValueError:
    """The error for a temperature at which no tail was stored."""
    known = ", ".join(f"{each:g}" for each in declared)
    return ValueError(
        f"the temperature {tau:g} is not declared: the mass of the classes not stored is known at {known} only"
    )
