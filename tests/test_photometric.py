"""The albumentations pipelines: keyed, colour only, safe to load."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from data.augment.photometric import Photometric, default_photometric, load_photometric
from utils.errors import InputError, UsageError

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def step(name: str, **options: object) -> dict:
    return {"__class_fullname__": name, "p": 1.0, **options}


def write(tmp_path: Path, transform: object, name: str = "p.json") -> Path:
    path = tmp_path / name
    path.write_text(json.dumps({"transform": transform}))  # json is yaml too
    return path


def test_the_seed_alone_decides() -> None:
    pipeline = default_photometric(strength=10)
    images = [pipeline.apply(IMAGE, seed=seed) for seed in range(20)]
    again = [pipeline.apply(IMAGE, seed=seed) for seed in reversed(range(20))][::-1]
    for first, second in zip(images, again, strict=True):
        np.testing.assert_array_equal(first, second)
    assert len({image.tobytes() for image in images}) > 15
    assert all(image.shape == IMAGE.shape and image.dtype == np.uint8 for image in images)


def test_steps_are_independent_of_each_other() -> None:
    # two coins of one half: both or neither in half of the cases, not in all
    coin = {"p": 0.5}
    pipeline = Photometric(
        json.dumps({"transform": step("Compose", transforms=[step("ToGray") | coin, step("InvertImg") | coin])})
    )
    kinds = [pipeline.apply(np.full((2, 2, 3), (200, 10, 10), np.uint8), seed=seed)[0, 0] for seed in range(200)]
    grey = np.array([pixel[0] == pixel[2] for pixel in kinds])
    bright = np.array([int(pixel[2]) > 100 for pixel in kinds])  # 10 inverted is 245; grey is 67, inverted 188
    assert 0.35 < (grey == bright).mean() < 0.65


def test_default_changes_about_a_quarter() -> None:
    pipeline = default_photometric()
    changed = np.mean([(pipeline.apply(IMAGE, seed=seed) != IMAGE).any() for seed in range(400)])
    assert 0.18 < changed < 0.32
    unchanged = default_photometric(strength=0)
    assert all((unchanged.apply(IMAGE, seed=seed) == IMAGE).all() for seed in range(20))


def test_input_is_not_changed() -> None:
    image = IMAGE.copy()
    image.flags.writeable = False
    default_photometric(strength=10).apply(image, seed=1)


def test_choices(tmp_path: Path) -> None:
    assert load_photometric("none") is None
    assert load_photometric("default") == default_photometric()
    for name in ("p.json", "p.yaml"):
        pipeline = load_photometric(write(tmp_path, step("ToGray"), name))
        assert np.ptp(pipeline.apply(IMAGE, seed=0), axis=2).max() == 0


def test_what_albumentations_saves_can_be_loaded(tmp_path: Path) -> None:
    import albumentations

    compose = albumentations.Compose([albumentations.OneOf([albumentations.InvertImg(p=1)], p=1)])
    for data_format in ("json", "yaml"):
        path = tmp_path / f"saved.{data_format}"
        albumentations.save(compose, path, data_format=data_format)
        np.testing.assert_array_equal(load_photometric(path).apply(IMAGE, seed=3), 255 - IMAGE)


def test_travels_to_workers() -> None:
    pipeline = default_photometric(strength=10)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(pipeline)).apply(IMAGE, seed=7), pipeline.apply(IMAGE, seed=7)
    )


def test_what_moves_pixels_is_refused(tmp_path: Path) -> None:
    nested = step("Compose", transforms=[step("OneOf", transforms=[step("ToGray"), step("HorizontalFlip")])])
    with pytest.raises(InputError, match=r"p\.json: HorizontalFlip moves pixels"):
        load_photometric(write(tmp_path, nested))


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (step("os.system"), "albumentations cannot build it: KeyError"),
        (step("ToGray", method="no such"), "albumentations cannot build it: "),
        (step("Blur", blur_limitt=3), "albumentations cannot build it: UserWarning .*blur_limitt"),
        ({}, "albumentations cannot build it"),
        (["ToGray"], "no 'transform' in it"),
    ],
)
def test_wrong_pipelines(tmp_path: Path, transform: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_photometric(write(tmp_path, transform))


def test_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.json: No such file"):
        load_photometric(tmp_path / "gone.json")
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    with pytest.raises(InputError, match=r"bad\.json: Expecting"):
        load_photometric(bad)
    code = tmp_path / "bad.yaml"
    code.write_text("transform: !!python/object/apply:os.system ['true']")
    with pytest.raises(InputError, match="could not determine a constructor"):
        load_photometric(code)
    code.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        load_photometric(code)
    with pytest.raises(UsageError, match="strength=11"):
        default_photometric(strength=11)
