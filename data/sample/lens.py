"""What a camera does to light on its way to a JPEG: blur, exposure, noise, tone, compression."""

from __future__ import annotations

import cv2
import numpy as np

_SHARPNESS = (0.0, 1.0, 2.5, 5.0, 9.0)  # the blurs, in pixels, between which ``defocused`` mixes


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of a float32 image; a wide one is made on a smaller copy, where it costs little."""
    shrink = 1 if sigma < 2 else 2 if sigma < 5 else 4
    if shrink == 1 or min(image.shape[:2]) < 4 * shrink:
        return cv2.GaussianBlur(image, (0, 0), sigma)
    height, width = image.shape[:2]
    small = cv2.resize(image, (width // shrink, height // shrink), interpolation=cv2.INTER_AREA)
    return cv2.resize(cv2.GaussianBlur(small, (0, 0), sigma / shrink), (width, height), interpolation=cv2.INTER_LINEAR)


def defocused(image: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Blur each pixel of a float32 (H, W, 3) by about its own ``sigma`` (H, W), mixing evenly blurred copies."""
    place = np.interp(sigma, _SHARPNESS, np.arange(len(_SHARPNESS))).astype(np.float32)
    result = np.zeros_like(image)
    for index, step in enumerate(_SHARPNESS):
        weight = np.clip(1 - np.abs(place - index), 0, 1)
        if weight.any():
            result += (blurred(image, step) if step else image) * weight[..., None]
    return result


def photograph(
    image: np.ndarray, rng: np.random.Generator, *, grain: np.random.Generator | None = None, steady: bool = False
) -> np.ndarray:
    """Take the picture: exposure, white balance, vignette, blur, noise, tone curve, compression.

    Args:
        image: float32 (H, W, 3), linear RGB of any brightness.
        rng: decides the settings.
        grain: the noise of this frame, where a clip has the same settings throughout; None takes it from ``rng``.
        steady: a good camera on a stand: no shake, no missed focus, no second compression.

    Returns:
        uint8 (H, W, 3) RGB.
    """
    exposure = np.exp(rng.normal(np.log(0.24), 0.25)) / max(float(image.mean()), 1e-3)
    balance = 1 + rng.normal(0, 0.04, 3) + rng.normal(0, 0.08) * np.array([1, 0, -1])
    light = image * np.float32(exposure * balance) * _vignette(image.shape[:2], rng.uniform(0, 0.45))
    missed = rng.random() < 0.25 and not steady
    light = cv2.GaussianBlur(light, (0, 0), float(rng.uniform(0.6, 1.4) if missed else rng.uniform(0.35, 0.6)))
    if rng.random() < 0.15 and not steady:
        light = _shaken(light, rng.uniform(2, 7), rng.uniform(0, 180))
    shot, read = np.float32(rng.uniform(0, 0.02)), np.float32(rng.uniform(0, 0.006))
    noise = (grain or rng).standard_normal(light.shape, dtype=np.float32)
    light = np.maximum(light + noise * (shot * np.sqrt(light) + read), 0)
    picture = np.uint8((1 - np.exp(-1.5 * light)) ** np.float32(rng.uniform(1, 1.2) / 2.2) * 255 + 0.5)
    if rng.random() < 0.3 and not steady:  # sent round once before
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 75))]
        picture = cv2.imdecode(cv2.imencode(".jpg", picture, quality)[1], cv2.IMREAD_COLOR)
    return picture


def _vignette(size: tuple[int, int], strength: float) -> np.ndarray:
    """Brightness float32 (H, W, 1), 1 in the middle and 1 - ``strength`` in the corners."""
    y, x = np.linspace(-1, 1, size[0])[:, None], np.linspace(-1, 1, size[1])[None]
    return np.float32(1 - strength * (x**2 + y**2) / 2)[..., None]


def _shaken(light: np.ndarray, length: float, degrees: float) -> np.ndarray:
    """Motion blur along a line of ``length`` pixels."""
    side = 2 * int(length / 2) + 3
    kernel = np.zeros((side, side), np.float32)
    step = np.array([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))]) * length / 2
    ends = [np.round((side // 2 + sign * step) * 16).astype(int).tolist() for sign in (-1, 1)]
    cv2.line(kernel, *ends, 1.0, 1, cv2.LINE_8, 4)
    return cv2.filter2D(light, -1, kernel / kernel.sum())
