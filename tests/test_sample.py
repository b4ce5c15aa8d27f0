"""The sample data set and clip: tight boxes, the same bytes again, whole or not at all."""

from __future__ import annotations

import errno
import json
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from data.formats.dataset import load_dataset
from data.sample import NAMES, ensure_sample, is_sample, make, make_sample, pool
from data.sample import __main__ as script
from data.sample.clip import _rolled, draw_frame, render_clip
from data.sample.objects import CLASSES
from data.sample.picture import draw_picture
from data.sample.render import Thing, composite, cover, shade
from data.sample.scene import MAX_HIDDEN, MIN_SIDE, box_of, covers_of, draw_scene, render, unhidden, without_hidden
from utils.errors import EnvironmentFault, UsageError
from utils.keyed_random import keyed_rng

SMALL = (120, 160)
SEEDS = range(6)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sample(tmp_path_factory.mktemp("drawn") / "sample", train=5, val=2, size=SMALL, progress=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_box_is_the_extent_of_the_mesh_on_the_image(seed: int) -> None:
    """Oracle: a solid reaches on the image exactly as far as its projected corners do."""
    scene, covers = without_hidden(draw_scene(keyed_rng(seed), (240, 320)))
    _, objects = render(scene, covers)
    expected = []
    for covered in covers:
        if covered.thing.label is not None:
            pixels, _ = scene.camera.project(covered.thing.mesh.vertices)
            box = np.clip(np.concatenate([pixels.min(0), pixels.max(0)]), 0, (320, 240, 320, 240))
            expected.append((covered.thing.label, box))
    assert [label for label, *_ in objects] == [label for label, _ in expected]
    for (_, box, area), (_, extent) in zip(objects, expected, strict=True):
        np.testing.assert_allclose(box, extent, atol=1.01)
        assert 0 < area <= (box[2] - box[0]) * (box[3] - box[1])


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_painted_fills_the_box(seed: int) -> None:
    scene, covers = without_hidden(draw_scene(keyed_rng(seed, 1), (240, 320)))
    for covered in covers:
        canvas = np.full((240, 320, 3), -100, np.float32)  # no light is negative
        composite(canvas, covered, shade(covered, scene.camera, scene.light), scene.camera)
        if not scene.camera.aperture:
            np.testing.assert_allclose(
                box_of((canvas > -50).any(2)), box_of(covered.on_image((240, 320)) >= 0.5), atol=1
            )


def test_an_object_behind_another_is_left_out_and_clutter_stays() -> None:
    scene = draw_scene(keyed_rng(0), SMALL)
    camera = scene.camera
    ahead = camera.axes[2]
    die = CLASSES["die"](keyed_rng(3), 20)

    def at(distance: float, label: int | None) -> Thing:
        return Thing(die, label, np.eye(3), 1.0, camera.position + distance * ahead - np.array([0, 0, 0.4]))

    front, behind, pebble = at(4, 4), at(6, 4), at(6, None)
    covers = [cover(thing, camera) for thing in (behind, pebble, front)]
    assert [covered.thing for covered in unhidden(covers, SMALL)] == [pebble, front]
    assert [covered.thing for covered in unhidden(covers[:2], SMALL)] == [pebble]  # of two at one place, one hides
    assert [covered.thing for covered in unhidden(covers[:1], SMALL)] == [behind]
    assert cover(at(-4, 4), camera) is None


@pytest.mark.parametrize("seed", SEEDS)
def test_every_object_kept_shows_enough(seed: int) -> None:
    _, covers = without_hidden(draw_scene(keyed_rng(seed, 2), SMALL))
    taken = np.zeros(SMALL, bool)
    for covered in reversed(covers):
        mine = covered.on_image(SMALL) >= 0.5
        if covered.thing.label is not None:
            left, top, right, bottom = box_of(mine)
            assert min(right - left, bottom - top) >= MIN_SIDE
            assert (mine & ~taken).sum() >= (1 - MAX_HIDDEN) * (covered.alpha >= 0.5).sum()
        taken |= mine


def test_scenes_hold_all_classes_in_many_sizes() -> None:
    labels, sides, counts = [], [], []
    for seed in range(30):
        covers = without_hidden(draw_scene(keyed_rng(seed, 3), (320, 416)))[1]
        things = [covered for covered in covers if covered.thing.label is not None]
        counts.append(len(things))
        labels += [covered.thing.label for covered in things]
        sides += [max(covered.alpha.shape) for covered in things]
    assert np.bincount(labels, minlength=len(NAMES)).min() >= 5
    assert min(sides) < 45 and max(sides) > 200
    assert 3 <= np.mean(counts) <= 7


def test_coco_json_loads_with_the_project_reader(drawn: Path) -> None:
    for split, count in (("train", 5), ("val", 2)):
        data = load_dataset(drawn, split)
        assert data.names == NAMES
        assert len(data.records) == count
        for record in data.records:
            assert record.size == SMALL
            assert record.path.parent.name == split
            assert (record.boxes[:, :2] >= 0).all() and (record.boxes[:, 2:] <= (160, 120)).all()
            image = cv2.imdecode(np.frombuffer(record.path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
            assert image.shape == (*SMALL, 3)
            assert image.std() > 5


def test_the_same_bytes_again_other_bytes_with_another_seed(drawn: Path, tmp_path: Path) -> None:
    again = make_sample(tmp_path / "again", train=5, val=2, size=SMALL, progress=False)
    assert contents(again) == contents(drawn)
    fewer = contents(make_sample(tmp_path / "fewer", train=2, val=1, size=SMALL, progress=False))
    assert fewer["train/train_0002.jpg"] == contents(drawn)["train/train_0002.jpg"]  # keyed, not drawn in turn
    other = contents(make_sample(tmp_path / "other", train=2, val=1, size=SMALL, seed=1, progress=False))
    assert other["train/train_0002.jpg"] != fewer["train/train_0002.jpg"]
    assert fewer["val/val_0001.jpg"] != fewer["train/train_0001.jpg"]


def test_processes_draw_the_same_bytes_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_WORTH_PROCESSES", 0)
    draw, keys = partial(draw_picture, (48, 64), 0), [(0, index) for index in range(6)]
    assert list(pool.in_order(draw, keys, 2, None)) == list(map(draw, keys))


def test_ensure_draws_once_and_again_for_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: Path
) -> None:
    calls = []

    def fake(folder: Path) -> Path:
        calls.append(folder)
        return folder

    monkeypatch.setattr(make, "make_sample", fake)
    assert ensure_sample(tmp_path) == tmp_path / "sample"
    (tmp_path / "sample").mkdir()
    recipe = {"version": make.VERSION, "seed": 0, "train": 300, "val": 60, "size": [320, 416]}
    (tmp_path / "sample" / "sample.json").write_text(json.dumps(recipe))
    ensure_sample(tmp_path)
    assert len(calls) == 1
    monkeypatch.setattr(make, "VERSION", make.VERSION + 1)
    ensure_sample(tmp_path)
    (tmp_path / "sample" / "sample.json").write_text("{half a")
    ensure_sample(tmp_path)
    assert len(calls) == 3


def test_is_sample_compares_every_argument(drawn: Path) -> None:
    assert is_sample(drawn, train=5, val=2, size=SMALL)
    assert not is_sample(drawn, train=6, val=2, size=SMALL)
    assert not is_sample(drawn, train=5, val=2, size=SMALL, seed=1)
    assert not is_sample(drawn)


def test_an_interrupted_drawing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(size: tuple[int, int], seed: int, key: tuple[int, int]) -> None:
        if key == (0, 2):
            raise KeyboardInterrupt
        return draw_picture(size, seed, key)

    old = make_sample(tmp_path / "sample", train=1, val=1, size=(48, 64), progress=False)
    before = contents(old)
    monkeypatch.setattr(make, "draw_picture", broken)
    with pytest.raises(KeyboardInterrupt):
        make_sample(tmp_path / "sample", train=3, val=1, size=(48, 64), progress=False)
    assert contents(old) == before
    with pytest.raises(KeyboardInterrupt):
        make_sample(tmp_path / "new", train=3, val=1, size=(48, 64), progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]


def test_an_older_sample_is_replaced_and_foreign_files_are_not(tmp_path: Path) -> None:
    folder = make_sample(tmp_path / "sample", train=2, val=1, size=(48, 64), progress=False)
    make_sample(folder, train=1, val=1, size=(48, 64), progress=False)
    assert sorted(contents(folder)) == [
        "instances_train.json",
        "instances_val.json",
        "sample.json",
        "train/train_0001.jpg",
        "val/val_0001.jpg",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").touch()
    with pytest.raises(UsageError, match=r"photos: holds files but no sample\.json"):
        make_sample(tmp_path / "photos", train=1, val=1, size=(48, 64), progress=False)
    with pytest.raises(UsageError, match="is a file"):
        make_sample(tmp_path / "photos" / "mine.jpg", train=1, val=1, size=(48, 64), progress=False)


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(EnvironmentFault, match="sample: cannot draw the sample: No space left on device"):
        make_sample(tmp_path / "sample", train=1, val=1, size=(48, 64), progress=False)
    assert not list(tmp_path.iterdir())


def test_the_clip_has_all_frames(tmp_path: Path) -> None:
    path = render_clip(tmp_path / "new" / "clip.mp4", seconds=0.2, fps=25, size=(96, 160))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert stream.average_rate == 25
    assert [frame.shape for frame in frames] == [(96, 160, 3)] * 5
    assert np.abs(np.float32(frames[0]) - frames[-1]).mean() > 5  # the camera moved


def test_a_ball_rolls_without_slipping_and_the_rest_stands() -> None:
    model, label = CLASSES["ball"](keyed_rng(0), 16), list(CLASSES).index("ball")
    ball = Thing(model, label, np.eye(3), 2.0, np.array([3.0, 0, 1.0]))
    moved = _rolled(ball, 1.0)
    distance = np.linalg.norm(moved.offset - ball.offset)
    turn = np.arccos((np.trace(_rolled(ball, 0.2).rotation) - 1) / 2)
    assert moved.offset[0] == pytest.approx(3 + distance)
    assert turn == pytest.approx(0.2 * distance / 1.0)  # angle = way / radius
    assert (_rolled(ball, 0.01).rotation @ (0, 0, 1))[0] > 0  # the top moves ahead
    cone = Thing(model, label + 1, np.eye(3), 2.0, np.zeros(3))
    assert _rolled(cone, 1.0) is cone


def test_frames_do_not_depend_on_the_frames_before() -> None:
    first = draw_frame((48, 64), 0, 10, 7)
    draw_frame((48, 64), 0, 10, 2)
    np.testing.assert_array_equal(draw_frame((48, 64), 0, 10, 7), first)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script.main(["--out", str(tmp_path / "s"), "--train", "1", "--val", "1", "--seed", "3"])
    assert f"sample: 1 + 1 images in {tmp_path / 's'}" in capsys.readouterr().out
    stamp = (tmp_path / "s" / "sample.json").stat().st_mtime_ns
    script.main(["--out", str(tmp_path / "s"), "--train", "1", "--val", "1", "--seed", "3"])
    assert (tmp_path / "s" / "sample.json").stat().st_mtime_ns == stamp


def test_covers_come_far_to_near() -> None:
    depths = [covered.depth for covered in covers_of(draw_scene(keyed_rng(4), SMALL))]
    assert depths == sorted(depths, reverse=True)


def test_two_that_draw_the_same_at_once_both_succeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = dict(train=1, val=1, size=(48, 64), progress=False)
    ready = make_sample(tmp_path / "ready", **recipe)
    real = Path.rename

    def raced(self: Path, target: Path) -> Path:
        if Path(target).name == "sample" and not Path(target).exists():
            real(ready, target)  # the other process arrives just before us
        return real(self, target)

    monkeypatch.setattr(Path, "rename", raced)
    make_sample(tmp_path / "sample", **recipe)
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]
    assert is_sample(tmp_path / "sample", train=1, val=1, size=(48, 64))
