"""Mini-batches as the flags of train.py ask for them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch

from data.augment.detection import augmentation_of
from data.formats.dataset import load_dataset
from data.loading.batch_loader import Loading
from data.loading.training import training_batches
from tests.painted import CFG, write_painted
from utils.cfg import load_cfg, with_net


def test_the_last_part_of_a_run_shows_whole_images(tmp_path: Path) -> None:
    data = write_painted(tmp_path)
    (tmp_path / "net.cfg").write_text(CFG)
    config = load_cfg(tmp_path / "net.cfg")
    config = with_net(
        config, max_batches=10, batch=4, subdivisions=1, flip=False, hue=0.0, saturation=1.0, exposure=1.0
    )
    dataset = load_dataset(data, "train")

    def images(**flags: float) -> list[torch.Tensor]:
        augmentation = augmentation_of(config, SimpleNamespace(mosaic=0.0, **flags))
        batches = training_batches(dataset, config, augmentation, Loading(0), start=0, seed=0)
        return [batch.images for batch in batches]

    moved, still = images(scale=0.5, translate=0.1), images(close_jitter=1.0)
    closing = images(scale=0.5, translate=0.1, close_jitter=0.3)
    assert [torch.equal(one, other) for one, other in zip(closing, moved, strict=True)] == [True] * 7 + [False] * 3
    assert [torch.equal(one, other) for one, other in zip(closing, still, strict=True)] == [False] * 7 + [True] * 3
    upright, seen = torch.cat(still), torch.cat(images(close_jitter=1.0, flip_vertical=True))
    turned = [torch.equal(one, other.flip(1)) for one, other in zip(seen, upright, strict=True)]
    assert 10 < sum(turned) < 30
    assert all(torch.equal(seen[k], upright[k]) for k in range(40) if not turned[k])
