"""The recipe of a training image."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from data.augment.affine import Affine
from data.augment.detection import Augmentation, augmentation_of, augmented_sample, last_head
from data.augment.photometric import default_photometric
from data.augment.transforms import Geometry
from tests.contracts import assert_painted, painted_sample
from utils.cfg import load_cfg
from utils.cfg.net import Net
from utils.errors import InputError
from utils.keyed_random import keyed_rng

SAMPLES = [painted_sample((40, 50 + 5 * k), np.array([[5, 5, 25, 30], [30, 10, 45, 38]])) for k in range(6)]
EVERYTHING = Augmentation(
    0.3, 1.5, True, True, True, 0.1, 1.5, 1.5, 1, 10, 0.7, 0.5, photometric=default_photometric(strength=10)
)


def net(**keys: object) -> SimpleNamespace:
    """A [net] section with only the keys that matter here, at Darknet's defaults."""
    defaults = dict(letter_box=False, flip=True, hue=0.0, saturation=1.0, exposure=1.0, blur=0, gaussian_noise=0)
    return SimpleNamespace(**(defaults | dict(mosaic=False, mixup=0, cutmix=False, mosaic_bound=False) | keys))


YOLO = SimpleNamespace(jitter=0.3, resize=1.5, max=90)
CLOSING = replace(Net(), max_batches=10, subdivisions=2).closing  # the last half begins at mini-batch 10


def test_plain_is_a_stretch() -> None:
    sample, used = augmented_sample(SAMPLES, 2, Augmentation(), (80, 120), keyed_rng(0))
    assert used == (2,) and sample.image.shape == (80, 120, 3)
    assert sample.boxes.tolist() == [[10, 10, 50, 60], [60, 20, 90, 76]]


def test_same_key_same_bytes_and_sources_stay_untouched() -> None:
    before = [sample.image.copy() for sample in SAMPLES]
    for index in range(12):
        first, used = augmented_sample(SAMPLES, index % 6, EVERYTHING, (64, 64), keyed_rng(1, index))
        second, again = augmented_sample(SAMPLES, index % 6, EVERYTHING, (64, 64), keyed_rng(1, index))
        assert used == again and index % 6 in used
        np.testing.assert_array_equal(first.image, second.image)
        np.testing.assert_array_equal(first.boxes, second.boxes)
        assert len(first.boxes) == len(first.labels) == len(first.crowd)
    for sample, image in zip(SAMPLES, before, strict=True):
        np.testing.assert_array_equal(sample.image, image)


def test_shares_of_mosaic_and_mixup() -> None:
    augmentation = Augmentation(mosaic=0.5, mixup=0.25)
    counts = [len(augmented_sample(SAMPLES, 0, augmentation, (16, 16), keyed_rng(2, k))[1]) for k in range(400)]
    # one source .75 * .5; four .75 * .5; two pictures of 1 + 1, 1 + 4, 4 + 4 sources
    assert set(counts) == {1, 2, 4, 5, 8}
    assert abs(np.mean([count in (1, 4) for count in counts]) - 0.75) < 0.07
    assert abs(np.mean([count == 1 for count in counts]) - 0.375) < 0.07


@pytest.mark.parametrize(("count", "partners"), [(1, {0}), (2, {0, 1}), (4, {0, 1, 2, 3}), (6, set(range(6)))])
def test_mosaics_take_every_other_sample_and_none_twice(count: int, partners: set[int]) -> None:
    used = [
        augmented_sample(SAMPLES[:count], 0, Augmentation(mosaic=1.0), (16, 16), keyed_rng(9, k))[1] for k in range(60)
    ]
    assert set(np.concatenate(used).tolist()) == partners
    assert all(0 in sources and len(sources) == 4 for sources in used)
    if count >= 4:
        assert all(len(set(sources)) == 4 for sources in used)
        assert len({sources.index(0) for sources in used}) == 4  # in any of the four places


@pytest.mark.parametrize(
    "changes", [{}, {"mixup": 1.0}, {"copy_paste": 1.0}, {"scale": 0.2, "translate": 0.1, "shear": 5}]
)
def test_pixels_go_where_they_are_wanted(changes: dict) -> None:
    for photometric in (None, default_photometric(strength=10)):
        augmentation = replace(EVERYTHING, **{"mixup": 0.0, "photometric": photometric} | changes)
        for k in range(8):
            wanted, used = augmented_sample(SAMPLES, k % 6, augmentation, (48, 64), keyed_rng(10, k))
            room = np.full((48, 64, 3), 7, np.uint8)
            made, again = augmented_sample(SAMPLES, k % 6, augmentation, (48, 64), keyed_rng(10, k), room)
            assert made.image is room and used == again
            np.testing.assert_array_equal(room, wanted.image)
            np.testing.assert_array_equal(made.boxes, wanted.boxes)


