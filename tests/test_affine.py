"""Scale, translation and shear: hand arithmetic, and the paint test."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data.augment.affine import Affine, visible_part, warp
from tests.contracts import assert_painted, painted_sample, painted_samples
from utils.structures import Sample

SIZES = st.tuples(st.integers(24, 120), st.integers(24, 120))


@settings(deadline=None, max_examples=150)
@given(
    sample=painted_samples(),
    size=SIZES,
    seed=st.integers(0, 2**32),
    affine=st.builds(Affine, st.floats(0, 0.5), st.floats(0, 0.3), st.floats(0, 20)),
)
def test_paint_test(sample: Sample, size: tuple[int, int], seed: int, affine: Affine) -> None:
    matrix = affine.sample(np.random.default_rng(seed), sample.image.shape[:2], size)
    moved = warp(sample, matrix, size)
    assert moved.image.shape == (*size, 3)
    assert len(moved.boxes) == len(moved.labels) == len(moved.crowd)
    # a slanted corner is painted fainter the sharper it is: two pixels of it may be too pale to count
    assert_painted(moved, tolerance=3.0 if affine.shear else 1.6, smallest=6.0 if affine.shear else 3.0)


def test_nothing_to_do_is_nothing_done() -> None:
    sample = painted_sample((40, 60), np.array([[5, 5, 25, 30]]))
    moved = warp(sample, Affine().sample(np.random.default_rng(0), (40, 60), (40, 60)), (40, 60))
    np.testing.assert_array_equal(moved.image, sample.image)
    np.testing.assert_array_equal(moved.boxes, sample.boxes)
    assert not Affine() and Affine(scale=0.1) and Affine(translate=0.1) and Affine(shear=1)


def test_by_hand() -> None:
    sample = painted_sample((40, 60), np.array([[10, 10, 20, 30]]))
    # twice as large, and moved by (-10, 4)
    moved = warp(sample, np.array([[2.0, 0, -10], [0, 2, 4]]), (80, 100))
    assert moved.boxes.tolist() == [[10, 24, 30, 64]]
    assert_painted(moved)
    # x leans by half of y: corners 10 + 5, 20 + 5, 20 + 15, 10 + 15
    moved = warp(sample, np.array([[1.0, 0.5, 0], [0, 1, 0]]), (40, 60))
    assert moved.boxes.tolist() == [[15, 10, 35, 30]]
    # and cut off at y = 20 shows no further than 20 + 10
    assert warp(sample, np.array([[1.0, 0.5, 0], [0, 1, 0]]), (20, 60)).boxes.tolist() == [[15, 10, 30, 20]]


def test_the_map_keeps_the_middle_and_its_ranges() -> None:
    rng = np.random.default_rng(0)
    middle = np.array([30, 20, 1])  # of a canvas of 40 x 60; 100 x 50 has (25, 50)
    for _ in range(50):
        matrix = Affine(scale=0.3).sample(rng, (40, 60), (100, 50))
        np.testing.assert_allclose(matrix @ middle, [25, 50])
        assert 0.7 <= matrix[0, 0] == matrix[1, 1] <= 1.3 and matrix[0, 1] == matrix[1, 0] == 0
    moves = np.array([Affine(translate=0.2).sample(rng, (40, 60), (100, 50)) @ middle for _ in range(300)])
    low, high = moves.min(axis=0), moves.max(axis=0)
    assert (low > [15, 30]).all() and (low < [16, 32]).all() and (high > [34, 68]).all() and (high < [35, 70]).all()
    leans = np.array([Affine(shear=45).sample(rng, (40, 60), (40, 60)) for _ in range(300)])
    assert (abs(leans[:, [0, 1], [1, 0]]) <= 1).all() and (abs(leans[:, [0, 1], [1, 0]]).max(axis=0) > 0.9).all()
    assert all(Affine(scale=1.0).sample(rng, (9, 9), (9, 9))[0, 0] > 0 for _ in range(50))


@pytest.mark.parametrize(("left", "kept"), [(-92, False), (-88, True)])
def test_a_box_of_which_a_tenth_shows_is_kept(left: int, kept: bool) -> None:
    sample = painted_sample((100, 100), np.array([[0, 0, 100, 50]]))
    moved = warp(sample, np.array([[1.0, 0, left], [0, 1, 0]]), (100, 100))
    assert moved.boxes.tolist() == ([[0, 0, 12, 50]] if kept else [])


def test_a_box_round_the_whole_image() -> None:
    sample = painted_sample((100, 100), np.array([[0, 0, 100, 100]]))
    closer = np.array([[2.0, 0.1, -50], [-0.1, 2, -40]])  # none of its edges shows
    assert warp(sample, closer, (80, 80)).boxes.tolist() == [[0, 0, 80, 80]]


def test_a_box_under_a_pixel_is_left_out() -> None:
    sample = painted_sample((100, 100), np.array([[0, 0, 4, 90], [0, 0, 90, 90]]))
    assert warp(sample, np.array([[0.2, 0, 0], [0, 0.2, 0]]), (20, 20)).labels.tolist() == [1]


@settings(deadline=None, max_examples=100)
@given(
    box=st.tuples(*[st.floats(0, 60)] * 2, *[st.floats(2, 60)] * 2),
    turn=st.tuples(st.floats(0.3, 2), st.floats(-0.7, 0.7), st.floats(-0.7, 0.7), st.floats(0.3, 2)),
    move=st.tuples(st.floats(-80, 80), st.floats(-80, 80)),
)
def test_visible_part_against_points(box: tuple, turn: tuple, move: tuple) -> None:
    x, y, width, height = box
    matrix = np.column_stack([np.reshape(turn, (2, 2)), move])
    assume(abs(np.linalg.det(matrix[:, :2])) > 0.05)
    visible, shown = visible_part(np.array([[x, y, x + width, y + height]]), matrix, (80, 100))
    across, down = np.meshgrid(np.linspace(x, x + width, 201), np.linspace(y, y + height, 201))
    points = np.stack([across.ravel(), down.ravel()], axis=1) @ matrix[:, :2].T + matrix[:, 2]
    inside = points[((points >= 0) & (points <= [100, 80])).all(axis=1)]
    if len(inside) == 0:
        assert shown[0] < 0.02  # a tip between two points
        return
    extent = [*inside.min(axis=0), *inside.max(axis=0)]
    assert (visible[0, :2] <= inside.min(axis=0) + 1e-6).all() and (inside.max(axis=0) <= visible[0, 2:] + 1e-6).all()
    # between neighbouring points there is up to 60 / 200 * 2.7 pixels, and at a sharp tip several times that
    np.testing.assert_allclose(visible[0], extent, atol=8)
    assert np.median(np.abs(visible[0] - extent)) < 2
    endless = (points.max(axis=0) - points.min(axis=0)).prod()
    assert shown[0] == pytest.approx((visible[0, 2:] - visible[0, :2]).prod() / endless, rel=1e-6)


def test_images_without_boxes_and_arguments_untouched() -> None:
    sample = painted_sample((30, 30), np.zeros((0, 4)))
    sample.image.flags.writeable = sample.boxes.flags.writeable = False
    moved = warp(sample, np.array([[1.0, 0, 3], [0, 1, 3]]), (30, 30))
    assert moved.boxes.shape == (0, 4) and moved.boxes.dtype == np.float32
