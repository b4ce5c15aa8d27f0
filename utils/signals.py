"""SIGINT and SIGTERM as a wish to stop: the step in hand is finished and saved first."""

from __future__ import annotations

import signal
import time
from types import FrameType, TracebackType


class StopRequest:
    """A context in which the first SIGINT or SIGTERM only sets ``signal``; the second ends the process at once.

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
