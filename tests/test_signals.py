"""utils.signals: the first signal is a wish, the second an order, and afterwards all is as before."""

from __future__ import annotations

import os
import signal

import pytest

from utils.signals import StopRequest


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_is_noted(number: int, code: int) -> None:
    with StopRequest() as stop:
        assert stop.signal is None
        send(number)
        assert stop.signal == number
    assert stop.exit_code == code


@pytest.mark.parametrize(("second", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_second_signal_ends_at_once(second: int, code: int) -> None:
    with pytest.raises(SystemExit) as ended, StopRequest():
        send(signal.SIGINT)
        send(second)
    assert ended.value.code == code


def test_a_second_signal_soon_after_may_mean_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("utils.signals.time.monotonic", lambda: now)
    with pytest.raises(SystemExit) as ended, StopRequest(grace=5) as stop:
        send(signal.SIGTERM)
        now = 104.0
        send(signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        now = 105.0
        send(signal.SIGTERM)
    assert ended.value.code == 143


def test_handlers_come_back_even_after_an_error() -> None:
    before = [signal.getsignal(number) for number in StopRequest.signals]
    with pytest.raises(KeyError), StopRequest():
        assert [signal.getsignal(number) for number in StopRequest.signals] != before
        raise KeyError
    assert [signal.getsignal(number) for number in StopRequest.signals] == before


def test_contexts_within_each_other() -> None:
    with StopRequest() as outer:
        with StopRequest() as inner:
            send(signal.SIGTERM)
        assert (inner.signal, outer.signal) == (signal.SIGTERM, None)
        send(signal.SIGTERM)
        assert outer.signal == signal.SIGTERM


def test_processes_agree_on_what_any_of_them_received() -> None:
    with StopRequest() as stop:
        assert not stop.agree(lambda number: number)
        assert stop.agree(lambda number: max(number, signal.SIGINT))
    assert stop.exit_code == 130


def test_a_signal_during_the_exchange_counts_in_the_next() -> None:
    def interrupted(number: int) -> int:
        send(signal.SIGTERM)
        return number

    with StopRequest() as stop:
        assert not stop.agree(interrupted)  # the others know nothing of it yet
        assert stop.agree(lambda number: number)
    assert stop.exit_code == 143
