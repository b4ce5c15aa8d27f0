"""Colour changes of the finished training image through albumentations: pixels change, nothing moves.

A pipeline is kept as albumentations' own serialized form, a plain dictionary: it travels to worker processes, can be
written by hand as json or yaml, and runs no code of its own. albumentations is imported only where a pipeline is used.
"""

from __future__ import annotations

import functools
import json
import os
import random
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import yaml

from utils.errors import InputError, UsageError
from utils.image import printable

_CONTAINERS = ("Compose", "Sequential", "OneOf", "SomeOf", "RandomOrder")


@dataclass(frozen=True)
class Photometric:
    """A checked pipeline; ``text`` is its json, so that equal pipelines are equal."""

    text: str

    def apply(self, image: np.ndarray, *, seed: int) -> np.ndarray:
        """Change uint8 (H, W, 3) RGB: same image and seed, same bytes. The input is left as it is."""
        compose = _compose(self.text)
        # one stream for all steps: set_random_seed gives each step the same one, and then all act at once or none
        compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        return compose(image=image)["image"]


def default_photometric(strength: float = 1.0) -> Photometric:
    """What cameras and codecs do to pictures, each seldom: a quarter of the images is changed at all.

    The probabilities: blur or median blur .01, grey .01, local contrast (CLAHE) .01, brightness and contrast by up to
    20 % .1, gamma .05, JPEG compression to a quality of 40 to 90 .1. Noise is left out, it costs more than all of them.

    Args:
        strength: factor on all the probabilities, 0 to 10.

    Raises:
        UsageError: a strength outside.
    """
    if not 0 <= strength <= 10:
        raise UsageError(f"strength={strength}: the probabilities of photometric changes are scaled by 0 to 10")
    steps: list[dict[str, Any]] = [
        _step("OneOf", 0.01, transforms=[_step("Blur", 1.0), _step("MedianBlur", 1.0)]),
        _step("ToGray", 0.01),
        _step("CLAHE", 0.01),
        _step("RandomBrightnessContrast", 0.1, brightness_limit=[-0.2, 0.2], contrast_limit=[-0.2, 0.2]),
        _step("RandomGamma", 0.05, gamma_limit=[80, 120]),
        _step("ImageCompression", 0.1, quality_range=[40, 90]),
    ]
    for step in steps:
        step["p"] = min(1.0, step["p"] * strength)
    return _checked(_step("Compose", 1.0, transforms=steps), "the default pipeline")


def load_photometric(choice: str | Path) -> Photometric | None:
    """The pipeline a ``--photometric`` flag names: ``none``, ``default``, or a json or yaml file.

    The file is what ``albumentations.save`` writes: ``{"transform": {"__class_fullname__": "Compose", ...}}``.

    Raises:
        InputError: no such file, or not a pipeline that changes colours only.
    """
    if str(choice) == "none":
        return None
    if str(choice) == "default":
        return default_photometric()
    path, where = Path(choice), printable(choice)
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(f"{where}: {reason} (wanted 'none', 'default', or a json or yaml file)") from None
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{where}: {' '.join(str(error).split())} (wanted what albumentations.save writes)") from None
    if not isinstance(content, Mapping) or not isinstance(content.get("transform"), Mapping):
        raise InputError(f"{where}: no 'transform' in it (wanted what albumentations.save writes)")
    return _checked(content["transform"], where)


def _step(name: str, probability: float, **options: Any) -> dict[str, Any]:
    return {"__class_fullname__": name, "p": probability, **options}


def _checked(transform: Mapping[str, Any], where: str) -> Photometric:
    """Build the pipeline once to see that it can be, and that no step of it moves pixels."""
    text = json.dumps({"transform": transform})
    try:
        compose = _compose(text)
    except Exception as error:  # whatever a constructor makes of a wrong option
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{where}: albumentations cannot build it: {type(error).__name__} {reason}") from None
    for step in _steps(compose):
        if not isinstance(step, _albumentations().ImageOnlyTransform):
            raise InputError(f"{where}: {type(step).__name__} moves pixels, the boxes would not follow; take it out")
    return Photometric(text)


@functools.lru_cache(maxsize=4)
def _compose(text: str) -> Any:
    albumentations = _albumentations()
    transform = json.loads(text)["transform"]
    if transform.get("__class_fullname__") != "Compose":
        transform = {"__class_fullname__": "Compose", "p": 1.0, "transforms": [transform]}
    with warnings.catch_warnings():  # an option it does not know is only a warning there; here it would go unseen
        warnings.simplefilter("error", UserWarning)
        return albumentations.from_dict({"transform": transform})


def _steps(transform: Any) -> Iterator[Any]:
    """The transforms of a pipeline, without the containers that hold them."""
    if type(transform).__name__ in _CONTAINERS:
        for inner in transform.transforms:
            yield from _steps(inner)
    else:
        yield transform


def _albumentations() -> ModuleType:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the internet for a newer version
    import albumentations

    return albumentations
