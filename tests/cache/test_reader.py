import threading

import numpy as np
import pytest
import torch
from cache_examples import entry_of, everything, fill, ids_of, seen

from raykd.cache import Misaligned


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return fill(entry_of(tmp_path_factory.mktemp("cache"), rows=50, width=6, rows_per_shard=8), 3).open(3)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return everything(entry_of(tmp_path_factory.mktemp("cache"), rows=50, width=6), 3).reshape(3, 50, 6)


@pytest.mark.parametrize("batch", [0, 1, 7, 500])
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, list], ids=["numpy", "torch", "list"])
def test_gather_equals_fancy_indexing(reader, expected, batch, kind):
    generator = np.random.default_rng(batch)
    replicas_B, positions_B = generator.integers(0, 3, batch), generator.integers(0, 50, batch)
    found = reader.gather(kind(replicas_B), kind(positions_B))
    assert found.dtype == torch.float32
    assert found.shape == (batch, 6)
    assert (found.numpy() == expected[replicas_B, positions_B]).all()


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64])
def test_any_integers_address_rows(reader, expected, dtype):
    found = reader.gather(np.array([2, 0], dtype), np.array([49, 3], dtype))
    assert (found.numpy() == expected[[2, 0], [49, 3]]).all()


@pytest.mark.parametrize(
    ("replicas_B", "positions_B", "message"),
    [
        ([0, 3], [0, 0], "replica 3 is not in the entry: it has replicas 0 to 2"),
        ([0, -1], [0, 0], "replica -1"),
        ([0, 0], [0, 50], "position 50 is not in the entry: it has positions 0 to 49"),
        ([0, 0], [-1, 0], "position -1"),
        (np.array([0], np.uint64), np.array([2**64 - 1], np.uint64), "position -1"),
    ],
)
def test_a_row_outside_is_an_error_and_never_another_row(reader, replicas_B, positions_B, message):
    with pytest.raises(IndexError, match=message):
        reader.gather(replicas_B, positions_B)


@pytest.mark.parametrize(
    ("replicas_B", "positions_B"), [([0, 0], [1]), ([0.0], [1.0]), (0, 1), ([[0]], [[1]]), ([True], [True])]
)
def test_addresses_of_another_kind_are_refused(reader, replicas_B, positions_B):
    with pytest.raises(ValueError, match="replicas"):
        reader.gather(replicas_B, positions_B)


def test_the_inputs_that_the_teacher_saw_pass(reader):
    for replica in range(3):
        positions_B = np.array([7, 0, 49, 7])
        reader.check_inputs([replica] * 4, positions_B, seen(ids_of(50)[positions_B], replica))


def test_a_drifted_input_is_named_by_row_replica_and_entry(reader):
    positions_B = np.array([7, 0, 49])
    inputs_B = seen(ids_of(50)[positions_B], 2)
    inputs_B[2, 0] = torch.nextafter(inputs_B[2, 0], torch.tensor(torch.inf))
    with pytest.raises(Misaligned, match=r"row 1343 in replica 2 .*1 of 3 rows differ") as caught:
        reader.check_inputs([2, 2, 2], positions_B, inputs_B)
    assert reader.entry in str(caught.value)


def test_inputs_of_another_replica_row_dtype_or_shape_are_misaligned(reader):
    inputs_B = seen(ids_of(50)[[5]], 1)
    reader.check_inputs([1], [5], inputs_B)
    for replicas_B, positions_B, other in [
        ([0], [5], inputs_B),
        ([1], [6], inputs_B),
        ([1], [5], inputs_B.double()),
        ([1], [5], inputs_B[:, None]),
    ]:
        with pytest.raises(Misaligned):
            reader.check_inputs(replicas_B, positions_B, other)
    with pytest.raises(ValueError, match="2 inputs for 1 rows"):
        reader.check_inputs([1], [5], inputs_B.repeat(2, 1))


def test_threads_share_a_reader(reader, expected):
    wrong = []

    def work(seed):
        generator = np.random.default_rng(seed)
        for _ in range(50):
            replicas_B, positions_B = generator.integers(0, 3, 64), generator.integers(0, 50, 64)
            if not (reader.gather(replicas_B, positions_B).numpy() == expected[replicas_B, positions_B]).all():
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_default_dtype_of_another_kind_changes_nothing(reader):
    torch.set_default_dtype(torch.float64)
    try:
        assert reader.gather([0], [0]).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
