"""What can be observed in a network: attention maps, smaller maps and projections, and what they cost in the cache."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from scipy.stats import kstest, norm

from raykd.data import View
from raykd.features import Features
from raykd.identity import canonical, fingerprint
from raykd.methods.attention import AttentionTransfer
from raykd.methods.extraction import Extraction
from raykd.methods.fitnet import FitNet
from raykd.models import CNN, MLP, VGG, Architecture, MobileNetV2, ResNet, ShuffleNetV2, WideResNet
from raykd.plan import Filling, plan
from raykd.rebuild import known, rebuild
from raykd.signals import LOGITS, Attention, Observable, Projected, Resized, Signal, _gaussian, normalised
from raykd.stage import Stage
from raykd.storage import Storage
from raykd.terms import CrossEntropy, Distill

SIGNALS = [
    Signal("t"), Resized("t", 2), Resized("t", 3), Attention("t"), Attention("t", 2), Projected(Signal("t"), 5),
    Projected(Signal("t"), 200, seed=1), Projected(Resized("t", 2), 5), Projected(Attention("t"), 7, matrix="identity"),
]  # fmt: skip


def a_map(rows: int = 3, shape: tuple[int, ...] = (4, 6, 4)) -> torch.Tensor:
    return torch.randn(rows, *shape, generator=torch.Generator().manual_seed(3))


def test_attention_is_the_mean_square_over_channels_divided_by_its_length() -> None:
    values = a_map()
    found = Attention("t").observe({"t": values})
    for row, attention_N in zip(values.double(), found, strict=True):
        energy = [sum(row[c, i, j] ** 2 for c in range(4)) / 4 for i in range(6) for j in range(4)]
        length = sum(e**2 for e in energy) ** 0.5
        torch.testing.assert_close(attention_N.double(), torch.stack(energy) / length)


def test_attention_has_length_one_and_does_not_depend_on_scale_sign_or_order_of_channels() -> None:
    values = a_map()
    attention = Attention("t").observe({"t": values})
    torch.testing.assert_close(attention.norm(dim=1), torch.ones(3))
    for same in (1e-15 * values, 1e15 * values, -values, values[:, [2, 0, 3, 1]]):
        torch.testing.assert_close(Attention("t").observe({"t": same}), attention)


def test_the_attention_of_nothing_is_nothing_and_has_no_gradient() -> None:
    values = torch.zeros(2, 3, 4, 4, requires_grad=True)
    attention = Attention("t").observe({"t": values})
    assert not attention.any()
    (gradient,) = torch.autograd.grad(attention.sum(), values)
    assert not gradient.any()


def test_the_gradient_of_attention_is_that_of_finite_differences() -> None:
    values = a_map(rows=1, shape=(2, 2, 3)).requires_grad_()
    weights = torch.arange(6.0)
    (gradient,) = torch.autograd.grad((Attention("t").observe({"t": values}) * weights).sum(), values)
    step = 1e-2
    for place in range(values.numel()):
        moved = torch.zeros(values.numel())
        moved[place] = step
        up, down = (
            (Attention("t").observe({"t": values.detach() + sign * moved.view_as(values)}) * weights).sum()
            for sign in (1, -1)
        )
        torch.testing.assert_close((up - down) / (2 * step), gradient.flatten()[place], rtol=2e-2, atol=2e-3)


def test_a_resized_map_holds_the_means_of_its_blocks() -> None:
    values = a_map(shape=(4, 6, 4))
    found = Resized("t", 2).observe({"t": values})
    assert found.shape == (3, 4, 2, 2)
    for i in range(2):
        for j in range(2):
            block = values[:, :, 3 * i : 3 * i + 3, 2 * j : 2 * j + 2]
            torch.testing.assert_close(found[:, :, i, j], block.mean((2, 3)))


def test_attention_at_a_size_is_that_of_the_resized_map() -> None:
    taps = {"t": a_map()}
    torch.testing.assert_close(
        Attention("t", 2).observe(taps), Attention("r").observe({"r": Resized("t", 2).observe(taps)})
    )


@pytest.mark.parametrize("signal", SIGNALS, ids=str)
class TestSignal:
    def test_its_shape_is_that_of_what_it_observes(self, signal: Observable) -> None:
        values = a_map()
        assert signal.taps() == ("t",)
        assert tuple(signal.observe({"t": values}).shape[1:]) == signal.shape({"t": (4, 6, 4)}.__getitem__)

    def test_it_is_observed_in_float32_whatever_the_network_computes_in(self, signal: Observable) -> None:
        half = a_map().half()
        found = signal.observe({"t": half})
        assert found.dtype == torch.float32
        assert torch.equal(found, signal.observe({"t": half.float()}))

    def test_it_comes_back_from_its_identity(self, signal: Observable, tmp_path: Path) -> None:
        assert rebuild(canonical(signal), known(tmp_path)) == signal


def matrix_of(signal: Projected, width: int) -> torch.Tensor:
    """P, read off what becomes of the differences of two units. [width - 1, dim]"""
    units = torch.eye(width)[:-1] - torch.eye(width)[1:]
    return signal.observe({"t": units}) * math.sqrt(2)


def test_a_projection_is_of_the_normalised_row_by_entries_of_variance_one_by_its_width() -> None:
    width, dim = 600, 300
    differences = matrix_of(Projected(Signal("t"), dim, seed=4), width)[::2] / math.sqrt(2)  # of independent entries
    assert kstest(differences.flatten().numpy() * math.sqrt(dim), norm.cdf).pvalue > 0.001
    other = matrix_of(Projected(Signal("t"), dim, seed=5), width)[::2] / math.sqrt(2)
    assert torch.corrcoef(torch.stack([differences.flatten(), other.flatten()]))[0, 1].abs() < 0.02
    rows = torch.rand(200, width)
    lengths = Projected(Signal("t"), dim).observe({"t": rows}).square().sum(1)
    assert (lengths - 1).abs().max() < 6 * math.sqrt(2 / dim)  # Johnson and Lindenstrauss


def test_a_projection_is_linear_in_the_normalised_row() -> None:
    signal = Projected(Signal("t"), 9, seed=2)
    values = a_map()
    matrix = matrix_of(signal, values[0].numel()).double()
    rows = normalised(values).double()
    partial_sums = rows.cumsum(1)[:, :-1]  # sum_i x_i P_i, for rows that sum to 0, in the differences of neighbours
    torch.testing.assert_close(signal.observe({"t": values}).double(), partial_sums @ matrix, rtol=1e-3, atol=1e-3)


def test_a_normalised_row_has_mean_zero_and_length_one_whatever_its_scale_and_level() -> None:
    values = a_map(rows=5)
    rows = normalised(values)
    torch.testing.assert_close(rows.mean(1), torch.zeros(5), atol=1e-6, rtol=0)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(5), atol=1e-4, rtol=0)
    for same in (300 * values, values + 7, 0.3 * values - 2):
        torch.testing.assert_close(normalised(same), rows, atol=1e-4, rtol=0)
    direct = [[(x - sum(row) / len(row)) for x in row] for row in values.double().flatten(1).tolist()]
    expected = torch.tensor([[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in direct])
    torch.testing.assert_close(rows, expected, atol=1e-4, rtol=0)
    flat = torch.full((2, 6), 3.0, requires_grad=True)
    normalised(flat)[:, 0].sum().backward()
    assert not normalised(flat).any()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()


def test_an_identity_keeps_the_first_numbers() -> None:
    values = a_map()
    found = Projected(Signal("t"), 7, matrix="identity").observe({"t": values})
    assert torch.equal(found, normalised(values)[:, :7])


PROJECTING = """
import hashlib, torch
from raykd.signals import Projected, Signal, _gaussian
print(hashlib.sha256(_gaussian(3, 70, 20).numpy().tobytes()).hexdigest())
"""


def test_the_matrix_is_the_same_bits_in_another_process_on_other_threads() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "5"}
    done = subprocess.run(
        [sys.executable, "-c", PROJECTING], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == hashlib.sha256(_gaussian(3, 70, 20).numpy().tobytes()).hexdigest()


def test_a_matrix_made_without_gradients_serves_where_there_are_some() -> None:
    signal = Projected(Signal("t"), 11, seed=99)
    with torch.inference_mode():
        signal.observe({"t": torch.rand(2, 13)})
    values = torch.rand(2, 13, requires_grad=True)
    signal.observe({"t": values}).sum().backward()
    assert values.grad is not None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_projection_on_a_gpu_is_that_on_a_cpu() -> None:
    values, signal = a_map(), Projected(Signal("t"), 20)
    torch.testing.assert_close(signal.observe({"t": values.cuda()}).cpu(), signal.observe({"t": values}))


def test_what_is_projected_to_what_is_identity() -> None:
    of = Signal("t")
    others = [
        Projected(of, 5), Projected(of, 6), Projected(of, 5, seed=1), Projected(Signal("u"), 5),
        Projected(Resized("t", 2), 5), Projected(of, 5, matrix="identity"),
    ]  # fmt: skip
    assert len({fingerprint(signal) for signal in others}) == len({str(signal) for signal in others}) == 6


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: Projected(Signal("t"), 0), r"dim=0\): a width of 1 or more"),
        (lambda: Projected(Signal("t"), 5, matrix="hadamard"), "matrix='hadamard' of Projected: one of gaussian"),  # type: ignore[arg-type]
        (lambda: Projected(Signal("t"), 9, matrix="identity").shape(lambda _: (2, 2, 2)), "it has 8 numbers"),
    ],
)
def test_a_projection_that_cannot_be_is_refused(write: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        write()


def test_signals_are_told_apart_by_name_and_by_fingerprint() -> None:
    assert len({str(signal) for signal in SIGNALS}) == len({fingerprint(signal) for signal in SIGNALS}) == len(SIGNALS)


@pytest.mark.parametrize("signal", [Resized("t", 2), Attention("t"), Attention("t", 2)], ids=str)
@pytest.mark.parametrize("shape", [(64,), (16, 64)])
def test_what_is_no_map_is_refused(signal: Observable, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"of a map \(C, H, W\), and this tap has the shape"):
        signal.shape(lambda _: shape)


def test_a_size_is_one_that_pooling_can_make() -> None:
    with pytest.raises(ValueError, match=r"size=0.*1 or more"):
        Resized("t", 0)
    with pytest.raises(ValueError, match=r"size=-1.*0 or more"):
        Attention("t", -1)
    for signal in (Resized("t", 5), Attention("t", 5)):
        with pytest.raises(ValueError, match="the map is 8x4, and pooling makes it no larger"):
            signal.shape(lambda _: (3, 8, 4))


FAMILIES: list[Architecture] = [
    CNN(4), ResNet(8), WideResNet(10, 1), VGG(8), MobileNetV2(width=0.5), ShuffleNetV2(),
]  # fmt: skip


@pytest.mark.parametrize("architecture", FAMILIES, ids=str)
def test_every_convolutional_family_has_the_default_taps(architecture: Architecture) -> None:
    for tap in ("stage1", "stage2", "stage3"):
        _, height, width = architecture.tap_shape(tap)
        assert Attention(tap).shape(architecture.tap_shape) == (height * width,)
    assert len(architecture.tap_shape("pooled")) == 1


def test_signals_are_observed_in_a_network() -> None:
    network = ResNet(8, shape=(3, 16, 16)).build().eval()
    signals = [Attention("stage3"), Attention("stage1", 4), Resized("stage2", 4), LOGITS]
    taps = network(torch.rand(2, 3, 16, 16), [tap for signal in signals for tap in signal.taps()])
    for signal in signals:
        assert tuple(signal.observe(taps).shape[1:]) == signal.shape(network.architecture.tap_shape)


def stage(divergence: Features, student: Architecture | None = None) -> Stage:
    return Stage(
        student or CNN(4, shape=tiny.SHAPE),
        1.0 * CrossEntropy() + 1.0 * Distill(divergence),
        View(tiny.DATASET, tiny.MOVED, replicas=2),
        {"teacher": Stage(CNN(6, shape=tiny.SHAPE), 1.0 * CrossEntropy(), View(tiny.DATASET))},
    )


def price(divergence: Features, root: Path) -> Filling:
    (filling,) = plan([stage(divergence)], Storage(root)).steps[-1].fillings
    return filling


def test_the_plan_prices_a_map_by_its_places_and_an_activation_by_all_its_numbers(tmp_path: Path) -> None:
    rows, places, channels = 2 * tiny.rows(), 8 * 8, 6
    assert price(AttentionTransfer("stage1"), tmp_path).bytes == rows * 2 * places
    assert price(FitNet("stage1"), tmp_path).bytes == rows * 2 * channels * places
    assert price(AttentionTransfer("stage1", size=4), tmp_path).bytes == rows * 2 * 16
    assert price(FitNet("stage1", size=4), tmp_path).bytes == rows * 2 * channels * 16
    assert price(Extraction("stage1", size=4, teacher_size=4, dim=10), tmp_path).bytes == rows * 2 * 10
    (kept,) = stage(AttentionTransfer("stage1")).kept["teacher"]
    assert kept.signal == kept.stored == Attention("stage1")
    assert kept.bytes_per_row(CNN(6, shape=tiny.SHAPE)) == 2 * places


def test_what_no_network_has_is_refused_when_the_stage_is_written() -> None:
    with pytest.raises(ValueError, match="attention of pooled"):
        stage(AttentionTransfer("pooled"))
    with pytest.raises(ValueError, match="attention of layer1: it is made of a map"):
        stage(AttentionTransfer("layer1", "stage1"), MLP((8,), shape=tiny.SHAPE))
    with pytest.raises(ValueError, match="unknown tap 'stage9'"):
        stage(FitNet("stage9"))
