"""Image files to RGB arrays and back, and the resize Darknet feeds its networks with.

What the decoder makes of a file: 8-bit RGB, the first frame, alpha dropped (not blended), 16-bit samples scaled to 8,
EXIF orientation applied once. OpenCV decodes grey and RGB JPEG, Pillow everything else. OpenCV never sees a path: on a
name that is not UTF-8 it dies with a segmentation fault.
"""

from __future__ import annotations

import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from utils.atomic import atomic_write
from utils.errors import ImageError, UsageError
from utils.structures import Letterbox, Size

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp", ".gif"})
MAX_PIXELS = 178_956_970  # a file that claims more is taken for a decompression bomb (Pillow's own limit)

_HEADER = 1 << 16  # bytes that hold the header of nearly every JPEG
_QUALITY_SETTING = {
    ".jpg": cv2.IMWRITE_JPEG_QUALITY,
    ".jpeg": cv2.IMWRITE_JPEG_QUALITY,
    ".webp": cv2.IMWRITE_WEBP_QUALITY,
}
_JPEG_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_REDUCTION_FLAGS = {  # what makes a flag of colour one of reduced colour
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
_ORIENTATION = 0x0112  # EXIF tag
_PILLOW_WARNINGS = threading.Lock()  # warnings.catch_warnings changes state of the whole process


def printable(path: str | Path) -> str:
    r"""``path`` for messages and text files: bytes that are not UTF-8 appear as ``\xff``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def read_image(path: str | Path, *, reduction: int = 1) -> np.ndarray:
    """Decode an image file to uint8 (H, W, 3) RGB; raises ImageError as :func:`decode_image` does."""
    return decode_image(read_bytes(path), source=printable(path), reduction=reduction)


def read_bytes(path: str | Path, *, limit: int = -1) -> bytes:
    """The content of a regular file, or its first ``limit`` bytes; a pipe or a device would block and is refused.

    Raises:
        ImageError: missing, unreadable or not a regular file.
    """
    path = path if isinstance(path, Path) else Path(path)  # parsing a path again costs more than its stat
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError(f"{printable(path)}: not a regular file (wanted an image file)")
        with path.open("rb") as file:
            return file.read(limit)
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"{printable(path)}: cannot be read: {reason}; check the path") from None


def decode_image(data: bytes, *, source: str = "<bytes>", reduction: int = 1) -> np.ndarray:
    """Decode the bytes of an image file to uint8 (H, W, 3) RGB.

    Args:
        source: the file's name for messages.
        reduction: 2, 4 or 8 makes the image so many times smaller, see :func:`reduced`. Of a JPEG the decoder leaves
            out the fine frequencies, which takes a third to two thirds of the time; other formats are averaged.

    Raises:
        ImageError: no image, cut short, corrupt, above ``MAX_PIXELS``, or of samples without a known range (float).
    """
    if not data:
        raise ImageError(f"{source}: empty file (wanted an image)")
    frame = _jpeg_frame(data)
    if frame is None:
        image = _decode_with_pillow(data, source)
        return image if reduction == 1 else _averaged(image, reduction)
    size, orientation = frame
    _check_pixels(size, source)
    decoded = _decode_jpeg(data, reduction)
    if decoded is None or decoded.shape[:2] != reduced(size, reduction):
        raise ImageError(f"{source}: JPEG data is corrupt or cut short; replace the file")
    return np.ascontiguousarray(_upright(decoded, orientation))


def reduced(size: Size, reduction: int) -> Size:
    """(H, W) of an image of ``size`` decoded ``reduction`` times smaller; part of a pixel at the rim is a whole one."""
    return -(-size[0] // reduction), -(-size[1] // reduction)


def image_size(path: str | Path) -> Size:
    """(H, W) of an image file as :func:`read_image` would return it, from the header where the format allows it.

    Raises:
        ImageError: as :func:`decode_image`, but damage behind the header goes unseen.
    """
    source = printable(path)
    data = read_bytes(path, limit=_HEADER)
    if not data:
        raise ImageError(f"{source}: empty file (wanted an image)")
    frame = _jpeg_frame(data)
    if frame is None:
        data = read_bytes(path)
        with _pillow(data, source) as image:
            size = (image.height, image.width)
            # Pillow has turned the size of a TIFF already
            turned = image.format != "TIFF" and image.getexif().get(_ORIENTATION, 1) >= 5
    else:
        size, turned = frame[0], frame[1] >= 5
    _check_pixels(size, source)
    return size[::-1] if turned else size


def write_image(path: str | Path, image: np.ndarray, *, quality: int = 95) -> None:
    """Write uint8 (H, W, 3) RGB to ``path`` atomically; the suffix names the format (.jpg, .png, .webp, .bmp, .tiff).

    Args:
        quality: of JPEG and WebP, 1 to 100.

    Raises:
        UsageError: OpenCV cannot write that format.
        EnvironmentFault: the disk refused.
    """
    path = Path(path)
    if not cv2.haveImageWriter(f"x{path.suffix.lower()}"):
        raise UsageError(f"{printable(path)}: cannot write {path.suffix or 'a file without suffix'}; use .jpg or .png")
    setting = _QUALITY_SETTING.get(path.suffix.lower())  # OpenCV warns of a setting that a format does not have
    options = [] if setting is None else [setting, quality]
    done, encoded = cv2.imencode(path.suffix.lower(), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    assert done, "imencode refused an image of a format it has a writer for"
    with atomic_write(path) as file:
        file.write(encoded.tobytes())


def letterbox_of(original_size: Size, size: Size, *, letterbox: bool) -> Letterbox:
    """How Darknet lays an image of ``original_size`` into a network input of ``size``, both (H, W).

    With ``letterbox`` the side that decides fills the input and the other is ``side * target // source`` in integers
    (letterbox_image). The offset is the half that Darknet undoes with, so x.5 where the pixels lie at x.
    """
    (in_height, in_width), (height, width) = original_size, size
    new_height, new_width = _fitted(original_size, size) if letterbox else size
    return Letterbox(
        scale_x=new_width / in_width,
        scale_y=new_height / in_height,
        left=(width - new_width) / 2,
        top=(height - new_height) / 2,
        size=size,
        original_size=original_size,
    )


def network_input(image: np.ndarray, size: Size, *, letterbox: bool) -> tuple[np.ndarray, Letterbox]:
    """Resize an image as Darknet's inference does (resize_image, letterbox_image).

    Args:
        image: (H, W, 3) RGB, uint8, or float32 in [0, 1].
        size: (H, W) of the network input.
        letterbox: keep the aspect ratio and fill with .5, else stretch.

    Returns:
        float32 (3, H, W) in [0, 1], and the way back to original pixels.
    """
    placed = letterbox_of(image.shape[:2], size, letterbox=letterbox)
    if not letterbox:
        return _resize_align_corners(image, size), placed
    new_height, new_width = _fitted(image.shape[:2], size)
    top, left = (size[0] - new_height) // 2, (size[1] - new_width) // 2
    canvas = np.full((3, *size), 0.5, np.float32)
    canvas[:, top : top + new_height, left : left + new_width] = _resize_align_corners(image, (new_height, new_width))
    return canvas, placed


def _resize_align_corners(image: np.ndarray, size: Size) -> np.ndarray:
    """(H, W, 3) to float32 (3, h, w) in [0, 1]; the centres of corner pixels map to centres of corner pixels."""
    # Pillow hands out read-only arrays, at which torch warns: they are copied.
    pixels = torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)[None].float()  # (1, 3, H, W)
    if image.shape[:2] != size:
        pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=True)
    if image.dtype == np.uint8:
        pixels = pixels / 255
    return pixels[0].contiguous().numpy()


def _fitted(original_size: Size, size: Size) -> Size:
    """The size of the letterboxed image, by integer division; never 0, which Darknet makes of extreme strips."""
    (in_height, in_width), (height, width) = original_size, size
    if width / in_width < height / in_height:
        return max(1, in_height * width // in_width), width
    return height, max(1, in_width * height // in_height)


def _jpeg_frame(data: bytes) -> tuple[Size, int] | None:
    """(H, W) as stored and the EXIF orientation, of a grey or RGB 8-bit JPEG; None for whatever else."""
    if data[:2] != b"\xff\xd8":
        return None
    position, exif = 2, b""
    while position + 10 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        body = position + 4
        if marker == 0xE1 and data[body : body + 6] == b"Exif\0\0":
            exif = exif or data[body : position + 2 + length]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            precision, components = data[body], data[body + 5]
            size = (int.from_bytes(data[body + 1 : body + 3], "big"), int.from_bytes(data[body + 3 : body + 5], "big"))
            usual = precision == 8 and components in (1, 3) and 0 not in size
            return (size, _exif_orientation(exif)) if usual else None
        position += 2 + length
    return None


def _exif_orientation(exif: bytes) -> int:
    """The orientation, 1 to 8, in an EXIF block; 1 where there is none or it is broken."""
    if not exif:
        return 1
    parsed = Image.Exif()
    try:
        with _quiet_pillow():
            parsed.load(exif)
            orientation = parsed.get(_ORIENTATION, 1)
    except Exception:  # a broken EXIF block does not spoil the pixels, and Pillow raises a dozen types on it
        return 1
    return orientation if orientation in range(1, 9) else 1


def _decode_jpeg(data: bytes, reduction: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), _JPEG_FLAGS | _REDUCTION_FLAGS[reduction])
    except cv2.error:
        return None


def _averaged(image: np.ndarray, reduction: int) -> np.ndarray:
    """The means of ``reduction`` x ``reduction`` pixels; those missing at the right and below repeat the rim."""
    height, width = reduced(image.shape[:2], reduction)
    below, right = height * reduction - image.shape[0], width * reduction - image.shape[1]
    image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels upright; ``orientation`` is EXIF's, 1 to 8."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Damaged metadata and large images make Pillow warn; the size is checked here, the rest shows in the pixels."""
    with _PILLOW_WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _pillow(data: bytes, source: str) -> Iterator[Image.Image]:
    """An image opened by Pillow; what goes wrong inside becomes an ImageError, whatever type the codec raises."""
    try:
        with _quiet_pillow(), Image.open(io.BytesIO(data)) as image:
            yield image
    except ImageError:
        raise
    except Image.UnidentifiedImageError:
        raise ImageError(f"{source}: not an image, or of a format that is not known; remove it from the list") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{source}: more than {MAX_PIXELS:,} pixels; scale the image down") from None
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ImageError(f"{source}: cannot be decoded: {reason}; replace the file") from None


def _decode_with_pillow(data: bytes, source: str) -> np.ndarray:
    with _pillow(data, source) as image:
        _check_pixels((image.height, image.width), source)
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image), source)


def _to_rgb(image: Image.Image, source: str) -> np.ndarray:
    """uint8 (H, W, 3) from any Pillow mode."""
    if image.mode.startswith("I"):  # I;16 and its byte orders; I is 16-bit PGM and 32-bit TIFF
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 0xFFFF:
            raise ImageError(f"{source}: 32-bit samples (wanted 8 or 16 bits); convert the image")
        return np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode == "F":
        raise ImageError(f"{source}: float samples have no known range (wanted 8 or 16 bits); convert the image")
    if image.mode == "P":  # through RGBA, where a palette with transparency keeps its colours
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def _check_pixels(size: Size, source: str) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageError(f"{source}: {size[1]}x{size[0]} pixels (at most {MAX_PIXELS:,}); scale the image down")
