"""The family of codecs: laws over the list of them, then what is particular to the dense ones."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from laws import class_by_class

from raykd.cache.codecs import CODECS, DENSE_F16, DenseU8, Sampled, TopKF16, TopKU8, auto, codec_of, named
from raykd.identity import canonical, fingerprint
from raykd.sparse import Sparse

# fewer than the classes of these tests
FEW = [
    TopKF16(k=3),
    TopKF16(k=2, temperatures=(0.25,)),
    TopKU8(k=3),
    TopKU8(k=1, temperatures=()),
    Sampled(draws=5),
]
EVERY = [*CODECS, *FEW]
codecs = pytest.mark.parametrize("codec", EVERY, ids=repr)
dense = pytest.mark.parametrize("codec", [codec for codec in EVERY if codec.kind == "dense"], ids=repr)
sparse = pytest.mark.parametrize("codec", [codec for codec in EVERY if codec.kind != "dense"], ids=repr)
bounded = pytest.mark.parametrize("codec", [codec for codec in EVERY if codec.kind != "sampled"], ids=repr)


def logits(rows, classes, seed=0):
    return np.random.default_rng(seed).normal(0, 3, (rows, classes)).astype(np.float32)


def stored(codec, values_R, ids_R=None, device="cpu"):
    columns = codec.encode(values_R, np.arange(len(values_R)) if ids_R is None else ids_R, 0)
    return {name: torch.from_numpy(array).to(device) for name, array in columns.items()}


def round_trip(codec, values_R):
    return codec.decode(stored(codec, values_R), values_R.shape[1:])


def kl(codec, values_RW, temperature):
    log_p = (torch.from_numpy(values_RW).double() / temperature).log_softmax(-1)
    return (log_p.exp() * (log_p - class_by_class(round_trip(codec, values_RW), temperature))).sum(-1).numpy()


@codecs
@pytest.mark.parametrize("classes", [10, 40_000, 70_000])
def test_columns_are_as_declared_and_of_the_stated_size(codec, classes):
    columns = codec.encode(logits(3, classes), np.arange(3), 0)
    declared = codec.columns((classes,))
    assert {c.name: (c.dtype, (3, c.width)) for c in declared} == {n: (a.dtype, a.shape) for n, a in columns.items()}
    assert sum(array.nbytes for array in columns.values()) == 3 * codec.bytes_per_row((classes,))
    assert all(column.width > 0 for column in declared)


@dense
@pytest.mark.parametrize("shape", [(10,), (3, 5), ()])
def test_dense_codecs_keep_any_shape(codec, shape):
    codec.check(shape)
    values_R = np.random.default_rng(0).normal(size=(6, *shape)).astype(np.float32)
    read = round_trip(codec, values_R)
    assert read.shape == values_R.shape
    assert read.dtype == torch.float32
    np.testing.assert_allclose(read, values_R, atol=0.02)
    assert codec.kl_bound(values_R).shape == (6,)


@sparse
@pytest.mark.parametrize("shape", [(3, 5), ()])
def test_sparse_codecs_take_logits_only(codec, shape):
    codec.check((10,))
    with pytest.raises(ValueError, match=r"stores logits \[C\], and a row of these values is \[.*\]: use dense_f16"):
        codec.check(shape)


@bounded
@settings(max_examples=100, deadline=None)
@given(
    values_RW=arrays(
        np.float32, st.tuples(st.integers(1, 4), st.integers(2, 40)), elements=st.floats(-60, 60, width=32)
    ),
    temperature=st.sampled_from([1.0, 2.0, 4.0]),
)
def test_the_divergence_stays_below_the_stated_one(codec, values_RW, temperature):
    temperature = temperature if codec.temperatures is None or temperature in codec.temperatures else 1.0
    assert (kl(codec, values_RW, temperature) <= codec.kl_bound(values_RW, temperature) + 1e-12).all()


@bounded
@pytest.mark.parametrize("scale", [1e-6, 0.1, 1.0, 10.0, 300.0, 5000.0])
def test_it_does_at_every_scale_of_logits_and_for_rows_of_equal_ones(codec, scale):
    values_RW = np.vstack([scale / 3 * logits(50, 30), np.full((1, 30), scale, np.float32)])
    for temperature in codec.temperatures or (0.5, 1.0, 4.0, 20.0):
        assert (kl(codec, values_RW, temperature) <= codec.kl_bound(values_RW, temperature) + 1e-12).all()


@codecs
@pytest.mark.parametrize("place", [0, 3])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, "beyond", "below"])
def test_a_value_that_cannot_come_back_is_refused_by_row_id_and_value(codec, value, place):
    outside = np.float32(codec.largest * 1.001)
    value = {"beyond": outside, "below": -outside}.get(value, value)
    values_R = np.zeros((5, 4), np.float32)
    values_R[2, place] = value
    with pytest.raises(ValueError, match=f"row 1002 holds {np.float32(value)} at {place}".replace("+", r"\+")):
        codec.encode(values_R, np.arange(5) + 1000, 0)


@codecs
def test_the_largest_value_is_stored(codec):
    values_R = np.array([[codec.largest, -codec.largest, 0.0, 1.0]], np.float32)
    log_p = class_by_class(round_trip(codec, values_R), 1.0)
    assert log_p.argmax() == 0
    assert torch.isfinite(log_p).all()


@codecs
def test_what_a_row_becomes_does_not_depend_on_the_others(codec):
    values_R, ids_R = logits(150, 300), np.arange(150) + 5
    whole = codec.encode(values_R, ids_R, 1)
    for rows in ([7], [149, 3, 70], range(60, 130)):
        part = codec.encode(values_R[rows], ids_R[rows], 1)
        assert all((part[name] == whole[name][rows]).all() for name in whole)


@codecs
def test_the_values_given_are_left_as_they_are(codec):
    values_R = logits(5, 30)
    before = values_R.copy()
    codec.encode(values_R, np.arange(5), 0)
    assert (values_R == before).all()


@codecs
def test_decoding_and_reading_ask_nothing_of_the_device(codec):
    # a tensor on "meta" has no values: whatever waits for one raises
    read = codec.decode(stored(codec, logits(4, 30), device="meta"), (30,))
    assert read.device.type == "meta"
    assert len(read) == 4
    if isinstance(read, Sparse):
        tau_B = torch.ones(4, device="meta")
        assert read.log_probabilities(tau_B).shape == (4, read.ids_BK.shape[1] + 1)
        assert read.student_log_probabilities(torch.zeros(4, 30, device="meta"), tau_B).device.type == "meta"
        assert read.probability_of(torch.zeros(4, dtype=torch.long, device="meta")).shape == (4,)


@sparse
@pytest.mark.parametrize("classes", [256, 32_769, 65_536, 65_537])
def test_every_class_id_comes_back(codec, classes):
    values_RC = np.full((2, classes), -20, np.float32)
    values_RC[0, -1] = values_RC[1, classes // 2 + 1] = 20
    ids_BK = round_trip(codec, values_RC).ids_BK
    assert ids_BK.dtype == torch.long
    assert ids_BK[:, 0].tolist() == [classes - 1, classes // 2 + 1]
    assert ((ids_BK >= 0) & (ids_BK < classes)).all()


@codecs
def test_a_codec_is_its_content(codec):
    assert codec_of(canonical(codec)) == codec == copy.deepcopy(codec)
    assert codec_of({**canonical(codec), "version": 99}) is None
    assert codec_of({**canonical(codec), "is": "Other"}) is None
    assert codec_of({**canonical(codec), "of": {"other": 1}}) is None
    assert codec_of([]) is None


def test_codecs_with_other_parameters_are_other_codecs():
    assert len({fingerprint(codec) for codec in EVERY}) == len(EVERY)
    assert TopKU8(temperatures=(4, 2)) == TopKU8(temperatures=(1.0, 2.0, 4.0))


def test_codecs_have_names():
    assert [named(codec.name) for codec in CODECS] == list(CODECS)
    with pytest.raises(
        ValueError, match="no codec 'bf16': it is one of dense_f16, dense_u8, topk_f16, topk_u8, sampled"
    ):
        named("bf16")


def test_many_classes_are_stored_as_a_few_unless_someone_says_otherwise():
    assert auto(1000) == auto(4096) == DENSE_F16
    assert auto(4097) == TopKU8()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: TopKU8(k=0), "topk_u8 of k=0"),
        (lambda: TopKF16(temperatures=(1.0, 0.0)), r"topk_f16 at temperatures=\(1.0, 0.0\)"),
        (lambda: Sampled(draws=0), "sampled with draws=0"),
        (lambda: TopKU8().kl_bound(logits(1, 9), 3.0), "temperature 3 is not declared: .* at 1, 2, 4 only"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


@pytest.mark.parametrize("peak", [1.0, 10.0, 60.0, 1000.0])
def test_float16_stays_below_its_bound_where_rounding_is_worst(peak):
    # half a step of float16 beside a power of two, away from it for one half of the classes and towards it for the other
    low = 2.0 ** np.floor(np.log2(peak))
    step = low * 2.0**-10
    values_RW = (low + step * (0.5 + np.arange(2))).astype(np.float32)[None].repeat(20, 1)
    assert np.abs(round_trip(DENSE_F16, values_RW).numpy() - values_RW).max() == step / 2
    assert (kl(DENSE_F16, values_RW, 1.0) <= DENSE_F16.kl_bound(values_RW)).all()


def test_float16_returns_what_numpy_rounds_to_up_to_its_largest_value():
    values_R = np.array([[65504.0, -65504.0, 1e-8, -0.0, 1 / 3]], np.float32)
    assert (round_trip(DENSE_F16, values_R).numpy() == values_R.astype(np.float16).astype(np.float32)).all()


@pytest.mark.parametrize("low", [0.0, -33.3, 1000.0])
def test_steps_of_bytes_stay_below_their_bound_where_rounding_is_worst(low):
    # codes 0 and 255 fix the steps; the others lie half a step above a code or half a step below the next
    step = 2.0**-4
    places = np.array([0, 255, *(np.arange(10, 200, 10) + 0.499), *(np.arange(11, 201, 10) + 0.501)])
    values_RW = (np.float16(low) + step * places).astype(np.float32)[None]
    assert np.abs(round_trip(DenseU8(), values_RW).numpy() - values_RW).max() > 0.49 * step
    assert (kl(DenseU8(), values_RW, 1.0) <= DenseU8().kl_bound(values_RW)).all()


@pytest.mark.parametrize(("low", "spread"), [(1000.3, 0.01), (1000.0, 1e-3), (-60_000.0, 3.0), (0.1, 1e-6)])
def test_steps_of_bytes_stay_below_their_bound_for_small_differences_far_from_zero(low, spread):
    values_RW = (low + spread * np.random.default_rng(0).uniform(size=(20, 50))).astype(np.float32)
    values_RW[:, 0] = low
    assert (kl(DenseU8(), values_RW, 1.0) <= DenseU8().kl_bound(values_RW) + 1e-14).all()


def test_steps_of_bytes_stay_below_their_bound_where_the_step_itself_was_rounded_most():
    wanted, step = 2.0**-4 * (1 + 1e-6), 2.0**-4 * (1 + 2.0**-10)
    codes = np.random.default_rng(0).integers(1, 250, 4000)
    towards = np.where(np.arange(4000) % 2, 0.4999, -0.4999)
    values_RW = np.concatenate([[0, 255 * wanted], step * (codes + towards)]).astype(np.float32)[None]
    assert float(stored(DenseU8(), values_RW)["step"]) == step
    assert kl(DenseU8(), values_RW, 20.0) <= DenseU8().kl_bound(values_RW, 20.0)


def test_the_table_of_errors_holds_for_a_thousand_class_teacher():
    generator = np.random.default_rng(0)
    logits_RC = generator.normal(0, 2, (500, 1000)).astype(np.float32)
    logits_RC[:, 0] += 8
    for codec, at_1, at_4 in ((DENSE_F16, 6e-7, 5e-8), (DenseU8(), 1e-4, 1e-5)):
        assert kl(codec, logits_RC, 1.0).mean() < at_1
        assert kl(codec, logits_RC, 4.0).mean() < at_4
    # what is left out costs far more than how the rest is rounded
    assert kl(TopKF16(k=50), logits_RC, 4.0).mean() > 0.05
    np.testing.assert_allclose(kl(TopKU8(k=50), logits_RC, 4.0), kl(TopKF16(k=50), logits_RC, 4.0), rtol=0.01)


@pytest.mark.parametrize("codec", [TopKF16(k=5), TopKU8(k=5)], ids=str)
def test_top_k_keeps_the_largest_and_what_the_others_sum_to(codec):
    values_RC = logits(20, 30)
    read, order_RC = round_trip(codec, values_RC), np.argsort(-values_RC, 1)
    assert (read.ids_BK.numpy() == order_RC[:, :5]).all()
    for tau in (1.0, 2.0, 4.0):
        p = np.exp(values_RC.astype(np.float64) / tau)
        p /= p.sum(1, keepdims=True)
        expected = np.hstack(
            [
                np.take_along_axis(p, order_RC[:, :5], 1),
                1 - np.take_along_axis(p, order_RC[:, :5], 1).sum(1, keepdims=True),
            ]
        )
        np.testing.assert_allclose(read.log_probabilities(torch.full((20,), tau)).exp(), expected, rtol=0.02, atol=1e-4)


def test_a_tail_far_below_the_largest_logit_keeps_its_mass():
    values_RC = np.array([[0.0, -300.0, -301.0, -302.0]], np.float32)
    read = round_trip(TopKF16(k=1), values_RC)
    expected = np.log(np.exp([0.0, -1.0, -2.0]).sum()) - 300
    assert float(read.log_probabilities(torch.ones(1))[0, 1]) == pytest.approx(expected, rel=2**-11)


@pytest.mark.parametrize("codec", [TopKF16(k=10), TopKU8(k=64)], ids=str)
def test_with_as_many_classes_as_there_are_nothing_is_left(codec):
    read = round_trip(codec, logits(4, 10))
    assert read.ids_BK.sort(1).values.tolist() == [list(range(10))] * 4
    assert (read.log_probabilities(torch.ones(4))[:, -1].exp() == 0).all()
    assert (kl(codec, logits(4, 10), 1.0) < 1e-4).all()
    assert codec.columns((10,)) == replace(codec, k=10).columns((10,))
