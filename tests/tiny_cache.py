"""Entries of a tiny teacher, filled without a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tiny
import torch

from raykd.cache import Entry, Shard, input_checksums
from raykd.cache.codecs import DENSE_F16, Codec
from raykd.data import View
from raykd.kept import Kept
from raykd.labeling.predictor import Predictor
from raykd.models import MLP, Architecture, weights
from raykd.signals import LOGITS, Observable
from raykd.stage import Pretrained
from raykd.storage import Storage

VIEW = View(tiny.DATASET, tiny.MOVED, replicas=2)
NETWORK = MLP((32,), shape=tiny.SHAPE)
CPU = torch.device("cpu")


def teacher(folder: Path, seed: int = 0, network: Architecture = NETWORK) -> Pretrained:
    """Random weights, five times as large as usual, so that the network has opinions."""
    torch.manual_seed(seed)
    state = {name: 5 * tensor for name, tensor in network.build().body.state_dict().items()}
    path = folder / f"teacher-{seed}.safetensors"
    weights.save(str(path), state, {})
    return Pretrained(network, str(path))


def filled(
    storage: Storage, asked: Pretrained, codec: Codec = DENSE_F16, *, signal: Observable = LOGITS, view: View = VIEW,
    answers: Pretrained | None = None, sees: View | None = None,
) -> Entry:  # fmt: skip
    """The entry of a teacher under a view; another teacher may have answered, or under another view."""
    entry = storage.entry("teacher", asked, view, Kept(signal, signal, codec))
    answers = answers or asked
    predictor = Predictor(answers.architecture, answers.weights, (signal,), device=CPU, precision=storage.precision)
    for slot in entry.missing(view.replicas):
        positions_R = np.asarray(entry.positions(slot))
        sample = (sees or view).batch(positions_R, np.full(len(positions_R), slot.replica))
        checksums_R = input_checksums(sample.inputs_B)
        entry.commit(Shard(slot, sample.ids_B.numpy(), checksums_R, predictor(sample.inputs_B)[signal]))
    return entry
