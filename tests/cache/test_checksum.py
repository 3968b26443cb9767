import numpy as np
import pytest
import torch
import xxhash

from raykd.cache import input_checksums
from raykd.cache.checksum import ids_digest


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.uint8, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", [(3, 4, 4), (7,), (1,), ()])
def test_a_checksum_is_xxh3_of_the_rows_bytes_seeded_with_dtype_and_shape(dtype, shape):
    inputs_B = (torch.arange(5 * max(1, int(np.prod(shape)))) % 251).reshape(5, *shape).to(dtype)
    seed = xxhash.xxh3_64_intdigest(f"{str(dtype)[6:]} {shape}".encode())
    expected = [xxhash.xxh3_64_intdigest(bytes(row.reshape(-1).view(torch.uint8).tolist()), seed) for row in inputs_B]
    found = input_checksums(inputs_B)
    assert found.dtype == np.uint64
    assert found.tolist() == expected


def test_memory_layout_and_batch_do_not_matter():
    inputs_B = torch.randn(6, 3, 8, 8)
    expected = input_checksums(inputs_B)
    assert (input_checksums(inputs_B.to(memory_format=torch.channels_last)) == expected).all()
    assert (input_checksums(inputs_B.flip(0).flip(0)[2:4]) == expected[2:4]).all()
    assert (input_checksums(inputs_B.clone().requires_grad_()) == expected).all()


def test_dtype_shape_and_any_bit_matter():
    inputs_B = torch.zeros(1, 8, dtype=torch.int32)
    others = [inputs_B.to(torch.float32), inputs_B.reshape(1, 4, 2), inputs_B.reshape(1, 2, 4)]
    for place in range(8):
        other = inputs_B.clone()
        other[0, place] = 1
        others.append(other)
    assert len({int(input_checksums(each)[0]) for each in [inputs_B, *others]}) == 1 + len(others)


def test_no_rows_have_no_checksums_and_a_scalar_is_refused():
    assert input_checksums(torch.empty(0, 3)).shape == (0,)
    assert len(set(input_checksums(torch.empty(2, 0)).tolist())) == 1
    with pytest.raises(ValueError, match="scalar"):
        input_checksums(torch.tensor(1.0))


def test_the_digest_of_ids_knows_their_order_and_not_their_dtype():
    assert ids_digest([1, 2, 3]) == ids_digest(np.array([1, 2, 3], np.int16))
    assert len({ids_digest([1, 2, 3]), ids_digest([2, 1, 3]), ids_digest([1, 2])}) == 3
