"""evaluation.detection: detections belong to their images, shares make up the whole, flags become settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data.formats.dataset import Dataset, load_dataset
from evaluation import detection
from evaluation.coco import CocoMetrics
from evaluation.darknet_map import DarknetMap, ProposalRecall
from evaluation.detection import (
    Settings,
    detect_share,
    evaluate_network,
    in_order,
    load_classes,
    measure_of,
    settings_of,
)
from evaluation.flags import parse_eval_flags
from models import load_network
from models.darknet import Darknet
from tests.painted import CFG, write_painted
from utils.cfg import parse_cfg
from utils.distributed import ALONE, World
from utils.errors import InputError, UsageError
from utils.structures import Detections

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The networks here are small, and threads that wait for a busy core take longer than one that works."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_painted(tmp_path_factory.mktemp("painted") / "data", images=4)


@pytest.fixture
def dataset(painted: Path) -> Dataset:
    """Four images whose ids do not go up."""
    dataset = load_dataset(painted, "val")
    return replace(dataset, records=tuple(dataset.records[index] for index in (2, 0, 3, 1)))


@pytest.fixture
def network() -> Darknet:
    torch.manual_seed(0)
    return Darknet(parse_cfg(CFG))


class TruthTeller:
    """Stands in for a network: postprocess, replaced below, answers with the truth of the images in order."""

    def __init__(self) -> None:
        self.training, self.heads, self.num_classes = True, (object(),), 2
        self.modes: list[bool] = []

    def __call__(self, images):
        assert images.dtype == torch.float32 and images.min() >= 0 and images.max() <= 1
        return [images]

    def train(self, mode=True):
        self.modes.append(mode)
        return self

    def eval(self):
        return self.train(False)


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("letterbox", [False, True])
def test_detections_belong_to_their_images(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, batch: int, letterbox: bool
) -> None:
    answers = iter(dataset.records)

    def truth(raws, heads, letterboxes, **_):
        found = []
        for box in letterboxes:
            record = next(answers)
            assert box.original_size == record.size and box.size == (64, 96)
            one = Detections(
                torch.from_numpy(record.boxes), torch.ones(len(record.labels)), torch.from_numpy(record.labels)
            )
            found.append(one)
        return found

    monkeypatch.setattr(detection, "postprocess", truth)
    network = TruthTeller()
    settings = Settings(size=(64, 96), batch=batch, workers=0, letterbox=letterbox)
    evaluation = evaluate_network(network, dataset, settings, progress=False)
    assert evaluation.metrics.ap == pytest.approx(1.0)
    assert list(evaluation.detections) == [2, 0, 3, 1]
    assert network.modes == [False, True]  # back in training mode
    assert evaluation.speed.images_per_second > 0


def test_a_trained_network_finds_things(shared_data: Path) -> None:
    """Twenty real images: a wrong box convention, channel order or class order would leave AP50 near 0."""
    weights = sorted((shared_data / "weights").rglob("yolo-fastest-1.1.weights"))[0]
    dataset = load_dataset(shared_data / "coco_mini", "val")
    few = replace(dataset, records=dataset.records[:20])
    network = load_network(weights.with_suffix(".cfg"), weights)
    assert evaluate_network(network, few, Settings(workers=0), progress=False).metrics.ap50 > 0.2


def test_an_empty_data_set(dataset: Dataset) -> None:
    settings = Settings(size=(64, 64), workers=0, letterbox=False)
    with pytest.raises(InputError, match="no images"):
        evaluate_network(TruthTeller(), replace(dataset, records=()), settings, progress=False)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (Settings(), ((32, 96), True)),
        (Settings(size=(64, 64), letterbox=False), ((64, 64), False)),
    ],
)
def test_size_and_letterbox_are_the_networks_where_not_given(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, settings: Settings, wanted: tuple[tuple[int, int], bool]
) -> None:
    asked: dict[str, object] = {}
    monkeypatch.setattr(detection, "eval_loader", lambda _, **options: asked.update(options) or ())
    text = CFG.replace("width=64\nheight=64", "width=96\nheight=32\nletter_box=1")
    found, spent = detect_share(Darknet(parse_cfg(text)), dataset, settings, progress=False, world=ALONE)
    assert (asked["size"], asked["letterbox"]) == wanted
    assert found == {} and spent.keys() == {"loading", "network", "postprocess"}


def test_shares_make_up_the_whole(network: Darknet, dataset: Dataset) -> None:
    """Mini-batches of two and two images: the processes find in them what one alone finds."""
    settings, shares = Settings(batch=2, workers=0, max_detections=9), []
    for rank in range(3):  # of which the last has nothing to do
        found, _ = detect_share(network, dataset, settings, progress=False, world=World(rank, 3))
        shares.append(found)
    assert [list(found) for found in shares] == [[2, 0], [3, 1], []]
    whole = evaluate_network(network, dataset, settings, progress=False).detections
    assert any(len(one) for one in whole.values())
    for image_id, one in in_order([2, 0, 3, 1], shares).items():
        assert torch.equal(one.boxes, whole[image_id].boxes)
        assert torch.equal(one.scores, whole[image_id].scores)
        assert torch.equal(one.labels, whole[image_id].labels)


# --- as the flags of eval.py say ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ((), Settings(device=CPU)),
        (
            ("--letterbox", "--batch", "3", "--workers", "1", "--score-threshold", ".1", "--nms-threshold", ".2"),
            Settings(None, 3, CPU, workers=1, letterbox=True, score_threshold=0.1, nms_threshold=0.2),
        ),
        (("--stretch", "--max-detections", "7"), Settings(device=CPU, letterbox=False, max_detections=7)),
        (("--protocol", "darknet"), Settings(device=CPU, score_threshold=0.005, max_detections=None, clip=False)),
        (
            ("--protocol", "recall"),
            Settings(device=CPU, nms_threshold=0.4, max_detections=None, clip=False, by_objectness=True),
        ),
    ],
)
def test_settings_of_flags(flags: tuple[str, ...], wanted: Settings) -> None:
    assert settings_of(parse_eval_flags(["--data", "x", "--weights", "a.pt", *flags]), CPU) == wanted


@pytest.mark.parametrize(
    ("protocol", "kind"), [("coco", CocoMetrics), ("darknet", DarknetMap), ("recall", ProposalRecall)]
)
def test_each_protocol_measures_in_its_way(network: Darknet, dataset: Dataset, protocol: str, kind: type) -> None:
    args = parse_eval_flags(["--data", "x", "--weights", "a.pt", "--protocol", protocol, "--workers", "0"])
    evaluation = evaluate_network(network, dataset, settings_of(args, CPU), measure=measure_of(args), progress=False)
    assert isinstance(evaluation.metrics, kind)


def test_classes_must_fit(painted: Path) -> None:
    args = SimpleNamespace(data=str(painted), split="val", names=None)
    config = SimpleNamespace(source="c.cfg")
    with pytest.raises(UsageError, match=r"2 classes, c.cfg has 80"):
        load_classes(args, SimpleNamespace(heads=(1,), num_classes=80, config=config))
    with pytest.raises(UsageError, match=r"without .yolo. sections"):
        load_classes(args, SimpleNamespace(heads=(), num_classes=80, config=config))
