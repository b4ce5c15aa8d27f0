"""data.augment.classification: windows against a slow loop, mixes by hand, what a cfg asks for."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.augment.classification import (
    LabelledAugmentation,
    Picture,
    RandomCrop,
    augmentation_of,
    cutmix,
    labelled_picture,
    mixup,
    mosaic,
    smooth_truth,
    warp,
)
from data.augment.colour import ColourRange
from data.augment.photometric import default_photometric
from utils.cfg import load_cfg, with_net
from utils.keyed_random import keyed_rng
from utils.structures import Sample

PLAIN = RandomCrop(min_crop=32, max_crop=32)


def flat(grey: int, size: tuple[int, int] = (10, 10)) -> np.ndarray:
    return np.full((*size, 3), grey, np.uint8)


def sample(image: np.ndarray, label: int = 0) -> Sample:
    height, width = image.shape[:2]
    return Sample(image, np.float32([[0, 0, width, height]]), np.array([label]), np.zeros(1, bool))


def painted(height: int, width: int) -> np.ndarray:
    """Red says how far right a pixel is, green how far down."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(40, 240, width)[None]
    image[..., 1] = np.linspace(40, 240, height)[:, None]
    return image


# --- windows ------------------------------------------------------------------------------------------------------


def test_the_whole_of_a_square_image_is_itself() -> None:
    image = keyed_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    matrix = PLAIN.sample(keyed_rng(1), (32, 32), (32, 32))
    np.testing.assert_allclose(matrix, [[1, 0, 0], [0, 1, 0]], atol=1e-12)
    assert (warp(image, matrix, (32, 32)) == image).all()


def test_the_shorter_side_is_scaled_and_a_window_of_the_longer_is_seen() -> None:
    """64x128 with a shorter side of 32: half a pixel for one, and 32 of the 64 columns from somewhere in 0..32."""
    lefts = []
    for seed in range(200):
        matrix = PLAIN.sample(keyed_rng(seed), (64, 128), (32, 32))
        np.testing.assert_allclose(matrix[:, :2], [[2, 0], [0, 2]], atol=1e-12)
        assert matrix[1, 2] == pytest.approx(0.5)  # pixel 0 is between the source's 0 and 1
        lefts.append((matrix[0, 2] - 0.5) / 2)
    assert -1e-9 <= min(lefts) < 2 and 30 < max(lefts) <= 32 + 1e-9


def test_flip_mirrors_half_of_the_windows() -> None:
    image = painted(32, 32)
    flipped = 0
    for seed in range(100):
        seen = warp(image, replace(PLAIN, flip=True).sample(keyed_rng(seed), (32, 32), (32, 32)), (32, 32))
        flipped += (seen == image[:, ::-1]).all()
        assert (seen == image).all() or (seen == image[:, ::-1]).all()
    assert 30 < flipped < 70


def test_vertical_flips_turn_half_of_the_windows_upside_down() -> None:
    image, crop = painted(48, 32), replace(PLAIN, flip_vertical=True)
    seen = [warp(image, crop.sample(keyed_rng(seed), (48, 32), (32, 32)), (32, 32)) for seed in range(100)]
    upright = [warp(image, PLAIN.sample(keyed_rng(seed), (48, 32), (32, 32)), (32, 32)) for seed in range(100)]
    turned = [(one == other[::-1]).all() for one, other in zip(seen, upright, strict=True)]
    assert 30 < sum(turned) < 70
    assert all(turn or (one == other).all() for turn, one, other in zip(turned, seen, upright, strict=True))


def test_a_turn_keeps_the_centre_and_the_angle() -> None:
    crop = replace(PLAIN, angle=30)
    turns = []
    for seed in range(100):
        matrix = crop.sample(keyed_rng(seed), (32, 32), (32, 32))
        np.testing.assert_allclose(matrix @ [15.5, 15.5, 1], [15.5, 15.5], atol=1e-9)
        assert np.linalg.det(matrix[:, :2]) == pytest.approx(1)
        turns.append(math.degrees(math.atan2(matrix[1, 0], matrix[0, 0])))
    assert -30 <= min(turns) < -25 and 25 < max(turns) <= 30


