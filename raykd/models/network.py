"""A network: preprocessing, a body, and what can be observed inside it by name.

    raw inputs ──► "input" ──► preprocess ──► body ─ "stem" ─ "stage1" ─ ... ─ "pooled" ─► classifier ──► "logits"

A tap is "input", "logits", "pooled" (what enters the classifier), a name that the architecture gives to a place, or any
dotted module path of the body; these names win over module paths. Taps inside the body are copies: `out += identity`
further on cannot reach them. Weights belong to the body, so its state has no prefix and public checkpoints fit.

Nothing is computed beyond the last tap that is asked for: whoever wants "stage1" pays for "stage1".

A network of tokens answers at the positions asked (see `raykd.tokens`): each is a row of its taps. Its body gets the tokens.

Shapes: B batch, C classes; of tokens L positions, M of them asked in all.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from raykd import tokens
from raykd.models.preprocess import unit

if TYPE_CHECKING:
    from raykd.models.architecture import Architecture


class _Enough(Exception):  # noqa: N818  # no error: the way out of a body that nobody asks for more
    """Every tap has been seen."""


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
        """Each tap by name, for raw inputs [B, *shape]: uint8 or float, or int64 tokens, of which each tap has M rows.

        A module that runs more than once gives its last output. The hooks of a call are gone when it returns or raises;
        two threads must not call one network at the same moment. Without "logits" the pass ends as soon as every tap has run
        as often as it does for inputs of zeros.

        Raises `ValueError` before any compute for an unknown tap or inputs of another shape, and after it for a tap that
        never ran or is no tensor, and for a body whose output is not [B, C].
        """
        for tap in taps:
            self.check_tap(tap)
        self._check_inputs(inputs_B)
        seen: dict[str, Tensor] = {}
        inside = set(taps) - {"input", "logits"}
        if inside or "logits" in taps:
            self._run(inputs_B, seen, inside, whole="logits" in taps)
        if "input" in taps and not self.architecture.vocabulary:
            seen["input"] = unit(inputs_B)
        for tap in taps:
            if tap not in seen:
                raise ValueError(
                    f"tap {tap!r} of {self.architecture} never ran in the forward pass: tap another module"
                )
        if self.architecture.vocabulary:
            asked_BL = tokens.asked(inputs_B)
            return {tap: tokens.picked(seen[tap], asked_BL) for tap in taps}
        return {tap: seen[tap] for tap in taps}

    def _run(self, inputs_B: Tensor, seen: dict[str, Tensor], inside: set[str], *, whole: bool) -> None:
        """One pass through the body, to its end or no further than the taps are; `seen` gets what stands there."""
        left = {tap: self.architecture.runs(tap) for tap in inside} if not whole else {}

        def keep(tap: str, value: object) -> None:
            if not isinstance(value, Tensor):
                raise ValueError(f"tap {tap!r} of {self.architecture} is a {type(value).__name__}: a tap is one tensor")
            seen[tap] = value.clone()
            if not whole:
                left[tap] -= 1
                if not any(left.values()):
                    raise _Enough

        with ExitStack() as hooks, suppress(_Enough):
            for tap in inside:
                hooks.enter_context(self.watch(tap, partial(keep, tap)))
            seen["logits"] = self.body(self._read(inputs_B))
            self._check_logits(seen["logits"], inputs_B)

    def _read(self, inputs_B: Tensor) -> Tensor:
        """What the body sees of them."""
        if self.architecture.vocabulary:
            return tokens.tokens(inputs_B)
        return self.architecture.preprocess(inputs_B, self.architecture.channels)

    def check_tap(self, tap: str) -> None:
        """Raises `ValueError` unless `tap` names a place of this network."""
        if tap == "input" and self.architecture.vocabulary:
            raise ValueError(f"tap 'input' of {self.architecture}: tokens are no numbers that could be compared")
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

    def watch(self, tap: str, see: Callable[[object], None]) -> RemovableHandle:
        """A hook that shows `see` what stands at a place inside the body, each time that it runs."""
        classifier = self.architecture.classifier if tap == "pooled" else None
        if classifier is not None:
            return self.body.get_submodule(classifier).register_forward_pre_hook(lambda _, args: see(args[0]))
        module = self.body.get_submodule(self.architecture.stages().get(tap, tap))
        return module.register_forward_hook(lambda _, __, output: see(output))

    def _check_inputs(self, inputs_B: Tensor) -> None:
        found, right = tuple(inputs_B.shape[1:]), self.architecture.shape
        if found != right:
            raise ValueError(f"{self.architecture} was given inputs of shape {found} per sample: its spec says {right}")

    def _check_logits(self, logits_BC: object, inputs_B: Tensor) -> None:
        found = tuple(logits_BC.shape) if isinstance(logits_BC, Tensor) else type(logits_BC).__name__
        words, batch = "[batch, classes]", tuple(inputs_B.shape[:1])
        if self.architecture.vocabulary:
            words, batch = "[batch, positions, classes]", (*batch, inputs_B.shape[2])
        right = (*batch, self.architecture.classes)
        if found != right:
            raise ValueError(f"the output of {self.architecture} is {found}: logits are {words} = {right}")
