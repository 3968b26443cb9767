"""Transformers: who sees whom, and that rows of a network of tokens are the positions asked."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from raykd import tokens
from raykd.models import BERT, GPT, size
from raykd.models.transformer import Transformer

LENGTH = 8


def made(kind: type[Transformer], **fields: object) -> Transformer:
    return kind(**{"vocabulary": 11, "classes": 10, "shape": (2, LENGTH), "heads": 2, "head_width": 4, **fields})


KINDS = pytest.mark.parametrize("kind", [GPT, BERT])


def body(architecture: Transformer) -> torch.nn.Module:
    torch.manual_seed(0)
    found = architecture.build().eval().body
    for weight in found.parameters():
        torch.nn.init.normal_(weight, std=0.5)  # far from the flat start
    return found


def letters(count: int = 4) -> torch.Tensor:
    return torch.randint(0, 10, (count, LENGTH), generator=torch.Generator().manual_seed(1))


def test_gpt_sees_nothing_that_comes_later_and_bert_does() -> None:
    tokens_BL = letters()
    for place in range(1, LENGTH):
        changed_BL = tokens_BL.clone()
        changed_BL[:, place] = (changed_BL[:, place] + 1) % 10
        for kind, same in ((GPT, True), (BERT, False)):
            network = body(made(kind))
            before, after = network(tokens_BL)[:, :place], network(changed_BL)[:, :place]
            assert torch.equal(before, after) == same, (kind, place)
            assert not torch.equal(network(tokens_BL)[:, place:], network(changed_BL)[:, place:])


@KINDS
def test_nobody_sees_what_is_behind_the_end(kind: type[Transformer]) -> None:
    short = replace(made(kind), shape=(2, 5))
    network, shorter = body(made(kind)), body(short)
    state = network.state_dict()
    shorter.load_state_dict({**state, "embedding.place.weight": state["embedding.place.weight"][:5]})
    tokens_BL = letters()
    tokens_BL[:, 5:] = tokens.NOTHING
    torch.testing.assert_close(network(tokens_BL)[:, :5], shorter(tokens_BL[:, :5]), atol=1e-5, rtol=1e-5)


@KINDS
def test_every_tap_has_a_row_for_each_position_asked_in_their_order(kind: type[Transformer]) -> None:
    architecture = made(kind)
    network = architecture.build().eval()
    asked_BL = torch.rand(4, LENGTH, generator=torch.Generator().manual_seed(2)) < 0.4
    inputs_B2L = tokens.pack(letters(), asked_BL)
    found = network(inputs_B2L, architecture.taps())
    whole_BLC = network.body(letters())
    rows = [(b, place) for b in range(4) for place in range(LENGTH) if asked_BL[b, place]]
    torch.testing.assert_close(found["logits"], torch.stack([whole_BLC[row] for row in rows]))
    for tap, values_M in found.items():
        assert tuple(values_M.shape) == (len(rows), *architecture.tap_shape(tap))


@KINDS
def test_parameters_are_counted_by_hand_and_the_last_block_is_beyond_the_first(kind: type[Transformer]) -> None:
    architecture = made(kind, depth=3)
    d = architecture.width
    block = 2 * 2 * d + (3 * d * d + 3 * d) + (d * d + d) + (4 * d * d + 4 * d) + (4 * d * d + d)
    assert size(architecture).parameters == (11 + LENGTH) * d + 3 * block + 2 * d + 10 * d
    assert architecture.taps() == ("embedding", "block1", "block2", "block3", "pooled", "logits")
    assert architecture.beyond("block2") == ("blocks.block3", "norm", "head")
    assert size(architecture, ("block1",)).flops < size(architecture, ("block2",)).flops < size(architecture).flops


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"depth": 0}, "depth=0: at least 1"),
        ({"vocabulary": 0}, "vocabulary=0: at least 1"),
        ({"shape": (3, 8, 8)}, r"reads tokens, \(2, L\)"),
        ({"dropout": 1.0}, "dropout=1.0"),
    ],
)
def test_mistakes_are_named(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        made(GPT, **fields)
