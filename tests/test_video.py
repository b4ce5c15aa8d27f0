from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pytest

import utils.video
from utils.errors import EnvironmentFault
from utils.video import VideoWriter, find_encoder, fit_frame

REPO = Path(__file__).resolve().parents[1]


def picture(index: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Grey that tells the frame's number, with a bright bar on top."""
    image = np.full((height, width, 3), 40 + 4 * index, np.uint8)
    image[: height // 4] = 250
    return image


class Video(NamedTuple):
    """What a file holds; taken before it is closed, as FFmpeg frees its streams then."""

    images: list[np.ndarray]
    times: list[Fraction]
    rate: Fraction | None
    frames: int
    codec: str
    pixel_format: str | None
    pixel_aspect: Fraction | None


def read(path: Path) -> Video:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        stream = container.streams.video[0]
        return Video(
            images=[frame.to_ndarray(format="rgb24") for frame in frames],
            times=[frame.pts * frame.time_base for frame in frames],
            rate=stream.average_rate,
            frames=stream.frames,
            codec=stream.codec.name,
            pixel_format=stream.codec_context.pix_fmt,
            pixel_aspect=stream.sample_aspect_ratio,
        )


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(25, 2), Fraction(30000, 1001), Fraction(1, 2), Fraction(240)])
def test_every_frame_at_its_time(tmp_path: Path, rate: Fraction) -> None:
    path = tmp_path / "out.mp4"
    with VideoWriter(path, rate) as writer:
        for index in range(37):
            writer.write(picture(index))
    video = read(path)
    assert [round((float(image[40].mean()) - 40) / 4) for image in video.images] == list(range(37))
    assert video.times == [index / rate for index in range(37)]
    assert (video.rate, video.frames, video.codec, video.pixel_format) == (rate, 37, "h264", "yuv420p")
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]


def test_index_lies_in_front(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "out.mp4", Fraction(25)) as writer:
        writer.write(picture(0))
    data = (tmp_path / "out.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_keeps_the_times_of_a_variable_rate(tmp_path: Path) -> None:
    given = [Fraction(n * n, 90) for n in range(20)]
    with VideoWriter(tmp_path / "out.mp4", Fraction(30), time_base=Fraction(1, 90000)) as writer:
        for index, moment in enumerate(given):
            writer.write(picture(index), moment)
    assert read(tmp_path / "out.mp4").times == given


def test_times_that_stand_still_or_go_back_lose_no_frame(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "out.mp4", Fraction(10), time_base=Fraction(1, 1000)) as writer:
        for index, moment in enumerate([0.0, 0.1, 0.1, 0.05, -3.0, 0.2]):
            writer.write(picture(index), Fraction(moment).limit_denominator(1000))
    times = read(tmp_path / "out.mp4").times
    assert len(times) == 6 and all(a < b for a, b in itertools.pairwise(times))


@pytest.mark.parametrize("size", [(47, 63), (48, 63), (1, 1), (47, 64)])
def test_odd_sizes_are_padded_to_even(tmp_path: Path, size: tuple[int, int]) -> None:
    with VideoWriter(tmp_path / "out.mp4", Fraction(25)) as writer:
        writer.write(np.full((*size, 3), 200, np.uint8))
    image = read(tmp_path / "out.mp4").images[0]
    assert image.shape[:2] == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    assert image.min() > 190  # the added row repeats the edge


def test_another_size_is_fitted_into_the_first(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "out.mp4", Fraction(25)) as writer:
        for size in ((48, 64), (48, 64), (100, 40), (480, 640), (24, 32)):
            writer.write(np.full((*size, 3), 220, np.uint8))
    images = read(tmp_path / "out.mp4").images
    assert {image.shape for image in images} == {(48, 64, 3)} and len(images) == 5
    assert images[2][24, 32, 0] > 200 and images[2][24, 4, 0] < 130  # tall: grey at the sides
    assert images[3].min() > 200 and images[4].min() > 200


def test_fit_frame_by_hand() -> None:
    fitted = fit_frame(np.full((10, 10, 3), 255, np.uint8), (20, 60))
    assert fitted.shape == (20, 60, 3)
    assert (fitted[:, 20:40] == 255).all() and (fitted[:, :20] == 114).all() and (fitted[:, 40:] == 114).all()
    image = np.zeros((4, 6, 3), np.uint8)
    assert np.array_equal(fit_frame(image, (4, 6)), image)


@pytest.mark.parametrize("height", [64, 720])
def test_colors_survive(tmp_path: Path, height: int) -> None:
    image = np.zeros((height, 96, 3), np.uint8)
    image[:, :32], image[:, 32:64], image[:, 64:] = (200, 30, 40), (20, 180, 60), (30, 60, 220)
    with VideoWriter(tmp_path / "out.mp4", Fraction(25)) as writer:
        writer.write(image)
    back = read(tmp_path / "out.mp4").images[0]
    assert np.abs(back[10, [10, 48, 86]].astype(int) - image[10, [10, 48, 86]]).max() <= 4


def test_keeps_the_shape_of_pixels(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "out.mp4", Fraction(25), pixel_aspect=Fraction(16, 15)) as writer:
        writer.write(picture(0))
    assert read(tmp_path / "out.mp4").pixel_aspect == Fraction(16, 15)


def test_no_frames_no_file(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "out.mp4", Fraction(25)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_work_keeps_the_frames_so_far(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="network"), VideoWriter(tmp_path / "out.mp4", Fraction(25)) as writer:
        for index in range(9):
            writer.write(picture(index))
        raise RuntimeError("network fell over")
    assert len(read(tmp_path / "out.mp4").images) == 9


@pytest.mark.parametrize("encoder", ["libopenh264", "mpeg4"])
def test_other_encoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: str) -> None:
    try:
        av.codec.Codec(encoder, "w")
    except ValueError:
        pytest.skip(f"this PyAV has no {encoder}")
    monkeypatch.setattr(utils.video, "ENCODERS", {"libmissing": {}, encoder: {}})
    if encoder == "mpeg4":
        with pytest.warns(UserWarning, match="no H.264 encoder"):
            writer = VideoWriter(tmp_path / "out.mp4", Fraction(30000, 1001), time_base=Fraction(1, 90000))
    else:
        writer = VideoWriter(tmp_path / "out.mp4", Fraction(30000, 1001))
    with writer:
        for index in range(12):
            writer.write(picture(index), index / Fraction(30000, 1001))
    assert len(read(tmp_path / "out.mp4").images) == 12


def test_no_encoder_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utils.video, "ENCODERS", {"libmissing": {}})
    with pytest.raises(EnvironmentFault, match="has none of the encoders libmissing"):
        find_encoder()


