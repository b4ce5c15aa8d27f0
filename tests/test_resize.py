"""The resize of training images against its formula, both ways it is done."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.augment.colour import Colour, apply_colour
from data.augment.kernels import kernels
from data.augment.resize import resize_into
from tests.reference.pixels import bilinear, exactly_shifted

SIDES = st.one_of(st.integers(1, 9), st.integers(10, 90))


@pytest.fixture(params=["compiled", "OpenCV"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to resize."""
    if request.param == "OpenCV":
        monkeypatch.setattr("data.augment.resize.kernels", lambda: None)
    elif kernels() is None:
        pytest.skip("nothing compiles here")
    return request.param


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(source=st.tuples(SIDES, SIDES), target=st.tuples(SIDES, SIDES), flips=st.tuples(st.booleans(), st.booleans()))
def test_it_is_bilinear_between_pixel_centres(way: str, source, target, flips) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*source, 3), np.uint8)
    canvas = np.full((target[0] + 2, target[1] + 2, 3), 7, np.uint8)
    resize_into(image, canvas[1:-1, 1:-1], flip=flips[0], flip_vertical=flips[1])
    wanted = bilinear(image, target)[:: -1 if flips[1] else 1, :: -1 if flips[0] else 1]
    exact = way == "compiled" and source[1] <= 3 * target[1]  # else it is OpenCV's
    assert np.abs(canvas[1:-1, 1:-1] - wanted).max() <= (0.502 if exact else 1.1)
    canvas[1:-1, 1:-1] = 7
    assert (canvas == 7).all()  # nothing is written beside the target


def test_one_to_one_is_a_copy(way: str) -> None:
    image = np.random.default_rng(1).integers(0, 256, (33, 47, 3), np.uint8)
    part, shown = image[2:30, 5:40], np.empty((28, 35, 3), np.uint8)
    for flip in (False, True):
        for flip_vertical in (False, True):
            resize_into(part, shown, flip=flip, flip_vertical=flip_vertical)
            np.testing.assert_array_equal(shown, part[:: -1 if flip_vertical else 1, :: -1 if flip else 1])


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    target=st.tuples(st.integers(1, 3), st.sampled_from([1, 7, 90, 511, 512, 513])),
    flip=st.booleans(),
    colour=st.builds(Colour, st.floats(-0.3, 0.3), st.floats(0.5, 2), st.floats(0.5, 2)),
)
def test_colours_change_on_the_way(way: str, target: tuple[int, int], flip: bool, colour: Colour) -> None:
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    image[:, 5:] = image[:, 5:, :1] // 40 + np.arange(3, dtype=np.uint8)  # dark ones and nearly greys
    made = np.empty((*target, 3), np.uint8)
    resize_into(image, made, flip=flip, colour=colour)
    if way == "compiled" and target[1] > 1:  # nine columns in one are OpenCV's
        exact = bilinear(image, target)[:, :: -1 if flip else 1]
        assert np.abs(made - exactly_shifted(exact, *(colour.shift or (0, 1, 1)))).max() < 0.51
    else:
        wanted = np.empty_like(made)
        resize_into(image, wanted, flip=flip)
        apply_colour(wanted, np.zeros((0, 4)), colour)
        np.testing.assert_array_equal(made, wanted)


@pytest.mark.parametrize("size", [(1, 1), (480, 640), (1080, 1920), (3000, 4000)])
def test_photos_come_out_as_by_opencv(size: tuple[int, int]) -> None:
    if kernels() is None:
        pytest.skip("nothing compiles here")
    photo = cv2.resize(np.random.default_rng(2).integers(0, 256, (60, 80, 3), np.uint8), size[::-1])
    made, wanted = np.empty((416, 416, 3), np.uint8), cv2.resize(photo, (416, 416))
    resize_into(photo, made)
    difference = cv2.absdiff(made, wanted)
    assert difference.max() <= 1 and difference.mean() < 0.3
