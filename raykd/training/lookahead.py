"""The student's next step, shown to the parts of the criterion that validation rows tune.

Looking leaves no trace: parameters are passed in, the buffers of a pass are copies (statistics of batch norms, memories), what
it shows people is not noted, random numbers are put back. So the step is what it would have been, but for what the tuned parts
are now. All of it is in float32. Which validation rows are looked at is a function of the step: they go around, block by block.

Shapes: B rows of this process in a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from raykd.objective import STUDENT
from raykd.shown import unnoted
from raykd.training.feed import Feed, Feeding, HeldOut
from raykd.training.learner import Learner


def look(learner: Learner, feed: Feed, feeding: Feeding, rate: float) -> None:
    """Show the step of this feeding, at this learning rate, to each tuned part whose turn it is."""
    progress, device = feeding.batch.progress, feed.process.device
    for part in learner.tuned:
        looks, left = divmod(progress.epoch * progress.steps + progress.step, part.every)
        if left:
            continue
        held_out = feed.held_out(looks * part.rows, part.rows)
        random = torch.random.fork_rng([device] if device.type == "cuda" else [])
        # of attention's kernels, only the plain one can be differentiated twice
        with unnoted(), random, sdpa_kernel(SDPBackend.MATH):
            part.look(NextStep(learner, feed, feeding, held_out, rate))


@dataclass(frozen=True)
class NextStep:
    """A step that is looked at, see `Lookahead`."""

    learner: Learner
    feed: Feed
    feeding: Feeding
    held_out: HeldOut
    rate: float

    @cached_property
    def parameters(self) -> dict[str, Tensor]:
        """Those of the learner that train, as leaves of their own."""
        named = self.learner.named_parameters()
        return {name: each.detach().requires_grad_() for name, each in named if each.requires_grad}

    def training_loss(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """As the loop computes it."""
        terms_KB: Tensor = _call(self.learner, parameters, self.feeding.inputs_B, self.feeding.batch)
        return terms_KB.sum() / self.feeding.rows * self.feed.process.world

    def validation_loss(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Of the student in evaluation mode, as it is validated."""
        own = f"{STUDENT}."
        students = {name.removeprefix(own): each for name, each in parameters.items() if name.startswith(own)}
        self.learner.eval()
        logits_BC = _call(self.learner.student, students, self.held_out.inputs_B)["logits"]
        self.learner.train()
        nll = F.cross_entropy(logits_BC.float(), self.held_out.labels_B, reduction="sum")
        return nll / self.held_out.rows * self.feed.process.world

    def mean(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """In one message."""
        process, values = self.feed.process, [each.detach() for each in tensors]
        if process.world == 1:
            return values
        mean = process.sum(torch.cat([each.flatten() for each in values])) / process.world
        parts = mean.split([each.numel() for each in values])
        return [part.view_as(each) for part, each in zip(parts, values, strict=True)]


def _call(module: nn.Module, parameters: Mapping[str, Tensor], *inputs: object) -> Any:
    """What the module answers with these parameters and copies of its buffers, through which gradients flow."""
    instead = {id(buffer): buffer.clone() for buffer in module.buffers()}
    instead |= {id(each): parameters[name] for name, each in module.named_parameters() if name in parameters}
    # every place once: a module may have several names, and torch, told to tie them, would not put back what was there
    places = {
        f"{path}.{name}".lstrip("."): instead[id(tensor)]
        for path, part in module.named_modules()
        for name, tensor in (
            *part.named_parameters(recurse=False, remove_duplicate=False),
            *part.named_buffers(recurse=False, remove_duplicate=False),
        )
        if id(tensor) in instead
    }
    return functional_call(module, places, inputs, tie_weights=False)
