"""training.checks.overfit: a sound network overfits a few images; one that is not is told from it."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from data.formats.dataset import Dataset, load_dataset
from evaluation.detection import Settings, evaluate_network
from models.darknet import Darknet
from models.losses.criterion import make_criterion
from models.losses.result import Losses
from tests.painted import CFG, write_painted
from training.checks.overfit import (
    Clock,
    Learning,
    affordable_size,
    learning_findings,
    learning_line,
    one_batch,
    overfit,
    representative_images,
    shrink_anchors,
)
from training.pretrained import expect_background
from utils.cfg import parse_cfg
from utils.image import write_image
from utils.structures import ImageRecord, Targets

pytestmark = pytest.mark.usefixtures("one_thread_and_torch_as_it_was")


def steps() -> Clock:
    """A clock by which every step of `overfit`, which looks at it twice, takes a second."""
    ticks = itertools.count()
    return lambda: next(ticks) / 2


def passes(seconds: float) -> Clock:
    """A clock by which every pass of `affordable_size`, which looks before and after, takes so long."""
    ticks = itertools.count()
    return lambda: next(ticks) * seconds


@pytest.fixture
def network() -> Darknet:
    network = Darknet(parse_cfg(CFG, source="painted.cfg"))
    expect_background(network)
    return network.train()


@pytest.fixture
def batch(tmp_path: Path) -> tuple[Tensor, Targets]:
    few = representative_images(load_dataset(write_painted(tmp_path / "data"), "train"), 8)
    return one_batch(few, (64, 64), letterbox=False)


def test_a_sound_network_finds_what_it_learned(tmp_path: Path, network: Darknet) -> None:
    few = representative_images(load_dataset(write_painted(tmp_path / "data"), "train"), 8)
    images, targets = one_batch(few, (64, 64), letterbox=False)
    learning = overfit(network, make_criterion(network), images, targets, 60, clock=steps())
    assert len(learning.losses) == 60 and learning.finite and learning.remaining < 0.5
    ap50 = evaluate_network(network, few, Settings(workers=0), progress=False)
    assert ap50.metrics.ap50 > 0.6
    assert learning_findings(learning, ap50.metrics.ap50) == []


def test_learning_changes_the_network_and_leaves_frozen_layers(network: Darknet, batch: tuple[Tensor, Targets]) -> None:
    network.freeze(2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    overfit(network, make_criterion(network), *batch, 3, clock=steps())
    changed = {int(name.split(".")[1]) for name, value in network.state_dict().items() if not value.equal(before[name])}
    assert changed == {2, 4, 5, 6}


def test_batch_norm_ends_with_the_statistics_of_the_images(network: Darknet, batch: tuple[Tensor, Targets]) -> None:
    overfit(network, make_criterion(network), *batch, 2, clock=steps())
    kept = network.layers[0].bn.running_mean.clone()
    expected = network.layers[0].conv(batch[0]).mean(dim=(0, 2, 3))
    torch.testing.assert_close(kept, expected, atol=1e-5, rtol=1e-4)


def test_it_stops_at_a_loss_that_is_not_finite(network: Darknet, batch: tuple[Tensor, Targets]) -> None:
    sound, losses = make_criterion(network), itertools.count(1)

    def breaking(raws: list[Tensor], targets: Targets) -> Losses:
        found = sound(raws, targets)
        return replace(found, total=found.total * (math.nan if next(losses) == 3 else 1))

    learning = overfit(network, breaking, *batch, 9, clock=steps())
    assert len(learning.losses) == 3 and not learning.finite
    (found,) = learning_findings(learning, 0.0)
    assert found.serious and found.what.startswith("the loss was not finite in step 3") and "--precision" in found.fix


def learned(*losses: float, steps: int = 40) -> Learning:
    return Learning((*losses[:1] * (steps - len(losses) + 1), *losses[1:]), 20.0)


@pytest.mark.parametrize(
    ("learning", "ap50", "severity", "what", "fix"),
    [
        (learned(8, 6), 0.1, "serious", "the loss of a few images fell only to 75% in 40 steps", "drop --freeze"),
        (
            learned(8, 1),
            0.1,
            "warning",
            "the boxes are not found in the very images that were learned (AP50 0.10)",
            "60",
        ),
        (learned(8, 6, steps=29), 0.1, "warning", "step 29 of overfitting is too early to tell", "--check 60"),
    ],
)
def test_how_a_learning_is_judged(learning: Learning, ap50: float, severity: str, what: str, fix: str) -> None:
    (found,) = learning_findings(learning, ap50)
    assert found.severity == severity and what in found.what and fix in found.fix
    assert "it can learn" not in learning_line(learning, ap50)


@pytest.mark.parametrize("learning", [learned(8, 1), learned(2, 1.9), learned(8, 6, steps=5)])
def test_boxes_that_are_found_are_enough(learning: Learning) -> None:
    assert learning_findings(learning, 0.5) == []  # the second: of pretrained weights the loss falls little


def test_the_line_for_people() -> None:
    line = learning_line(learned(8, 0.125), 0.75)
    assert line == "loss 8 -> 0.125 in 40 steps and 20 s, AP50 0.75 on these images: it can learn"


@pytest.mark.parametrize(
    ("seconds", "size"),
    [
        (0.01, (64, 64)),  # 80 steps of 8 images take 6.4 of 64 seconds
        (0.1, (64, 64)),  # just
        (0.4, (32, 32)),  # a quarter of the pixels
        (100, (16, 16)),  # no less
    ],
)
def test_the_size_that_time_allows(
    network: Darknet, monkeypatch: pytest.MonkeyPatch, seconds: float, size: tuple[int, int]
) -> None:
    monkeypatch.setattr("training.checks.overfit._SMALLEST", 16)
    before = {name: value.clone() for name, value in network.named_parameters()}
    assert affordable_size(network, 8, 64, clock=passes(seconds)) == size
    assert all(value.equal(before[name]) and value.grad is None for name, value in network.named_parameters())


def test_a_network_smaller_than_the_smallest_stays_as_it_is(network: Darknet) -> None:
    assert affordable_size(network, 8, 64, clock=passes(100)) == (64, 64)


def test_memory_limits_the_size_too(network: Darknet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.checks.overfit._SMALLEST", 16)
    need = 12 * network.graph.activations * 8
    monkeypatch.setattr("training.checks.overfit.MEMORY_FOR_ACTIVATIONS", need / 4)
    assert affordable_size(network, 8, 64, clock=passes(0.001)) == (32, 32)


def test_anchors_shrink_with_the_input(network: Darknet) -> None:
    (head,) = network.heads
    before = head.anchors.clone()
    shrink_anchors(network, (32, 16))
    torch.testing.assert_close(head.anchors, before * torch.tensor([0.25, 0.5]))


def labelled(*labels: list[int], crowd: int | None = None) -> Dataset:
    """An image for each list of labels; of number ``crowd`` all boxes are crowds."""
    records = tuple(
        ImageRecord(
            number,
            Path(f"{number}.png"),
            (20, 40),
            np.tile(np.float32([4, 2, 12, 18]), (len(own), 1)),
            np.array(own, np.int64),
            np.full(len(own), number == crowd),
        )
        for number, own in enumerate(labels)
    )
    return Dataset(records, ("a", "b", "c"), (1, 2, 3), "my.json")


def numbers(dataset: Dataset) -> list[int]:
    return [record.image_id for record in dataset.records]


def test_a_rare_class_comes_before_images_with_fewer_boxes() -> None:
    dataset = labelled([0], [0], [1], [0, 1, 2, 2], [0], [1, 1])
    assert numbers(representative_images(dataset, 1)) == [3]
    assert numbers(representative_images(dataset, 3)) == [0, 2, 3]
    assert numbers(representative_images(dataset, 5)) == [0, 1, 2, 3, 4]  # then those with few boxes
    assert numbers(representative_images(dataset, 99)) == [0, 1, 2, 3, 4, 5]


def test_images_with_nothing_to_find_are_passed_over() -> None:
    assert numbers(representative_images(labelled([], [0], [1], [], crowd=2), 4)) == [1]


@pytest.mark.parametrize(("letterbox", "box"), [(False, [6.4, 6.4, 19.2, 57.6]), (True, [6.4, 19.2, 19.2, 44.8])])
def test_the_truth_is_in_input_pixels(tmp_path: Path, letterbox: bool, box: list[float]) -> None:
    dataset = labelled([0], [2, 1], crowd=0)
    for record in dataset.records:
        write_image(tmp_path / record.path, np.full((20, 40, 3), 255, np.uint8))
    records = tuple(
        ImageRecord(one.image_id, tmp_path / one.path, one.size, one.boxes, one.labels, one.crowd)
        for one in dataset.records
    )
    images, targets = one_batch(Dataset(records, dataset.names, (1, 2, 3), "my.json"), (64, 64), letterbox=letterbox)
    assert images.shape == (2, 3, 64, 64) and images.dtype == torch.float32 and images.max().item() == pytest.approx(1)
    assert targets.image_index.tolist() == [0, 1, 1] and targets.labels.tolist() == [0, 2, 1]
    assert targets.crowd.tolist() == [True, False, False]
    torch.testing.assert_close(targets.boxes, torch.tensor([box] * 3))
