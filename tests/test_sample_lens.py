"""Surfaces and photographs: seamless, of sane brightness, repeatable."""

from __future__ import annotations

import numpy as np
import pytest

from data.sample.lens import blurred, defocused, photograph
from data.sample.textures import BACKDROPS, GROUNDS, PANORAMA, TILE, noise
from utils.keyed_random import keyed_rng


def test_noise_repeats_without_a_seam() -> None:
    tile = noise(keyed_rng(0), (256, 512), (4, 8), 4)
    assert tile.shape == (256, 512)
    assert tile.dtype == np.float32
    assert abs(tile.mean()) < 0.5 and 0.4 < tile.std() < 1.6
    for axis in (0, 1):
        steps = np.abs(np.diff(tile, axis=axis))
        seam = np.abs(tile.take(0, axis) - tile.take(-1, axis))
        assert seam.mean() < 2 * steps.mean()


@pytest.mark.parametrize("ground", GROUNDS)
def test_grounds_are_reflectances(ground) -> None:
    for seed in range(4):
        texture = ground(keyed_rng(seed))
        assert texture.shape == (TILE, TILE, 3)
        assert texture.min() >= 0 and texture.max() < 2
        assert 0.005 < texture.mean() < 0.9
        assert texture.std() > 0.003


@pytest.mark.parametrize("backdrop", BACKDROPS)
def test_backdrops_have_their_size(backdrop) -> None:
    picture = backdrop(keyed_rng(1))
    assert picture.shape == (*PANORAMA, 3)
    assert picture.dtype == np.float32
    assert np.isfinite(picture).all() and picture.min() >= 0


@pytest.mark.parametrize("sigma", [0.5, 1.9, 3.0, 8.0])
def test_blur_spreads_a_point_by_sigma(sigma: float) -> None:
    point = np.zeros((128, 128), np.float32)
    point[64, 64] = 1
    spread = blurred(point, sigma)
    assert spread.sum() == pytest.approx(1, rel=0.02)
    x = np.arange(128) - (spread.sum(0) * np.arange(128)).sum()
    assert np.sqrt((spread.sum(0) * x**2).sum()) == pytest.approx(sigma, rel=0.2)


def test_defocus_blurs_where_it_is_asked_to() -> None:
    image = keyed_rng(0).random((64, 96, 3), dtype=np.float32)
    sigma = np.zeros((64, 96), np.float32)
    sigma[:, 48:] = 5
    result = defocused(image, sigma)
    np.testing.assert_array_equal(result[:, :48], image[:, :48])
    assert result[:, 60:].std() < 0.3 * image[:, 60:].std()


def test_a_photograph_is_exposed_whatever_the_light() -> None:
    gradient = np.linspace(0.2, 1, 96, dtype=np.float32)[None, :, None] * np.ones((64, 96, 3), np.float32)
    before = gradient.copy()
    for seed in range(8):
        dark, bright = photograph(gradient * 0.01, keyed_rng(seed)), photograph(gradient * 100, keyed_rng(seed))
        assert dark.dtype == np.uint8 and dark.shape == (64, 96, 3)
        assert 60 < dark.mean() < 200
        assert abs(dark.mean() - bright.mean()) < 2
    np.testing.assert_array_equal(gradient, before)
    np.testing.assert_array_equal(photograph(gradient, keyed_rng(3)), photograph(gradient, keyed_rng(3)))


def test_frames_of_a_clip_share_settings_but_not_noise() -> None:
    flat = np.full((64, 96, 3), 0.3, np.float32)
    first, second = (photograph(flat, keyed_rng(5), grain=keyed_rng(6, k), steady=True) for k in (0, 1))
    assert (first != second).any()
    assert abs(first.mean() - second.mean()) < 0.5
