"""Which networks are classifiers, which layer of them knows the classes, which can be trained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from utils.cfg import load_cfg, parse_cfg, with_activation, with_classes
from utils.cfg.classifier import check_trainable, class_layer, is_classifier
from utils.errors import CfgError

NET = "[net]\nwidth=32\nheight=32\nchannels=3\n"
CONV = "[convolutional]\nfilters=10\nsize=1\nactivation=linear\n"
TAIL = "[avgpool]\n[softmax]\n"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (CONV + TAIL, True),
        (CONV + TAIL + "[cost]\n", True),
        (CONV + "[cost]\n", False),
        (CONV, False),
        ("[cost]\n", False),
        ("[convolutional]\nfilters=6\nactivation=linear\n[yolo]\nclasses=1\n[softmax]\n", False),
    ],
)
def test_a_classifier_ends_in_a_softmax(text: str, wanted: bool) -> None:
    assert is_classifier(parse_cfg(NET + text)) is wanted


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (CONV + CONV + TAIL, "filters"),
        (CONV + "[avgpool]\n" + CONV + "[softmax]\n[cost]\n", "filters"),
        (CONV + "[connected]\noutput=10\nactivation=linear\n[dropout]\n[softmax]\n", "output"),
    ],
)
def test_the_last_layer_with_weights_takes_another_number_of_classes(text: str, key: str) -> None:
    before = parse_cfg(NET + text)
    after = with_classes(before, 7)
    changed = [index for index, pair in enumerate(zip(before.layers, after.layers, strict=True)) if pair[0] != pair[1]]
    assert changed == [class_layer(before)]
    assert getattr(after.layers[changed[0]], key) == 7
    assert with_classes(after, 10) == before


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (CONV + "[maxpool]\n[softmax]\n", r"<string>:\d+: \[maxpool\]: between the \[softmax\] and the layer of the"),
        ("[avgpool]\n[softmax]\n", r"<string>: no \[convolutional\] or \[connected\] whose outputs are the classes"),
    ],
)
def test_a_classifier_without_a_last_layer_is_refused(text: str, match: str) -> None:
    with pytest.raises(CfgError, match=match):
        with_classes(parse_cfg(NET + text), 7)


@pytest.mark.parametrize("option", ["groups=2", "tree=data/9k.tree", "spatial=1", "noloss=1"])
def test_other_kinds_of_softmax_cannot_be_trained(option: str) -> None:
    with pytest.raises(CfgError, match=rf"\[softmax\] {re.escape(option)}: cannot be trained here"):
        check_trainable(parse_cfg(NET + CONV + TAIL + option + "\n"))
    check_trainable(parse_cfg(NET + CONV + TAIL))


def test_images_have_three_channels() -> None:
    with pytest.raises(CfgError, match=r"\[net\] channels=1 \(wanted 3"):
        check_trainable(parse_cfg(NET.replace("channels=3", "channels=1") + CONV + TAIL))


def test_linear_layers_before_an_addition_stay_linear() -> None:
    config = with_activation(load_cfg("resnet50"), "swish")
    block = config.layers[2:6]
    assert [layer.activation for layer in block] == ["swish", "swish", "linear", "swish"]
    assert with_activation(config, "leaky") == load_cfg("resnet50")


def test_darknets_classifiers_take_other_classes(darknet_zoo: Path) -> None:
    names = ("darknet53", "csdarknet53-omega", "resnet50", "efficientnet_b0", "densenet201", "alexnet", "cifar", "tiny")
    for name in names:
        config = load_cfg(darknet_zoo / f"{name}.cfg")
        assert is_classifier(config)
        layer = with_classes(config, 7).layers[class_layer(config)]
        assert getattr(layer, "filters", None) == 7 or layer.output == 7, name
        check_trainable(config)
