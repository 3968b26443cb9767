"""Weights through files: what comes back, what a digest sees, and everything that is refused."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import fsspec
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from raykd.identity import canonical
from raykd.models import CNN, Preprocess, ResNet, weights

ARCHITECTURE = CNN(4, shape=(1, 8, 8))


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: tensor.clone() for name, tensor in ARCHITECTURE.build().body.state_dict().items()}


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "network.safetensors")


def refused(message: str, path: str, architecture: CNN | ResNet = ARCHITECTURE) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        weights.load(path, architecture)
    assert "\n" not in str(refusal.value)


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_what_is_saved_is_loaded(path: str, tensors: dict[str, Tensor]) -> None:
    weights.save(path, tensors, {"note": "mine"})
    assert same(weights.load(path, ARCHITECTURE), tensors)
    assert weights.metadata(path) == {"note": "mine"}
    network = ARCHITECTURE.build()
    weights.load_into(network, path)
    assert same(network.body.state_dict(), tensors)


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: {"state_dict": t, "epoch": 3}, lambda t: {"model": t}])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_are_unwrapped(
    tmp_path: Path, tensors: dict[str, Tensor], wrap: object, prefix: str, zipped: bool
) -> None:
    path = str(tmp_path / "network.pth")
    stored = wrap({prefix + name: tensor for name, tensor in tensors.items()})  # type: ignore[operator]
    torch.save(stored, path, _use_new_zipfile_serialization=zipped)
    assert same(weights.load(path, ARCHITECTURE), tensors)
    assert weights.metadata(path) == {}


def test_parameters_come_back_as_plain_tensors(tmp_path: Path) -> None:
    path, body = str(tmp_path / "network.pth"), ARCHITECTURE.build().body
    torch.save({**body.state_dict(), **dict(body.named_parameters())}, path)
    assert not any(tensor.requires_grad for tensor in weights.load(path, ARCHITECTURE).values())


def test_counters_that_old_files_lack_start_at_zero(path: str, tensors: dict[str, Tensor]) -> None:
    weights.save(path, {name: t for name, t in tensors.items() if not name.endswith("num_batches_tracked")}, {})
    assert same(weights.load(path, ARCHITECTURE), tensors)


def test_urls_are_read(tensors: dict[str, Tensor], path: str) -> None:
    weights.save(path, tensors, {"note": "far"})
    url = "memory://weights/network.safetensors"
    with fsspec.open(url, "wb") as file:
        file.write(Path(path).read_bytes())
    assert same(weights.load(url, ARCHITECTURE), tensors)
    assert weights.metadata(url) == {"note": "far"}
    assert weights.digest_of(url, ARCHITECTURE) == weights.digest(tensors)
    assert same(weights.load(f"file://{path}", ARCHITECTURE), tensors)
    refused("no weights at 'memory://nowhere.pth'", "memory://nowhere.pth")


def test_saving_replaces_a_file_and_leaves_nothing_else(path: str, tensors: dict[str, Tensor]) -> None:
    Path(path).write_text("old")
    weights.save(path, tensors, {})
    assert [file.name for file in Path(path).parent.iterdir()] == ["network.safetensors"]


def test_a_save_that_fails_leaves_the_old_file(
    path: str, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError("no space left")

    Path(path).write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        weights.save(path, tensors, {})
    assert Path(path).read_text() == "old"
    assert len(list(Path(path).parent.iterdir())) == 1


def test_tensors_that_share_memory_are_saved(path: str) -> None:
    base = torch.arange(6.0).view(2, 3)
    weights.save(path, {"a": base, "b": base.T, "c": base[0]}, {})
    assert same(safetensors.torch.load_file(path), {"a": base, "b": base.T, "c": base[0]})


def test_saving_far_away_is_refused(tensors: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="saved to local paths, not to 's3://bucket/a'"):
        weights.save("s3://bucket/a", tensors, {})


def test_a_digest_sees_content_and_nothing_else(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    safe, torchs = str(tmp_path / "a.safetensors"), str(tmp_path / "b.pth")
    weights.save(safe, tensors, {"note": "of no matter"})
    torch.save({"model": dict(reversed(tensors.items()))}, torchs)
    expected = weights.digest(tensors)
    assert len(expected) == 40
    assert int(expected, 16) > 0
    assert weights.digest_of(safe, ARCHITECTURE) == weights.digest_of(torchs, ARCHITECTURE) == expected


def test_a_digest_differs_by_name_dtype_shape_and_bytes() -> None:
    base = torch.tensor([1.0, 2.0])
    variants = [
        {"a": base},
        {"b": base},
        {"a": base.view(torch.int32)},
        {"a": base.view(2, 1)},
        {"a": base + 1},
        {"a": base.bfloat16()},
        {"a": base[:1], "b": base[1:]},
        {"a": base[0]},
        {},
    ]
    assert len({weights.digest(variant) for variant in variants}) == len(variants)


def test_a_digest_of_a_file_is_read_once_until_the_file_changes(
    path: str, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    load = weights.load
    monkeypatch.setattr(weights, "load", lambda place, spec: reads.append(place) or load(place, spec))
    weights.save(path, tensors, {})
    first = weights.digest_of(path, ARCHITECTURE)
    assert weights.digest_of(path, ARCHITECTURE) == first
    assert len(reads) == 1
    weights.save(path, {name: tensor * 0 for name, tensor in tensors.items()}, {})
    os.utime(path, ns=(0, 0))
    assert weights.digest_of(path, ARCHITECTURE) != first


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    refused("no weights at .*nothing.pth': there is no such file", str(tmp_path / "nothing.pth"))
    refused("it is a folder", str(tmp_path))
    with pytest.raises(ValueError, match="no such file"):
        weights.metadata(str(tmp_path / "nothing.safetensors"))
    with pytest.raises(ValueError, match="no such file"):
        weights.digest_of(str(tmp_path / "nothing.safetensors"), ARCHITECTURE)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (os.environ["RAYKD_TEST_EVIL"],)


@pytest.mark.parametrize(
    "write", [torch.save, lambda stored, path: Path(path).write_bytes(pickle.dumps(stored, protocol=2))]
)
def test_a_pickle_with_code_is_refused_and_the_code_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: object
) -> None:
    trace = tmp_path / "trace"
    monkeypatch.setenv("RAYKD_TEST_EVIL", str(trace))
    path = str(tmp_path / "evil.pth")
    write({"state_dict": {"a": Evil()}}, path)  # type: ignore[operator]
    refused(r"holds code \(posix.mkdir\), which is not run: save safetensors or a plain state_dict", path)
    assert not trace.exists()


def test_a_whole_module_in_a_pickle_is_code(tmp_path: Path) -> None:
    path = str(tmp_path / "module.pth")
    torch.save(nn.Linear(2, 2), path)
    refused(r"holds code \(torch.nn.modules.linear.Linear\)", path)


@pytest.mark.parametrize("kept", [0, 5, 100, 300, -100])
def test_a_truncated_file_is_refused_in_every_format(
    tmp_path: Path, path: str, tensors: dict[str, Tensor], kept: int
) -> None:
    weights.save(path, tensors, {})
    torch.save(tensors, tmp_path / "zip.pth")
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for whole in (Path(path), tmp_path / "zip.pth", tmp_path / "old.pth"):
        whole.write_bytes(whole.read_bytes()[:kept])
        refused("is truncated or no weights file", str(whole))


@pytest.mark.parametrize(
    "content", [b"hello, this is text", b"<html>404 Not Found</html>", b'{"a": 1}', b"\x00" * 64, b"\x80\x02garbage"]
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "network.pth"
    path.write_bytes(content)
    refused("is truncated or no weights file", str(path))


def test_what_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "network.pth")
    torch.save([torch.ones(2)], path)
    refused("holds a list: weights are tensors by name", path)
    torch.save({"net": {"a": torch.ones(2)}}, path)
    refused("holds a dict at 'net': weights are tensors by name", path)


def test_weights_of_another_architecture_are_refused_with_the_first_difference(
    path: str, tensors: dict[str, Tensor]
) -> None:
    weights.save(path, tensors, {})
    refused(
        r"not fit cnn8: 'stage1.0.weight' has shape \(4, 1, 3, 3\) in the file, \(8, 1, 3, 3\) here; 16 tensors differ in all",
        path,
        CNN(8, shape=(1, 8, 8)),
    )
    refused("does not fit resnet20: 'conv1.weight' is missing", path, ResNet(20, shape=(1, 8, 8)))
    weights.save(path, {**tensors, "extra": torch.ones(1)}, {})
    refused("does not fit cnn4: 'extra' is unexpected; 1 tensors differ", path)
    weights.save(path, {**tensors, "fc.bias": torch.zeros(10, dtype=torch.int8)}, {})
    refused("'fc.bias' is torch.int8 in the file, torch.float32 here", path)


def test_numbers_that_are_not_finite_are_refused(path: str, tensors: dict[str, Tensor]) -> None:
    for bad in (float("nan"), float("inf")):
        tensors["fc.weight"][0, 0] = bad
        weights.save(path, tensors, {})
        refused("tensor 'fc.weight' holds numbers that are not finite", path)


def test_weights_remember_what_they_were_trained_as(path: str, tensors: dict[str, Tensor]) -> None:
    trained = CNN(4, shape=(1, 8, 8), preprocess=Preprocess(mean=(0.5,), std=(0.25,)))
    weights.save(path, tensors, {"architecture": json.dumps(canonical(trained))})
    assert same(weights.load(path, trained), tensors)
    refused(r"trained as another network: preprocess.mean is \[0.5\] in the file, \[\] here", path)
    other = CNN(4, shape=(1, 8, 8), preprocess=Preprocess(mean=(0.5,), std=(0.5,)))
    refused(r"preprocess.std is \[0.25\] in the file, \[0.5\] here", path, other)
    weights.save(path, tensors, {"architecture": json.dumps({**canonical(trained), "is": "Net"})})
    refused("architecture is Net in the file, CNN here", path, trained)
    weights.save(path, tensors, {"architecture": json.dumps({**canonical(trained), "version": 2})})
    refused("version of architecture is 2 in the file, 1 here", path, trained)
    weights.save(path, tensors, {"architecture": "cnn4"})
    refused("its metadata 'architecture' is no JSON", path)
