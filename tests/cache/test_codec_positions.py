"""Codecs position by position: what is stored of a position is what its codec stores of a row."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raykd.cache.codecs import CODECS, Codec, Positions, codec_of
from raykd.identity import canonical
from raykd.sparse import Sparse

K, C = 5, 12
codecs = pytest.mark.parametrize("codec", CODECS, ids=repr)


def sequences(counts: list[int]) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(len(counts), K, C)).astype(np.float32) * 4
    for row, count in enumerate(counts):
        values[row, count:] = np.nan
    return values


def stored(codec: Codec, values: np.ndarray, ids: np.ndarray) -> dict[str, torch.Tensor]:
    columns = codec.encode(values, ids, 0)
    for column in codec.columns(values.shape[1:]):
        assert columns[column.name].shape == (len(values), column.width)
        assert columns[column.name].dtype == column.dtype
    return {name: torch.from_numpy(column) for name, column in columns.items()}


@codecs
def test_positions_come_back_as_rows_of_their_codec_do(codec: Codec) -> None:
    values, ids = sequences([3, 5, 1, 4]), np.array([7, 8, 9, 10])
    there = ~np.isnan(values).all(2)
    read = Positions(codec).decode(stored(Positions(codec), values, ids), (K, C))
    ids_M = np.repeat(ids, there.sum(1))
    alone = codec.decode({n: torch.from_numpy(c) for n, c in codec.encode(values[there], ids_M, 0).items()}, (C,))
    if isinstance(alone, Sparse):
        assert isinstance(read, Sparse)
        assert torch.equal(read.ids_BK, alone.ids_BK)
        assert torch.equal(read.values_BK, alone.values_BK)
        assert torch.equal(read.tails_BS, alone.tails_BS)
    else:
        assert torch.equal(read, alone)
    bounds = Positions(codec).kl_bound(values) if codec.kind != "sampled" else None
    if bounds is not None:
        each = iter(codec.kl_bound(values[there]))
        assert bounds.tolist() == [max(next(each) for _ in range(count)) for count in there.sum(1)]


@codecs
def test_it_is_known_by_its_spec_and_takes_the_room_it_says(codec: Codec) -> None:
    found = Positions(codec)
    assert codec_of(canonical(found)) == found
    assert (found.kind, found.temperatures) == (codec.kind, codec.temperatures)
    assert found.bytes_per_row((K, C)) == K * codec.bytes_per_row((C,)) + 4
    found.check((K, C))


def test_nothing_is_taken_for_the_end_that_is_not() -> None:
    values = sequences([3, 5])
    values[1, 2] = np.nan
    with pytest.raises(ValueError, match="row 4 has a position of nan before others"):
        Positions(CODECS[0]).encode(values, np.array([3, 4]), 0)
    values[1, 2] = 0
    values[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match="row 4 holds nan at 3"):
        Positions(CODECS[0]).encode(values, np.array([3, 4]), 0)


def test_a_position_of_another_kind_is_refused_as_a_row_of_it_is() -> None:
    for codec in CODECS:
        if codec.kind == "dense":
            Positions(codec).check((K, 3, 4))
        else:
            with pytest.raises(ValueError, match="stores logits"):
                Positions(codec).check((K, 3, 4))
