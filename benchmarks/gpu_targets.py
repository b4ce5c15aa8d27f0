"""What the operators should reach on a GPU, beside what ``benchmarks.on_gpu`` measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.tables import table

Found = Mapping[str, float | None]  # name of a number -> the number, or None where it was not measured


@dataclass(frozen=True)
class Target:
    """A line of the table.

    Attributes:
        keys: the numbers it is about, in the order of ``must`` and ``aim``.
        less: smaller is better.
    """

    what: str
    keys: tuple[str, ...]
    must: tuple[float, ...]
    aim: tuple[float, ...]
    less: bool = False

    def row(self, found: Found) -> tuple[str, ...]:
        """What, must, aim, measured, and what that means."""
        values = [found.get(key) for key in self.keys]
        shown = None if None in values else _joined(values)
        if shown is None:
            return (self.what, _joined(self.must), _joined(self.aim), None, "-")
        verdict = "aim" if self._all(values, self.aim) else "must" if self._all(values, self.must) else "missed"
        return (self.what, _joined(self.must), _joined(self.aim), shown, verdict)

    def _all(self, values: list[float], bounds: tuple[float, ...]) -> bool:
        pairs = zip(values, bounds, strict=True)
        return all(value <= bound if self.less else value >= bound for value, bound in pairs)


TARGETS = (
    Target(
        "mish bf16, forward / backward: share of copy bandwidth",
        ("bf16 share 0", "bf16 share 1"),
        (0.9,) * 2,
        (0.95,) * 2,
    ),
    Target(
        "mish fp32, forward / backward: share of copy bandwidth",
        ("fp32 share 0", "fp32 share 1"),
        (0.9,) * 2,
        (0.95,) * 2,
    ),
    Target(
        "mish bf16, forward / backward: times as fast as F.mish", ("bf16 gain 0", "bf16 gain 1"), (1.5, 1.6), (1.8, 2.0)
    ),
    Target(
        "mish fp32, forward / backward: times as fast as F.mish", ("fp32 gain 0", "fp32 gain 1"), (1.0, 1.0), (1.1, 1.1)
    ),
    Target(
        "batch norm + Mish, bf16 / fp32: times as fast as eager", ("bf16 eager", "fp32 eager"), (1.6, 1.4), (2.2, 1.6)
    ),
    Target(
        "batch norm + Mish, bf16 / fp32: times as fast as torch.compile",
        ("bf16 compiled", "fp32 compiled"),
        (0.9, 0.9),
        (1.1, 1.1),
    ),
    Target("saved activation bytes, yolov4.cfg bf16, of eager's", ("kept",), (0.72,), (0.67,), less=True),
    Target("peak memory, yolov4.cfg bf16 batch 32, of eager's", ("peak",), (0.8,), (0.75,), less=True),
    Target("training step, yolov4.cfg bf16 batch 32: times as fast as eager", ("step",), (1.08,), (1.15,)),
    Target("step of all-Mish, of the time with native ReLU", ("relu",), (1.05,), (1.0,), less=True),
)


def targets(found: Found) -> str:
    """The section: every target, measured or not."""
    header = ("what", "must", "aim", "measured", "reached")
    return "## Targets\n\n" + table(header, [target.row(found) for target in TARGETS])


def ratio(above: float | None, below: float | None) -> float | None:
    """``above`` / ``below``; None where either is missing."""
    return above / below if above and below else None


def _joined(values: tuple[float, ...] | list[float]) -> str:
    return " / ".join(f"{value:.2f}" for value in values)
