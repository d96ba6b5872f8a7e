"""Random numbers as functions of (seed, epoch, index)."""

import random
from typing import Any

import numpy as np
import pytest
import torch

from acmix.tasks.data.seeding import epoch_order, epoch_uniforms, preserved_rng, seed_sample


def draws() -> tuple[float, float, float]:
    """One number from each global generator."""
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002 - the one under test


def draw_and_fail() -> None:
    with preserved_rng():
        draws()
        raise InterruptedError


def test_order_is_a_permutation() -> None:
    assert sorted(epoch_order(1, 2, 100)) == list(range(100))


@pytest.mark.parametrize("other", [{"seed": 2}, {"epoch": 3}], ids=["seed", "epoch"])
def test_order_differs_by(other: dict[str, int]) -> None:
    first: dict[str, Any] = {"seed": 1, "epoch": 2, "count": 100}
    assert (epoch_order(**first) != epoch_order(**{**first, **other})).any()


def test_a_samples_uniforms_do_not_depend_on_the_number_of_samples() -> None:
    np.testing.assert_array_equal(epoch_uniforms(1, 2, 10, 3), epoch_uniforms(1, 2, 1000, 3)[:10])


def test_uniforms_fill_the_unit_interval() -> None:
    table = epoch_uniforms(0, 0, 10_000, 2)
    assert 0 <= table.min() < 0.001
    assert 0.999 < table.max() < 1
    assert table.mean() == pytest.approx(0.5, abs=0.01)
    assert abs(np.corrcoef(table.T)[0, 1]) < 0.05


def test_a_seeded_sample_draws_the_same_whatever_came_before() -> None:
    results = []
    for before in range(3):
        with preserved_rng():
            random.seed(before)
            for _ in range(before):
                draws()
            seed_sample(1, 2, 3)
            results.append(draws())
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("key", [(1, 2, 4), (1, 3, 3), (2, 2, 3)], ids=["index", "epoch", "seed"])
def test_seeded_samples_differ_by(key: tuple[int, int, int]) -> None:
    with preserved_rng():
        seed_sample(1, 2, 3)
        first = draws()
        seed_sample(*key)
        assert not set(first) & set(draws())


def test_global_generators_are_given_back() -> None:
    with preserved_rng():
        expected = draws()
    with preserved_rng():
        seed_sample(1, 2, 3)
        draws()
    assert draws() == expected


def test_global_generators_are_given_back_after_an_error() -> None:
    with preserved_rng():
        expected = draws()
    with pytest.raises(InterruptedError):
        draw_and_fail()
    assert draws() == expected
