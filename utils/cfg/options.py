"""What all sections of a cfg share: fields that carry the kind of their value, and what follows from what.

A field carries its kind (type and range) and a note as metadata; parser, formatter and documentation are driven by
them. Where Darknet derives a missing key from another (``pad`` from ``size``), the dataclass does so on construction:
readers of ``section.padding`` need not know the rule. A field spelt with a trailing underscore (``from_``) is the key
without it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields
from typing import Any, ClassVar, Self

from utils.cfg.values import Integer, Items, Kind, Real, Switch, Word

BIG = 1e9  # larger than any number that makes sense in a cfg
ITERATIONS = 10**9


_LAYER = Integer(-(10**6), 10**6)


def declare(kind: Kind, default: Any, note: str, *, refers: bool = False) -> Any:
    """A dataclass field for one cfg key; ``refers`` marks the indices of earlier layers."""
    return dataclasses.field(default=default, metadata={"kind": kind, "note": note, "refers": refers})


def integer(default: int | None, low: int, high: int, note: str = "") -> Any:
    """A key that holds a whole number."""
    return declare(Integer(low, high), default, note)


def real(default: float | None, low: float, high: float, note: str = "") -> Any:
    """A key that holds a number."""
    return declare(Real(low, high), default, note)


def switch(note: str = "", *, default: bool = False) -> Any:
    """A key that holds 0 or 1."""
    return declare(Switch(), default, note)


def word(default: str, choices: tuple[str, ...], note: str = "") -> Any:
    """A key that holds one of a few names."""
    return declare(Word(choices), default, note)


def reference(note: str) -> Any:
    """A key that holds the index of an earlier layer: absolute from 0, or negative and relative to its own place."""
    return declare(_LAYER, None, note, refers=True)


def references(note: str) -> Any:
    """A key that holds a list of such indices."""
    return declare(Items(_LAYER), (), note, refers=True)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every section has: where it stands, and which keys its text gave (the others follow their defaults).

    Two sections are equal when they mean the same: ``line`` and ``given`` do not count.
    """

    kind: ClassVar[str] = ""
    ignored: ClassVar[tuple[str, ...]] = ()  # keys found in published cfgs that Darknet itself never reads

    line: int = field(default=0, compare=False)
    given: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @classmethod
    @functools.cache
    def keys(cls) -> dict[str, Field]:
        """The keys this section may hold, as they are spelt in a cfg."""
        return {f.name.rstrip("_"): f for f in fields(cls) if "kind" in f.metadata}

    @classmethod
    @functools.cache
    def reference_keys(cls) -> tuple[str, ...]:
        """The keys that hold indices of layers."""
        return tuple(key for key, f in cls.keys().items() if f.metadata["refers"])

    def value(self, key: str) -> Any:
        """The value of a key by its spelling in a cfg."""
        return getattr(self, self.keys()[key].name)

    def explicit(self) -> dict[str, Any]:
        """The keys a cfg must spell out for this section: those given, and those that differ from what follows."""
        keys = self.keys()
        values = {keys[key].name: getattr(self, keys[key].name) for key in self.given}
        while True:
            follows = type(self)(**values)
            missing = (f.name for f in keys.values() if getattr(self, f.name) != getattr(follows, f.name))
            name = next((name for name in missing if name not in values), None)
            if name is None:
                return values
            values[name] = getattr(self, name)

    def with_values(self, **changes: Any) -> Self:
        """A copy with fields changed; keys that follow from others follow the new values. None: back to the default."""
        values = {name: value for name, value in (self.explicit() | changes).items() if value is not None}
        return type(self)(**values, line=self.line, given=tuple(name.rstrip("_") for name in values))

    def problems(self) -> Iterator[tuple[str, str]]:
        """(key, what is wrong) for keys that do not fit each other."""
        return iter(())

    def remarks(self) -> Iterator[tuple[str, str]]:
        """(key, what is odd about it) for a warning."""
        return iter(())

    def _derive(self, **values: Any) -> None:
        """Fill in what follows from other keys; for ``__post_init__`` only."""
        for name, value in values.items():
            object.__setattr__(self, name, value)
