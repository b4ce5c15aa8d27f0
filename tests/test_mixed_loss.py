"""One loss for a network with heads of several kinds; and every published cfg with other heads than [yolo]."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from models import load_network
from models.darknet import Darknet
from models.graph import plan
from models.losses.contrastive import ContrastiveLoss
from models.losses.criterion import make_criterion
from models.losses.darknet import DarknetLoss
from models.losses.gaussian import GaussianLoss
from models.losses.mixed import MixedLoss
from models.losses.region import RegionLoss
from models.postprocess import postprocess
from models.weights import load_darknet_weights, save_darknet_weights
from utils.cfg import Config, load_cfg, parse_cfg, with_classes, with_size
from utils.errors import CfgError, UsageError
from utils.structures import Letterbox, Targets, TrackedTargets

NET = "[net]\nwidth=64\nheight=48\nchannels=3\nbatch=4\n"
CONV = "[convolutional]\nfilters={}\nsize=3\npad=1\nstride=8\nactivation=linear\n"
ROUTE = "[route]\nlayers=0\n"
ONE = "[convolutional]\nfilters={}\nactivation=linear\n"
YOLO = "[yolo]\nclasses=2\nnum=2\nanchors=10,12,30,20\n"
GAUSSIAN = "[Gaussian_yolo]\nclasses=2\nnum=2\nanchors=10,12,30,20\n"
REGION = "[region]\nclasses=2\nnum=2\nanchors=1,1.5,3,2\nsoftmax=1\nbias_match=1\n"
CONTRASTIVE = "[contrastive]\nyolo_layer={}\n"
MIXED = (
    NET + CONV.format(8) + ONE.format(14) + REGION + ROUTE + ONE.format(14) + YOLO
    + ROUTE + ONE.format(12) + CONTRASTIVE.format(-3) + ROUTE + ONE.format(22) + GAUSSIAN
)  # fmt: skip
TREE_CLASSES = 9418

BOXES = torch.tensor([[4.0, 4, 20, 24], [10, 8, 40, 30], [6, 6, 22, 26]])
TARGETS = TrackedTargets(
    torch.tensor([0, 0, 1]), torch.tensor([1, 0, 1]), BOXES, torch.zeros(3).bool(), torch.tensor([5, 6, 5])
)


def raws_of(network: Darknet) -> list[torch.Tensor]:
    images = torch.rand(2, 3, *network.size, generator=torch.Generator().manual_seed(0))
    return [raw.detach().requires_grad_() for raw in network(images)]


def test_each_map_gets_the_gradient_of_its_own_loss() -> None:
    network = Darknet(parse_cfg(MIXED)).train()
    raws = raws_of(network)
    assert [raw.shape[1] for raw in raws] == [14, 14, 12, 22]
    criterion = make_criterion(network)
    assert isinstance(criterion, MixedLoss)
    losses = criterion(raws, TARGETS)
    (losses.total / 4).backward()
    region, yolo, gaussian = network.heads
    section = next(layer for layer in network.config.layers if layer.kind == "contrastive")
    own = [
        RegionLoss([region], lambda: 0),
        DarknetLoss([yolo]),
        ContrastiveLoss([(section, yolo)]),
        GaussianLoss([gaussian]),
    ]
    alone = []
    for raw, loss in zip(raws, own, strict=True):
        fresh = raw.detach().requires_grad_()
        alone.append(loss([fresh], TARGETS))
        alone[-1].total.backward()
        assert fresh.grad.any()
        torch.testing.assert_close(raw.grad, fresh.grad / 4)
    for name in ("total", "box", "objectness", "classes"):
        mean = sum(getattr(one, name).item() for one in alone) / 4
        assert getattr(losses, name).item() == pytest.approx(mean, rel=1e-5)
    assert losses.positives.item() == sum(one.positives.item() for one in alone) > 0
    ious = sum((one.mean_iou * one.positives).item() for one in alone)
    assert losses.mean_iou.item() == pytest.approx(ious / losses.positives.item(), rel=1e-5)


def test_the_prior_ends_with_the_images_seen() -> None:
    network = Darknet(parse_cfg(NET + CONV.format(14) + REGION)).train()
    criterion, raws = make_criterion(network), raws_of(network)
    network.seen = 12799
    early = criterion(raws, TARGETS).box
    network.seen = 12800
    assert criterion(raws, TARGETS).box != early


@pytest.mark.parametrize(("head", "kind"), [(YOLO, DarknetLoss), (GAUSSIAN, GaussianLoss), (REGION, RegionLoss)])
def test_one_kind_of_head_has_its_loss_alone(head: str, kind: type) -> None:
    filters = 22 if head == GAUSSIAN else 14
    assert isinstance(make_criterion(Darknet(parse_cfg(NET + CONV.format(filters) + head))), kind)


def test_embeddings_are_for_training_only() -> None:
    network = Darknet(parse_cfg(MIXED)).eval()
    images = torch.rand(1, 3, *network.size)
    assert [raw.shape[1] for raw in network(images)] == [14, 14, 22]
    assert len(network.train()(images)) == 4
    with pytest.raises(ValueError, match=r"MixedLoss: got 3 raw maps \(wanted 4, one for each head or embedding\)"):
        make_criterion(network)(network.eval()(images), TARGETS)


def test_a_classifier_learns_from_no_boxes() -> None:
    network = Darknet(parse_cfg(NET + CONV.format(14) + "[avgpool]\n[softmax]\n"))
    with pytest.raises(UsageError, match=r"training: no head \(wanted \[yolo\], \[Gaussian_yolo\] or \[region\]\)"):
        make_criterion(network)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            CONV.format(14) + REGION + ROUTE + CONTRASTIVE.format(-2),
            r"yolo_layer=-2 is a \[region\] \(wanted a \[yolo\]",
        ),
        (CONV.format(22) + GAUSSIAN + ROUTE + CONTRASTIVE.format(1), r"yolo_layer=1 is a \[Gaussian_yolo\]"),
        (
            CONV.format(14) + YOLO + ROUTE + ONE.format(13) + CONTRASTIVE.format(1),
            r"reads 13 channels of 6x8 \(wanted a multiple of the 2 anchors of layer 1, 6x8\)",
        ),
        (
            CONV.format(14) + YOLO + ROUTE + "[maxpool]\nstride=2\n" + CONTRASTIVE.format(1),
            r"reads 14 channels of 3x4 \(wanted a multiple of the 2 anchors of layer 1, 6x8\)",
        ),
    ],
)
def test_embeddings_must_fit_their_head(text: str, message: str) -> None:
    with pytest.raises(CfgError, match=message):
        plan(parse_cfg(NET + text))


# Published cfgs


def published(folder: Path) -> list[Path]:
    wanted = ("[region]", "[Gaussian_yolo]", "[contrastive]")
    return [path for path in sorted(folder.rglob("*.cfg")) if any(w in path.read_text("latin-1") for w in wanted)]


def small(config: Config) -> Config:
    """The cfg with an eighth of its channels, at the smallest input that its layers can take."""
    layers = tuple(
        layer.with_values(filters=layer.filters // 8)
        if layer.kind == "convolutional" and layer.batch_normalize
        else layer
        for layer in config.layers
    )
    config = dataclasses.replace(config, layers=layers)
    for side in (64, 96, 128, 256):
        try:
            sized = with_size(config, (side, side))
            plan(sized)
        except CfgError:
            continue
        return sized
    return config


def test_published_heads_train_and_keep_their_weights(darknet_zoo: Path, tmp_path: Path) -> None:
    found = published(darknet_zoo)
    assert found
    done: set[tuple] = set()
    for path in found:
        config = load_cfg(path)
        assert plan(config).heads  # at its own size
        kinds = tuple(section.kind for section in config.layers)
        config = small(config)
        if any(section.kind == "region" and section.tree for section in config.layers):
            continue  # below, with a tree
        if kinds in done:  # most differ in numbers alone
            continue
        done.add(kinds)
        one_step(config, tmp_path)


def one_step(config: Config, folder: Path) -> None:
    network = Darknet(config)
    assert f"{len(config.layers) - 1:>5}  {config.layers[-1].kind}" in network.summary()
    save_darknet_weights(network, folder / "first.weights")
    twin = Darknet(config)
    load_darknet_weights(twin, folder / "first.weights")
    save_darknet_weights(twin, folder / "second.weights")
    assert (folder / "first.weights").read_bytes() == (folder / "second.weights").read_bytes()
    network.train()
    losses = make_criterion(network)(network(torch.rand(2, 3, *network.size)), TARGETS)
    losses.total.backward()
    assert losses.total.isfinite()
    assert losses.positives > 0
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
    learning = [network.layers[head.index - 1].conv.weight.grad for head in network.heads]
    assert all(gradient is not None and gradient.any() for gradient in learning)
    torch.optim.SGD(network.parameters(), lr=1e-5).step()
    detections = load_network(config, folder / "first.weights").detect(
        [np.zeros((50, 70, 3), np.uint8)], score_threshold=0.01
    )
    assert all(found.labels.max() < network.num_classes for found in detections if len(found))


def test_a_tree_of_classes_trains(darknet_zoo: Path, tmp_path: Path) -> None:
    """yolo9000.cfg, whose tree does not lie beside it: here lies another one as large."""
    path = next(path for path in published(darknet_zoo) if "tree=" in path.read_text("latin-1"))
    config = small(load_cfg(path))
    network = Darknet(config).eval()  # needs no tree
    raws = network(torch.rand(1, 3, *network.size))
    with pytest.raises(CfgError, match=r"yolo9000.cfg:\d+: \[region\] tree=data/9k.tree: no such file"):
        postprocess(raws, network.heads, [Letterbox(1, 1, 0, 0, network.size, network.size)])
    (tmp_path / "data").mkdir()
    lines = [f"class{index} {-1 if index < 20 else index // 20 - 1}\n" for index in range(TREE_CLASSES)]
    (tmp_path / "data" / "9k.tree").write_text("".join(lines))
    (tmp_path / "data" / "coco9k.map").write_text("77\n9000\n")
    (tmp_path / "yolo9000.cfg").write_text(path.read_text())
    one_step(small(load_cfg(tmp_path / "yolo9000.cfg")), tmp_path)


@pytest.mark.parametrize("classes", [1, 3])
def test_other_numbers_of_classes(darknet_zoo: Path, classes: int) -> None:
    for path in published(darknet_zoo):
        config = load_cfg(path)
        if any(section.kind == "region" and section.tree for section in config.layers):
            with pytest.raises(CfgError, match=r"tree=data/9k.tree has classes=9418, not \d \(wanted data with"):
                with_classes(config, classes)
            assert with_classes(config, TREE_CLASSES) == config
            continue
        graph = plan(small(with_classes(config, classes)))
        for index in graph.heads:
            section = graph.nodes[index].section
            each = {"region": 5, "Gaussian_yolo": 9, "yolo": 5}[section.kind] + classes
            anchors = section.num if section.kind == "region" else len(section.mask)
            assert graph.nodes[index].inputs[0] == anchors * each


def test_targets_without_tracks_train_too() -> None:
    network = Darknet(parse_cfg(MIXED)).train()
    losses = make_criterion(network)(raws_of(network), Targets(*TARGETS[:4]))
    assert losses.total > 0
