"""How the text after ``key=`` in a cfg becomes a Python value, and back.

Each kind has ``parse(text)``, which raises ``ValueError`` with a *wanted ...* sentence, and ``format(value)``, which
writes text that parses to the same value. ``sections`` attaches one kind to every key it declares.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

_LONGEST_NUMBER = 40  # characters; more is an attack or a damaged file, and Python's int() is quadratic
_WHOLE = re.compile(r"[+-]?[0-9]+(\.0*)?")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


class Kind(Protocol):
    """The type of one key's value."""

    def parse(self, text: str) -> Any:
        """The typed value; ValueError says what was wanted."""

    def format(self, value: Any) -> str:
        """Text that parses to ``value``."""


@dataclass(frozen=True)
class Integer:
    """A whole number in [low, high]; ``2.0`` is 2, while ``1.5``, which C's atoi cuts to 1 in silence, is refused."""

    low: int
    high: int

    def parse(self, text: str) -> int:
        if len(text) <= _LONGEST_NUMBER and _WHOLE.fullmatch(text):
            value = int(text.partition(".")[0])
            if self.low <= value <= self.high:
                return value
        raise ValueError(f"wanted a whole number from {self.low} to {self.high}")

    def format(self, value: int) -> str:
        return str(value)


@dataclass(frozen=True)
class Real:
    """A finite number in [low, high]."""

    low: float
    high: float

    def parse(self, text: str) -> float:
        if len(text) <= _LONGEST_NUMBER and _DECIMAL.fullmatch(text):
            value = float(text)
            if self.low <= value <= self.high:
                return value
        raise ValueError(f"wanted a number from {self.low:g} to {self.high:g}")

    def format(self, value: float) -> str:
        return repr(float(value)).removesuffix(".0")


@dataclass(frozen=True)
class Switch:
    """Off or on: 0 or 1. ``high`` above 1 admits other non-zero numbers, which Darknet also takes as on."""

    high: int = 1

    def parse(self, text: str) -> bool:
        try:
            return Integer(0, self.high).parse(text) != 0
        except ValueError:
            raise ValueError("wanted 0 or 1") from None

    def format(self, value: bool) -> str:
        return str(int(value))


@dataclass(frozen=True)
class Word:
    """One of a few names, exact in case."""

    choices: tuple[str, ...]

    def parse(self, text: str) -> str:
        if text in self.choices:
            return text
        raise ValueError(did_you_mean(text, self.choices) or f"wanted one of {', '.join(self.choices)}")

    def format(self, value: str) -> str:
        return str(value)


@dataclass(frozen=True)
class Text:
    """A file name. Darknet deletes blanks even here."""

    def parse(self, text: str) -> str:
        if 0 < len(text) <= 4096 and text.isprintable():
            return text
        raise ValueError("wanted a file name")

    def format(self, value: str) -> str:
        return str(value)


@dataclass(frozen=True)
class Items:
    """A comma-separated list, as a tuple."""

    kind: Kind
    longest: int = 65536

    def parse(self, text: str) -> tuple[Any, ...]:
        if text.count(",") >= self.longest:
            raise ValueError(f"wanted at most {self.longest} items")
        try:
            return tuple(self.kind.parse(item) for item in text.split(","))
        except ValueError as error:
            raise ValueError(f"{error}, for each item of the list") from None

    def format(self, value: Iterable[Any]) -> str:
        return ",".join(self.kind.format(item) for item in value)


@dataclass(frozen=True)
class Pairs:
    """A comma-separated list of an even number of items, as a tuple of pairs: ``1,2,3,4`` is ((1, 2), (3, 4)).

    ``fill`` completes an odd list.
    """

    kind: Kind
    fill: Any = None

    def parse(self, text: str) -> tuple[tuple[Any, Any], ...]:
        items = Items(self.kind).parse(text)
        if len(items) % 2 and self.fill is not None:
            items += (self.fill,)
        if len(items) % 2:
            raise ValueError(f"wanted pairs of numbers, got {len(items)} of them")
        return tuple(zip(items[::2], items[1::2], strict=True))

    def format(self, value: Iterable[tuple[Any, Any]]) -> str:
        return ", ".join(Items(self.kind).format(pair) for pair in value)


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """``did you mean 'scale_x_y'?``, or nothing when no choice is near ``name``."""
    near = difflib.get_close_matches(name, choices, n=1) if len(name) <= 64 else []
    return f"did you mean '{near[0]}'?" if near else ""


def shown(text: str, longest: int = 60) -> str:
    """``text`` fit for one line of an error: control characters escaped, the middle of long text left out."""
    if len(text) > longest:
        text = f"{text[: longest - 20]}...{text[-17:]}"
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
