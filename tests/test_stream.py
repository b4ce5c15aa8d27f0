"""data.loading.stream: which mini-batches, and which positions of each for one of several processes."""

from __future__ import annotations

from data.loading.batch_loader import Loading
from data.loading.multi_scale import MultiScale
from data.loading.stream import Stream


def test_a_stream_is_cut_into_mini_batches_and_these_among_processes() -> None:
    stream = Stream(6, MultiScale((32, 32)), start=2, stop=4, seed=0)
    assert list(stream.numbers) == [2, 3]
    assert [list(stream.order(Loading())(number)) for number in stream.numbers] == [[*range(12, 18)], [*range(18, 24)]]
    assert [list(stream.order(Loading(rank=rank, ranks=2))(2)) for rank in range(2)] == [[12, 13, 14], [15, 16, 17]]


def test_positions_may_be_others_than_so_many_a_mini_batch() -> None:
    stream = Stream(
        6, MultiScale((32, 32)), start=0, stop=4, seed=0, positions=lambda number: range(number, 2 * number)
    )
    assert stream.order(Loading())(4) == range(4, 8)
    assert stream.order(Loading(rank=1, ranks=2))(4) == range(6, 8)
