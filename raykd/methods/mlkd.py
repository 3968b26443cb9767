"""Multi-level logit distillation: predictions agree row by row, as relations of rows, and as relations of classes.

    rows       t^2 KL(p_T || p_S)                               p = softmax(z / t), [B, C]
    batch      |P_T P_T' - P_S P_S'|^2 / B                      [B, B]: which rows are predicted alike
    classes    |P_T' P_T - P_S' P_S|^2 / C                      [C, C]: which classes are predicted together

    D = sum over its own temperatures t of (instance rows + batch batch + classes classes)

The batch's part is shared out by rows of the matrix, so its mean is the paper's; the classes' is one number, which every row
carries. Relations are sums over the batch, so the last two parts grow with it; with several workers it is a worker's share.

`temperature` of the term is ignored: nothing is multiplied or divided by tau.

[interpretation] t^2 on the rows' part follows KL, and is not on the others. The parts are added with weights 1, and no row
is left out because its teacher is unsure.

Shapes: B batch, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from raykd.methods.kl import KL
from raykd.objective import Divergence


@dataclass(frozen=True)
class MLKD(Divergence):
    """KL and the distance of Gram matrices, at several temperatures. A part of weight 0 is an ablation.

    Raises `ValueError` for no temperatures or one that is not above 0, and for a weight that is negative or not finite.

    Source: Y. Jin, J. Wang, D. Lin, "Multi-Level Logit Distillation", 2023, multi-level alignment.
    """

    relational: ClassVar[bool] = True
    temperatures: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0, 6.0)
    instance: float = 1.0
    batch: float = 1.0
    classes: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "temperatures", tuple(self.temperatures))
        if not self.temperatures or not all(math.isfinite(t) and t > 0 for t in self.temperatures):
            raise ValueError(f"temperatures={self.temperatures} of MLKD: finite numbers above 0 would be right")
        for name in ("instance", "batch", "classes"):
            if not (math.isfinite(weight := getattr(self, name)) and weight >= 0):
                raise ValueError(f"{name}={weight} of MLKD: a finite number, 0 or more, would be right")

    def __call__(self, student: Tensor, teacher: Tensor, labels_B: Tensor, tau_B: Tensor) -> Tensor:
        """[B]; `tau_B` is ignored."""
        return torch.stack([self._at(t, student, teacher, labels_B) for t in self.temperatures]).sum(0)

    def _at(self, t: float, student: Tensor, teacher: Tensor, labels_B: Tensor) -> Tensor:
        q_BC, p_BC = ((logits.float() / t).softmax(-1) for logits in (student, teacher))
        rows_B = KL()(student, teacher, labels_B, torch.full_like(q_BC[:, 0], t))
        with torch.autocast(q_BC.device.type, enabled=False):  # products of float32 stay so
            batch_B = (p_BC @ p_BC.T - q_BC @ q_BC.T).square().sum(1)
            classes = (p_BC.T @ p_BC - q_BC.T @ q_BC).square().sum() / p_BC.shape[1]
        return self.instance * rows_B + self.batch * batch_B + self.classes * classes

    def __str__(self) -> str:
        levels = [f"{getattr(self, n):g} {n}" for n in ("instance", "batch", "classes") if getattr(self, n) != 1]
        return f"MLKD({', '.join([f'tau {t:g}' for t in self.temperatures] + levels)})"
