"""One axis of what a tile shows: which pixels of the source fill which of the canvas."""

from __future__ import annotations

from typing import NamedTuple


class Span(NamedTuple):
    """One axis of what a tile shows: the source pixels from edge ``first`` to ``last`` lie from ``start`` to ``stop``.

    The latter are edges of canvas pixels, and ``stop`` is below ``start`` where the tile is mirrored. A span that
    shows nothing of its source has them equal.
    """

    first: int
    last: int
    start: int
    stop: int

    @property
    def line(self) -> tuple[float, float]:
        """Scale and offset of the map from source to canvas, which holds beyond the span too."""
        scale = (self.stop - self.start) / (self.last - self.first)
        return scale, self.start - self.first * scale


def span_of(
    window: tuple[int, int],
    origin: int,
    extent: int,
    crop_start: int,
    crop_extent: int,
    side: int,
    *,
    mirrored: bool = False,
) -> Span:
    """One axis of a tile.

    Args:
        window: its two edges.
        origin, extent: of the output on the canvas.
        crop_start, crop_extent: of the crop in the source.
        side: pixels of the source.
        mirrored: the output is shown the other way round.
    """
    mirror = 2 * origin + extent
    start, stop = (mirror - window[1], mirror - window[0]) if mirrored else window
    step = crop_extent / extent  # source pixels for one of the output
    first, last = crop_start + (start - origin) * step, crop_start + (stop - origin) * step
    if first < 0:
        first, start = 0, min(round(origin - crop_start / step), stop)
    if last > side:
        last, stop = side, max(round(origin + (side - crop_start) / step), start)
    first = min(round(first), side - 1)
    if mirrored:
        start, stop = mirror - start, mirror - stop
    return Span(first, max(round(last), first + 1), start, stop)
