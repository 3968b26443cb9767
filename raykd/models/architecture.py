"""An architecture: which network, as a spec. It is built anywhere, and asked about its taps and shapes without any weights.

    ResNet(20, classes=100) ── build() ─────► Network          random weights from torch's current generator: callers seed
                            └─ blueprint() ─► Network          on the meta device, cached: names and shapes, no numbers

Shapes: C channels, H height, W width, D width of a vector.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from raykd.models.network import Network
from raykd.models.preprocess import Preprocess

WHOLE = ":"
"""Stands for a whole body, where its parts have their paths."""
REHEARSING = RLock()  # blueprints are shared, and hooks of one thread would see the passes of another


@dataclass(frozen=True, kw_only=True)
class Architecture(ABC):
    """A network as a value: equal specs build equal networks from equal generators.

    A family gives `body`, `stages` and `__str__`. Raises `ValueError` for fewer than one class and for shapes that its
    preprocessing cannot read.
    """

    classes: int = 10
    """How many logits."""
    shape: tuple[int, ...] = (3, 32, 32)
    """Of one raw input: (C, H, W), (D,) for vectors, or (2, L) for tokens."""
    preprocess: Preprocess = field(default_factory=Preprocess)
    """What happens to raw inputs before the body. As many channels as `mean` has enter the body, or else those of `shape`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        if self.classes < 1:
            raise ValueError(f"{type(self).__name__} classes={self.classes}: at least 1")
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"{type(self).__name__} shape={self.shape}: (C, H, W) or (D,), each at least 1")
        _ = self.input_shape

    @abstractmethod
    def __str__(self) -> str: ...

    @abstractmethod
    def body(self) -> nn.Module:
        """What turns [B, *input_shape] into logits [B, classes], randomly initialised under torch's current generator."""

    @abstractmethod
    def stages(self) -> dict[str, str]:
        """Name -> module path of the body, for the places that people name, from input to output."""

    @property
    def vocabulary(self) -> int:
        """How many different tokens it reads, 0, 1, ...; 0: it reads numbers. A family of tokens has a field of this name."""
        return 0

    @property
    def channels(self) -> int:
        """How many channels the body reads."""
        return len(self.preprocess.mean) or self.shape[0]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one sample as the body sees it, after preprocessing."""
        return self.preprocess.shape_of(self.shape, self.channels)

    @property
    def classifier(self) -> str | None:
        """The path of the linear layer whose output is the logits; None where there is no such layer."""
        return _classifier(self)

    @property
    def plain(self) -> Architecture:
        """The network that is trained where nobody teaches: itself, unless parts of it serve a teacher."""
        return self

    def build(self) -> Network:
        """The network, randomly initialised under torch's current generator, on torch's current device."""
        return Network(self, self.body())

    def blueprint(self) -> Network:
        """The network on the meta device, shared and cached: to be read, never trained nor run.

        Only a user's body that cannot be built there has real weights; torch's generator is left as it was.
        """
        with REHEARSING:
            return _blueprint(self)

    def taps(self) -> tuple[str, ...]:
        """The taps that people use, from input to output; always with "logits"."""
        return (*self.stages(), *(() if self.classifier is None else ("pooled",)), "logits")

    def tap_shape(self, tap: str) -> tuple[int, ...]:
        """The shape of a tap for one sample, without computing anything.

        Raises `ValueError` for a tap that is unknown, never runs, or is no tensor.
        """
        return _tap_shape(self, tap)

    def check_tap(self, tap: str) -> None:
        """Raises `ValueError` unless `tap` can be observed in this network; needs no weights."""
        self.tap_shape(tap)

    def runs(self, tap: str) -> int:
        """How often the place of a tap inside the body runs in one pass: 0 for one that never does."""
        return _runs(self, tap)

    def unread(self, tap: str) -> tuple[str, ...]:
        """The parameters of the body that a tap does not depend on, by name; needs no weights."""
        return _unread(self, tap)

    def beyond(self, tap: str) -> tuple[str, ...]:
        """The parts of the body that have only such parameters, as module paths, the largest ones, in their order."""
        unread = set(self.unread(tap))
        found: list[str] = []
        for path, module in self.blueprint().body.named_modules():
            inside = any(path.startswith(f"{whole}.") for whole in found)
            names = {f"{path}.{name}" for name, _ in module.named_parameters()}
            if path and names and names <= unread and not inside:
                found.append(path)
        return tuple(found)

    def rehearse(self, batch: int, taps: Sequence[str] = ("logits",)) -> dict[str, Tensor]:
        """The blueprint's taps for `batch` inputs of zeros; one thread at a time."""
        with REHEARSING, torch.no_grad():
            network = _stand_in(self)
            return network(_zeros(self, batch, network), taps)  # type: ignore[no-any-return]

    def _check_images(self) -> None:
        if len(self.shape) != 3:
            raise ValueError(f"{type(self).__name__} shape={self.shape}: it reads images (C, H, W)")


