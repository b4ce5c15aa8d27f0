"""Decoding of every format, EXIF, damage, and Darknet's resize."""

from __future__ import annotations

import contextlib
import io
import os
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from utils import image as image_module
from utils.errors import ImageError, UsageError
from utils.image import (
    decode_image,
    image_size,
    letterbox_of,
    network_input,
    printable,
    read_bytes,
    read_image,
    reduced,
    write_image,
)

LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}}
FORMATS = {"JPEG": {"quality": 95, "subsampling": 0}, **LOSSLESS, "BMP": {}, "GIF": {}, "PPM": {}}


def picture(height: int = 24, width: int = 36) -> np.ndarray:
    """Four flat quarters, distinct under every flip and turn."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = (250, 10, 10)
    image[: height // 2, width // 2 :] = (10, 240, 10)
    image[height // 2 :, : width // 2] = (10, 10, 230)
    image[height // 2 :, width // 2 :] = (200, 200, 20)
    return image


def encoded(image: Image.Image, format_: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def file_of(tmp_path: Path, data: bytes, name: str = "x.bin") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("format_", FORMATS)
def test_formats(format_: str, tmp_path: Path) -> None:
    data = encoded(Image.fromarray(picture()), format_, **FORMATS[format_])
    decoded = decode_image(data)
    assert decoded.dtype == np.uint8 and decoded.flags.c_contiguous and decoded.flags.writeable
    assert np.abs(decoded.astype(int) - picture()).mean() < 2
    assert image_size(file_of(tmp_path, data)) == (24, 36)


def stored_for(orientation: int, upright: np.ndarray) -> np.ndarray:
    """The pixels a camera stores so that ``orientation`` turns them into ``upright`` (EXIF 2.32, table 6)."""
    turns = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],  # mirrored
        3: lambda a: a[::-1, ::-1],  # upside down
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),  # shown after a quarter turn clockwise
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    return np.ascontiguousarray(turns[orientation](upright))


@pytest.mark.parametrize("format_", ["JPEG", *LOSSLESS])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(format_: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(stored_for(orientation, picture()))
    data = encoded(stored, format_, exif=exif, **FORMATS[format_])
    assert np.abs(decode_image(data).astype(int) - picture()).mean() < 2
    assert image_size(file_of(tmp_path, data)) == (24, 36)


def test_broken_exif_leaves_the_pixels() -> None:
    data = encoded(Image.fromarray(picture()), "JPEG", exif=b"Exif\0\0" + b"\xff" * 40)
    assert decode_image(data).shape == (24, 36, 3)


def test_grey_jpeg_and_png() -> None:
    grey = Image.fromarray(picture()[..., 0])
    for format_ in ("JPEG", "PNG"):
        decoded = decode_image(encoded(grey, format_))
        assert np.abs(decoded.astype(int) - picture()[..., :1]).mean() < 2


def test_cmyk_jpeg_agrees_with_pillow() -> None:
    data = encoded(Image.fromarray(picture()).convert("CMYK"), "JPEG", quality=95)
    wanted = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode_image(data), wanted)
    assert np.abs(wanted.astype(int) - picture()).mean() < 6


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped_not_blended(mode: str) -> None:
    image = Image.fromarray(picture()).convert(mode)
    wanted = np.asarray(image.convert("RGBA"))[..., :3]
    image.putalpha(Image.fromarray(np.tile(np.arange(36, dtype=np.uint8), (24, 1))))
    np.testing.assert_array_equal(decode_image(encoded(image, "PNG")), wanted)


def test_palette_with_transparency() -> None:
    image = Image.fromarray(picture()).convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    wanted = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decode_image(encoded(image, "PNG", transparency=0)), wanted)
    np.testing.assert_array_equal(decode_image(encoded(image, "PNG", transparency=b"\x10\x20\x30\x40")), wanted)


def test_one_bit_image() -> None:
    decoded = decode_image(encoded(Image.fromarray(picture()).convert("1"), "PNG"))
    assert set(np.unique(decoded)) == {0, 255}


@pytest.mark.parametrize("format_", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_not_clipped(format_: str) -> None:
    values = np.array([[0, 255, 256, 0x8000, 0xFFFF]], np.uint16)
    decoded = decode_image(encoded(Image.fromarray(values), format_))
    assert decoded[0, :, 0].tolist() == [0, 0, 1, 128, 255]


def test_16_bit_colour_is_scaled_not_clipped() -> None:
    values = np.array([[[0, 256, 0xFFFF], [0x8000, 0x1234, 511]]], np.uint16)
    _, data = cv2.imencode(".png", values[..., ::-1])
    assert decode_image(data.tobytes())[0].tolist() == [[0, 1, 255], [128, 0x12, 1]]


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(format_: str) -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (0, 255)]
    data = encoded(frames[0], format_, save_all=True, append_images=frames[1:])
    assert decode_image(data).max() <= 1


def test_float_and_32_bit_images_are_refused() -> None:
    with pytest.raises(ImageError, match=r"f\.tif: float samples"):
        decode_image(encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"), source="f.tif")
    with pytest.raises(ImageError, match="32-bit samples"):
        decode_image(encoded(Image.fromarray(np.full((2, 2), 70000, np.int32)), "TIFF"))


def test_no_image() -> None:
    with pytest.raises(ImageError, match=r"a\.jpg: empty file"):
        decode_image(b"", source="a.jpg")
    with pytest.raises(ImageError, match=r"a\.jpg: not an image"):
        decode_image(b"this is text, not a picture", source="a.jpg")
    with pytest.raises(ImageError, match=r"a\.jpg: "):
        decode_image(b"\xff\xd8\xff\xe0 text with a JPEG's first bytes", source="a.jpg")


@pytest.mark.parametrize("format_", FORMATS)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_cut_short(format_: str, data: st.DataObject) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (24, 36, 3), np.uint8)
    whole = encoded(Image.fromarray(noise), format_, **FORMATS[format_])
    cut = whole[: data.draw(st.integers(0, int(len(whole) * 0.9)))]
    with pytest.raises(ImageError, match="cut me: "):
        decode_image(cut, source="cut me")


@pytest.mark.parametrize("format_", FORMATS)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_flipped_bits_give_an_image_or_an_image_error(format_: str, data: st.DataObject) -> None:
    content = bytearray(encoded(Image.fromarray(picture()), format_, **FORMATS[format_]))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(ImageError):
        assert decode_image(bytes(content)).ndim == 3


def test_half_a_jpeg_is_an_error_not_half_an_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = encoded(Image.fromarray(rng.integers(0, 255, (200, 300, 3), np.uint8)), "JPEG")
    with pytest.raises(ImageError, match=r"half\.jpg: JPEG data is corrupt or cut short"):
        read_image(file_of(tmp_path, whole[: len(whole) // 2], "half.jpg"))


def test_decompression_bomb_is_refused_from_its_header(tmp_path: Path) -> None:
    jpeg = bytearray(encoded(Image.fromarray(picture()), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"  # 65535 x 65535
    png = bytearray(encoded(Image.fromarray(picture()), "PNG"))
    png[16:24] = (30_000).to_bytes(4, "big") * 2
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    bmp = bytearray(encoded(Image.fromarray(picture()), "BMP"))
    bmp[18:26] = (30_000).to_bytes(4, "little") * 2
    for data in (jpeg, png, bmp):
        with pytest.raises(ImageError, match="pixels"):
            decode_image(bytes(data))
        with pytest.raises(ImageError, match="pixels"):
            image_size(file_of(tmp_path, bytes(data)))


def test_large_image_below_the_limit_does_not_warn() -> None:
    data = encoded(Image.new("1", (10_000, 9_000)), "PNG")  # Pillow would warn above 89 million pixels
    with image_module._pillow(data, "large.png") as image:
        assert image.size == (10_000, 9_000)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path, tmp_path / "pipe.jpg"):
        with pytest.raises(ImageError, match="not a regular file"):
            read_image(path)
    with pytest.raises(ImageError, match=r"gone\.jpg: cannot be read: No such file"):
        read_bytes(tmp_path / "gone.jpg")
    with pytest.raises(ImageError, match="cannot be read: "):
        read_bytes("nul\0byte")
    with pytest.raises(ImageError, match="empty file"):
        image_size(file_of(tmp_path, b""))


def test_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 \xf0\x9f\x98\x80 -x.png"))
    write_image(path, picture())
    np.testing.assert_array_equal(read_image(path), picture())
    assert image_size(path) == (24, 36)
    path.write_bytes(b"broken")
    with pytest.raises(ImageError, match=r"caf\\xe9 😀 -x\.png: not an image"):
        read_image(path)
    assert printable(b"\xff.jpg".decode("utf-8", "surrogateescape")) == r"\xff.jpg"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".JPG"])
def test_write_then_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    write_image(path, picture())
    assert np.abs(read_image(path).astype(int) - picture()).mean() < 6
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_write_refuses_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"out\.xyz: cannot write \.xyz"):
        write_image(tmp_path / "out.xyz", picture())


def test_resize_agrees_with_darknet(darknet_golden: Path) -> None:
    golden = np.load(darknet_golden / "forward" / "resize.npz")
    image = golden["input"].transpose(1, 2, 0)
    cases = [key for key in golden if key != "input"]
    assert cases
    for key in cases:
        kind, wh = key.split("_")
        width, height = map(int, wh.split("x"))
        found, _ = network_input(image, (height, width), letterbox=kind == "letterbox")
        np.testing.assert_allclose(found, golden[key], atol=1e-6, err_msg=key)


def test_letterbox_by_hand() -> None:
    # 640x480 into 608x608: scale .95, 456 rows, so 76 above and below
    pixels, placed = network_input(np.full((480, 640, 3), 255, np.uint8), (608, 608), letterbox=True)
    assert (placed.scale_x, placed.scale_y, placed.left, placed.top) == (0.95, 0.95, 0, 76)
    assert (pixels[:, :76] == 0.5).all() and (pixels[:, 532:] == 0.5).all()
    assert pixels[:, 76:532] == pytest.approx(1, abs=1e-6)  # two weights that add up to one, rounded


def test_odd_padding_has_its_larger_half_behind() -> None:
    # 1x4 into 4x4: one column; of the three others one is left of it, (4 - 1) div 2
    pixels, placed = network_input(np.full((4, 1, 3), 255, np.uint8), (4, 4), letterbox=True)
    assert (pixels[0, 0].tolist(), placed.left) == ([0.5, 1, 0.5, 0.5], 1.5)
    pixels, placed = network_input(np.full((1, 4, 3), 255, np.uint8), (4, 4), letterbox=True)
    assert (pixels[0, :, 0].tolist(), placed.top) == ([0.5, 1, 0.5, 0.5], 1.5)


def test_stretch_by_hand() -> None:
    _, placed = network_input(np.zeros((480, 640, 3), np.uint8), (608, 416), letterbox=False)
    assert (placed.scale_x, placed.scale_y, placed.left, placed.top) == (0.65, 608 / 480, 0, 0)


@settings(deadline=None, max_examples=100)
@given(
    original=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    size=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    letterbox=st.booleans(),
)
def test_letterbox_fits_and_undoes_itself(original: tuple, size: tuple, letterbox: bool) -> None:
    placed = letterbox_of(original, size, letterbox=letterbox)
    image = torch.tensor([[0.0, 0.0, original[1], original[0]]], dtype=torch.float64)
    inside = placed.apply(image)
    assert inside.min() >= -1e-9 and inside[0, 2] <= size[1] + 1e-9 and inside[0, 3] <= size[0] + 1e-9
    torch.testing.assert_close(placed.undo(inside), image)


def test_extreme_strip_keeps_a_pixel() -> None:
    pixels, placed = network_input(np.zeros((1, 20_000, 3), np.uint8), (32, 32), letterbox=True)
    assert pixels.shape == (3, 32, 32) and placed.scale_y == 1


def test_input_is_not_changed() -> None:
    image = picture()
    network_input(image, (24, 36), letterbox=False)[0][:] = 0
    np.testing.assert_array_equal(image, picture())


@pytest.mark.parametrize("reduction", [2, 4, 8])
@pytest.mark.parametrize(("format_", "size"), [("JPEG", (97, 131)), ("JPEG", (96, 128)), ("PNG", (97, 131))])
def test_a_reduced_image_is_a_smaller_one_of_the_same(reduction: int, format_: str, size: tuple[int, int]) -> None:
    x, y = np.arange(size[1]) / size[1], np.arange(size[0])[:, None] / size[0]
    image = np.stack([255 * x + 0 * y, 255 * y + 0 * x, 127 * (x + y)], axis=2).astype(np.uint8)
    data = encoded(Image.fromarray(image), format_)
    smaller = decode_image(data, reduction=reduction)
    assert smaller.shape[:2] == reduced(size, reduction) and smaller.flags.c_contiguous
    # pixel (y, x) shows source pixels r * y to r * y + r - 1: no shift, no scale
    inner = [side // reduction for side in size]
    means = image[: inner[0] * reduction, : inner[1] * reduction].reshape(inner[0], reduction, inner[1], reduction, 3)
    assert np.abs(smaller[: inner[0], : inner[1]] - means.mean(axis=(1, 3))).mean() < 2.5


def test_a_reduced_image_is_upright_and_whole() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(stored_for(6, picture(48, 80))), "JPEG", exif=exif, **FORMATS["JPEG"])
    assert np.abs(decode_image(data, reduction=2).astype(int) - picture(24, 40)).mean() < 2
    with pytest.raises(ImageError, match="corrupt or cut short"):
        decode_image(data[: len(data) // 2], reduction=2)
