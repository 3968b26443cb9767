"""The stated errors on what real teachers say: a trained classifier of digits, and the tokens of a language model."""

import numpy as np
import pytest
import tiny
import torch
from laws import class_by_class

from raykd.cache.codecs import DENSE_F16, DenseU8, TopKF16, TopKU8
from raykd.runtime import Display, Local
from raykd.storage import Storage

VOCABULARY = 6000


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    trained, *_ = Local(Storage(tmp_path_factory.mktemp("digits")), Display(quiet=True)).run(tiny.teacher())
    rows = tiny.DATASET.split("train")
    with torch.inference_mode():
        return trained.network(rows.inputs(np.arange(len(rows))))["logits"].numpy()


@pytest.fixture(scope="module")
def tokens():
    # Zipf's law for what is likely anywhere, and a few words that this place makes likely
    generator = np.random.default_rng(0)
    logits_RC = generator.normal(0, 1.5, (100, VOCABULARY)) - np.log(np.arange(VOCABULARY) + 10)
    logits_RC[:, :200] += generator.gumbel(0, 2, (100, 200))
    return generator.permuted(logits_RC, axis=1).astype(np.float32)


@pytest.mark.parametrize("teacher", ["digits", "tokens"])
@pytest.mark.parametrize("codec", [DENSE_F16, DenseU8(), TopKF16(k=4), TopKU8(k=4), TopKF16(), TopKU8()], ids=repr)
def test_what_is_measured_stays_below_what_is_stated_and_near_it(codec, teacher, request):
    values_RC = request.getfixturevalue(teacher)
    columns = codec.encode(values_RC, np.arange(len(values_RC)), 0)
    read = codec.decode({name: torch.from_numpy(array) for name, array in columns.items()}, values_RC.shape[1:])
    for tau in (1.0, 4.0):
        log_p = (torch.from_numpy(values_RC).double() / tau).log_softmax(-1)
        found_R = (log_p.exp() * (log_p - class_by_class(read, tau))).sum(-1).numpy()
        stated_R = codec.kl_bound(values_RC, tau)
        assert (found_R <= stated_R + 1e-12).all()
        assert stated_R.mean() <= 50 * found_R.mean() + 1e-9  # a bound that allows everything would say nothing
