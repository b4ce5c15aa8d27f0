"""SIGINT and SIGTERM as a wish to stop: the step in hand is finished and saved first."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType


class StopRequest:
    """A context in which the first SIGINT or SIGTERM only sets ``signal``; the second ends the process at once.

    Attributes:
        signal: number of the signal that this process received, or of the one that all agreed upon; None: go on.

    Args:
        grace: seconds after the first in which a second one means the same: a launcher passes on what its processes
            may have got already.
    """

    signals = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, grace: float = 0.0) -> None:
        self.signal: int | None = None
        self._grace = grace
        self._first = 0.0

    def __enter__(self) -> StopRequest:
        self._before = {number: signal.signal(number, self._note) for number in self.signals}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agree(self, largest: Callable[[int], int]) -> bool:
        """Whether to stop, the same answer in all processes of a run.

        A signal that arrives during the exchange stays noted and counts in the next one: the answer is what was
        exchanged, never ``signal`` itself, which the others do not know yet.

        Args:
            largest: the largest number that any process calls it with.
        """
        number = largest(self.signal or 0)
        if number:
            self.signal = number
        return number > 0

    @property
    def exit_code(self) -> int:
        """128 + the signal's number: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + (self.signal or 0)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._first = number, now
        elif now - self._first >= self._grace:
            raise SystemExit(128 + number)
