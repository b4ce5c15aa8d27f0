"""What a check found, and how it is told."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

_WIDTH = 112  # characters of a line of prose; file names are never cut


@dataclass(frozen=True)
class Finding:
    """Something that will hurt a training.

    Attributes:
        severity: serious is what makes the result wrong or the training fail; a warning is what makes it worse.
        what: what was found, with the numbers.
        fix: the flag or the edit that mends it.
    """

    severity: Literal["serious", "warning"]
    what: str
    fix: str

    @property
    def serious(self) -> bool:
        """Whether the training should wait until this is mended."""
        return self.severity == "serious"


def finding_of(error: Exception) -> Finding:
    """An error that ends a check; its message says what to do."""
    return Finding("serious", str(error), "mend this and check again: nothing else could be looked at")


def report(findings: Iterable[Finding]) -> Iterator[str]:
    """For people: each finding and below it what mends it, the serious ones first."""
    for finding in sorted(findings, key=lambda finding: not finding.serious):
        yield from _wrapped(f"{finding.severity}: ", finding.what)
        yield from _wrapped("  -> ", finding.fix)


def _wrapped(start: str, text: str) -> list[str]:
    indent = " " * (len(start) if start.startswith(" ") else 2)
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=start,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
