"""evaluation.topk: shares counted by hand, ties, and a slow loop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.topk import ClassAccuracy, TopKCounter, label_ranks


def test_shares_counted_by_hand() -> None:
    counter = TopKCounter(["cat", "dog", "cow"])
    counter.add(torch.tensor([[3.0, 2, 1], [1, 2, 3]]), torch.tensor([0, 0]))  # right, and the last of three
    counter.add(torch.tensor([[1.0, 2, 0]]), torch.tensor([1]))
    result = counter.result()
    assert (result.top1, result.top5, result.images) == (2 / 3, 1.0, 3)
    assert result.per_class == {"cat": ClassAccuracy(0.5, 2), "dog": ClassAccuracy(1.0, 1), "cow": ClassAccuracy(-1, 0)}
    assert result.as_dict()["per_class"]["cat"] == {"accuracy": 0.5, "images": 2}


def test_the_sixth_guess_does_not_count() -> None:
    counter = TopKCounter("abcdefg")
    counter.add(torch.arange(7.0).flip(0).expand(7, 7), torch.arange(7))
    assert counter.result().top1 == pytest.approx(1 / 7)
    assert counter.result().top5 == pytest.approx(5 / 7)


def test_counts_of_other_images_add_up() -> None:
    whole, shares = TopKCounter("abcdefg"), [TopKCounter("abcdefg") for _ in range(3)]
    logits = torch.arange(70.0).mul(37).remainder(11).reshape(10, 7)
    labels = torch.arange(10).remainder(6)
    whole.add(logits, labels)
    for counter, part in zip(shares, (slice(4), slice(4, 5), slice(5, None)), strict=True):
        counter.add(logits[part], labels[part])
    before = shares[0].counts.clone()
    assert TopKCounter("abcdefg", [counter.counts for counter in shares]).result() == whole.result()
    assert shares[0].counts.equal(before)


def test_a_network_that_says_nothing_is_right_by_chance_only() -> None:
    counter = TopKCounter([str(number) for number in range(10)])
    counter.add(torch.zeros(10, 10), torch.arange(10))
    assert counter.result().top1 == 0.1


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.integers(-3, 3), min_size=6, max_size=6), min_size=1, max_size=4), st.data())
def test_ranks_are_places_in_the_sorted_list(rows: list[list[int]], data: st.DataObject) -> None:
    labels = [data.draw(st.integers(0, 5)) for _ in rows]
    order = [sorted(range(6), key=lambda label: (-row[label], label)) for row in rows]
    wanted = [places.index(label) for places, label in zip(order, labels, strict=True)]
    assert label_ranks(torch.tensor(rows).float(), torch.tensor(labels)).tolist() == wanted
