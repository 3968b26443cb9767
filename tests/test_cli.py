"""The command line: what it prints, how it ends, what it says to a mistake."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from raykd import recipes
from raykd.models import MLP, weights

JOBS = str(Path(__file__).with_name("tiny_jobs.py"))
ROOT = Path(__file__).parents[1]
KD = f"{JOBS}:kd"


def test_run_ends_with_a_table_and_one_json_object(raykd: Any, tmp_path: Path) -> None:
    done = raykd("run", KD, "--local", "--json", "--tau", "3")
    assert done.code == 0
    found = done.json
    assert {"stage", "label", "metrics", "teacher_rows", "cache_rows", "seconds", "network"} <= found.keys()
    assert {"val_top1", "test_top1", "test_nll", "agreement"} <= found["metrics"].keys()
    assert found["teacher_rows"] == {"teacher": tiny.rows()}
    assert found["cache_rows"] > 0
    assert found["label"] == "tiny kd"
    assert {"label", "train", "total"} <= found["seconds"].keys()
    assert Path(found["network"]).is_file()
    assert f"{tmp_path}/storage" in found["network"]
    for word in ("teacher", "student alone", "student distilled", "retention"):
        assert word in done.out
    assert "tau = 3.0: temperature that softens both" in done.err
    assert "L = 0.1 * CrossEntropy + 0.9 * Distill(KL, tau 3)" in done.err
    assert "CrossEntropy" in done.err
    assert "%)" in done.err  # each term's share of the loss, at every epoch


def test_a_second_run_computes_nothing_and_another_temperature_asks_no_teacher(raykd: Any) -> None:
    first = raykd("run", KD, "--local", "--json", "--tau", "4").json
    again = raykd("run", KD, "--local", "--json", "--tau", "4").json
    other = raykd("run", KD, "--local", "--json", "--tau", "2").json
    assert again["teacher_rows"] == other["teacher_rows"] == {"teacher": 0}
    assert again["cache_rows"] == 0
    assert again["metrics"] == first["metrics"]
    assert other["cache_rows"] > 0
    assert other["network"] != first["network"]
    assert Path(other["network"]).read_bytes() != Path(first["network"]).read_bytes()


def test_plan_shows_what_would_be_done_and_does_nothing(raykd: Any, tmp_path: Path) -> None:
    found = raykd("plan", KD, "--json", "--replicas", "3", "--epochs", "3")
    assert found.json["teacher_rows"] == {"teacher": 3 * tiny.rows()}
    assert [step["label"] for step in found.json["steps"]] == ["tiny kd alone", "teacher", "tiny kd"]
    assert [step["done"] for step in found.json["steps"]] == [False] * 3
    assert found.json["steps"][2]["bytes"] == 3 * tiny.rows() * 10 * 2
    assert found.json["steps"][2]["break_even_epochs"] == 3
    assert found.json["steps"][2]["training_flops"] > 0
    assert not (tmp_path / "storage").exists()
    raykd("run", KD, "--local", "--replicas", "3", "--epochs", "3")
    assert [step["done"] for step in raykd("plan", KD, "--json", "--replicas", "3", "--epochs", "3").json["steps"]] == [
        True
    ] * 3


def test_help_of_a_recipe_teaches_its_knobs(raykd: Any) -> None:
    for command in ("run", "plan", "eval", "cite"):
        shown = raykd(command, KD, "--help")
        assert shown.code == 0
        assert "A tiny distillation." in shown.out
        assert "--tau" in shown.out
        assert "temperature that softens both" in shown.out
        assert "[default: 2.0]" in shown.out
        assert "sgd|adam" in shown.out
        assert "--mixed / --no-mixed" in shown.out
    assert "TARGET" in raykd("--help").out


def test_without_a_command_it_shows_what_there_is(raykd: Any) -> None:
    for words in ((), ("cache",)):
        shown = raykd(*words)
        assert shown.code == 0
        assert len(shown.out.splitlines()) > 5


def test_eval_gives_the_metrics_of_the_trained_student_or_of_a_file(raykd: Any, tmp_path: Path) -> None:
    trained = raykd("run", KD, "--local", "--json").json
    found = raykd("eval", KD, "--json").json
    assert found["metrics"]["test_top1"] == trained["metrics"]["test_top1"]
    weights.save(str(tmp_path / "w.safetensors"), MLP((16,), shape=tiny.SHAPE).build().body.state_dict(), {})
    assert raykd("eval", KD, "--json", "--weights", str(tmp_path / "w.safetensors")).json["metrics"]["test_top1"] < 0.5
    assert raykd("eval", KD, "--tau", "7").code == 2


def test_cite_names_exactly_what_is_used(raykd: Any) -> None:
    assert "Distilling the Knowledge" in raykd("cite", KD).out
    assert "Divergence Measures" not in raykd("cite", KD).out


def test_the_cache_can_be_listed_and_verified(raykd: Any, tmp_path: Path) -> None:
    raykd("run", KD, "--local", "--no-baseline")
    (entry,) = raykd("cache", "ls", "--json").json["entries"]
    assert entry["rows"] == tiny.rows()
    assert entry["replicas"] == 1
    assert entry["teacher"].startswith("teacher")
    assert raykd("cache", "verify", "--json").json["corrupt"] == []
    shard = next((tmp_path / "storage").rglob("*.arrow"))
    shard.write_bytes(shard.read_bytes()[:-100])
    bad = raykd("cache", "verify", "--json")
    assert bad.code == 1
    assert len(bad.json["corrupt"]) == 1


def test_a_loss_that_is_not_finite_has_an_exit_code_of_its_own(raykd: Any) -> None:
    done = raykd("run", f"{ROOT}/jobs/digits.py:student", "--lr", "1e30", "--epochs", "2", "--local")
    assert done.code == 3
    assert "is not finite" in done.err.splitlines()[-1]


def test_a_package_module_is_a_target_too(raykd: Any) -> None:
    assert raykd("plan", "tiny_jobs:kd", "--json").json["label"] == "tiny kd"


def test_a_job_file_runs_by_itself(tmp_path: Path) -> None:
    def job(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "RAYKD_STORAGE": str(tmp_path / "storage")}
        return subprocess.run(
            [sys.executable, "jobs/digits.py", *words],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    assert "kd" in job("--help").stdout
    assert job().returncode == 2
    done = job("teacher", "--epochs", "1", "--local", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["label"] == "teacher"


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/raykd-was-here",)


def _bad_weights(folder: Path) -> dict[str, str]:
    other = MLP((8,), shape=tiny.SHAPE).build().body.state_dict()
    weights.save(str(folder / "other.safetensors"), other, {})
    torch.save({"body": Evil()}, folder / "evil.pt")
    (folder / "raw.pkl").write_bytes(pickle.dumps(Evil()))
    (folder / "noise.safetensors").write_bytes(os.urandom(200))
    return {name: str(folder / name) for name in ("other.safetensors", "evil.pt", "raw.pkl", "noise.safetensors")}


MISTAKES = [
    (["run", f"{JOBS}:kdd"], ["'kdd'", "did you mean 'kd'"]),
    (["run", "no/such/file.py:kd"], ["no/such/file.py"]),
    (["run", "no_such_module:kd"], ["'no_such_module'"]),
    (["run", "kd"], ["'kd'", "file.py:recipe"]),
    (["run"], ["TARGET"]),
    (["run", KD, "--tua", "4"], ["--tua", "--tau"]),
    (["run", KD, "--tau", "warm"], ["--tau", "warm"]),
    (["run", KD, "--epochs", "2.5"], ["--epochs", "2.5"]),
    (["run", KD, "--kind", "lbfgs"], ["'lbfgs'", "sgd, adam"]),
    (["run", KD, "--tau", "0"], ["temperature is 0.0", "above 0"]),
    (["run", KD, "--tau", "nan"], ["nan"]),
    (["run", f"{JOBS}:required"], ["--steps"]),
    (["run", f"{JOBS}:nothing"], ["returned None", "Stage"]),
    (["run", f"{JOBS}:elsewhere"], ["/no/such/folder", "dataset-fashion-mnist"]),
    (["run", f"{JOBS}:mismatched"], ["7 classes", "10"]),
    (["run", f"{JOBS}:untaught"], ["'tutor'", "teacher"]),
    (["run", f"{JOBS}:observed"], ["'nowhere'", "logits"]),
    (["run", f"{JOBS}:given", "--weights", "/no/such/weights.pt"], ["/no/such/weights.pt"]),
    (["run", f"{JOBS}:poisoned", "--what", "nan"], ["row 7", "nan"]),
    (["run", f"{JOBS}:poisoned", "--what", "label"], ["row 11", "label 3", "0..2"]),
    (["run", f"{JOBS}:poisoned", "--what", "empty"], ["no rows"]),
    (["run", KD, "--storage", "/proc/raykd"], ["/proc/raykd", "not writable"]),
    (["run", KD, "--storage", "s3://bucket/raykd"], ["s3://bucket/raykd", "folder"]),
    (["run", KD, "--workers", "0"], ["--workers"]),
    (["run", KD, "--on-missing", "pray"], ["pray", "compute"]),
    (["run", KD, "--cache", "nope://bucket"], ["nope"]),
    (["run", KD, "--cache", "/proc/raykd"], ["cache", "/proc/raykd", "not writable"]),
    (["run", KD, "--actors", "few"], ["--actors few", "2:8"]),
    (["run", KD, "--actors", "4:2"], ["from 4 to 2"]),
    (["run", KD, "--teacher-gpus", "tutor=2"], ["'tutor'", "teacher"]),
    (["run", KD, "--teacher-gpus", "teacher=1.5"], ["1.5 GPUs"]),
    (["run", KD, "--teacher-gpus", "teacher=0.5", "--local"], ["GPUs of teachers", "with local"]),
    (["eval", KD], ["not trained"]),
    (["frobnicate"], ["frobnicate"]),
]


@pytest.mark.parametrize(("words", "named"), MISTAKES, ids=lambda value: " ".join(value)[-40:])
def test_a_mistake_is_one_line_and_exit_code_2_before_any_work(
    raykd: Any, tmp_path: Path, words: list[str], named: list[str]
) -> None:
    done = raykd(*words)
    assert done.code == 2, done.err
    assert len(done.err.strip().splitlines()) == 1, done.err
    assert done.out == ""
    for word in named:
        assert word in done.err
    assert not (tmp_path / "storage" / "stages").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("other.safetensors", "does not fit"),
        ("evil.pt", "holds code"),
        ("raw.pkl", "is a pickle"),
        ("noise.safetensors", "truncated or no"),
    ],
)
def test_weights_that_are_not_this_networks_are_refused_before_any_work(
    raykd: Any, tmp_path: Path, name: str, words: str
) -> None:
    path = _bad_weights(tmp_path)[name]
    done = raykd("run", f"{JOBS}:given", "--weights", path)
    assert done.code == 2
    assert len(done.err.strip().splitlines()) == 1
    assert words in done.err
    assert path in done.err
    assert not Path("/tmp/raykd-was-here").exists()
    assert not (tmp_path / "storage" / "stages").exists()


def test_a_wrong_knob_from_python_is_refused_like_one_on_the_command_line() -> None:
    recipe = recipes.load(KD)
    with pytest.raises(ValueError, match="did you mean 'tau'"):
        recipe.stage(tua=1.0)
    with pytest.raises(ValueError, match=r"epochs='3'.*int would be right"):
        recipe.stage(epochs="3")
    with pytest.raises(ValueError, match="epochs=True"):
        recipe.stage(epochs=True)
    assert recipe.stage(tau=3).objective == recipe.stage(tau=3.0).objective
