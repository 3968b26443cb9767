"""Curriculum Extraction: the loss against its formula, the graph that it writes, and what a stage leaves alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import counting
import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import Tensor

from raykd.budget import SGD, AdamW, Budget, Plateau
from raykd.data import Dataset, Digits, Parity, View
from raykd.identity import fingerprint
from raykd.methods.extraction import Extraction, extracted, partner
from raykd.methods.kl import KL
from raykd.methods.progressive import progressive
from raykd.models import CNN, MLP, VGG, Architecture, Custom, ResNet, size
from raykd.plan import plan
from raykd.runtime import Display, Local
from raykd.signals import Projected, Resized, Signal
from raykd.stage import Pretrained, Stage
from raykd.storage import Storage
from raykd.terms import CrossEntropy, Distill
from raykd.training import metrics
from raykd.training.learner import build

VIEW = View(Dataset(Digits(), validation=0.2, holdout=0.2, limit=160))
DEEP = MLP((12, 10, 8), shape=tiny.SHAPE)
LAYERS = ("layer1", "layer2", "layer3")


def teacher(student: Architecture = MLP((24, 20, 16), shape=tiny.SHAPE)) -> Stage:  # noqa: B008
    budget = Budget(2, batch_size=32, optimiser=SGD(lr=0.1))
    return Stage(student, 1.0 * CrossEntropy(), VIEW, budget=budget, label="teacher")


def student(network: Architecture = DEEP, of: Stage | None = None, **changes: object) -> Stage:
    budget = Budget(8, batch_size=32, optimiser=SGD(lr=0.1, weight_decay=0.01), keep="last")
    stage = Stage(network, 1.0 * Distill(KL()), VIEW, {"teacher": of or teacher()}, budget=budget, label="student")
    return replace(stage, **changes)  # type: ignore[arg-type]


def stages(stage: Stage) -> list[Stage]:
    """The stage and those that it goes on from, the first one first."""
    return [*([] if stage.init is None else stages(stage.init)), stage]  # type: ignore[arg-type]


def matches(stage: Stage) -> list[Extraction]:
    return [each.objective.terms[0].term.divergence for each in stages(stage)[:-1]]  # type: ignore[attr-defined]


def local(root: Path) -> Local:
    return Local(Storage(root), Display(quiet=True), any_teacher=True)


def loss(match: Extraction, ours: Tensor, theirs: Tensor) -> Tensor:
    """Of activations at the two taps."""
    one = match.student.observe({match.tap: ours})
    other = match.teacher.observe({match.teacher_tap or match.tap: theirs})
    return match(one, other, torch.zeros(len(ours), dtype=torch.long), torch.ones(len(ours)))


# --- the loss


def direct(row: list[float]) -> list[float]:
    mean = sum(row) / len(row)
    length = math.sqrt(sum((x - mean) ** 2 for x in row))
    return [(x - mean) / length for x in row]


def test_the_loss_is_the_squared_distance_of_a_normalised_row_from_the_projection_of_another() -> None:
    ours, theirs = torch.rand(5, 7), 3 + torch.randn(5, 11)
    match = Extraction("layer1", "layer2", dim=4, seed=3)
    found = loss(match, ours, theirs)
    units = torch.eye(11)  # their images tell the matrix, up to what rows that sum to 0 cannot see
    images = [match.teacher.observe({"layer2": unit[None]})[0].double() * math.sqrt(10 / 11) for unit in units]
    for row in range(5):
        student, teacher = direct(ours[row].double().tolist()), direct(theirs[row].double().tolist())
        projected = [sum(teacher[i] * float(images[i][j]) for i in range(11)) for j in range(4)]
        assert float(found[row]) == pytest.approx(
            sum((a - b) ** 2 for a, b in zip(student[:4], projected, strict=True)), rel=1e-3
        )


@pytest.mark.parametrize(
    "network", [DEEP, CNN(4, shape=tiny.SHAPE), ResNet(8, shape=(3, 8, 8)), VGG(8, shape=(3, 32, 32))], ids=str
)
def test_a_student_equal_to_its_teacher_has_no_loss_at_any_layer_if_nothing_is_projected(network: Architecture) -> None:
    stage = student(network, teacher(network)) if network.shape == tiny.SHAPE else None
    body = network.build().eval()
    inputs = torch.rand(4, *network.shape)
    found = matches(extracted(stage, matrix="identity")) if stage else [
        Extraction(tap, dim=math.prod(network.tap_shape(tap)), matrix="identity") for tap in network.stages()
    ]  # fmt: skip
    assert len(found) == len(network.stages())
    for match in found:
        taps = body(inputs, (match.tap, match.teacher_tap or match.tap))
        value = loss(match, taps[match.tap], taps[match.teacher_tap or match.tap])
        torch.testing.assert_close(value, torch.zeros(4), atol=1e-10, rtol=0)


def test_gradient_descent_on_the_student_reaches_what_is_projected() -> None:
    theirs = torch.randn(6, 40)
    ours = torch.randn(6, 9, requires_grad=True)
    match = Extraction("layer1", dim=9)
    target = match.teacher.observe({"layer1": theirs})
    first = float(loss(match, ours.detach(), theirs).sum())
    optimiser = torch.optim.SGD([ours], lr=1.0)
    for _ in range(500):
        optimiser.zero_grad()
        loss(match, ours, theirs).sum().backward()
        optimiser.step()
    # of length 1 and mean 0 it can only be the nearest: the direction of what is projected, less its mean
    nearest = torch.nn.functional.normalize(target - target.mean(1, keepdim=True), dim=1)
    assert float(loss(match, ours.detach(), theirs).sum()) < first
    torch.testing.assert_close(
        loss(match, ours.detach(), theirs), (nearest - target).square().sum(1), rtol=1e-2, atol=1e-3
    )


# --- the graph


def test_no_layers_are_the_stage_itself() -> None:
    assert fingerprint(extracted(student(), ())) == fingerprint(student())


def test_each_layer_is_a_stage_that_starts_from_the_one_before_and_the_last_is_the_stages_own() -> None:
    stage = student()
    found = stages(extracted(stage))
    assert [str(each) for each in found] == ["student/layer1", "student/layer2", "student/layer3", "student"]
    assert [each.frozen for each in found] == [("layer2", "layer3", "fc"), ("layer3", "fc"), ("fc",), ()]
    assert found[-1].objective == stage.objective
    assert found[0].init is None
    for each in found:
        assert (each.student, each.view, each.seed, each.teachers) == (
            stage.student, stage.view, stage.seed, stage.teachers,
        )  # fmt: skip
    assert replace(found[-1], init=None, budget=stage.budget) == stage


def test_the_stages_share_the_budget_evenly_or_as_they_are_told() -> None:
    stage = student()
    assert tuple(each.budget for each in stages(extracted(stage))) == stage.budget.parts(4)
    given = stages(extracted(stage, ("layer2",), epochs=(1, 7)))
    assert [(each.budget.start, each.budget.end, each.budget.keep) for each in given] == [
        (0, 1, "last"),
        (1, 8, "last"),
    ]
    assert sum(each.budget.trained for each in given) == stage.budget.trained
    for share, expected in ((0.5, [2, 1, 1, 4]), (0.75, [2, 2, 2, 2]), (0.0, [1, 1, 1, 5])):
        assert [each.budget.trained for each in stages(extracted(stage, share=share))] == expected
    assert extracted(stage, (), share=0.5) == stage


def test_layers_are_matched_at_their_whole_width_with_a_matrix_each() -> None:
    found = matches(extracted(student(MLP((9, 9), shape=tiny.SHAPE)), seed=5))
    assert [match.teacher for match in found] == [
        Projected(Signal("layer2"), 9, found[0].seed), Projected(Signal("layer3"), 9, found[1].seed),
    ]  # fmt: skip
    seeds = {match.seed for seed in range(20) for match in matches(extracted(student(), seed=seed))}
    assert len(seeds) == 60
    assert [match.dim for match in matches(extracted(student(), dim=3))] == [3, 3, 3]


def test_maps_are_pooled_to_one_size_and_vectors_stay_as_they_are() -> None:
    of_maps = student(CNN(3, shape=tiny.SHAPE), teacher(CNN(5, shape=tiny.SHAPE)))
    found = matches(extracted(of_maps))
    assert [match.student for match in found] == [Resized("stage1", 4), Resized("stage2", 4), Resized("stage3", 2)]
    assert [match.dim for match in found] == [3 * 16, 6 * 16, 12 * 4]
    assert [match.dim for match in matches(extracted(of_maps, size=1))] == [3, 6, 12]
    mixed = matches(extracted(student(MLP((7,), shape=tiny.SHAPE), teacher(CNN(5, shape=tiny.SHAPE)))))
    assert mixed == [Extraction("layer1", "stage3", dim=7, teacher_size=2, seed=mixed[0].seed)]
    (before_relu,) = matches(extracted(student(), ("layer1.0",), teacher_layers=("layer3",)))
    assert (before_relu.student, before_relu.dim) == (Signal("layer1.0"), 12)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (4, 4, [1, 2, 3, 4]),
        (2, 4, [2, 4]),
        (4, 2, [1, 1, 2, 2]),  # 0.5 and 1.5 are rounded up
        (3, 5, [2, 3, 5]),
        (5, 3, [1, 1, 2, 2, 3]),
        (1, 6, [6]),
        (6, 1, [1, 1, 1, 1, 1, 1]),  # no layer follows the input
        (2, 3, [2, 3]),
    ],
)
def test_layers_of_unequal_depths_are_partners_at_the_same_share(ours: int, theirs: int, expected: list[int]) -> None:
    one, other = MLP((4,) * ours, shape=tiny.SHAPE), MLP((5,) * theirs, shape=tiny.SHAPE)
    assert [partner(one, f"layer{i + 1}", other) for i in range(ours)] == [f"layer{place}" for place in expected]


def test_one_of_several_teachers_is_extracted_and_all_of_them_teach_the_output() -> None:
    both = {"a": teacher(), "b": teacher(MLP((6,), shape=tiny.SHAPE))}
    found = stages(extracted(student(teachers=both), ("layer1",), teacher="b"))
    assert found[0].needs.keys() == {"student", "b"}
    assert found[1].needs.keys() == {"student", "a", "b"}


def test_what_the_stage_starts_from_inherits_and_freezes_stays() -> None:
    same = student(teacher().student)
    stage = replace(
        same,
        init=replace(same, seed=9, teachers={}, objective=1.0 * CrossEntropy()),
        inherit={"fc": ("teacher", "fc"), "layer1": ("teacher", "layer1")},
        frozen=("fc",),
    )
    found = stages(extracted(stage, ("layer1", "layer2")))[1:]
    assert found[0].init == stage.init
    assert [dict(each.inherit) for each in found] == [dict(stage.inherit), *[{"fc": ("teacher", "fc")}] * 2]
    assert [each.frozen for each in found] == [("fc", "layer2", "layer3"), ("fc", "layer3"), ("fc",)]


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: extracted(teacher()), "teacher has no teachers"),
        (lambda: extracted(student(), ("layer9",)), "'layer9' has no partner by depth"),
        (lambda: extracted(student(), ("layer9",), teacher_layers=("layer1",)), "unknown tap 'layer9'"),
        (lambda: extracted(student(), ("layer1",), teacher_layers=("layer9",)), "unknown tap 'layer9'"),
        (lambda: extracted(student(), ("layer2", "layer1")), "layer1 is learned no deeper than layer2"),
        (lambda: extracted(student(), ("layer1", "layer1")), "layer1 is learned no deeper than layer1"),
        (lambda: extracted(student(), teacher_layers=("layer1",)), "1 layers of teacher and 4 parts for 3 layers"),
        (lambda: extracted(student(), epochs=(4, 4)), "3 layers of teacher and 2 parts for 3 layers"),
        (
            lambda: extracted(student(), ("layer1",), epochs=(4, 5)),
            "parts of 4, 5 epochs: each needs one, and together 8",
        ),
        (lambda: extracted(student(), share=1.0), "share=1.0 of 8 epochs"),
        (lambda: extracted(student(), share=0.99), "parts of 3, 3, 2, 0 epochs"),
        (lambda: extracted(student(), dim=9), r"dim=9 of Extraction\(layer3\): 1 to 8, the student's numbers"),
        (lambda: extracted(student(), dim=0), "dim=0"),
        (lambda: extracted(student(), matrix="identity", teacher="teacher", dim=30), "dim=30|30"),
        (
            lambda: extracted(student(Custom("torch.nn:Flatten", classes=64, shape=(64,)))),
            "takes inputs of shape",
        ),
    ],
)
def test_a_mistake_is_refused_when_it_is_written(write: Callable[[], Stage], words: str) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        write()
    assert "\n" not in str(refusal.value)


# --- what a stage does, and what it leaves alone


def of_kind(kind: str) -> Stage:
    if kind == "mlp":
        return student()
    network = CNN(3, shape=tiny.SHAPE)
    return student(network, teacher(CNN(5, shape=tiny.SHAPE)))


def check_what_moves(last: Stage, root: Path) -> None:
    """In each stage what is frozen stays as it was, to the bit, and everything else moves."""
    local(root).run(last)
    storage = Storage(root)
    before = dict(build(stages(last)[0], storage).student.body.state_dict())
    for each in stages(last):
        after = load_file(storage.weights(each))
        for name, tensor in after.items():
            stays = any(name.startswith(f"{part}.") for part in each.frozen)
            assert torch.equal(tensor, before[name]) == stays, (str(each), name)
        before = after


@pytest.mark.parametrize("optimiser", [SGD(0.1, weight_decay=0.1), AdamW(0.01, weight_decay=0.1)], ids=["sgd", "adamw"])
@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_deeper_layers_are_the_same_bits_after_a_stage_and_the_others_are_not(
    kind: str, optimiser: SGD | AdamW, tmp_path: Path
) -> None:
    stage = of_kind(kind)
    stage = replace(stage, budget=replace(stage.budget, epochs=4, optimiser=optimiser, ema=0.9))
    last = extracted(stage)
    check_what_moves(last, tmp_path)


def test_the_teacher_is_asked_for_projections_of_the_students_width(tmp_path: Path) -> None:
    last = extracted(student())
    steps = {str(step.network): step for step in plan([last], Storage(tmp_path)).steps}
    rows = len(VIEW.dataset.split("train"))
    assert [steps[f"student/{layer}"].fillings[0].bytes for layer in LAYERS] == [2 * rows * d for d in (12, 10, 8)]
    runner = local(tmp_path)
    runner.run(last)
    assert runner.counts.teacher_rows == {"teacher": rows}  # one pass for three projections and the logits
    storage = Storage(tmp_path)
    first = stages(last)[0]
    (kept,) = first.kept["teacher"]
    read = storage.reader("teacher", teacher(), first.seen, kept).gather([0] * 5, range(5))
    network = teacher().student.build().eval()
    network.body.load_state_dict(load_file(storage.weights(teacher())))
    sample = VIEW.batch(torch.arange(5).numpy(), torch.zeros(5).long().numpy())
    signal = kept.signal
    assert isinstance(signal, Projected)
    torch.testing.assert_close(read, signal.observe(network(sample.inputs_B, signal.taps())), atol=1e-3, rtol=1e-2)


def test_early_stages_cost_less_in_the_plan(tmp_path: Path) -> None:
    steps = {str(step.network): step for step in plan([extracted(student())], Storage(tmp_path)).steps}
    rows, epochs = len(VIEW.dataset.split("train")), 2
    multiplied = [64 * 12, 64 * 12 + 12 * 10, 64 * 12 + 12 * 10 + 10 * 8]
    for layer, weights in zip(LAYERS, multiplied, strict=True):
        assert steps[f"student/{layer}"].flops == 3 * 2 * weights * rows * epochs
    assert steps["student"].flops == 3 * size(DEEP).flops * rows * epochs
    asked = [steps[f"student/{layer}"].fillings[0].flops for layer in LAYERS]
    assert asked == [2 * weights * rows for weights in (64 * 24, 64 * 24 + 24 * 20, 64 * 24 + 24 * 20 + 20 * 16)]


def test_a_stage_killed_and_resumed_is_the_same(tmp_path: Path) -> None:
    last = extracted(student(), ("layer1", "layer2"), epochs=(3, 3, 2))
    middle = stages(last)[1]
    local(tmp_path / "whole").run(middle)
    parts = local(tmp_path / "parts")
    parts.run(replace(middle, budget=replace(middle.budget, until=4)))
    parts.run(middle)
    one, other = (load_file(Storage(tmp_path / name).weights(middle)) for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_extraction_brings_a_student_nearer_to_its_teachers_layer(tmp_path: Path) -> None:
    stage = student(MLP((12,), shape=tiny.SHAPE))
    stage = replace(stage, budget=replace(stage.budget, epochs=12))
    first = stages(extracted(stage, epochs=(8, 4)))[0]
    local(tmp_path).run(first)
    lines = (Storage(tmp_path).folder(first) / "metrics.jsonl").read_text().splitlines()
    losses = [float(line.split('"loss": ')[1].split(",")[0]) for line in lines]
    assert losses[-1] < 0.7 * losses[0]


def test_parity_is_learned_layer_by_layer(tmp_path: Path) -> None:
    source = Parity(8, 2, 2000)
    view = View(Dataset(source, validation=0.1, holdout=0.1))
    budget = Budget(6, batch_size=16, optimiser=SGD(lr=0.1, momentum=0.0, weight_decay=0.0))
    wide = Stage(MLP((256,), classes=2, shape=(8,)), 1.0 * CrossEntropy(), view, budget=budget)
    one_shot = Stage(MLP((16,), classes=2, shape=(8,)), 1.0 * Distill(KL()), view, {"teacher": wide}, budget=budget)
    trained = Local(Storage(tmp_path), Display(quiet=True)).run(extracted(one_shot, epochs=(2, 4)))[0]
    assert trained.metrics["test_top1"] > 0.95


def test_it_follows_snapshots_too() -> None:
    following = progressive(extracted(student(), ("layer1",)), (1,))
    assert [str(each) for each in stages(following)] == ["student/layer1", "student/link 1", "student"]
    file = Pretrained(teacher().student, "file")
    assert stages(extracted(student(teachers={"teacher": file})))[0].teachers["teacher"] == file


# --- tokens: a tap for each block, a row for each position asked


MASKED = pytest.mark.parametrize("masked", [False, True], ids=["causal", "masked"])


@MASKED
def test_blocks_of_half_the_depth_are_partners_of_every_second_and_the_embedding_of_itself(masked: bool) -> None:
    found = matches(extracted(counting.student(masked=masked)))
    assert [(match.tap, match.teacher_tap, match.dim) for match in found] == [
        ("block1", "block2", 8),
        ("block2", "block4", 8),
    ]
    both = [counting.network(depth, 2, masked=masked) for depth in (2, 6)]
    assert [partner(both[0], each, both[1]) for each in ("embedding", "block1", "block2")] == [
        "embedding",
        "block3",
        "block6",
    ]
    assert [partner(both[1], f"block{i + 1}", both[0]) for i in range(6)] == [f"block{i}" for i in (1, 1, 1, 1, 2, 2)]
    with_it = extracted(counting.student(masked=masked), ("embedding", "block1"))
    assert [match.teacher_tap for match in matches(with_it)] == ["embedding", "block2"]
    assert stages(with_it)[0].frozen == ("blocks", "norm", "head")


@MASKED
def test_the_loss_of_tokens_is_that_of_each_position_asked(masked: bool) -> None:
    stage = extracted(counting.student(masked=masked))
    (match, *_) = matches(stage)
    sample = stage.view.batch(np.arange(5), np.zeros(5, np.int64))
    # a transformer starts with numbers so small that what keeps flat rows finite would show
    ours = 100 * stage.student.build().eval()(sample.inputs_B, ("block1",))["block1"].detach()
    theirs = (
        100 * stage.teachers["teacher"].architecture.build().eval()(sample.inputs_B, ("block2",))["block2"].detach()
    )
    assert ours.shape == (len(sample.labels_B), 8)
    found = loss(match, ours, theirs)
    for row in range(len(sample.labels_B)):
        mine = torch.tensor(direct(ours[row].double().tolist()))
        projected = match.teacher.observe({"block2": theirs[row][None]})[0].double()
        assert float(found[row]) == pytest.approx(float((mine - projected).square().sum()), rel=1e-3)


@MASKED
def test_a_transformer_equal_to_its_teacher_has_no_loss_at_any_block_if_nothing_is_projected(masked: bool) -> None:
    stage = counting.student(masked=masked, depth=4, heads=4)
    found = matches(extracted(stage, matrix="identity"))
    assert (
        [match.tap for match in found] == [match.teacher_tap for match in found] == [f"block{i}" for i in (1, 2, 3, 4)]
    )
    inputs = stage.view.batch(np.arange(4), np.zeros(4, np.int64)).inputs_B
    body = stage.student.build().eval()
    for match in found:
        taps = body(inputs, (match.tap,))
        value = loss(match, taps[match.tap], taps[match.tap])
        torch.testing.assert_close(value, torch.zeros_like(value), atol=1e-10, rtol=0)


@MASKED
def test_deeper_blocks_are_the_same_bits_after_a_stage_and_cost_nothing(masked: bool, tmp_path: Path) -> None:
    last = extracted(counting.student(masked=masked, epochs=3))
    planned = {str(step.network): step for step in plan([last], Storage(tmp_path)).steps}
    one, two, all_of_it = (planned[name].flops for name in ("student/block1", "student/block2", "student"))
    assert one < two < all_of_it
    assert planned["student/block1"].fillings[0].taps == ("block2",)
    assert [each.frozen for each in stages(last)] == [("blocks.block2", "norm", "head"), ("norm", "head"), ()]
    check_what_moves(last, tmp_path)


def test_early_stages_run_no_block_beyond_their_tap(tmp_path: Path) -> None:
    first = stages(extracted(counting.student(masked=True)))[0]
    learner = build(first, Storage(tmp_path))
    ran: list[str] = []
    for name, block in learner.student.body.blocks.items():  # type: ignore[operator, union-attr]
        block.register_forward_hook(lambda *_, name=name: ran.append(name))
    learner.student(first.view.batch(np.arange(4), np.zeros(4, np.int64)).inputs_B, learner.taps)
    assert ran == ["block1"]


@MASKED
@pytest.mark.parametrize("matrix", ["gaussian", "identity"])
def test_extraction_brings_a_transformer_nearer_to_its_teachers_block(
    masked: bool, matrix: str, tmp_path: Path
) -> None:
    stage = counting.student(masked=masked, epochs=8)
    first = stages(extracted(stage, ("block1",), epochs=(7, 1), matrix=matrix))[0]  # type: ignore[arg-type]
    local(tmp_path).run(first)
    losses = [each["loss"] for each in metrics.read(Storage(tmp_path).folder(first) / "metrics.jsonl")]
    assert losses[-1] < 0.8 * losses[0]


@MASKED
def test_one_shot_progressive_and_extraction_of_tokens_take_as_many_steps(masked: bool, tmp_path: Path) -> None:
    one_shot = counting.student(masked=masked, epochs=6)
    arms = {
        "one-shot": one_shot,
        "progressive": progressive(one_shot, (1, 2)),
        "extraction": extracted(one_shot),
        "without projection": extracted(one_shot, matrix="identity"),
        "plateau": extracted(one_shot, plateau=Plateau(floor=1, patience=1, tolerance=0.9)),
    }
    runner = local(tmp_path)
    for trained, (name, arm) in zip(runner.run(*arms.values()), arms.items(), strict=True):
        ran = [e["epoch"] for each in stages(arm) for e in metrics.read(runner.storage.folder(each) / "metrics.jsonl")]
        assert ran == list(range(6)), name
        assert math.isfinite(trained.metrics["test_nll"]), name
        assert trained.metrics["test_perplexity"] == pytest.approx(math.exp(trained.metrics["test_nll"]))
