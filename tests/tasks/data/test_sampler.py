"""How an epoch is cut into the batches of one or several processes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acmix.tasks.data.sampler import EpochBatches, EpochOrder

COUNTS = st.integers(1, 70)
BATCHES = st.integers(1, 9)
WORLDS = st.integers(1, 5)


def steps(count: int, batch_size: int, world_size: int, *, training: bool, epoch: int = 0) -> list[list[list[int]]]:
    """Sample numbers by step and process."""
    processes = []
    for rank in range(world_size):
        order = EpochOrder(count, seed=5, shuffle=training)
        order.set_epoch(epoch)
        batches = EpochBatches(order, batch_size, drop_last=training, rank=rank, world_size=world_size)
        keys = list(batches)
        assert len(keys) == len(batches)
        assert {key.epoch for key in keys} <= {epoch}
        processes.append([key.indices.tolist() for key in keys])
    assert len({len(process) for process in processes}) == 1
    return [list(step) for step in zip(*processes, strict=True)]


@given(COUNTS, BATCHES, WORLDS)
def test_evaluation_reads_everything_once(count: int, batch_size: int, world_size: int) -> None:
    read = [index for step in steps(count, batch_size, world_size, training=False) for part in step for index in part]
    repeated = len(read) - count
    assert set(read) == set(range(count))
    last = count % (batch_size * world_size)
    assert repeated == (world_size - last if 0 < last < world_size else 0)


@given(COUNTS, BATCHES, WORLDS)
def test_batches_are_never_empty_nor_too_large(count: int, batch_size: int, world_size: int) -> None:
    for training in (True, False):
        sizes = {len(part) for step in steps(count, batch_size, world_size, training=training) for part in step}
        assert min(sizes) >= 1
        assert max(sizes) <= batch_size


@given(COUNTS, BATCHES, WORLDS, st.integers(0, 3))
def test_steps_do_not_depend_on_the_number_of_processes(
    count: int, batch_size: int, world_size: int, epoch: int
) -> None:
    if count < batch_size * world_size:
        return
    many = steps(count, batch_size, world_size, training=True, epoch=epoch)
    one = steps(count, batch_size * world_size, 1, training=True, epoch=epoch)
    assert [[index for part in step for index in part] for step in many] == [step[0] for step in one]


@pytest.mark.parametrize(("count", "expected"), [(64, 4), (70, 4), (15, 1), (16, 1), (1, 1)])
def test_training_leaves_out_an_incomplete_step_unless_it_is_the_only_one(count: int, expected: int) -> None:
    assert len(EpochBatches(EpochOrder(count, 0, shuffle=True), 16, drop_last=True)) == expected


@given(COUNTS, BATCHES, st.integers(0, 20))
def test_starting_at_a_position_leaves_out_what_came_before(count: int, batch_size: int, position: int) -> None:
    batches = EpochBatches(EpochOrder(count, 1, shuffle=True), batch_size, drop_last=True)
    rest = [key.indices.tolist() for key in batches.starting_at(position)]
    assert rest == [key.indices.tolist() for key in batches][position:]


def test_every_epoch_has_its_order() -> None:
    order = EpochOrder(50, 1, shuffle=True)
    orders = []
    for epoch in range(3):
        order.set_epoch(epoch)
        orders.append(tuple(order.order().tolist()))
    assert len(set(orders)) == 3


def test_without_shuffling_the_order_is_that_of_the_data() -> None:
    np.testing.assert_array_equal(EpochOrder(7, 1, shuffle=False).order(), range(7))
