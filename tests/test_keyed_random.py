"""utils.keyed_random: a generator is its key and nothing else."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.keyed_random import keyed_rng

KEYS = st.lists(st.integers(0, 2**63), min_size=1, max_size=4).map(tuple)


@settings(max_examples=50, deadline=None)
@given(KEYS, KEYS)
def test_draws_depend_on_the_key_alone(key: tuple[int, ...], other: tuple[int, ...]) -> None:
    first = keyed_rng(*key).integers(2**62, size=4)
    np.random.default_rng().random(3)
    keyed_rng(*other).random(7)
    assert np.array_equal(first, keyed_rng(*key).integers(2**62, size=4))


def test_keys_next_to_each_other_share_nothing() -> None:
    draws = [keyed_rng(*key).integers(2**62) for key in ((0, 1), (1, 0), (0, 2), (1, 1), (0, 1, 1), (2**40, 1))]
    assert len(set(draws)) == len(draws)


def test_a_known_value_so_that_old_runs_can_be_resumed() -> None:
    # numpy keeps the streams of Philox and SeedSequence for good (NEP 19)
    reference = np.random.Generator(np.random.Philox(np.random.SeedSequence((3, 1, 4))))
    assert keyed_rng(3, 1, 4).random() == reference.random()


def test_neighbouring_keys_fill_the_interval_evenly() -> None:
    values = np.array([keyed_rng(0, 2, 0, index).random() for index in range(2000)])
    counts, _ = np.histogram(values, bins=10, range=(0, 1))
    assert abs(values.mean() - 0.5) < 0.03  # 4.6 standard errors of 1 / sqrt(12 * 2000)
    assert counts.min() > 140  # 200 expected, 4.5 standard deviations


def test_the_global_generator_is_left_alone() -> None:
    before = np.random.get_state()[1].copy()
    keyed_rng(1).random(100)
    assert np.array_equal(before, np.random.get_state()[1])
