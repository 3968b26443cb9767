"""A network: preprocessing, a body, and what can be observed inside it by name.

    raw inputs ──► "input" ──► preprocess ──► body ─ "stem" ─ "stage1" ─ ... ─ "pooled" ─► classifier ──► "logits"

A tap is "input", "logits", "pooled" (what enters the classifier), a name that the architecture gives to a place, or any
dotted module path of the body; these names win over module paths. Taps inside the body are copies: `out += identity`
further on cannot reach them. Weights belong to the body, so its state has no prefix and public checkpoints fit.

Shapes: B batch, C classes.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from raykd.models.preprocess import unit

if TYPE_CHECKING:
    from raykd.models.architecture import Architecture


class Network(nn.Module):
    """The body of an architecture with its preprocessing and taps.

    Activations that overwrite their input (`inplace=True`) are switched off, which changes no value.
    """

    body: nn.Module

    def __init__(self, architecture: Architecture, body: nn.Module) -> None:
        super().__init__()
        self.architecture = architecture
        self.body = body
        for module in body.modules():
            if getattr(module, "inplace", False) is True:
                module.inplace = False  # type: ignore[assignment]

    def forward(self, inputs_B: Tensor, taps: Sequence[str] = ("logits",)) -> dict[str, Tensor]:
        """Each tap by name, for raw inputs [B, *shape], uint8 or float.

        A module that runs more than once gives its last output. The hooks of a call are gone when it returns or raises;
        two threads must not call one network at the same moment.

        Raises `ValueError` before any compute for an unknown tap or inputs of another shape, and after it for a tap that
        never ran or is no tensor, and for a body whose output is not [B, C].
        """
        for tap in taps:
            self.check_tap(tap)
        self._check_inputs(inputs_B)
        seen: dict[str, Tensor] = {}
        with ExitStack() as hooks:
            for tap in set(taps) - {"input", "logits"}:
                hooks.enter_context(self._record(tap, seen))
            seen["logits"] = self.body(self.architecture.preprocess(inputs_B, self.architecture.channels))
        self._check_logits(seen["logits"], len(inputs_B))
        if "input" in taps:
            seen["input"] = unit(inputs_B)
        for tap in taps:
            if tap not in seen:
                raise ValueError(
                    f"tap {tap!r} of {self.architecture} never ran in the forward pass: tap another module"
                )
        return {tap: seen[tap] for tap in taps}

    def check_tap(self, tap: str) -> None:
        """Raises `ValueError` unless `tap` names a place of this network."""
        if tap in ("input", "logits") or (tap == "pooled" and self.architecture.classifier is not None):
            return
        if not self._has_module(self.architecture.stages().get(tap, tap)):
            raise ValueError(f"unknown tap {tap!r} of {self.architecture}: it has {self._places(tap)}")

    def _has_module(self, path: str) -> bool:
        try:
            self.body.get_submodule(path)
        except AttributeError:  # the one way torch says that a path leads nowhere
            return False
        return path != ""

    def _places(self, tap: str) -> str:
        paths = [path for path, _ in self.body.named_modules() if path]
        close = difflib.get_close_matches(tap, paths, n=3) or paths[:3]
        return f"{', '.join(('input', *self.architecture.taps()))} and {len(paths)} module paths such as {', '.join(close)}"

    def _record(self, tap: str, seen: dict[str, Tensor]) -> RemovableHandle:
        def keep(value: object) -> None:
            if not isinstance(value, Tensor):
                raise ValueError(f"tap {tap!r} of {self.architecture} is a {type(value).__name__}: a tap is one tensor")
            seen[tap] = value.clone()

        classifier = self.architecture.classifier if tap == "pooled" else None
        if classifier is not None:
            return self.body.get_submodule(classifier).register_forward_pre_hook(lambda _, args: keep(args[0]))
        module = self.body.get_submodule(self.architecture.stages().get(tap, tap))
        return module.register_forward_hook(lambda _, __, output: keep(output))

    def _check_inputs(self, inputs_B: Tensor) -> None:
        found, right = tuple(inputs_B.shape[1:]), self.architecture.shape
        if found != right:
            raise ValueError(f"{self.architecture} was given inputs of shape {found} per sample: its spec says {right}")

    def _check_logits(self, logits_BC: object, batch: int) -> None:
        found = tuple(logits_BC.shape) if isinstance(logits_BC, Tensor) else type(logits_BC).__name__
        right = (batch, self.architecture.classes)
        if found != right:
            raise ValueError(f"the output of {self.architecture} is {found}: logits are [batch, classes] = {right}")