def test_beyond_the_image_it_is_black() -> None:
    seen = warp(flat(200, (32, 32)), replace(PLAIN, angle=45).sample(keyed_rng(5), (32, 32), (32, 32)), (32, 32))
    assert (seen[16, 16] == 200).all() and (seen == 0).any()


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 90), st.integers(1, 90), st.sampled_from([(32, 32), (24, 40)]), st.integers(0, 10**6),
    st.sampled_from([0.75, 1.0, 2.0]), st.integers(1, 60), st.integers(1, 60),
)  # fmt: skip
def test_a_window_against_darknets_formula(
    height: int, width: int, size: tuple[int, int], seed: int, aspect: float, low: int, high: int
) -> None:
    """random_augment_image written out for single points, with the numbers it draws drawn again."""
    crop = RandomCrop(low, high, angle=20, aspect=aspect, flip=True)
    matrix = crop.sample(keyed_rng(seed), (height, width), size)
    rng = keyed_rng(seed)
    squeeze = rng.uniform(1, max(aspect, 1 / aspect))
    squeeze = squeeze if rng.random() < 0.5 else 1 / squeeze
    scale = rng.integers(min(low, high), max(low, high) + 1) / min(height, width / squeeze)
    turn = math.radians(rng.uniform(-20, 20))
    window = max(size)
    spare = [max(0, width * scale / squeeze - window) / 2, max(0, height * scale - window) / 2]
    dx, dy = rng.uniform([-spare[0], -spare[1]], spare)
    flip = rng.random() < 0.5
    for column, row in ((0, 0), (size[1] - 1, 3), (7, size[0] - 1)):
        x = (column + 0.5) / size[1] * window
        y = (row + 0.5) / size[0] * window
        x = window - x if flip else x
        across, down = (x - window / 2 + dx) / scale * squeeze, (y - window / 2 + dy) / scale
        source_x = math.cos(turn) * across - math.sin(turn) * down + width / 2 - 0.5
        source_y = math.sin(turn) * across + math.cos(turn) * down + height / 2 - 0.5
        np.testing.assert_allclose(matrix @ [column, row, 1], [source_x, source_y], atol=1e-6, rtol=1e-9)


# --- mixes --------------------------------------------------------------------------------------------------------


def pictures(count: int) -> list[Picture]:
    return [Picture(flat(40 * (number + 1)), np.eye(4, dtype=np.float32)[number]) for number in range(count)]


def test_mixup_is_the_mean() -> None:
    mixed = mixup(*pictures(2))
    assert (mixed.image == 60).all()
    assert mixed.truth.tolist() == [0.5, 0.5, 0, 0]


def test_cutmix_pastes_a_rectangle() -> None:
    first, second = pictures(2)
    mixed = cutmix(first, second, (2, 1, 7, 5))  # 5 x 4 of 100 pixels
    assert (mixed.image == 80).all(2).sum() == 20 and (mixed.image[1:5, 2:7] == 80).all()
    np.testing.assert_allclose(mixed.truth, [0.8, 0.2, 0, 0], rtol=1e-6)
    assert (first.image == 40).all()


def test_mosaic_shows_a_quarter_of_each() -> None:
    mixed = mosaic(pictures(4), (3, 6))
    assert [int(mixed.image[y, x, 0]) for y, x in ((5, 2), (5, 3), (6, 2), (6, 3))] == [40, 80, 120, 160]
    np.testing.assert_allclose(mixed.truth, [0.18, 0.42, 0.12, 0.28], rtol=1e-6)


def test_smoothing_by_hand() -> None:
    np.testing.assert_allclose(smooth_truth(2, 5, 0.1), [0.025, 0.025, 0.9, 0.025, 0.025], rtol=1e-6)
    assert smooth_truth(0, 1, 0.1).tolist() == [1]


# --- the whole recipe ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "mixes"),
    [
        ({}, ()),
        ({"mixup": 1}, ("mixup",)),
        ({"mixup": 4}, ("cutmix", "mosaic")),
        ({"mixup": 1, "cutmix": True}, ("cutmix",)),
        ({"mosaic": True}, ("mosaic",)),
        ({"cutmix": True, "mosaic": True}, ("cutmix", "mosaic")),
    ],
)
def test_what_a_cfg_mixes(keys: dict[str, object], mixes: tuple[str, ...]) -> None:
    assert LabelledAugmentation.from_config(with_net(load_cfg("cifar"), **keys).net).mixes == mixes


def test_what_a_cfg_asks_for() -> None:
    net = with_net(load_cfg("csdarknet53"), blur=1).net
    augmentation = LabelledAugmentation.from_config(net)
    assert augmentation.crop == RandomCrop(128, 448, angle=7, aspect=0.75, flip=True)
    assert augmentation.colours == ColourRange(0.1, 0.75, 0.75)
    assert (augmentation.blur, augmentation.mix, augmentation.label_smooth_eps) == (15, 0.5, 0.1)
    assert LabelledAugmentation.from_config(with_net(load_cfg("cifar"), blur=8).net).blur == 9


