"""The resize of training images against its formula, both ways it is done."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.kernels import kernels
from data.resize import resize_into

SIDES = st.one_of(st.integers(1, 9), st.integers(10, 90))


@pytest.fixture(params=["compiled", "OpenCV"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to resize."""
    if request.param == "OpenCV":
        monkeypatch.setattr("data.resize.kernels", lambda: None)
    elif kernels() is None:
        pytest.skip("nothing compiles here")
    return request.param


def taps(target: int, source: int) -> np.ndarray:
    """The weights of the source pixels (target, source), by the formula, one by one."""
    weights = np.zeros((target, source))
    for place in range(target):
        exact = min(max((place + 0.5) * source / target - 0.5, 0), source - 1)
        first = int(exact)
        weights[place, first] += 1 - (exact - first)
        weights[place, min(first + 1, source - 1)] += exact - first
    return weights


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(source=st.tuples(SIDES, SIDES), target=st.tuples(SIDES, SIDES), flips=st.tuples(st.booleans(), st.booleans()))
def test_it_is_bilinear_between_pixel_centres(way: str, source, target, flips) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*source, 3), np.uint8)
    canvas = np.full((target[0] + 2, target[1] + 2, 3), 7, np.uint8)
    resize_into(image, canvas[1:-1, 1:-1], flip=flips[0], flip_vertical=flips[1])
    down, across = taps(target[0], source[0]), taps(target[1], source[1])
    down, across = down[:: -1 if flips[1] else 1], across[:: -1 if flips[0] else 1]
    wanted = np.einsum("ys,xt,stc->yxc", down, across, image.astype(float))
    assert np.abs(canvas[1:-1, 1:-1] - wanted).max() <= (0.502 if way == "compiled" else 1.1)
    canvas[1:-1, 1:-1] = 7
    assert (canvas == 7).all()  # nothing is written beside the target


def test_one_to_one_is_a_copy(way: str) -> None:
    image = np.random.default_rng(1).integers(0, 256, (33, 47, 3), np.uint8)
    part, shown = image[2:30, 5:40], np.empty((28, 35, 3), np.uint8)
    for flip in (False, True):
        for flip_vertical in (False, True):
            resize_into(part, shown, flip=flip, flip_vertical=flip_vertical)
            np.testing.assert_array_equal(shown, part[:: -1 if flip_vertical else 1, :: -1 if flip else 1])


@pytest.mark.parametrize("size", [(1, 1), (480, 640), (1080, 1920), (3000, 4000)])
def test_photos_come_out_as_by_opencv(size: tuple[int, int]) -> None:
    if kernels() is None:
        pytest.skip("nothing compiles here")
    photo = cv2.resize(np.random.default_rng(2).integers(0, 256, (60, 80, 3), np.uint8), size[::-1])
    made, wanted = np.empty((416, 416, 3), np.uint8), cv2.resize(photo, (416, 416))
    resize_into(photo, made)
    difference = cv2.absdiff(made, wanted)
    assert difference.max() <= 1 and difference.mean() < 0.3
