"""utils.training_pictures: boxes of a batch, and of what was found, are drawn where they are."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from utils.structures import Batch, Detections, ImageRecord, Targets
from utils.training_pictures import batch_picture, detections_picture


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
