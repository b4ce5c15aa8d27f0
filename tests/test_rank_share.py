"""data.loading.rank_share: every position of a mini-batch belongs to one process."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.loading.multi_scale import FixedMinibatch
from data.loading.rank_share import RankShare, check_divisible
from utils.cfg.net import Net
from utils.errors import UsageError


@given(st.integers(1, 70), st.integers(1, 9), st.integers(0, 1000))
def test_the_shares_are_the_mini_batch(batch: int, ranks: int, minibatch: int) -> None:
    whole = FixedMinibatch(batch)
    shares = [RankShare(whole, rank, ranks)(minibatch) for rank in range(ranks)]
    assert [position for share in shares for position in share] == list(whole(minibatch))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def net(batch: int, subdivisions: int) -> Net:
    return dataclasses.replace(Net(), batch=batch, subdivisions=subdivisions)


def test_a_batch_that_divides() -> None:
    check_divisible(net(64, 8), 8)
    check_divisible(net(7, 7), 1)


@pytest.mark.parametrize(
    ("batch", "subdivisions", "ranks", "choices"), [(64, 8, 3, "48 or 72"), (8, 1, 3, "6 or 9"), (2, 2, 2, "4")]
)
def test_a_batch_that_does_not(batch: int, subdivisions: int, ranks: int, choices: str) -> None:
    wanted = (
        f"batch={batch} in subdivisions={subdivisions} does not divide among {ranks} processes; give --batch {choices},"
    )
    with pytest.raises(UsageError, match=wanted):
        check_divisible(net(batch, subdivisions), ranks)
