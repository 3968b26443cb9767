"""Who gets what of a cluster: choices that are made for a person, what was said, and what is refused before anything starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny

from raykd.labeling.placement import Actors
from raykd.runtime import Display, make_runner
from raykd.runtime.resources import Resources, checked
from raykd.shares import Node, Share

GPUS = [Node({"CPU": 8, "GPU": 4})] * 2
CORES = [Node({"CPU": 4})] * 2
TYPES = [
    *[Node({"CPU": 8, "GPU": 4}, {"role": "teacher"})] * 2,
    *[Node({"CPU": 8, "GPU": 1}, {"role": "student"})] * 3,
]
STUDENTS = Share(labels={"role": "student"})
TEACHERS = Actors(takes=Share(labels={"role": "teacher"}))


@pytest.mark.parametrize(("rows", "workers"), [(1, 1), (32, 1), (63, 1), (64, 2), (128, 4), (256, 8), (4096, 8)])
def test_by_itself_a_stage_has_a_worker_on_each_gpu_as_long_as_each_has_32_rows(rows: int, workers: int) -> None:
    assert Resources(GPUS).bounds(rows) == (1, workers)
    assert Resources(CORES).bounds(rows) == (1, 1)


def test_what_was_said_of_workers_holds() -> None:
    assert Resources(GPUS, 1).bounds(4096) == (1, 1)
    assert Resources(CORES, 3).bounds(1) == (3, 3)
    assert Resources(GPUS, (2, 6)).bounds(1) == (2, 6)
    assert Resources(GPUS, worker=Share(gpus=0.5)).bounds(4096) == (1, 16)
    assert Resources(GPUS, worker=Share(cpus=4)).bounds(4096) == (1, 4)
    assert Resources(TYPES, worker=STUDENTS).bounds(4096) == (1, 3)


def test_a_student_and_its_teachers_work_at_once_where_both_have_devices() -> None:
    assert Resources(GPUS, 1).overlaps(64)
    assert Resources(GPUS).overlaps(64)  # two workers, and six GPUs are left
    assert not Resources(GPUS).overlaps(4096)  # all GPUs label, then all train
    assert not Resources(CORES).overlaps(64)
    assert not Resources(GPUS, 8).overlaps(64)
    for said in (True, False):
        assert Resources(CORES, overlap=said).overlaps(64) is said
    types = Resources(TYPES, worker=STUDENTS, actors=TEACHERS)
    assert types.overlaps(4096)
    assert types.bounds(4096) == (1, 3)
    assert types.beside(4096).places(types.of_teacher()) == 8
    cores = [Node({"CPU": 4}, {"role": role}) for role in ("teacher", "student")]
    assert Resources(cores, worker=STUDENTS, actors=TEACHERS).overlaps(64)
    assert not Resources(cores, worker=STUDENTS).overlaps(64)


def test_where_they_are_to_work_at_once_workers_leave_teachers_half_or_what_is_theirs() -> None:
    assert Resources(GPUS, overlap=True).bounds(4096) == (1, 4)
    assert Resources([Node({"CPU": 8, "GPU": 1})], overlap=True).bounds(4096) == (1, 1)
    assert Resources(TYPES, worker=STUDENTS, actors=TEACHERS, overlap=True).bounds(4096) == (1, 3)


def test_a_training_that_caches_nothing_has_the_devices_that_it_leaves_divided_among_its_workers() -> None:
    assert Resources(GPUS, 1).streaming(64) == 7
    assert Resources(GPUS, 3).streaming(64) == 1
    assert Resources(GPUS).streaming(4096) == 0
    assert Resources(CORES, 1).streaming(64) == 0
    assert Resources(CORES, 1, overlap=True).streaming(64) == 7
    assert Resources(TYPES, worker=STUDENTS, actors=TEACHERS).streaming(4096) == 8 // 3


def test_stages_at_once_have_a_gpu_each_or_a_node() -> None:
    assert Resources(GPUS).seats == 8
    assert Resources(CORES).seats == 2
    assert Resources([Node({}), Node({"CPU": 2})]).seats == 1
    assert Resources(GPUS).seat(8) == (Share(1.0, 1.0), 1)
    assert Resources(GPUS).seat(16) == (Share(1.0, 0.5), 1)
    assert Resources(CORES).seat(2) == (Share(1.0), 4)
    assert Resources(CORES).seat(9) == (Share(0.5), 1)
    assert Resources(TYPES, worker=STUDENTS).seat(6) == (replace(STUDENTS, cpus=1.0, gpus=0.5), 1)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Resources(CORES, 9), r"workers=9, each 1 CPU: 8 fit; the nodes for them have 4 CPU, 0 GPU \(2\)"),
        (Resources(GPUS, (9, 12)), "workers=9:12, each 1 CPU, 1 GPU: 8 fit"),
        (Resources(CORES, worker=Share(gpus=1)), "a training worker, each 1 CPU, 1 GPU: no node has room for one"),
        (Resources(TYPES, worker=Share(labels={"role": "boss"})), r"--worker-label role=boss: no node has it; labels of the"),
        (Resources(GPUS, actors=Actors(takes=Share(custom={"big": 1}))), "--teacher-resource big=1: .* no custom resources"),
        (Resources(GPUS, actors=Actors(9)), "9 actors of teachers, each 0.5 CPU, 1 GPU: 8 fit"),
        (Resources(GPUS, actors=Actors(gpus={"large": 8})), "1 actors of the teacher large, each 0.5 CPU, 8 GPU: no node"),
        (Resources(CORES, actors=Actors(takes=Share(cpus=5))), "1 actors of teachers, each 5 CPU: no node has room"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(found: Resources, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        found.check()
    assert "\n" not in str(error.value)


def test_a_malformed_share_of_a_teacher_is_refused_when_it_is_declared() -> None:
    for gpus in (0.0, -1.0, 1.5):
        with pytest.raises(ValueError, match="GPUs for an actor of large"):
            Actors(gpus={"large": gpus})


def test_what_fits_is_not_refused() -> None:
    for found in (
        Resources(GPUS, 8, actors=Actors(8)),
        Resources(GPUS, (1, 99)),
        Resources(TYPES, 3, STUDENTS, TEACHERS),
        Resources(GPUS, actors=Actors(16, gpus={"": 0.5})),
    ):
        found.check()


def test_a_machine_by_itself_passes_over_what_is_said_of_kinds_of_nodes() -> None:
    said = Resources(CORES[:1], 2, Share(2, 1, {"big": 1}, {"role": "student"}), Actors(gpus={"": 2}), alone=True)
    said.check()
    assert said.passed_over
    assert said.of_worker == Share(2)
    assert said.of_teacher() == Share(1.0)
    assert not Resources(CORES, 2, alone=True).passed_over
    assert Resources(GPUS, worker=Share(gpus=0.5), alone=True).of_worker.gpus == 0.5


@pytest.mark.parametrize("workers", [0, -1, (0, 2), (3, 2)])
def test_a_number_of_workers_that_is_none_is_refused(workers: object) -> None:
    with pytest.raises(ValueError, match="workers="):
        checked(workers)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--workers", "few"], ["--workers", "'few'"]),
        (["--workers", "3:2"], ["--workers", "'3:2'"]),
        (["--workers", "2:"], ["--workers"]),
        (["--cpus-per-worker", "0"], ["--cpus-per-worker"]),
        (["--gpus-per-worker", "2"], ["--gpus-per-worker"]),
        (["--cpus-per-actor", "-1"], ["--cpus-per-actor"]),
        (["--worker-label", "role"], ["--worker-label role", "KEY=VALUE"]),
        (["--teacher-label", "role=a b"], ["role=a b"]),
        (["--teacher-resource", "slot"], ["--teacher-resource slot", "NAME=AMOUNT"]),
        (["--worker-resource", "slot=0"], ["0 of slot"]),
        (["--worker-resource", "GPU=1"], ["'GPU'"]),
        (["--worker-label", "role=student", "--local"], ["training worker", "with local"]),
        (["--cluster-grows", "--local"], ["cluster that grows", "with local"]),
        (["--workers", "2:4", "--parallel", "2"], ["workers=2:4", "parallel=2"]),
    ],
    ids=" ".join,
)
def test_malformed_options_are_one_line_and_exit_code_2(raykd: Any, words: list[str], named: list[str]) -> None:
    done = raykd("run", "tiny_jobs:kd", *words)
    assert done.code == 2, done.err
    assert len(done.err.strip().splitlines()) == 1, done.err
    for word in named:
        assert word in done.err


def test_a_stage_is_the_same_whatever_was_said_of_resources(tmp_path: Path) -> None:
    """No part of identity: another run that differs in nothing else finds all done, and starts nothing."""
    one = make_runner(tmp_path, local=True, display=Display(quiet=True)).run(tiny.student())[0]
    other = make_runner(
        tmp_path, local=False, workers=(2, 99), worker=Share(2, 0.5, {"slot": 1}, {"role": "student"}), overlap=True,
        actors=Actors(3, 9, {"": 0.25}, Share(4, None, {"slot": 1}, {"role": "teacher"})), grows=True,
        display=Display(quiet=True),
    ).run(tiny.student())[0]  # fmt: skip
    assert other.weights == one.weights
    assert not {"start", "label", "train"} & set(other.counts.seconds)
