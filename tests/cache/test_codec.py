"""The family of codecs: laws over the list of them, then what is particular to each."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from raykd.cache.codec import CODECS, DENSE_F16

ids = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)


def round_trip(codec, values_R):
    columns = codec.encode(values_R, np.arange(len(values_R)))
    out_B = torch.empty(values_R.shape)
    codec.decode(columns, out_B)
    return out_B.numpy()


def kl(a_RW, b_RW, temperature):
    a, b = (torch.from_numpy(z).double().div(temperature).log_softmax(-1) for z in (a_RW, b_RW))
    return (a.exp() * (a - b)).sum(-1)


@ids
@pytest.mark.parametrize("shape", [(10,), (3, 5), ()])
def test_columns_are_as_declared_and_of_the_stated_size(codec, shape):
    values_R = np.random.default_rng(0).normal(size=(6, *shape)).astype(np.float32)
    columns = codec.encode(values_R, np.arange(6))
    assert {c.name: (6, c.width) for c in codec.columns(shape)} == {name: a.shape for name, a in columns.items()}
    assert {c.name: c.dtype for c in codec.columns(shape)} == {name: a.dtype for name, a in columns.items()}
    assert sum(array.nbytes for array in columns.values()) == 6 * codec.bytes_per_row(shape)
    assert round_trip(codec, values_R).shape == values_R.shape


@ids
@settings(max_examples=150, deadline=None)
@given(
    values_RW=arrays(
        np.float32, st.tuples(st.integers(1, 4), st.integers(2, 40)), elements=st.floats(-60, 60, width=32)
    ),
    temperature=st.sampled_from([1.0, 2.0, 4.0, 20.0]),
)
def test_the_divergence_stays_below_the_stated_one(codec, values_RW, temperature):
    bound = codec.kl_bound(float(np.abs(values_RW).max()), temperature)
    assert (kl(values_RW, round_trip(codec, values_RW), temperature) <= bound + 1e-14).all()


@ids
@pytest.mark.parametrize("peak", [1.0, 10.0, 60.0, 1000.0])
def test_the_divergence_stays_below_the_stated_one_where_rounding_is_worst(codec, peak):
    # half a step of float16 beside a power of two, away from it for one half of the classes and towards it for the other
    low = 2.0 ** np.floor(np.log2(peak))
    step = low * 2.0**-10
    values_RW = (low + step * (0.5 + np.arange(2))).astype(np.float32)[None].repeat(20, 1)
    assert np.abs(round_trip(codec, values_RW) - values_RW).max() == step / 2
    assert (kl(values_RW, round_trip(codec, values_RW), 1.0) <= codec.kl_bound(peak * 1.01)).all()


@ids
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 65505.0, -65519.0, 1e30])
@pytest.mark.parametrize("place", [0, 3])
def test_a_value_that_cannot_come_back_is_refused_by_row_id_and_value(codec, value, place):
    values_R = np.zeros((5, 4), np.float32)
    values_R[2, place] = value
    with pytest.raises(ValueError, match=f"row 1002 holds {np.float32(value)} at {place}".replace("+", r"\+")):
        codec.encode(values_R, np.arange(5) + 1000)


def test_float16_returns_what_numpy_rounds_to_up_to_its_largest_value():
    values_R = np.array([[65504.0, -65504.0, 1e-8, -0.0, 1 / 3]], np.float32)
    assert (round_trip(DENSE_F16, values_R) == values_R.astype(np.float16).astype(np.float32)).all()


def test_float16_costs_a_thousand_class_teacher_half_a_millionth_of_a_nat():
    generator = np.random.default_rng(0)
    logits_RC = generator.normal(0, 2, (2000, 1000)).astype(np.float32)
    logits_RC[:, 0] += 8
    read = round_trip(DENSE_F16, logits_RC)
    assert kl(logits_RC, read, 1.0).mean() < 6e-7
    assert kl(logits_RC, read, 4.0).mean() < 5e-8
