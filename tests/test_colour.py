"""Hue, saturation, exposure, blur and noise."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.augment.colour import Colour, ColourRange, add_noise, apply_colour, blur, shift_hsv
from data.augment.kernels import kernels
from tests.reference.pixels import exactly_shifted

NO_BOXES = np.zeros((0, 4), np.float32)


def noisy(height: int = 40, width: int = 50) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(params=["compiled", "OpenCV"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to change colours."""
    if request.param == "OpenCV":
        monkeypatch.setattr("data.augment.colour.kernels", lambda: None)
    elif kernels() is None:
        pytest.skip("nothing compiles here")
    return request.param


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hue=st.floats(-0.3, 0.3), saturation=st.floats(0.5, 2), exposure=st.floats(0.5, 2))
def test_hsv_agrees_with_float_arithmetic(way: str, hue: float, saturation: float, exposure: float) -> None:
    image = np.random.default_rng(1).integers(0, 256, (6, 6, 3), np.uint8)
    image[0] = image[0, :, :1]  # greys
    image[1, :4] = [[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 0, 1]]
    wanted = exactly_shifted(image, hue, saturation, exposure)
    shift_hsv(image, hue, saturation, exposure)
    # 8-bit hue has steps of two degrees, which is up to 255 * 2 / 60 grey levels, and is rounded twice
    most, mean = (0.501, 0.3) if way == "compiled" else (16, 3)
    assert np.abs(image - wanted).max() < most and np.abs(image - wanted).mean() < mean


@pytest.mark.parametrize("width", [1, 15, 16, 17, 511, 512, 513, 1100])
def test_every_pixel_of_a_row_is_changed_and_no_other(way: str, width: int) -> None:
    rng = np.random.default_rng(width)
    image = rng.integers(0, 256, (4, width + 3, 3), np.uint8)
    before, window = image.copy(), image[1:3, 1 : 1 + width]
    wanted = exactly_shifted(window, 0.4, 1.1, 0.8)
    shift_hsv(window, 0.4, 1.1, 0.8)
    assert np.abs(window - wanted).max() < (0.501 if way == "compiled" else 16)
    window[:] = before[1:3, 1 : 1 + width]
    np.testing.assert_array_equal(image, before)


def test_the_kernel_leaves_every_colour_as_it_is_where_nothing_is_asked_for() -> None:
    if (made := kernels()) is None:
        pytest.skip("nothing compiles here")
    image = np.empty((256, 256, 256, 3), np.uint8)  # all of them
    for channel in range(3):
        image[..., channel] = np.arange(256).reshape([256 if axis == channel else 1 for axis in range(3)])
    image = image.reshape(4096, 4096, 3)
    changed = image.copy()
    made.shift_hsv(changed, 0.0, 1.0, 1.0)
    np.testing.assert_array_equal(changed, image)


def test_negative_turn_wraps_past_red() -> None:
    image = np.full((1, 1, 3), (255, 20, 0), np.uint8)  # a red just on the yellow side
    shift_hsv(image, -0.1, 1, 1)
    red, green, blue = image[0, 0].tolist()
    assert red == 255 and blue > 100 and green < 10  # towards magenta, not stuck at red


def test_identity_touches_nothing() -> None:
    image = noisy()
    image.flags.writeable = False  # writing would raise
    apply_colour(image, NO_BOXES, Colour())
    apply_colour(image[:0], NO_BOXES, Colour(hue=0.1))


def test_only_the_window_changes() -> None:
    image, before = noisy(), noisy()
    apply_colour(image[5:20, 10:30], NO_BOXES, Colour(hue=0.2, exposure=0.5, blur=5, noise=20, noise_seed=1))
    assert (image[5:20, 10:30] != before[5:20, 10:30]).any()
    image[5:20, 10:30] = before[5:20, 10:30]
    np.testing.assert_array_equal(image, before)


def test_background_blur_keeps_the_boxes_sharp() -> None:
    image, before = noisy(), noisy()
    blur(image, np.float32([[10, 5, 30, 20], [45, 30, 90, 90]]), 17, background=True)
    np.testing.assert_array_equal(image[5:20, 10:30], before[5:20, 10:30])
    np.testing.assert_array_equal(image[30:, 45:], before[30:, 45:])
    assert image[:, :10].std() < before[:, :10].std() / 4


@pytest.mark.parametrize(("side", "kernel"), [(40, 5), (23, 3), (8, 1)])
def test_full_blur_is_limited_by_the_smallest_box(side: int, kernel: int) -> None:
    # an eighth of the side, rounded up to odd: 40 // 8 = 5, 23 // 8 = 2 -> 3, 8 // 8 = 1 which is no blur
    image = noisy(60, 60)
    blur(image, np.float32([[0, 0, 50, 50], [0, 0, side, side]]), 31, background=False)
    np.testing.assert_array_equal(image, cv2.GaussianBlur(noisy(60, 60), (kernel, kernel), 0))


def test_noise_only_brightens() -> None:
    image = np.full((60, 60, 3), 100, np.uint8)
    add_noise(image, np.random.default_rng(0), 20)
    assert image.min() == 100 and 0.4 < (image > 100).mean() < 0.6 and image.max() > 140


def test_draws_stay_in_their_ranges() -> None:
    rng = np.random.default_rng(0)
    draws = [ColourRange(0.1, 1.5, 2.0, 1, 300).sample(rng) for _ in range(1000)]
    assert all(-0.1 <= draw.hue <= 0.1 for draw in draws)
    for name, limit in (("saturation", 1.5), ("exposure", 2.0)):
        values = np.array([getattr(draw, name) for draw in draws])
        assert values.min() >= 1 / limit and values.max() <= limit and 0.45 < (values > 1).mean() < 0.55
    assert {(draw.blur, draw.blur_background) for draw in draws} == {(0, False), (17, True), (1, False)}
    assert {draw.noise for draw in draws} == {0, 127}
    assert {draw.blur for draw in (ColourRange(blur=6).sample(rng) for _ in range(50))} == {0, 17, 7}
    assert ColourRange().sample(rng) == Colour()
    assert ColourRange(saturation=0).sample(rng).saturation == 1