def test_a_picture_no_encoder_takes(tmp_path: Path) -> None:
    with (
        pytest.raises(EnvironmentFault, match=r"out\.mp4: cannot write the video: "),
        VideoWriter(tmp_path / "out.mp4", Fraction(25)) as writer,
    ):
        writer.write(np.zeros((2, 40_000, 3), np.uint8))


def test_missing_folder_is_told_before_the_first_frame(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"out\.mp4: cannot write the video: No such file"):
        VideoWriter(tmp_path / "missing" / "out.mp4", Fraction(25))


def test_full_disk_is_told_and_the_part_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = VideoWriter(tmp_path / "out.mp4", Fraction(25))
    for index in range(40):
        writer.write(picture(index))

    def full(_packet: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, "_mux", full)
    with pytest.raises(EnvironmentFault, match=r"No space left on device; the frames before are in out\.part\.mp4"):
        writer.write(picture(1))
    monkeypatch.undo()
    monkeypatch.setattr(utils.video, "_remux", lambda *_: full(None))
    with pytest.raises(EnvironmentFault, match=r"No space left on device; the frames before are in out\.part\.mp4"):
        writer.close()
    assert len(read(tmp_path / "out.part.mp4").images) == 40


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_FSIZE")
def test_a_disk_that_really_fills(tmp_path: Path) -> None:
    script = f"""
import resource, signal, sys
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple
import numpy as np
from utils.errors import EnvironmentFault
from utils.video import VideoWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
noise = np.random.default_rng(0)
try:
    with VideoWriter(Path({str(tmp_path)!r}) / "out.mp4", Fraction(25)) as writer:
        for _ in range(200):
            writer.write(noise.integers(0, 255, (240, 320, 3), dtype=np.uint8))
except EnvironmentFault as error:
    print(writer.frames, error)
    sys.exit(4)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, timeout=60)
    assert done.returncode == 4, done.stderr
    assert "cannot write the video: File too large" in done.stdout
    assert int(done.stdout.split()[0]) < 100  # noticed soon, not at the end
    with av.open(str(tmp_path / "out.part.mp4")) as container:
        assert next(container.decode(video=0)).width == 320


def test_survives_sigkill(tmp_path: Path) -> None:
    script = f"""
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple
import numpy as np
from utils.video import VideoWriter
writer = VideoWriter(Path({str(tmp_path)!r}) / "out.mp4", Fraction(25))
for index in range(10**6):
    writer.write(np.full((48, 64, 3), index % 200, np.uint8))
    if index == 200:
        print("ready", flush=True)
        import time; time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=REPO, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
    assert len(read(tmp_path / "out.part.mp4").images) >= 201 - 25  # at most a second is lost
    assert not (tmp_path / "out.mp4").exists()
