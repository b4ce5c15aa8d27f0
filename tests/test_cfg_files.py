"""The cfg files: ours say what they should, Darknet's parse without complaint, broken ones never crash the parser."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.cfg import CFG_FOLDER, format_cfg, load_cfg, parse_cfg, with_activation, with_classes, with_net
from utils.cfg.heads import Yolo
from utils.cfg.layers import Convolutional, Unsupported
from utils.errors import CfgError

OURS = sorted(CFG_FOLDER.glob("*.cfg"))


def normalised_activations(config):
    """How often each activation occurs in batch-normalised convolutions."""
    return Counter(x.activation for x in config.layers if isinstance(x, Convolutional) and x.batch_normalize)


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_our_files_are_clean(path):
    config = load_cfg(path)
    assert config.warnings == ()
    assert parse_cfg(format_cfg(config)) == config
    lines = path.read_text(encoding="ascii").splitlines()
    assert max(map(len, lines)) < 120 and not any(line != line.rstrip() for line in lines)
    assert not any("=" in line and ("#" in line or ";" in line) for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_comments_name_the_right_layers(path):
    """In `# Join: what (27) and what (12)` the numbers are those of the route's layers, in order."""
    layers = iter(enumerate(load_cfg(path).layers))
    comment = ""
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            comment = line
        elif line.startswith("[") and line != "[net]":
            index, layer = next(layers)
            if comment.startswith("# Join"):
                named = [int(number) for part in re.findall(r"\(([\d, ]+)\)", comment) for number in part.split(",")]
                assert named == [x if x >= 0 else index + x for x in layer.layers], comment
            elif comment.startswith("# Layer") and layer.kind == "route":
                assert int(comment.split()[2].strip(":")) == layer.layers[0] + (index if layer.layers[0] < 0 else 0)
            elif comment.startswith("# Layer"):
                assert int(comment.split()[2].strip(":")) == index
            comment = ""


def test_yolov4_is_the_network_of_the_paper():
    config = load_cfg("yolov4")
    assert Counter(layer.kind for layer in config.layers) == {
        "convolutional": 110,
        "route": 21,
        "shortcut": 23,
        "maxpool": 3,
        "upsample": 2,
        "yolo": 3,
    }
    net = config.net
    assert (net.width, net.height, net.channels, net.batch, net.subdivisions) == (608, 608, 3, 64, 8)
    assert (net.learning_rate, net.momentum, net.decay, net.burn_in) == (0.0013, 0.949, 0.0005, 1000)
    assert (net.policy, net.steps, net.max_batches, net.mosaic) == ("steps", (400000, 450000), 500500, True)
    assert normalised_activations(config) == {"mish": 72, "leaky": 35}


@pytest.mark.parametrize(
    ("variant", "base", "activation"),
    [
        ("yolov4-mish", "yolov4", "mish"),
        ("yolov4-leaky", "yolov4", "leaky"),
        ("yolov4-tiny-mish", "yolov4-tiny", "mish"),
        ("resnet50-mish", "resnet50", "mish"),
    ],
)
def test_variants_differ_in_the_activation_alone(variant, base, activation):
    config = load_cfg(variant)
    assert config == with_activation(load_cfg(base), activation)
    assert set(normalised_activations(config)) <= {activation, "linear"}


def test_csdarknet53_is_the_backbone_of_yolov4():
    assert load_cfg("csdarknet53").layers[:105] == load_cfg("yolov4").layers[:105]


@pytest.mark.parametrize("name", ["yolov4", "yolov4-tiny"])
def test_ours_equal_darknets(darknet_zoo, name):
    assert load_cfg(name) == load_cfg(darknet_zoo / f"{name}.cfg")


def test_our_classifiers_equal_darknets(darknet_zoo):
    assert load_cfg("csdarknet53") == load_cfg(darknet_zoo / "csdarknet53-omega.cfg")
    ours, theirs = load_cfg("resnet50"), load_cfg(darknet_zoo / "resnet50.cfg")
    assert ours.layers == theirs.layers[:-1] and theirs.layers[-1].kind == "cost"  # its [softmax] has a loss already
    assert with_net(ours, batch=1, subdivisions=1).net == theirs.net  # it is set up for testing


