"""Darknet's colour augmentation: hue, saturation, exposure; blur; noise. Arrays are uint8 (H, W, 3) RGB."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from data.augment.kernels import Shift, kernels

_HUES = 256  # steps of a whole turn in OpenCV's full-range 8-bit HSV
_BACKGROUND_KERNEL = 17  # Darknet's Gaussian when only the background is blurred


@dataclass(frozen=True)
class Colour:
    """One draw of the colour augmentation.

    Attributes:
        hue: turn of the colour circle, 1 being a whole turn.
        saturation, exposure: factors of HSV's S and V.
        blur: Gaussian kernel size, odd; 0 is none.
        blur_background: leave the pixels inside boxes sharp.
        noise: standard deviation in grey levels; only brightens, as Darknet's does.
        noise_seed: of the noise alone, so that a draw needs no image.
    """

    hue: float = 0.0
    saturation: float = 1.0
    exposure: float = 1.0
    blur: int = 0
    blur_background: bool = False
    noise: int = 0
    noise_seed: int = 0

    @property
    def shift(self) -> Shift | None:
        """What `shift_hsv` takes, None where it would change nothing."""
        changes = self.hue or self.saturation != 1 or self.exposure != 1
        return (self.hue, self.saturation, self.exposure) if changes else None


NO_CHANGE = Colour()


@dataclass(frozen=True)
class ColourRange:
    """The cfg's [net] keys ``hue``, ``saturation``, ``exposure``, ``blur`` and ``gaussian_noise``."""

    hue: float = 0.0
    saturation: float = 1.0
    exposure: float = 1.0
    blur: int = 0
    gaussian_noise: int = 0

    def sample(self, rng: np.random.Generator) -> Colour:
        """Draw as Darknet's load_data_detection does; factors are U(1, limit) or the reciprocal, half and half."""
        turn, *draws = rng.random(5).tolist()  # all at once, as each call costs as much
        hue = self.hue * (2 * turn - 1)
        saturation, exposure = _factor(self.saturation, *draws[:2]), _factor(self.exposure, *draws[2:])
        blur, background = 0, False
        if self.blur:
            kind = int(rng.integers(3))
            background = kind == 1
            blur = (0, _BACKGROUND_KERNEL, self.blur // 2 * 2 + 1)[kind]
        noise = min(self.gaussian_noise, 127) if self.gaussian_noise and rng.random() < 0.5 else 0
        noise_seed = int(rng.integers(2**63)) if noise else 0
        return Colour(hue, saturation, exposure, blur, background, noise, noise_seed)


def apply_colour(image: np.ndarray, boxes: np.ndarray, colour: Colour) -> None:
    """Change ``image`` in place (it may be a window of a larger one) in Darknet's order: HSV, blur, noise.

    Args:
        boxes: (N, 4) xyxy pixels of ``image``; they stay sharp or limit the blur, see :class:`Colour`.
    """
    if image.size == 0:
        return
    if colour.shift:
        shift_hsv(image, *colour.shift)
    blur_and_noise(image, boxes, colour)


def blur_and_noise(image: np.ndarray, boxes: np.ndarray, colour: Colour) -> None:
    """What `apply_colour` does after HSV."""
    if colour.blur > 1:
        blur(image, boxes, colour.blur, background=colour.blur_background)
    if colour.noise:
        add_noise(image, np.random.default_rng(colour.noise_seed), colour.noise)


def shift_hsv(image: np.ndarray, hue: float, saturation: float, exposure: float) -> None:
    """Turn the hue and scale saturation and value, in place, in float as Darknet does where the kernel compiles.

    The hue wraps, as in Darknet's build without OpenCV; its OpenCV build stops at red instead, which paints everything
    slightly orange or yellow red when the turn is negative.
    """
    made = kernels()
    shift = _shift_8_bit_hsv if made is None else made.shift_hsv
    shift(image, hue, saturation, exposure)


def _shift_8_bit_hsv(image: np.ndarray, hue: float, saturation: float, exposure: float) -> None:
    """`shift_hsv` on the planes of OpenCV's 8-bit HSV, a few grey levels off.

    The hue has 256 steps: bytes that overflow are then the turn past red, and each plane takes one pass, where look-up
    tables took longer than the conversions.
    """
    hues, saturations, values = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL))
    np.add(hues, round(hue * _HUES) % _HUES, out=hues)
    cv2.convertScaleAbs(saturations, saturations, saturation)
    cv2.convertScaleAbs(values, values, exposure)
    cv2.cvtColor(cv2.merge((hues, saturations, values)), cv2.COLOR_HSV2RGB_FULL, image)


def blur(image: np.ndarray, boxes: np.ndarray, kernel: int, *, background: bool) -> None:
    """Gaussian blur in place, of the background only or of everything.

    Blurring everything is limited to an eighth of the smallest box side, so that small objects survive (blur_image).
    """
    corners = np.clip(boxes, 0, [image.shape[1], image.shape[0]] * 2).astype(np.int64)
    if not background and len(boxes):
        smallest = int((boxes[:, 2:] - boxes[:, :2]).min())
        kernel = min(kernel, smallest // 8 // 2 * 2 + 1)
    if kernel <= 1:
        return
    blurred = cv2.GaussianBlur(image, (kernel, kernel), 0)
    if background:
        for left, top, right, bottom in corners:
            blurred[top:bottom, left:right] = image[top:bottom, left:right]
    image[:] = blurred


def add_noise(image: np.ndarray, rng: np.random.Generator, deviation: float) -> None:
    """Add the positive half of Gaussian noise, in place: Darknet draws it as unsigned bytes, which drops the other."""
    noise = rng.standard_normal(image.shape, np.float32) * np.float32(deviation)
    image[:] = cv2.add(np.ascontiguousarray(image), np.clip(np.rint(noise), 0, 255).astype(np.uint8))


def draw_factor(rng: np.random.Generator, limit: float) -> float:
    """U(1, limit) or its reciprocal, half and half; ``limit`` and 1 / ``limit`` mean the same (rand_scale)."""
    return _factor(limit, *rng.random(2).tolist())


def _factor(limit: float, size: float, side: float) -> float:
    """`draw_factor` with two draws in [0, 1)."""
    limit = max(limit, 1 / limit) if limit > 0 else 1.0
    factor = 1 + (limit - 1) * size
    return factor if side < 0.5 else 1 / factor
