"""The order of rows: every row once, the same at any number of workers, block by block while the cache may still fill."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny

from raykd.order import BLOCK, Order


@pytest.mark.parametrize("epoch", [0, 1, 2, 7])
def test_an_epoch_has_no_row_twice_and_leaves_less_than_a_batch(epoch: int) -> None:
    order = Order(rows=5000, batch_size=64, seed=3, replicas=2)
    positions = order.epoch(epoch)
    assert positions.shape == (order.steps, 64)
    assert len(np.unique(positions)) == positions.size > 5000 - 64


def test_epochs_that_see_a_replica_first_go_block_by_block_and_later_ones_do_not() -> None:
    order = Order(rows=3 * BLOCK, batch_size=128, seed=0, replicas=2)
    for epoch in (0, 1):
        blocks = order.epoch(epoch).reshape(-1) // BLOCK
        assert (np.diff(blocks) >= 0).all()
    assert (np.diff(order.epoch(2).reshape(-1) // BLOCK) < 0).any()


def test_within_a_block_the_order_is_another_one_in_each_epoch_and_for_each_seed() -> None:
    orders = [
        Order(BLOCK, 64, seed, 4).epoch(epoch).reshape(-1).tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    assert len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == list(range(BLOCK)) for order in orders)


def test_every_replica_comes_in_turn_and_without_a_cache_none_comes_again() -> None:
    assert [Order(10, 2, 0, 3).replica(epoch) for epoch in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert [Order(10, 2, 0, None).replica(epoch) for epoch in range(7)] == list(range(7))


def test_the_order_of_a_stage_follows_its_seed_budget_and_cache() -> None:
    stage = tiny.student(replicas=3, seed=5)
    assert Order.of(stage) == Order(tiny.rows(), 32, 5, 3)
    assert Order.of(replace(stage, cache="off")).replicas is None
    assert Order.of(tiny.with_batch(stage, 10**6)).steps == 1