def test_jittered_images_pass_the_paint_test() -> None:
    for k in range(40):
        augmentation = Augmentation(jitter=0.3, resize=1.5, flip=True)
        assert_painted(augmented_sample(SAMPLES, k % 6, augmentation, (64, 96), keyed_rng(3, k))[0])


def test_a_random_choice_of_at_most_max_boxes() -> None:
    boxes = np.array([[2 * k, 0, 2 * k + 2, 20] for k in range(20)])
    many = painted_sample((40, 40), boxes[:3])
    many = type(many)(many.image, boxes.astype(np.float32), np.arange(20), np.arange(20) % 2 == 0)
    augmentation = Augmentation(max_boxes=5)
    chosen = [augmented_sample([many], 0, augmentation, (40, 40), keyed_rng(4, k))[0] for k in range(50)]
    assert all(len(sample.boxes) == 5 for sample in chosen)
    assert set(np.concatenate([sample.labels for sample in chosen])) == set(range(20))
    for sample in chosen:
        np.testing.assert_array_equal(sample.boxes[:, 0] / 2, sample.labels)
        np.testing.assert_array_equal(sample.crowd, sample.labels % 2 == 0)


@pytest.mark.parametrize(
    ("keys", "mosaic", "mixup"),
    [
        ({}, 0, 0),
        ({"mosaic": True}, 0.5, 0),
        ({"mixup": 1}, 0, 0.5),
        ({"mosaic": True, "mixup": 1}, 0.5, 0),
        ({"mixup": 2}, 0, 0),
        ({"mixup": 3}, 0.5, 0),
        ({"mixup": 4}, 0.5, 0),
        ({"mixup": 1, "cutmix": True}, 0, 0),
        ({"mixup": 3, "cutmix": True}, 0, 0),
        ({"mosaic": True, "cutmix": True}, 0.5, 0),
    ],
)
def test_cfg_tosses_a_coin_before_each_mix(keys: dict, mosaic: float, mixup: float) -> None:
    augmentation = Augmentation.from_config(net(**keys), YOLO)
    assert (augmentation.mosaic, augmentation.mixup) == (mosaic, mixup)


def test_a_flag_replaces_what_the_cfg_says_unless_nobody_gave_it() -> None:
    augmentation = Augmentation.from_config(net(mosaic=True, hue=0.1), YOLO)
    assert augmentation.with_flags(SimpleNamespace(mosaic=None, mixup=None, photometric="none")) == augmentation
    assert augmentation.with_flags(None) == augmentation
    flags = SimpleNamespace(
        mosaic=0.0, mixup=0.25, flip_vertical=True, shear=5.0, close_jitter=0.3, photometric="default", batch=8
    )
    changed = augmentation.with_flags(flags)
    assert (changed.mosaic, changed.mixup, changed.hue, changed.close_jitter) == (0, 0.25, 0.1, 0.3)
    assert changed.geometry.flip_vertical and not augmentation.geometry.flip_vertical
    assert changed.affine == Affine(shear=5.0) and changed.photometric == default_photometric()
    with pytest.raises(InputError, match="none.yaml"):
        augmentation.with_flags(SimpleNamespace(photometric="none.yaml"))


def test_the_last_head_rules_the_images() -> None:
    config = load_cfg("yolov4-tiny")
    assert last_head(config) is config.layers[-1]
    assert augmentation_of(config, SimpleNamespace(mixup=0.5)) == Augmentation.from_config(
        config.net, last_head(config)
    ).with_flags(SimpleNamespace(mixup=0.5))


def test_every_key_of_a_real_cfg_arrives() -> None:
    keys = dict(letter_box=True, flip=False, hue=0.1, saturation=1.5, exposure=1.6, blur=1, gaussian_noise=9)
    augmentation = Augmentation.from_config(net(**keys, mosaic_bound=True), YOLO)
    assert all(getattr(augmentation, key) == value for key, value in keys.items())
    assert (augmentation.jitter, augmentation.resize, augmentation.max_boxes) == (0.3, 1.5, 90)
    assert augmentation.mosaic_bound
    assert (augmentation.geometry.letter_box, augmentation.colours.exposure) == (True, 1.6)


def test_mixing_closes_at_a_mini_batch() -> None:
    augmentation = Augmentation(mosaic=0.5, mixup=0.5, close_mosaic=0.5, hue=0.1)
    assert augmentation.closed(9, CLOSING) is augmentation is augmentation.closed(19, None)
    last = augmentation.closed(10, CLOSING)
    assert (last.mosaic, last.mixup, last.hue) == (0, 0, 0.1)
    assert Augmentation(mosaic=0.5).closed(19, CLOSING).mosaic == 0.5


