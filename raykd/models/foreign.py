"""Networks that others wrote: any classifier of torchvision by name, any callable that returns an `nn.Module`."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from raykd.identity import canonical
from raykd.models.architecture import Architecture

# these two would answer with tuples in training; their first weights are drawn as torchvision always drew them
WITH_SIDE_HEADS = ("googlenet", "inception_v3")


@dataclass(frozen=True)
class TorchVision(Architecture):
    """A classifier of torchvision: `TorchVision("resnet18", preprocess=IMAGENET)` fits its public weights.

    It reads 3 channels; a raw image of one channel is repeated. Taps: stem and stage1..4 in residual networks, pooled
    where the last layer is linear, logits, and every module path.

    Raises `ValueError` with close matches for an unknown name. torchvision is imported when the first one is made, which
    takes a second.
    """

    name: str = "resnet18"
    """As in `torchvision.models.list_models()`."""
    classes: int = field(default=1000, kw_only=True)
    shape: tuple[int, ...] = field(default=(3, 224, 224), kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_images()
        from torchvision import models

        names = models.list_models(module=models)
        if self.name not in names:
            close = difflib.get_close_matches(self.name, names, n=3) or names[:3]
            raise ValueError(f"torchvision has no classifier {self.name!r}: it has {', '.join(close)} and others")

    def __str__(self) -> str:
        return f"torchvision-{self.name}"

    @property
    def channels(self) -> int:
        """Always 3."""
        return 3

    def body(self) -> nn.Module:
        """Torchvision's own module."""
        from torchvision import models

        side_heads = {"aux_logits": False, "init_weights": True} if self.name in WITH_SIDE_HEADS else {}
        body: nn.Module = models.get_model(self.name, weights=None, num_classes=self.classes, **side_heads)
        return body

    def stages(self) -> dict[str, str]:
        """The four layers of the residual networks; elsewhere none, module paths serve."""
        residual = self.name.startswith(("resnet", "resnext", "wide_resnet"))
        return {"stem": "maxpool", **{f"stage{i}": f"layer{i}" for i in (1, 2, 3, 4)}} if residual else {}


@dataclass(frozen=True)
class Custom(Architecture):
    """What `function(**options)` returns: `Custom("mine.models:vit", options={"depth": 6}, classes=100)`.

    Identity is the function's name, the options and the revision: who changes the function's code raises `revision`.

    Raises `ValueError` for a name that is not "package.module:function" and options without identity; when it is built,
    for a module that cannot be imported or has no such function, and a result that is no `nn.Module`.
    """

    function: str
    """"package.module:function", importable wherever the network is built."""
    options: Mapping[str, object] = field(default_factory=dict, hash=False)
    """Keyword arguments of the function."""
    revision: int = 1
    """Of the function's code."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", dict(self.options))
        super().__post_init__()
        module, _, name = self.function.partition(":")
        if not module or not name.isidentifier():
            raise ValueError(f'Custom function={self.function!r}: it is written "package.module:function"')
        canonical(self.options, "Custom.options")

    def __str__(self) -> str:
        return self.function.partition(":")[2]

    def body(self) -> nn.Module:
        """The module that the function returns."""
        module, _, name = self.function.partition(":")
        try:
            found = importlib.import_module(module)
        except ImportError as error:
            raise ValueError(f"Custom {self.function!r}: module {module!r} cannot be imported: {error}") from error
        function = getattr(found, name, None)
        if not callable(function):
            close = difflib.get_close_matches(name, dir(found), n=3) or ["nothing like it"]
            raise ValueError(
                f"Custom {self.function!r}: {module!r} has no function {name!r}, it has {', '.join(close)}"
            )
        body = function(**self.options)
        if not isinstance(body, nn.Module):
            raise ValueError(f"Custom {self.function!r} returns a {type(body).__name__}: it has to return an nn.Module")
        return body

    def stages(self) -> dict[str, str]:
        """None are known: module paths serve."""
        return {}
