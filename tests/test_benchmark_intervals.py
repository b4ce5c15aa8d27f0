"""benchmarks/intervals.py: Student's intervals against scipy, and pairing by seed."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from benchmarks.intervals import differences, estimate


def test_the_interval_of_three_values_by_hand() -> None:
    # mean 2, deviation 1, t(2) = 4.303: 4.303 / sqrt(3) = 2.484
    found = estimate([1.0, 2.0, 3.0])
    assert (found.mean, found.count) == (2.0, 3)
    assert found.margin == pytest.approx(2.4843, abs=1e-4)
    assert found.text() == "2.000 ± 2.484" and found.text(signed=True) == "+2.000 [-0.484, +4.484]"


@pytest.mark.parametrize("count", range(2, 22))
def test_margins_are_those_of_scipy(count: int) -> None:
    values = [math.sin(7 * i) for i in range(count)]
    low, high = stats.t.interval(0.95, count - 1, loc=sum(values) / count, scale=stats.sem(values))
    found = estimate(values)
    assert found.margin == pytest.approx((high - low) / 2, rel=3e-4)


def test_beyond_the_table_an_interval_is_a_little_too_wide() -> None:
    values = [math.sin(7 * i) for i in range(60)]
    exact = stats.t.ppf(0.975, 59) * stats.sem(values)
    assert exact <= estimate(values).margin < 1.07 * exact


def test_one_value_has_no_interval() -> None:
    found = estimate([-0.5])
    assert (found.mean, found.margin, found.text(), found.text(signed=True)) == (-0.5, None, "-0.500", "-0.500")


def test_runs_are_paired_by_seed() -> None:
    assert differences({0: 1.0, 1: 2.0, 3: 9.0}, {1: 0.5, 0: 0.5, 2: 7.0}) == [0.5, 1.5]
    assert differences({0: 1.0}, {1: 1.0}) == []