def test_from_a_mini_batch_on_images_are_whole() -> None:
    moving = Augmentation(0.3, 1.5, flip=True, mosaic=0.5, scale=0.5, close_mosaic=0.2, close_jitter=0.5)
    assert moving.closed(9, CLOSING) is moving
    whole, last = moving.closed(10, CLOSING), moving.closed(16, CLOSING)
    assert not whole.affine and (whole.mosaic, last.mosaic) == (0.5, 0)
    for k in range(20):
        sample = augmented_sample(SAMPLES, k % 6, last, (64, 96), keyed_rng(11, k))[0]
        stretched = cv2.resize(SAMPLES[k % 6].image, (96, 64))
        assert min(cv2.absdiff(sample.image, way).max() for way in (stretched, stretched[:, ::-1])) <= 1


def test_every_tile_has_a_colour_of_its_own() -> None:
    grey = painted_sample((40, 40), np.zeros((0, 4)))
    grey = type(grey)(np.full((40, 40, 3), 100, np.uint8), grey.boxes, grey.labels, grey.crowd)
    augmentation = Augmentation(exposure=2.0, mosaic=1.0)
    image = augmented_sample([grey], 0, augmentation, (64, 64), keyed_rng(5))[0].image
    corners = {int(image[y, x, 0]) for y in (0, 63) for x in (0, 63)}
    assert len(corners) == 4 and all(50 <= level <= 200 for level in corners)


def test_moved_mosaics_and_pictures_pass_the_paint_test() -> None:
    black = painted_sample((40, 50), np.zeros((0, 4)))
    for k in range(60):
        augmentation = Augmentation(flip=True, flip_vertical=True, mosaic=0.5, scale=0.5, translate=0.1)
        sample, used = augmented_sample([SAMPLES[k % 6], *[black] * 30], 0, augmentation, (64, 96), keyed_rng(6, k))
        if list(used).count(0) == 1:  # else there are two boxes of one colour
            assert_painted(sample, tolerance=2.0)
        assert sample.image.shape == (64, 96, 3)


def test_shares_of_copy_paste() -> None:
    free = [type(one)(one.image, one.boxes, one.labels, np.zeros(2, bool)) for one in SAMPLES]
    augmentation = Augmentation(copy_paste=0.5, close_mosaic=0.5)
    made = [augmented_sample(free, 0, augmentation, (80, 80), keyed_rng(7, k)) for k in range(300)]
    assert abs(np.mean([len(used) == 2 for _, used in made]) - 0.5) < 0.08
    more = [len(sample.boxes) - 2 for sample, used in made if len(used) == 2]
    assert {0, 1, 2} == set(more)
    assert all(len(sample.boxes) == 2 for sample, used in made if len(used) == 1)
    assert augmentation.closed(10, CLOSING).copy_paste == 0


def test_affine_and_copy_paste_keep_to_their_key() -> None:
    everything = replace(EVERYTHING, scale=0.5, translate=0.1, shear=10, copy_paste=0.7)
    for index in range(12):
        first, used = augmented_sample(SAMPLES, index % 6, everything, (64, 64), keyed_rng(8, index))
        second, again = augmented_sample(SAMPLES, index % 6, everything, (64, 64), keyed_rng(8, index))
        assert used == again
        np.testing.assert_array_equal(first.image, second.image)
        np.testing.assert_array_equal(first.boxes, second.boxes)
        assert len(first.boxes) == len(first.labels) == len(first.crowd)


@pytest.mark.parametrize(
    ("augmentation", "needed"),
    [
        (Augmentation(), (416, 608)),
        (Augmentation(jitter=0.3), (1040, 1520)),  # a crop of four tenths
        (Augmentation(resize=2.0, jitter=0.1), (1387, 2027)),  # 1 - 2 * .1 - .5
        (Augmentation(resize=0.5), (416, 608)),
        (Augmentation(scale=0.5), (624, 912)),
        (Augmentation(jitter=0.9), (41600, 60800)),
    ],
)
def test_pixels_needed_by_hand(augmentation: Augmentation, needed: tuple[int, int]) -> None:
    assert augmentation.pixels_needed((416, 608)) == needed


def test_no_crop_is_closer_than_the_closest() -> None:
    rng = np.random.default_rng(0)
    for geometry in (Geometry(0.3), Geometry(0.1, 1.5), Geometry(0.2, 0.5), Geometry(0.1, 1.5, letter_box=True)):
        crops = [geometry.sample(rng, (1000, 1000), (100, 100)) for _ in range(2000)]
        smallest = min(min(crop.width, crop.height) for crop in crops) / 1000
        assert geometry.closest - 0.002 <= smallest < geometry.closest + 0.15