def test_coco_names_and_data_go_with_the_cfgs():
    names = (CFG_FOLDER / "coco.names").read_text().splitlines()
    assert len(names) == len(set(names)) == 80 and names[0] == "person" and names[79] == "toothbrush"
    assert all(name == name.strip() != "" for name in names)
    lines = (CFG_FOLDER / "coco.data").read_text().splitlines()
    options = dict(line.split("=") for line in lines if not line.startswith("#"))
    assert options["classes"] == "80" and options["names"] == "cfg/coco.names"
    assert {layer.classes for layer in load_cfg("yolov4").layers if isinstance(layer, Yolo)} == {80}


# Darknet's own files

DUPLICATES = {"efficientnet-lite3": 2, "efficientnet_b0": 2, "yolo9000": 2, "yolov3-openimages": 2}
RUN_TOGETHER = {"cspx-p7-mish_hp": 5}  # "61,45 61,45" lacks a comma in each of the five heads


def zoo_files(zoo: Path) -> list[Path]:
    return sorted(zoo.rglob("*.cfg"))


def test_zoo_parses_and_survives_formatting(darknet_zoo):
    files = zoo_files(darknet_zoo)
    assert files, "the zoo is empty"
    for path in files:
        config = load_cfg(path)
        assert len(config.warnings) == (DUPLICATES | RUN_TOGETHER).get(path.stem, 0), config.warnings
        again = parse_cfg(format_cfg(config))
        assert again == config, path
        assert format_cfg(again) == format_cfg(config), path


def test_zoo_recurrent_and_yolov1_sections_are_marked(darknet_zoo):
    marked = {
        path.stem: {layer.kind for layer in load_cfg(path).layers if isinstance(layer, Unsupported)}
        for path in zoo_files(darknet_zoo)
    }
    kinds = {"gru", "rnn", "lstm", "crnn", "detection", "local"}
    assert set().union(*marked.values()) <= kinds
    assert marked["yolov3-tiny_occlusion_track"] == {"crnn"} and marked["t1.test"] == {"detection"}
    assert not any(marked[name] for name in ("yolov4", "yolov7", "enet-coco", "yolov2", "resnet152_trident"))


def test_zoo_detectors_take_other_classes(darknet_zoo):
    for path in zoo_files(darknet_zoo):
        config = load_cfg(path)
        if not any(isinstance(layer, Yolo) for layer in config.layers):
            continue
        for index, layer in enumerate(config.layers):
            if isinstance(layer, Yolo):
                assert config.layers[index - 1].filters == layer.filters_before(layer.classes), path
        changed = with_classes(config, 3)
        assert {layer.classes for layer in changed.layers if isinstance(layer, Yolo)} == {3}
        assert with_classes(config, 80).net == config.net


JUNK = (
    b"[net]\n", b"[yolo]\n", b"\nmask=5,4,3\n", b"\nnum=1\n", b"=", b",", b"-", b"\nanchors=1\n", b"9" * 20, b"nan",
    b"\nfrom=-2\n", b"1e400", b"\r", b"\nstride=0\n", b"#", b"\0", b"\xff\xfe", b"\nlayers=7,-1\n", b"[lstm]\n",
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_broken_cfgs_raise_cfg_errors_and_nothing_else(data):
    """Cut, swap, repeat and overwrite bytes of a real cfg: a Config or one line must come out."""
    text = (CFG_FOLDER / "yolov4-tiny.cfg").read_bytes()
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        stop = min(len(text), start + data.draw(st.integers(0, 30)))
        junk = data.draw(st.binary(max_size=8) | st.sampled_from(JUNK))
        text = text[:start] + junk + text[stop:]
    try:
        config = parse_cfg(text.decode("latin-1"), source="broken.cfg", lenient=data.draw(st.booleans()))
    except CfgError as error:
        assert str(error).startswith("broken.cfg:") and str(error).isprintable()
    else:
        assert parse_cfg(format_cfg(config)) == config