def test_a_flag_replaces_what_the_cfg_says_unless_nobody_gave_it() -> None:
    config = with_net(load_cfg("csdarknet53"), max_batches=20)
    augmentation = augmentation_of(config, SimpleNamespace(mosaic=None, flip_vertical=False, photometric="none"))
    assert augmentation == LabelledAugmentation.from_config(config.net) == augmentation_of(config, None)
    flags = SimpleNamespace(mosaic=0.25, flip_vertical=True, photometric="default", close_mosaic=0.5, batch=8)
    changed = augmentation_of(config, flags)
    assert (changed.mix, changed.photometric, changed.close_mosaic) == (0.25, default_photometric(), 0.5)
    assert changed.crop == replace(augmentation.crop, flip_vertical=True) and changed.mixes == augmentation.mixes


def test_nothing_is_mixed_in_the_last_part_of_a_run() -> None:
    net = with_net(load_cfg("cifar"), max_batches=10, subdivisions=2).net
    augmentation = replace(LabelledAugmentation.from_config(net), close_mosaic=0.5)
    assert augmentation.closed(9, net.closing) is augmentation is augmentation.closed(19, None)
    assert augmentation.closed(10, net.closing).mix == 0


FULL = replace(
    LabelledAugmentation.from_config(
        with_net(load_cfg("csdarknet53"), width=32, height=32, min_crop=24, max_crop=48, blur=5).net
    ),
    mix=0.8,
    photometric=default_photometric(),
)


@pytest.mark.parametrize("mixes", [("mixup",), ("cutmix",), ("mosaic",), ("cutmix", "mosaic")])
def test_a_picture_is_a_function_of_its_key(mixes: tuple[str, ...]) -> None:
    samples = [sample(painted(20 + 4 * number, 30), number % 3) for number in range(6)]
    before = [one.image.copy() for one in samples]
    augmentation, kinds = replace(FULL, mixes=mixes), set()
    for seed in range(30):
        (picture, used), (again, _) = (
            labelled_picture(samples, 2, 3, augmentation, (32, 24), keyed_rng(seed)) for _ in range(2)
        )
        assert (picture.image == again.image).all() and (picture.truth == again.truth).all()
        assert picture.image.shape == (32, 24, 3) and picture.image.dtype == np.uint8
        assert picture.truth.dtype == np.float32 and picture.truth.sum() == pytest.approx(1) and used[0] == 2
        kinds.add(len(used))
    assert kinds == {1} | {{"mosaic": 4}.get(mix, 2) for mix in mixes}
    assert all((one.image == old).all() for one, old in zip(samples, before, strict=True))


def test_the_truth_says_what_is_seen() -> None:
    """Grey pictures, each class its own grey: the share of the pixels is the share of the truth."""
    samples = [sample(flat(50 * (label + 1), (32, 32)), label) for label in range(4)]
    plain = LabelledAugmentation(crop=PLAIN, mixes=("cutmix", "mosaic"), mix=1.0)
    for seed in range(40):
        picture, _ = labelled_picture(samples, seed % 4, 4, plain, (32, 32), keyed_rng(seed))
        shares = [(picture.image[..., 0] == 50 * (label + 1)).mean() for label in range(4)]
        np.testing.assert_allclose(picture.truth, shares, atol=1e-6)


def test_cutmix_takes_darknets_share() -> None:
    samples = [sample(flat(50), 0), sample(flat(100), 1)]
    plain = LabelledAugmentation(crop=PLAIN, mixes=("cutmix",), mix=1.0)
    drawn = [labelled_picture(samples, 0, 2, plain, (40, 40), keyed_rng(seed)) for seed in range(300)]
    shares = [picture.truth[1] for picture, used in drawn if used[1] == 1]
    assert 0.09 - 1e-6 <= min(shares) < 0.13 and 0.55 < max(shares) <= 0.64 + 1e-6  # .3 x .3 to .8 x .8


def test_a_quarter_of_the_pictures_is_blurred() -> None:
    samples = [sample(keyed_rng(0).integers(0, 256, (32, 32, 3), np.uint8))]
    plain = LabelledAugmentation(crop=PLAIN, blur=9)
    pictures = [labelled_picture(samples, 0, 1, plain, (32, 32), keyed_rng(seed))[0].image for seed in range(200)]
    blurred = sum((image != samples[0].image).any() for image in pictures)
    assert 30 < blurred < 70
