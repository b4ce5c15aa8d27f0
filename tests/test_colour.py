"""Hue, saturation, exposure, blur and noise."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.colour import Colour, ColourRange, add_noise, apply_colour, blur, shift_hsv

NO_BOXES = np.zeros((0, 4), np.float32)


def noisy(height: int = 40, width: int = 50) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@settings(deadline=None, max_examples=40)
@given(hue=st.floats(-0.3, 0.3), saturation=st.floats(0.5, 2), exposure=st.floats(0.5, 2))
def test_hsv_agrees_with_float_arithmetic(hue: float, saturation: float, exposure: float) -> None:
    image = np.random.default_rng(1).integers(0, 256, (6, 6, 3), np.uint8)
    wanted = np.empty((6, 6, 3))
    for row, column in np.ndindex(6, 6):
        h, s, v = colorsys.rgb_to_hsv(*image[row, column] / 255)
        changed = colorsys.hsv_to_rgb((h + hue) % 1, min(1, s * saturation), min(1, v * exposure))
        wanted[row, column] = np.array(changed) * 255
    shift_hsv(image, hue, saturation, exposure)
    # 8-bit hue has steps of two degrees, which is up to 255 * 2 / 60 grey levels, and is rounded twice
    assert np.abs(image - wanted).max() < 16 and np.abs(image - wanted).mean() < 3


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
