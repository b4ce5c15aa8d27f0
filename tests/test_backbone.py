"""models.backbone: where the backbone of published networks ends, and of some that are drawn up here."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.backbone import backbone_size
from models.graph import plan
from utils.cfg import load_cfg, parse_cfg

NET = "[net]\nwidth=64\nheight=64\nchannels=3\n"


def conv(size: int = 3, stride: int = 1, filters: int = 8) -> str:
    return f"[convolutional]\nfilters={filters}\nsize={size}\nstride={stride}\npad=1\nactivation=leaky\n"


HEAD = conv(1, filters=6) + "[yolo]\nclasses=1\n"


def size_of(text: str) -> int:
    return backbone_size(plan(parse_cfg(NET + text)))


# (cfg, layers): CSPDarknet53 has 105 layers before its pooling, the tiny one ends with its third block
@pytest.mark.parametrize(("name", "layers"), [("yolov4.cfg", 105), ("yolov4-mish.cfg", 105), ("yolov4-tiny.cfg", 25)])
def test_networks_of_this_repository(name: str, layers: int) -> None:
    assert backbone_size(plan(load_cfg(name))) == layers


# Darknet53 without its end has 75 layers, Darknet19 up to the passthrough 25, CSPResNeXt50 81
@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("yolov3.cfg", 75),
        ("yolov3-spp.cfg", 75),
        ("yolov3-tiny.cfg", 11),
        ("yolov2.cfg", 25),
        ("yolo9000.cfg", 23),
        ("csresnext50-panet-spp.cfg", 81),
        ("yolov4-csp.cfg", 99),
        ("yolov7.cfg", 58),  # goes back to finer maps on its way down, too
    ],
)
def test_darknets_own_networks(darknet_zoo: Path, name: str, layers: int) -> None:
    assert backbone_size(plan(load_cfg(darknet_zoo / name))) == layers


def test_the_backbone_of_a_classifier_is_all_before_its_classes() -> None:
    config = load_cfg("csdarknet53.cfg")
    size = backbone_size(plan(config))
    assert config.layers[size].kind == "convolutional" and config.layers[size].filters == 1000
    assert [layer.kind for layer in config.layers[size + 1 :]] == ["softmax"]


def test_a_plain_chain_ends_before_the_heads_convolution() -> None:
    assert size_of(conv(stride=2) + conv() + HEAD) == 2


def test_a_block_ends_the_backbone_and_what_follows_is_neck() -> None:
    residual = conv(stride=2) + conv() + "[shortcut]\nfrom=-2\nactivation=linear\n"
    assert size_of(residual + conv() + HEAD) == 3
    joined = conv(stride=2) + conv() + "[route]\nlayers=-1,-2\n"
    assert size_of(joined + conv(1) + conv() + HEAD) == 4  # with the convolution that closes it
    assert size_of(joined + conv(3) + conv() + HEAD) == 3
    assert size_of(joined + HEAD) == 3  # that convolution is the head's


def test_pooling_without_a_stride_and_going_back_are_neck() -> None:
    pooled = conv(stride=2) + "[maxpool]\nsize=5\nstride=1\n[route]\nlayers=-1,-2\n"
    assert size_of(pooled + HEAD) == 1
    back = conv() + conv(stride=2) + conv() + "[route]\nlayers=0\n" + conv(stride=2) + conv() + HEAD
    assert size_of(back) == 6  # comes down again: still on its way
    assert size_of(conv() + conv(stride=2) + conv() + "[route]\nlayers=0\n" + conv() + HEAD) == 3
    assert size_of(conv(stride=2) + conv() + "[upsample]\nstride=2\n" + conv() + HEAD) == 2
