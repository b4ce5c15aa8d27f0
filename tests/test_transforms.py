"""Geometry of training images: hand arithmetic, Darknet's ranges, and the paint test for every operation."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.augment.transforms import Crop, Geometry, Tile, compose, letterboxed, mixup, paint, place_boxes, whole
from tests.contracts import assert_colours_have_boxes, assert_painted, painted_sample, painted_samples
from utils.structures import Sample

SIZES = st.tuples(st.integers(24, 120), st.integers(24, 120))


def transformed(sample: Sample, crop: Crop, size: tuple[int, int]) -> Sample:
    return compose([sample], [whole(crop, size)], size)


@settings(deadline=None, max_examples=150)
@given(
    sample=painted_samples(),
    size=SIZES,
    seed=st.integers(0, 2**32),
    jitter=st.floats(0, 0.4),
    resize=st.sampled_from([0.7, 1.0, 1.5]),
    letter_box=st.booleans(),
    flips=st.tuples(st.booleans(), st.booleans()),
)
def test_jitter_resize_letterbox_flips_pass_the_paint_test(
    sample, size, seed, jitter, resize, letter_box, flips
) -> None:
    geometry = Geometry(jitter, resize, letter_box, *flips)
    crop = geometry.sample(np.random.default_rng(seed), sample.image.shape[:2], size)
    result = transformed(sample, crop, size)
    assert result.image.shape == (*size, 3)
    assert_painted(result)
    assert_colours_have_boxes(result)


def test_stretch_by_hand() -> None:
    sample = painted_sample((20, 40), np.array([[10, 5, 30, 15]]))
    result = transformed(sample, Crop((20, 40)), (40, 40))
    assert result.boxes.tolist() == [[10, 10, 30, 30]]
    assert result.labels.tolist() == [0] and result.crowd.tolist() == [False]


def test_flip_by_hand() -> None:
    sample = painted_sample((20, 40), np.array([[10, 5, 16, 15]]))
    result = transformed(sample, Crop((20, 40), flip=True), (20, 40))
    assert result.boxes.tolist() == [[24, 5, 30, 15]]
    np.testing.assert_array_equal(result.image, sample.image[:, ::-1])
    upside_down = transformed(sample, Crop((20, 40), bottom=4, flip_vertical=True), (16, 40))
    assert upside_down.boxes.tolist() == [[10, 1, 16, 11]]
    np.testing.assert_array_equal(upside_down.image, sample.image[15::-1])
    turned = transformed(sample, Crop((20, 40), flip=True, flip_vertical=True), (20, 40))
    assert turned.boxes.tolist() == [[24, 5, 30, 15]]
    np.testing.assert_array_equal(turned.image, sample.image[::-1, ::-1])


def test_crop_by_hand() -> None:
    # margins 10 left, 0 top, 10 right, -20 bottom of a 40 wide, 20 high image: 20 wide, 40 high; to twice that
    sample = painted_sample((20, 40), np.array([[5, 5, 20, 15]]))
    result = transformed(sample, Crop((20, 40), left=10, right=10, bottom=-20), (80, 40))
    assert result.boxes.tolist() == [[0, 10, 20, 30]]


def test_letterbox_by_hand() -> None:
    # 640x480 into a square: 80 rows of padding above and below; 480x640: 80 columns
    assert letterboxed(Crop((480, 640)), (608, 608)) == Crop((480, 640), top=-80, bottom=-80)
    assert letterboxed(Crop((640, 480)), (608, 608)) == Crop((640, 480), left=-80, right=-80)
    sample = painted_sample((480, 640), np.array([[0, 0, 640, 100]]))
    assert transformed(sample, letterboxed(Crop((480, 640)), (608, 608)), (608, 608)).boxes.tolist() == [
        [0, 76, 608, 171]
    ]


def test_pixels_are_those_of_an_opencv_resize() -> None:
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (97, 131, 3), np.uint8), (9, 9), 0)
    canvas = np.empty((64, 80, 3), np.uint8)
    paint(canvas, image, whole(Crop((97, 131)), (64, 80)))
    difference = cv2.absdiff(canvas, cv2.resize(image, (80, 64), interpolation=cv2.INTER_LINEAR))
    assert difference.max() <= 2 and difference.mean() < 0.5


def test_padding_has_the_mean_colour() -> None:
    image = np.zeros((10, 10, 3), np.uint8)
    image[:5] = (200, 100, 50)
    canvas = np.empty((10, 20, 3), np.uint8)
    paint(canvas, image, whole(Crop((10, 10), left=-10), (10, 20)))
    assert (canvas[:, :9] == (100, 50, 25)).all()
    np.testing.assert_array_equal(canvas[:, 11:], image[:, 1:])


@settings(deadline=None, max_examples=100)
@given(
    sides=st.tuples(*[st.integers(-12, 12)] * 4),
    window=st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(11, 20), st.integers(11, 20)),
    origin=st.tuples(st.integers(-30, 30), st.integers(-30, 30)),
)
def test_a_window_is_filled_with_its_source_and_the_mean_colour_alone(sides, window, origin) -> None:
    # red says where in the source, green and blue are the same everywhere
    image = np.full((30, 30, 3), (0, 50, 90), np.uint8)
    image[..., 0] = 100 + np.arange(30)
    canvas = np.full((20, 20, 3), 7, np.uint8)
    tile = Tile(Crop((30, 30), *sides), (20, 20), origin, window)
    paint(canvas, image, tile)
    left, top, right, bottom = window
    assert (canvas[top:bottom, left:right, 1:] == (50, 90)).all()
    x1, x2, y1, y2 = *tile.across[2:], *tile.down[2:]
    padding = np.ones((20, 20), bool)
    padding[y1:y2, x1:x2] = False
    assert (canvas[top:bottom, left:right, 0][padding[top:bottom, left:right]] == 114).all()  # 114.5, to even
    shown = canvas[y1:y2, x1:x2, 0].astype(int)
    assert (np.abs(shown - shown[:1]) <= 1).all() and (np.diff(shown) >= 0).all()  # halves go either way
    canvas[top:bottom, left:right] = 7
    assert (canvas == 7).all()


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("flip_vertical", [False, True])
def test_a_window_shows_the_same_as_the_whole_moved_by_less_than_a_pixel(flip: bool, flip_vertical: bool) -> None:
    # brightness says where a source pixel is: 3 levels a column, 4 a row
    image = np.zeros((50, 70, 3), np.uint8)
    image[..., 0], image[..., 1] = 3 * np.arange(70), 4 * np.arange(50)[:, None]
    crop = Crop((50, 70), left=7, top=3, right=9, bottom=5, flip=flip, flip_vertical=flip_vertical)
    complete, window = np.empty((40, 60, 3), np.uint8), np.zeros((40, 60, 3), np.uint8)
    paint(complete, image, whole(crop, (40, 60)))
    paint(window, image, Tile(crop, (40, 60), (0, 0), (11, 7, 52, 33)))
    difference = cv2.absdiff(complete[7:33, 11:52], window[7:33, 11:52])
    assert difference.max() <= 5  # a pixel and a bit
    window[7:33, 11:52] = 0
    assert not window.any()


@settings(deadline=None, max_examples=200)
@given(
    source=st.integers(20, 300),
    extent=st.integers(20, 300),
    cut=st.tuples(st.floats(-0.4, 0.4), st.floats(-0.4, 0.4)),
    window=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    origin=st.integers(-200, 200),
    flip=st.booleans(),
)
def test_a_span_is_the_map_of_its_tile_to_a_pixel(source, extent, cut, window, origin, flip) -> None:
    left, right = (int(part * source) for part in cut)
    crop = Crop((source, source), left, left, right, right, flip, flip)
    start, stop = (origin + round(part * extent) for part in sorted(window))
    tile = Tile(crop, (extent, extent), (origin, origin), (start, start, stop, stop))
    span = tile.across
    assert span == tile.down
    assert 0 <= span.first < span.last <= source
    assert start <= min(span.start, span.stop) and max(span.start, span.stop) <= max(start, stop)
    scale = extent / crop.width
    for edge, place in zip(span[:2], span[2:], strict=True):
        exact = (edge - left) * scale
        exact = origin + (extent - exact if flip else exact)
        if span.start != span.stop:
            assert abs(place - exact) <= 0.5 + scale  # half a canvas pixel, and a source pixel where one fills it all


def test_empty_window_paints_nothing() -> None:
    canvas = np.zeros((8, 8, 3), np.uint8)
    paint(canvas, np.full((8, 8, 3), 9, np.uint8), Tile(Crop((8, 8)), (8, 8), (0, 0), (4, 0, 4, 8)))
    assert not canvas.any()


def test_boxes_below_one_pixel_outside_or_reversed_are_dropped() -> None:
    boxes = np.array([[1, 1, 1.9, 9], [1, 1, 2, 9], [-9, 0, 0, 9], [50, 50, 60, 60], [9, 9, 3, 3]], np.float32)
    sample = Sample(np.zeros((20, 20, 3), np.uint8), boxes, np.arange(5), np.zeros(5, bool))
    assert transformed(sample, Crop((20, 20)), (20, 20)).labels.tolist() == [1]


def test_boxes_are_cut_to_the_source_before_padding_shows() -> None:
    # the box reaches 10 px beyond the image; the padding there is not part of the object
    placed = place_boxes([np.float32([[-10, 5, 10, 15]])], [whole(Crop((20, 20), left=-20), (20, 40))])
    assert placed.tolist() == [[20, 5, 30, 15]]


@pytest.mark.parametrize(("jitter", "resize", "lowest", "highest"), [(0.3, 1.0, -30, 30), (0.0, 1.5, -25, 16)])
def test_ranges_are_darknets(jitter: float, resize: float, lowest: int, highest: int) -> None:
    # jitter .3 of 100: +-30; resize 1.5: int(100 * (1 - 1.5) / 2) = -25 to int(100 * (1 - 1 / 1.5) / 2) = 16
    rng = np.random.default_rng(0)
    crops = [Geometry(jitter, resize).sample(rng, (100, 100), (32, 32)) for _ in range(3000)]
    for side in ("left", "top", "right", "bottom"):
        values = [getattr(crop, side) for crop in crops]
        assert min(values) in (lowest, lowest + 1) and max(values) in (highest, highest - 1)
    if not jitter:
        assert all(crop.left == crop.top and crop.right == crop.bottom for crop in crops)
        assert any(crop.left != crop.right for crop in crops)


def test_resize_below_one_only_pads() -> None:
    rng = np.random.default_rng(0)
    lefts = [Geometry(0, 0.5).sample(rng, (100, 100), (32, 32)).left for _ in range(500)]
    assert min(lefts) < -45 and max(lefts) <= 0  # int(100 * (1 - 2) / 2) = -50 to 0


def test_impossible_crop_becomes_the_whole_image() -> None:
    rng = np.random.default_rng(0)
    crops = [Geometry(0.9).sample(rng, (50, 50), (32, 32)) for _ in range(300)]
    assert all(crop.width > 0 and crop.height > 0 for crop in crops)
    assert Crop((50, 50)) in crops


def test_flip_is_half_of_the_images() -> None:
    rng = np.random.default_rng(0)
    flips = [Geometry(flip=True).sample(rng, (50, 50), (32, 32)).flip for _ in range(400)]
    assert 150 < sum(flips) < 250
    assert not any(Geometry(flip=False).sample(rng, (50, 50), (32, 32)).flip for _ in range(50))
    crops = [Geometry(flip=True, flip_vertical=True).sample(rng, (50, 50), (32, 32)) for _ in range(800)]
    ways = Counter((crop.flip, crop.flip_vertical) for crop in crops)
    assert len(ways) == 4 and min(ways.values()) > 150  # each is a quarter: they do not depend on each other
    assert not any(Geometry(flip=True).sample(rng, (50, 50), (32, 32)).flip_vertical for _ in range(50))


def test_mixup_is_the_mean_with_all_boxes() -> None:
    first = painted_sample((30, 30), np.array([[0, 0, 10, 10]]))
    second = painted_sample((30, 30), np.array([[20, 20, 30, 30], [0, 20, 9, 30]]))
    mixed = mixup(first, second)
    assert mixed.image[5, 5].tolist() == [128, 0, 0] and mixed.image[25, 25].tolist() == [128, 0, 0]
    assert mixed.labels.tolist() == [0, 0, 1] and mixed.crowd.tolist() == [False, False, True]
    np.testing.assert_array_equal(mixed.boxes, np.concatenate([first.boxes, second.boxes]))


def test_nothing_is_changed_in_place() -> None:
    sample = painted_sample((30, 40), np.array([[5, 5, 20, 20]]))
    image, boxes = sample.image.copy(), sample.boxes.copy()
    sample.image.flags.writeable = sample.boxes.flags.writeable = False
    crop = Geometry(0.3, 1.5, True, True).sample(np.random.default_rng(0), (30, 40), (32, 32))
    transformed(sample, crop, (32, 32))
    np.testing.assert_array_equal(sample.image, image)
    np.testing.assert_array_equal(sample.boxes, boxes)
