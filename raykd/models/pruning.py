"""Shallower copies of a network that start from its own weights: layers are left out, every width stays.

    shallower(ResNet(56))              -> ResNet(8), ResNet(14), .. ResNet(50)
    parts(ResNet(20), ResNet(56))      -> {"layer1.0": "layer1.0", "layer1.1": "layer1.4", "layer1.2": "layer1.8", ..}

    ResNet, WideResNet   n blocks a stage -> m    blocks round(i (n - 1) / (m - 1)), i = 0 .. m - 1; of one, the first
    VGG                  convolutions of a block  the first ones
    MLP                  hidden layers            the first ones, and the head where it is as wide

The draft says no more than "pruned". Which layers stay is ours [interpretation]: residual blocks refine what passes through
them, so those that stay are spread evenly, the first and the last among them; a plain layer needs the ones before it. Stem and
head are kept. Families of one depth cannot be pruned this way: narrower copies of them learn their weights anew, see `scaling`.

Source: Haase, da Silva, "HPM-KD", arXiv 2512.09886, 2025, progressive chain.
"""

from __future__ import annotations

from dataclasses import replace

from raykd.models.architecture import Architecture
from raykd.models.mlp import MLP
from raykd.models.resnet import ResNet
from raykd.models.vgg import CONVOLUTIONS, VGG
from raykd.models.wrn import WideResNet


def shallower(architecture: Architecture) -> list[Architecture]:
    """The same network with fewer layers, from the fewest; none of it if it has the fewest already.

    Raises `ValueError` for a family of one depth.
    """
    match architecture:
        case MLP():
            return [
                replace(architecture, hidden=architecture.hidden[:depth]) for depth in range(1, _layers(architecture))
            ]
        case VGG():
            return [replace(architecture, depth=depth) for depth in sorted(CONVOLUTIONS) if depth < architecture.depth]
        case ResNet() | WideResNet():
            rest = architecture.depth % 6
            return [replace(architecture, depth=6 * blocks + rest) for blocks in range(1, _layers(architecture))]
    raise ValueError(
        f"{architecture} is a {type(architecture).__name__}, which has one depth only: MLP, ResNet, VGG and WideResNet can lose"
        " layers and keep the weights of the others"
    )


def parts(small: Architecture, large: Architecture) -> dict[str, str]:
    """Where a shallower copy starts: module path in it -> module path in the larger network; see `Stage.inherit`.

    Raises `ValueError` if it is no shallower copy.
    """
    if small not in shallower(large):
        raise ValueError(
            f"{small} is no shallower copy of {large}: of the same family and widths, with fewer layers, it would be"
        )
    match small, large:
        case MLP(), MLP():
            same = [f"layer{i + 1}" for i in range(len(small.hidden))]
            return _equal(*same, *["fc"] * (small.hidden[-1] == large.hidden[-1]))
        case VGG(), VGG():
            kept = [(i, 3 * j + k) for i, n in enumerate(CONVOLUTIONS[small.depth]) for j in range(n) for k in (0, 1)]
            return _equal("classifier", *(f"block{i}.{place}" for i, place in kept))
    stages = [f"layer{i}" if isinstance(small, ResNet) else f"block{i}.layer" for i in (1, 2, 3)]
    places = list(enumerate(spread(_layers(large), _layers(small))))
    blocks = {f"{stage}.{ours}": f"{stage}.{theirs}" for stage in stages for ours, theirs in places}
    return _equal("conv1", "bn1", "fc") | blocks


def spread(n: int, m: int) -> list[int]:
    """m of n places, evenly, with the first and the last; of one, the first."""
    return [round(i * (n - 1) / (m - 1)) for i in range(m)] if m > 1 else [0]


def _equal(*paths: str) -> dict[str, str]:
    return {path: path for path in paths}


def _layers(architecture: Architecture) -> int:
    """Hidden layers, or blocks of a stage."""
    if isinstance(architecture, MLP):
        return len(architecture.hidden)
    assert isinstance(architecture, ResNet | WideResNet), "a VGG has depths of its own"
    return architecture.depth // 6
