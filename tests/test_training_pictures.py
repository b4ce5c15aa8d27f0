"""training.pictures: boxes of a batch, and of what was found, are drawn where they are."""

from __future__ import annotations

from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from training.pictures import _smooth, batch_picture, class_picture, detections_picture, plot_results
from utils.image import read_image
from utils.structures import Batch, Detections, ImageRecord, LabelledBatch, Targets

STEPS = [
    {"iteration": n, "loss": 5 / n, "box": 1 / n, "objectness": 3 / n, "classes": 1 / n, "lr": 0.01}
    for n in range(1, 201)
]
EVALUATIONS = [{"iteration": n, "ap50": n / 250, "ap": n / 500, "ap75": n / 600} for n in (50, 100, 200, 150)]


def test_a_batch_shows_each_image_with_its_own_boxes() -> None:
    targets = Targets(
        torch.tensor([1]), torch.tensor([0]), torch.tensor([[4.0, 4.0, 28.0, 28.0]]), torch.tensor([False])
    )
    batch = Batch(torch.zeros(3, 3, 32, 32, dtype=torch.uint8), targets, ("a", "b", "c"))
    plain = Batch(batch.images, Targets(*(values[:0] for values in targets)), batch.names)
    with_box, without = batch_picture(batch, ["thing"], count=2), batch_picture(plain, ["thing"], count=2)
    changed = (with_box != without).any(axis=2)
    middle = with_box.shape[1] // 2
    assert not changed[:, :middle].any() and changed[:, middle:].any()  # the second of two images


def test_only_sure_detections_are_drawn(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(cv2.imencode(".png", np.zeros((32, 32, 3), np.uint8))[1].tobytes())
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)
    record = ImageRecord(7, path, (32, 32), *none)

    def picture(score: float) -> np.ndarray:
        found = Detections(torch.tensor([[4.0, 4.0, 28.0, 28.0]]), torch.tensor([score]), torch.tensor([0]))
        return detections_picture([record], {7: found}, ["thing"])

    assert (picture(0.2) == picture(0.0)).all()
    assert (picture(0.9) != picture(0.2)).any()


@pytest.fixture
def axes(monkeypatch: pytest.MonkeyPatch) -> list:
    """The axes of each figure, kept for a look after it was saved."""
    kept = []
    real = plt.close
    monkeypatch.setattr(plt, "close", lambda figure: (kept.extend(figure.axes), real(figure)))
    return kept


def test_what_is_drawn(tmp_path: Path, axes: list) -> None:
    plot_results([*STEPS, *EVALUATIONS], tmp_path / "results.png", "runs/a")
    losses, rate, metrics = axes
    drawn = {line.get_label(): line for line in losses.lines if not line.get_label().startswith("_")}
    assert drawn.keys() == {"loss", "box", "objectness", "classes"}
    assert len(drawn["loss"].get_xdata()) == 200
    assert set(rate.lines[0].get_ydata()) == {0.01}
    assert [line.get_label() for line in metrics.lines] == ["AP50", "AP", "AP75"]
    assert metrics.get_title() == "validation: best AP50 0.800 at 200"
    assert {axis.get_xlabel() for axis in axes} == {"iteration"}
    picture = read_image(tmp_path / "results.png")
    assert picture.shape[1] > 1500 and picture.std() > 10


def test_what_is_drawn_of_a_classifier(tmp_path: Path, axes: list) -> None:
    steps = [{"iteration": i, "loss": 1 / i, "lr": 0.1} for i in range(1, 9)]
    plot_results([*steps, {"iteration": 8, "top1": 0.5, "top5": 0.9}], tmp_path / "results.png", "runs/c")
    assert [line.get_label() for line in axes[2].lines] == ["top-1", "top-5"]
    assert axes[2].get_title() == "validation: best top-1 0.500 at 8"


@pytest.mark.parametrize(
    "rows",
    [
        [],
        STEPS[:1],
        EVALUATIONS[:1],
        [{"iteration": 1, "loss": 0.0, "box": 0.0, "objectness": 0.0, "classes": 0.0, "lr": 0.0}],
        [{"iteration": 1, "loss": 1.0, "lr": 0.1}],
        [*STEPS[:3], {"iteration": 3, "ap50": -1.0, "ap": -1.0, "ap75": -1.0}],
    ],
    ids=["nothing", "one step", "one evaluation", "a loss of zero", "no parts", "no truth to measure by"],
)
def test_odd_records(tmp_path: Path, rows: list[dict[str, float]]) -> None:
    plot_results(rows, tmp_path / "results.png", "x")
    assert (tmp_path / "results.png").stat().st_size > 5000


def test_figures_are_closed(tmp_path: Path) -> None:
    before = plt.get_fignums()
    plot_results(STEPS, tmp_path / "results.png", "x")
    assert plt.get_fignums() == before


def test_smoothing() -> None:
    assert _smooth(np.arange(5.0)).tolist() == [0, 1, 2, 3, 4]  # too short to smooth
    # 150 points: means of three; the ends repeat
    values = np.zeros(150)
    values[[0, 75]] = 3.0
    smooth = _smooth(values)
    assert len(smooth) == 150
    assert smooth[74:77] == pytest.approx(1.0)
    assert smooth[:3] == pytest.approx([2.0, 1.0, 0.0])


@pytest.mark.parametrize("count", [1, 2, 49, 100, 101, 199, 1000])
def test_smoothing_keeps_length_and_constants(count: int) -> None:
    assert _smooth(np.full(count, 2.5)) == pytest.approx(np.full(count, 2.5))


def test_a_classifiers_images_are_framed_by_their_classes() -> None:
    images = torch.full((3, 3, 40, 60), 90, dtype=torch.uint8)
    truth = torch.tensor([[1.0, 0.0, 0.0], [0.3, 0.7, 0.0], [0.98, 0.01, 0.01]])
    names = ("cat", "dog", "owl")
    one, mixed, smoothed = (
        class_picture(LabelledBatch(images[i : i + 1], truth[i : i + 1], ("a.png",)), names) for i in range(3)
    )
    assert one.shape == mixed.shape and (one != 90).any()
    assert np.array_equal(one, smoothed)  # what label smoothing leaves to the others is not named
    assert not np.array_equal(one, mixed)
