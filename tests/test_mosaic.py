"""The mosaic: Darknet's placement by hand, and the paint test with boxes bound to their tiles."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data.augment.mosaic import Mosaic, WideMosaic, _to_corner
from data.augment.transforms import Crop, Geometry
from tests.contracts import assert_painted, painted_sample, painted_samples
from utils.structures import Sample

BLACK = Sample(np.zeros((40, 40, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, int), np.zeros(0, bool))


@settings(deadline=None, max_examples=150)
@given(
    sample=painted_samples(),
    place=st.integers(0, 3),
    size=st.tuples(st.integers(30, 120), st.integers(30, 120)),
    seed=st.integers(0, 2**32),
    geometry=st.sampled_from([Geometry(), Geometry(0.3, 1.5, flip=True), Geometry(0.2, 1.0, True, True, True)]),
)
def test_paint_test(sample: Sample, place: int, size: tuple[int, int], seed: int, geometry: Geometry) -> None:
    samples = [BLACK] * 4
    samples[place] = sample
    mosaic = Mosaic(size, geometry, bound=True)
    layout = mosaic.sample(np.random.default_rng(seed), [one.image.shape[:2] for one in samples])
    result = mosaic.apply(samples, layout)
    assert result.image.shape == (*size, 3)
    assert_painted(result)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32), size=st.tuples(st.integers(20, 100), st.integers(20, 100)))
def test_tiles_cover_the_canvas_once_and_lie_in_their_outputs(seed: int, size: tuple[int, int]) -> None:
    height, width = size
    layout = Mosaic(size, Geometry(0.3, 1.5, flip=True)).sample(np.random.default_rng(seed), [(48, 64)] * 4)
    covered = np.zeros(size, int)
    for tile in layout.tiles:
        left, top, right, bottom = tile.window
        covered[top:bottom, left:right] += 1
        assert tile.origin[0] <= left and right <= tile.origin[0] + width
        assert tile.origin[1] <= top and bottom <= tile.origin[1] + height
    assert (covered == 1).all()
    assert int(0.2 * width) <= layout.cut[0] <= int(0.8 * width)
    assert int(0.2 * height) <= layout.cut[1] <= int(0.8 * height)


def test_placement_by_hand() -> None:
    # no jitter, so no shift: each output lies with its inner corner region at the cut
    layout = Mosaic((100, 200), Geometry()).sample(np.random.default_rng(3), [(50, 50)] * 4)
    x, y = layout.cut
    assert [tile.origin for tile in layout.tiles] == [(x - 200, y - 100), (x, y - 100), (x - 200, y), (x, y)]
    assert [tile.window for tile in layout.tiles] == [
        (0, 0, x, y),
        (x, 0, 200, y),
        (0, y, x, 100),
        (x, y, 200, 100),
    ]


def test_padding_is_shifted_out_of_sight() -> None:
    # 20 source pixels of padding at each side of a 100 pixel source: 20 * 200 / 100 = 40 output pixels
    crop = Crop((100, 100), left=-20, top=-20, right=-20, bottom=-20)
    mosaic = Mosaic((200, 200), Geometry())
    origins = [mosaic._tile(place, crop, (100, 100)).origin for place in range(4)]
    assert origins == [(-60, -60), (60, -60), (-60, 60), (60, 60)]
    # a shift never leaves the output: at the cut 190 only 10 columns are left to its right, so TL moves by 10
    assert mosaic._tile(0, crop, (190, 100)).origin == (0, -60)
    flipped = dataclasses.replace(crop, left=0, flip=True)  # mirrored, the padding at the left is the right's
    assert mosaic._tile(0, flipped, (100, 100)).origin == (-100, -60)
    assert mosaic._tile(1, flipped, (100, 100)).origin == (60, -60)
    upside_down = dataclasses.replace(crop, top=0, flip_vertical=True)
    assert mosaic._tile(0, upside_down, (100, 100)).origin == (-60, -100)
    assert mosaic._tile(2, upside_down, (100, 100)).origin == (-60, 60)


def test_crop_moves_to_the_corner() -> None:
    crop = Crop((100, 100), left=5, top=7, right=11, bottom=13)
    moved = [_to_corner(crop, place) for place in range(4)]
    assert [(c.left, c.top, c.right, c.bottom) for c in moved] == [
        (0, 0, 16, 20),
        (16, 0, 0, 20),
        (0, 20, 16, 0),
        (16, 20, 0, 0),
    ]
    flipped = _to_corner(dataclasses.replace(crop, flip=True), 0)
    assert (flipped.left, flipped.top, flipped.right, flipped.bottom) == (16, 0, 0, 20)
    upside_down = _to_corner(dataclasses.replace(crop, flip_vertical=True), 0)
    assert (upside_down.left, upside_down.top, upside_down.right, upside_down.bottom) == (0, 20, 16, 0)
    assert all((c.width, c.height) == (crop.width, crop.height) for c in moved)


def test_unbound_boxes_reach_into_neighbours_as_in_darknet() -> None:
    full = painted_sample((50, 50), np.array([[0, 0, 50, 50]]))
    for bound in (True, False):
        mosaic = Mosaic((100, 100), Geometry(), bound)
        layout = mosaic.sample(np.random.default_rng(0), [(50, 50)] * 4)
        box = mosaic.apply([BLACK, BLACK, BLACK, full], layout).boxes[0]
        assert box.tolist() == [*layout.cut, 100, 100]
    # an object in the upper left of the TL source lies outside the canvas; one at its lower right is seen
    corner = painted_sample((50, 50), np.array([[0, 0, 5, 5], [40, 40, 50, 50]]))
    layout = mosaic.sample(np.random.default_rng(0), [(50, 50)] * 4)
    assert mosaic.apply([corner, BLACK, BLACK, BLACK], layout).labels.tolist() == [1]
    # in the BR tile an object right of the cut by more than the tile is cut off by the canvas in both cases, but
    # shifted sources put boxes on neighbours: there only bound=True drops them
    tile = dataclasses.replace(layout.tiles[3], origin=(0, 0))
    shifted = dataclasses.replace(layout, tiles=(*layout.tiles[:3], tile))
    small = painted_sample((50, 50), np.array([[0, 0, 5, 5]]))
    samples = [BLACK, BLACK, BLACK, small]
    assert len(Mosaic((100, 100), Geometry(), bound=False).apply(samples, shifted).boxes) == 1
    assert len(Mosaic((100, 100), Geometry(), bound=True).apply(samples, shifted).boxes) == 0


def test_apply_is_pure() -> None:
    samples = [painted_sample((40, 50), np.array([[5, 5, 30, 30]]))] * 4
    mosaic = Mosaic((64, 64), Geometry(0.3, 1.5, flip=True))
    layout = mosaic.sample(np.random.default_rng(0), [(40, 50)] * 4)
    first, second = mosaic.apply(samples, layout), mosaic.apply(samples, layout)
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.boxes, second.boxes)


def test_half_of_the_crops_move_to_a_corner() -> None:
    rng = np.random.default_rng(0)
    mosaic = Mosaic((64, 64), Geometry(0.3))
    tiles = [tile for _ in range(200) for tile in mosaic.sample(rng, [(100, 100)] * 4).tiles]
    assert 0.4 < np.mean([tile.crop.left == 0 or tile.crop.right == 0 for tile in tiles]) < 0.6


@settings(deadline=None, max_examples=100)
@given(
    sample=painted_samples(),
    place=st.integers(0, 3),
    size=st.tuples(st.integers(30, 80), st.integers(30, 80)),
    seed=st.integers(0, 2**32),
)
def test_wide_mosaics_pass_the_paint_test(sample: Sample, place: int, size: tuple[int, int], seed: int) -> None:
    samples = [BLACK] * 4
    samples[place] = sample
    mosaic = WideMosaic(size, Geometry(0.2, 1.2, flip=True, flip_vertical=True))
    layout = mosaic.sample(np.random.default_rng(seed), [one.image.shape[:2] for one in samples])
    result = mosaic.apply(samples, layout)
    assert result.image.shape == (2 * size[0], 2 * size[1], 3)
    assert_painted(result)


def test_wide_placement_by_hand() -> None:
    seen = []
    for seed in range(40):
        layout = WideMosaic((100, 200), Geometry()).sample(np.random.default_rng(seed), [(50, 50)] * 4)
        x, y = layout.cut
        seen.append((x, y))
        assert [tile.origin for tile in layout.tiles] == [(x - 200, y - 100), (x, y - 100), (x - 200, y), (x, y)]
        assert [tile.window for tile in layout.tiles] == [
            (max(x - 200, 0), max(y - 100, 0), x, y),
            (x, max(y - 100, 0), min(x + 200, 400), y),
            (max(x - 200, 0), y, x, min(y + 100, 200)),
            (x, y, min(x + 200, 400), min(y + 100, 200)),
        ]
    low, high = np.min(seen, axis=0), np.max(seen, axis=0)
    assert (
        (low >= (100, 50)).all()
        and (low < (120, 60)).all()
        and (high <= (300, 150)).all()
        and (high > (280, 140)).all()
    )
    white = painted_sample((50, 50), np.array([[0, 0, 50, 50]]))
    image = WideMosaic((100, 200), Geometry()).apply([white] * 4, layout).image
    assert set(np.unique(image[..., 0])) == {114, 255}  # grey where there is no source
