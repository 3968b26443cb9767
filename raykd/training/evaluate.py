"""How good a network is: its answers on held-out rows, kept, and the figures that follow from them.

Choices look at the validation split; the test split is for the final figure.

Of sequences every position asked is an answer, and e to the mean negative log-likelihood is the perplexity.

Shapes: N rows of a split, or positions asked of them; B batch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor
from torch.nn import functional as F

from raykd import tokens
from raykd.data import Split, View
from raykd.device import autocast
from raykd.models import Network
from raykd.models.weights import load_into, metadata, save
from raykd.stage import Pretrained
from raykd.storage import exists, read

BATCH = 512
SPLITS: dict[Split, str] = {"validation": "val", "test": "test"}


@torch.inference_mode()
def answers(
    network: Network, view: View, split: Split, *, positions: NDArray[np.int64], device: torch.device, precision: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Predicted class, negative log-likelihood (nats) and label of each row at `positions` of a split.

    int64 [N], float32 [N], int64 [N]
    """
    training = network.training
    network.eval()
    predictions, nlls, labels = [], [], []
    batch = tokens.at_once(BATCH, view.dataset.shape)
    for start in range(0, len(positions), batch):
        positions_B = positions[start : start + batch]
        sample = view.batch(positions_B, np.zeros_like(positions_B), split)
        with autocast(device, precision):
            logits_BC = network(sample.inputs_B.to(device))["logits"].float()
        labels_B = sample.labels_B.to(device)
        predictions.append(logits_BC.argmax(1))
        nlls.append(F.cross_entropy(logits_BC, labels_B, reduction="none"))
        labels.append(labels_B)
    network.train(training)
    return torch.cat(predictions), torch.cat(nlls), torch.cat(labels)


def evaluate(trained: Pretrained, view: View, path: Path, precision: str, device: torch.device) -> dict[str, float]:
    """Evaluate a network on validation and test, keep the answers in `path`, return the metrics."""
    network = trained.architecture.build()
    load_into(network, trained.weights)
    network.to(device)
    found: dict[str, Tensor] = {}
    metrics: dict[str, float] = {}
    plain = view.plain()
    for split, short in SPLITS.items():
        rows = plain.dataset.split(split)
        prediction_N, nll_N, labels_N = answers(
            network, plain, split, positions=np.arange(len(rows)), device=device, precision=precision
        )
        found[f"{short}_prediction"] = prediction_N.cpu()
        metrics[f"{short}_top1"] = float((prediction_N == labels_N).double().mean())
        metrics[f"{short}_nll"] = float(nll_N.mean())
        if plain.dataset.vocabulary:
            metrics[f"{short}_perplexity"] = math.exp(metrics[f"{short}_nll"])
    save(str(path), found, {"metrics": json.dumps(metrics)})
    return metrics


def evaluated(path: Path) -> dict[str, float] | None:
    """The metrics of an evaluation that was kept, or None."""
    noted: Mapping[str, str] = metadata(str(path)) if exists(path) else {}
    if "metrics" not in noted:
        return None
    try:
        found = json.loads(noted["metrics"])
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, int | float) for value in found.values()):
        raise ValueError(f"{path} holds no metrics: remove it, and the network will be evaluated again")
    return found


def agreement(one: Path, other: Path) -> float:
    """Share of the test rows on which two evaluated networks give the same answer."""
    first, second = map(_predictions, (one, other))
    if first.shape != second.shape:
        raise ValueError(f"{one} and {other} hold predictions of other rows: remove both, and they will be made again")
    return float((first == second).float().mean())


def _predictions(path: Path) -> Tensor:
    try:
        return load(read(path) or b"")["test_prediction"]
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{path} holds no predictions ({error}): remove it, and they will be made again") from error