@lru_cache(maxsize=128)
def _blueprint(architecture: Architecture) -> Network:
    with suppress(Exception):  # a user's body may need numbers; a true fault shows again with them
        return _built(architecture, torch.device("meta"))
    return _with_numbers(architecture)


@lru_cache(maxsize=128)
def _stand_in(architecture: Architecture) -> Network:
    """What is rehearsed with: the blueprint, unless a user's body needs numbers to run. The first pass on the meta device makes
    torch import its compiler, for two seconds, so whoever asks for names and shapes of weights alone makes none.
    """
    with suppress(Exception):
        return _passed(_blueprint(architecture))
    return _passed(_with_numbers(architecture))


def _with_numbers(architecture: Architecture) -> Network:
    with torch.random.fork_rng(devices=[]):
        return _built(architecture, torch.device("cpu"))


class _Unfilled(TorchFunctionMode):
    """On the meta device nothing is drawn: there are no numbers, and torch would import its compiler to do so."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """As ever, but for that."""
        return args[0] if func is Tensor.normal_ and args[0].is_meta else func(*args, **(kwargs or {}))


def _built(architecture: Architecture, device: torch.device) -> Network:
    with device, _Unfilled():
        network = architecture.build().eval()
    return _passed(network) if any(map(is_lazy, network.parameters())) else network


def _passed(network: Network) -> Network:
    """The same after a pass, which settles the shapes of lazy layers."""
    with torch.no_grad():
        network(_zeros(network.architecture, 2, network))
    return network


def _zeros(architecture: Architecture, batch: int, network: Network) -> Tensor:
    """Inputs where the network is."""
    device = next((weight.device for weight in network.parameters()), None)
    kind = torch.long if architecture.vocabulary else torch.float32
    return torch.zeros(batch, *architecture.shape, device=device, dtype=kind)


@lru_cache(maxsize=4096)
def _tap_shape(architecture: Architecture, tap: str) -> tuple[int, ...]:
    return tuple(architecture.rehearse(2, (tap,))[tap].shape[1:])


@lru_cache(maxsize=4096)
def _runs(architecture: Architecture, tap: str) -> int:
    seen: list[None] = []
    with REHEARSING, _stand_in(architecture).watch(tap, lambda _: seen.append(None)):
        architecture.rehearse(2)
    return len(seen)


@lru_cache(maxsize=1024)
def _unread(architecture: Architecture, tap: str) -> tuple[str, ...]:
    with REHEARSING, torch.enable_grad():
        network = _stand_in(architecture)
        named = {name: weight for name, weight in network.body.named_parameters() if weight.requires_grad}
        value = network(_zeros(architecture, 2, network), (tap,))[tap]
        if not value.requires_grad:
            return tuple(named)
        gradients = torch.autograd.grad(value.sum(), list(named.values()), allow_unused=True)
    return tuple(name for name, gradient in zip(named, gradients, strict=True) if gradient is None)


@lru_cache(maxsize=1024)
def _classifier(architecture: Architecture) -> str | None:
    outputs: dict[str, object] = {}

    def watch(path: str, module: nn.Module) -> RemovableHandle:
        return module.register_forward_hook(lambda _, __, output: outputs.update({path: output}))

    with REHEARSING, ExitStack() as hooks:
        body = _stand_in(architecture).body
        for path, module in body.named_modules():
            if isinstance(module, nn.Linear):
                hooks.enter_context(watch(path, module))
        hooks.enter_context(watch(WHOLE, body))
        architecture.rehearse(2)
    logits = outputs.pop(WHOLE)
    return next((path for path, output in outputs.items() if output is logits), None)
