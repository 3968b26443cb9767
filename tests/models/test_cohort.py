"""A cohort: several networks on one input. The laws of all architectures are in `test_architectures`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from raykd.identity import canonical
from raykd.models import CNN, MLP, Cohort, Preprocess, size
from raykd.rebuild import known, rebuild

GREY = Preprocess(mean=(0.5,), std=(0.25,))
SHAPE = (1, 8, 8)
PEERS = (CNN(4, shape=SHAPE), MLP((16,), shape=SHAPE, preprocess=GREY), MLP((16,), shape=SHAPE))


def images(rows: int = 5) -> torch.Tensor:
    return torch.randint(0, 256, (rows, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_each_peer_answers_as_it_would_alone_through_its_own_preprocessing() -> None:
    together = Cohort(PEERS).build().eval()
    with torch.no_grad():
        observed = together(images(), ("peer0", "peer1", "peer2", "logits"))
        for i, peer in enumerate(PEERS):
            alone = peer.build().eval()
            alone.body.load_state_dict(together.body.get_submodule(f"peer{i}").state_dict())
            torch.testing.assert_close(alone(images())["logits"], observed[f"peer{i}"])
    assert torch.equal(observed["logits"], observed["peer0"])
    assert not torch.allclose(observed["peer1"], observed["peer2"])


def test_peers_of_one_kind_start_from_different_weights() -> None:
    body = Cohort((PEERS[2], PEERS[2])).build().body
    assert not torch.equal(body.peer0.fc.weight, body.peer1.fc.weight)


def test_no_peer_sees_another() -> None:
    for i in range(3):
        network = Cohort(PEERS).build()
        observed = network(images(), ("peer0", "peer1", "peer2"))
        observed[f"peer{i}"].square().sum().backward()
        moved = {name.split(".")[0] for name, weight in network.body.named_parameters() if weight.grad is not None}
        assert moved == {f"peer{i}"}


def test_a_cohort_costs_what_its_peers_cost() -> None:
    whole, parts = size(Cohort(PEERS)), [size(peer) for peer in PEERS]
    assert whole.parameters == sum(part.parameters for part in parts)
    assert whole.flops == sum(part.flops for part in parts)


def test_what_is_in_a_peer_can_be_tapped() -> None:
    cohort = Cohort(PEERS)
    assert cohort.taps() == ("peer0", "peer1", "peer2", "pooled", "logits")
    assert cohort.classifier == "peer0.fc"
    assert cohort.tap_shape("peer1.layer1") == (16,)


def test_classes_and_shape_are_those_of_the_peers_and_may_be_said_again() -> None:
    peers = (MLP((4,), shape=(5,), classes=3), MLP((), shape=(5,), classes=3))
    assert (Cohort(peers).classes, Cohort(peers).shape, str(Cohort(peers))) == (3, (5,), "mlp4+linear")
    assert replace(Cohort(peers), classes=3, shape=[5]) == Cohort(list(peers))  # type: ignore[arg-type]


def test_it_can_be_made_again_from_its_canonical_form(tmp_path: object) -> None:
    cohort = Cohort(PEERS)
    assert rebuild(canonical(cohort), known(tmp_path)) == cohort  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: Cohort(()), "no peers"),
        (lambda: Cohort((PEERS[0], CNN(4, shape=SHAPE, classes=7))), r"classes \[10, 7\]: all are the same"),
        (lambda: Cohort((PEERS[0], MLP((4,), shape=(64,)))), r"shape \[\(1, 8, 8\), \(64,\)\]: all are the same"),
        (lambda: Cohort(PEERS, classes=7), "Cohort classes=7 with peers"),
        (lambda: Cohort(PEERS, shape=(1, 9, 9)), r"Cohort shape=\(1, 9, 9\) with peers"),
        (lambda: Cohort(PEERS, preprocess=GREY), "each peer has its own"),
    ],
)
def test_a_cohort_that_cannot_be_is_refused_when_it_is_written(write: object, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        write()  # type: ignore[operator]
    assert "\n" not in str(refusal.value)
