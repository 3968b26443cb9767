"""Whether tensors are the weights of an architecture: all of them, no others, of its shapes, and finite.

Each check raises one line that names the file, the architecture, the first thing wrong and how many there are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from raykd.identity import canonical
from raykd.models.architecture import Architecture


def completed(tensors: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """`tensors` with what a file may leave out: counters of batches, which nothing here reads, and the other names of a tensor
    that an architecture has under several.
    """
    body = architecture.blueprint().body
    counters = [name for name in body.state_dict() if name.endswith(".num_batches_tracked")]
    whole = {name: torch.zeros((), dtype=torch.int64) for name in counters} | dict(tensors)
    for names in _tied(body):
        there = next((name for name in names if name in whole), None)
        if there is not None:
            whole |= {name: whole[there] for name in names if name not in whole}
    return whole


def _tied(body: nn.Module) -> list[list[str]]:
    """The names of each parameter that has several."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in body.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    return [each for each in names.values() if len(each) > 1]


def check_tensors(tensors: Mapping[str, Tensor], architecture: Architecture, path: str) -> None:
    """Raises `ValueError` for missing, unexpected or misshapen tensors, and for numbers that are not finite."""
    expected = architecture.blueprint().body.state_dict()
    wrong = list(_misfits(tensors, expected))
    if wrong:
        raise ValueError(f"{path} does not fit {architecture}: {wrong[0]}; {len(wrong)} tensors differ in all")
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{path}: tensor {name!r} holds numbers that are not finite: take an earlier checkpoint")


def check_origin(description: str, architecture: Architecture, path: str) -> None:
    """Raises `ValueError` where the architecture that a file was written for, as JSON of its canonical form, is another one."""
    try:
        found = json.loads(description)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: its metadata 'architecture' is no JSON ({error}): write the canonical spec there"
        ) from error
    for where, there, here in _differences(found, canonical(architecture), ""):
        raise ValueError(f"{path} was trained as another network: {where} is {there} in the file, {here} here")


def _misfits(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Iterator[str]:
    for name, right in expected.items():
        found = tensors.get(name)
        if found is None:
            yield f"{name!r} is missing"
        elif found.shape != right.shape:
            yield f"{name!r} has shape {tuple(found.shape)} in the file, {tuple(right.shape)} here"
        elif found.is_floating_point() != right.is_floating_point():
            yield f"{name!r} is {found.dtype} in the file, {right.dtype} here"
    for name in tensors:
        if name not in expected:
            yield f"{name!r} is unexpected"


def _differences(there: Any, here: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """Where two canonical specs differ, as a dotted path of fields, and the value of each."""
    if isinstance(there, dict) and isinstance(here, dict):
        name = where or "architecture"
        if {"is", "version", "of"} == there.keys() == here.keys():
            for key, label in (("is", name), ("version", f"version of {name}")):
                if there[key] != here[key]:
                    yield label, there[key], here[key]
            there, here = there["of"], here["of"]
    if not (isinstance(there, dict) and isinstance(here, dict)):
        if there != here:
            yield where or "architecture", there, here
        return
    for key in sorted(there.keys() | here.keys()):
        yield from _differences(there.get(key), here.get(key), f"{where}.{key}".lstrip("."))
