"""A spec is its content."""

from __future__ import annotations

import functools
import subprocess
import sys
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raykd.identity import aside, canonical, fingerprint


@dataclass(frozen=True)
class Leaf:
    value: object = 1
    label: str = aside("")


@dataclass(frozen=True)
class Tree:
    leaves: tuple[Leaf, ...] = ()
    named: dict[str, Leaf] = field(default_factory=dict)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_equal_values_have_equal_fingerprints(value: object) -> None:
    assert fingerprint(Leaf(value)) == fingerprint(Leaf(value))
    assert len(fingerprint(value)) == 40


@given(JSON, JSON)
def test_different_canonical_content_has_different_fingerprints(one: object, other: object) -> None:
    assert (fingerprint(one) == fingerprint(other)) == (canonical(one) == canonical(other))


def test_key_order_and_number_type_do_not_matter_but_values_do() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2.0, "a": 1.0})
    assert fingerprint(Leaf(4)) == fingerprint(Leaf(4.0)) == fingerprint(Leaf(np.float32(4)))
    assert fingerprint((1, 2)) == fingerprint([1, 2])
    assert fingerprint(MappingProxyType({"a": 1})) == fingerprint({"a": 1})
    assert fingerprint(Leaf(4)) != fingerprint(Leaf(4.5))
    assert fingerprint(Leaf(1)) != fingerprint(Leaf(True))
    assert fingerprint(Leaf("1")) != fingerprint(Leaf(1))
    assert fingerprint(Leaf(None)) != fingerprint(Leaf(0))


def test_a_field_aside_is_not_identity() -> None:
    assert fingerprint(Leaf(1, label="one")) == fingerprint(Leaf(1, label="other"))
    assert Leaf(1, label="one") == Leaf(1, label="other")


def test_the_class_name_and_its_version_are_identity_its_module_is_not() -> None:
    here = make_dataclass("Piece", [("tau", float)], frozen=True)
    there = make_dataclass("Piece", [("tau", float)], frozen=True)
    there.__module__ = "elsewhere"
    other = make_dataclass("Other", [("tau", float)], frozen=True)
    raised = make_dataclass("Piece", [("tau", float)], frozen=True, namespace={"version": 2})
    assert fingerprint(here(1.0)) == fingerprint(there(1.0))
    assert fingerprint(here(1.0)) != fingerprint(other(1.0))
    assert fingerprint(here(1.0)) != fingerprint(raised(1.0))


def test_arrays_and_tensors_are_their_bytes_shape_and_dtype() -> None:
    array = np.arange(6, dtype=np.float32)
    assert fingerprint(array) == fingerprint(torch.arange(6, dtype=torch.float32)) == fingerprint(array[::1].copy())
    for other in (array.reshape(2, 3), array.astype(np.float64), array + 1, array[::-1]):
        assert fingerprint(array) != fingerprint(other)
    assert fingerprint(np.zeros((0, 3))) != fingerprint(np.zeros((0, 4)))
    assert fingerprint(torch.float16) == fingerprint(torch.float16) != fingerprint(torch.float32)


def test_a_class_may_say_what_stands_for_it() -> None:
    class Weights:
        version: ClassVar[int] = 1

        def __init__(self, path: str) -> None:
            self.path = path

        def identity(self) -> object:
            return "same content"

    assert fingerprint(Weights("here")) == fingerprint(Weights("there"))


def test_a_fingerprint_is_the_same_in_another_process_with_another_hash_seed() -> None:
    code = "from raykd import *; from raykd.methods.kl import KL; print(fingerprint(.1 * CrossEntropy() + .9 * Distill(KL())))"
    prints = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, check=True, capture_output=True, text=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(prints) == 1


class Mutable:
    pass


@dataclass
class Changing:
    value: int = 1


def named(x: int) -> int:
    return x


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (lambda x: x, "a lambda"),
        (named, "'named'"),
        (Mutable(), "Mutable"),
        (Mutable, "Mutable"),
        (functools.partial(named, 1), "partial"),
        (torch.nn.Linear(1, 1), "Linear"),
        (Path("/data"), "path '/data'"),
        (Changing(), "Changing, a dataclass that can change"),
        (float("nan"), "nan"),
        ({1: 2}, "key 1"),
        ({1, 2}, "set"),
    ],
)
def test_what_has_no_identity_is_refused_by_name_and_place(value: object, words: str) -> None:
    with pytest.raises(ValueError, match=r"spec\.leaves\[1\]\.value") as error:
        fingerprint(Tree(leaves=(Leaf(), Leaf(value))))
    assert words in str(error.value)
    assert "\n" not in str(error.value)
