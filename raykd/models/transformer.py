"""Transformers for tokens: GPT looks back, BERT looks everywhere; both answer at every position.

    tokens -> embedding -> block1 -> ... -> blockN -> norm -> head            embedding: of the token, plus of its place
    block: x + attention(norm x), then x + mlp(norm x)

Places behind the end of a sequence are seen by nobody. Source: A. Radford et al., "Language Models are Unsupervised Multitask
Learners", 2019, section 2.3; J. Devlin et al., "BERT", 2019, section 3. [interpretation] BERT has its norms where GPT has them.

Shapes: B batch, L positions, D width, H heads, E width of a head
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from raykd.models.architecture import Architecture

LAST = ("attention.out.weight", "mlp.2.weight")
"""Of a block: what makes what it adds."""


@dataclass(frozen=True, kw_only=True)
class Transformer(Architecture):
    """What GPT and BERT share. Taps: embedding, block1.., pooled, logits.

    Raises `ValueError` for a depth, heads, widths or a vocabulary below 1, and a shape that is not (2, L).
    """

    depth: int = 2
    """Blocks."""
    heads: int = 4
    """Of each block."""
    head_width: int = 16
    """Of each head: the width is heads x head_width."""
    vocabulary: int = 256
    """How many different tokens it reads."""
    classes: int = 256
    """How many tokens it chooses from, or other answers."""
    shape: tuple[int, ...] = (2, 64)
    """(2, L): at most L positions."""
    dropout: float = 0.0
    """Share of what a block adds that is left out while it trains."""

    looks_back: ClassVar[bool]

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("depth", "heads", "head_width", "vocabulary"):
            if getattr(self, name) < 1:
                raise ValueError(f"{type(self).__name__} {name}={getattr(self, name)}: at least 1")
        if len(self.shape) != 2 or self.shape[0] != 2:
            raise ValueError(f"{type(self).__name__} shape={self.shape}: it reads tokens, (2, L)")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"{type(self).__name__} dropout={self.dropout}: 0 or more, and below 1")

    def __str__(self) -> str:
        return f"{type(self).__name__.lower()}{self.depth}x{self.heads}x{self.head_width}"

    @property
    def width(self) -> int:
        """Of what goes from block to block."""
        return self.heads * self.head_width

    def body(self) -> nn.Module:
        """Embedding, blocks, norm and `head`."""
        return _Body(self)

    def stages(self) -> dict[str, str]:
        """The embedding, and what each block hands on."""
        blocks = (f"block{i}" for i in range(1, self.depth + 1))
        return {"embedding": "embedding", **{block: f"blocks.{block}" for block in blocks}}


@dataclass(frozen=True, kw_only=True)
class GPT(Transformer):
    """A position sees itself and those before it: for the next token. See `Transformer`."""

    looks_back = True


@dataclass(frozen=True, kw_only=True)
class BERT(Transformer):
    """A position sees all the others: for tokens that are hidden, and for one answer about them all. See `Transformer`."""

    looks_back = False


class _Body(nn.Module):
    def __init__(self, architecture: Transformer) -> None:
        super().__init__()
        width, positions = architecture.width, architecture.shape[1]
        self.looks_back = architecture.looks_back
        self.embedding = _Embedding(architecture.vocabulary, positions, width)
        blocks = ((f"block{i}", _Block(architecture)) for i in range(1, architecture.depth + 1))
        self.blocks = nn.ModuleDict(OrderedDict(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, architecture.classes, bias=False)
        self.apply(_start)
        for name, weight in self.named_parameters():
            if name.endswith(LAST):  # so that the sum of what blocks add does not grow with their number
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * architecture.depth))

    def forward(self, tokens_BL: Tensor) -> Tensor:
        mask_B1LL = None if self.looks_back else (tokens_BL >= 0)[:, None, None, :]
        x_BLD = self.embedding(tokens_BL)
        for block in self.blocks.values():
            x_BLD = block(x_BLD, mask_B1LL)
        logits_BLC: Tensor = self.head(self.norm(x_BLD))
        return logits_BLC


class _Embedding(nn.Module):
    def __init__(self, vocabulary: int, positions: int, width: int) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(vocabulary, width), nn.Embedding(positions, width)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        x_BLD: Tensor = self.token(tokens_BL.clamp(min=0)) + self.place.weight
        return x_BLD


class _Block(nn.Module):
    def __init__(self, architecture: Transformer) -> None:
        super().__init__()
        width = architecture.width
        self.before_attention, self.attention = nn.LayerNorm(width), _Attention(width, architecture.heads)
        self.before_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(architecture.dropout)

    def forward(self, x_BLD: Tensor, mask: Tensor | None) -> Tensor:
        x_BLD = x_BLD + self.dropout(self.attention(self.before_attention(x_BLD), mask))
        added_BLD: Tensor = self.dropout(self.mlp(self.before_mlp(x_BLD)))
        return x_BLD + added_BLD


class _Attention(nn.Module):
    """Of each position to those that the mask shows; without a mask, to itself and those before it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x_BLD: Tensor, mask: Tensor | None) -> Tensor:
        q_BHLE, k_BHLE, v_BHLE = self.qkv(x_BLD).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen_BHLE = F.scaled_dot_product_attention(q_BHLE, k_BHLE, v_BHLE, attn_mask=mask, is_causal=mask is None)
        out_BLD: Tensor = self.out(seen_BHLE.transpose(1, 2).flatten(2))
        return out_BLD


def _start(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
