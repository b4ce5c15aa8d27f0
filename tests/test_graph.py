"""The plan of a network: shapes and costs known before a tensor is made, and what it refuses."""

from __future__ import annotations

import time

import pytest

from models.graph import plan
from models.summary import summary
from utils.cfg import parse_cfg
from utils.errors import CfgError

NET = "[net]\nwidth=32\nheight=64\nchannels=3\n"  # 4 lines
CONV = "[convolutional]\nfilters={0}\nsize=3\npad=1\nstride={1}\nactivation=leaky\nbatch_normalize=1\n"  # 7 lines


def refused(text: str, message: str) -> None:
    with pytest.raises(CfgError, match=message):
        plan(parse_cfg(text, source="a.cfg"))


def test_shapes_parameters_operations() -> None:
    text = (
        NET + CONV.format(8, 2) + CONV.format(16, 1) + "[route]\nlayers=-1,0\n[upsample]\nstride=2\n[maxpool]\nsize=2\n"
    )
    graph = plan(parse_cfg(text))
    assert [node.outputs for node in graph.nodes] == [
        (8, 32, 16),
        (16, 32, 16),
        (24, 32, 16),
        (24, 64, 32),
        (24, 64, 32),
    ]
    assert [node.parameters for node in graph.nodes] == [8 * 27 + 32, 16 * 72 + 64, 0, 0, 0]
    assert graph.parameters == 248 + 1216
    assert graph.nodes[0].operations == 2 * 8 * 27 * 32 * 16
    assert graph.activations == (8 + 16 + 24) * 512 + 2 * 24 * 2048
    assert graph.nodes[2].sources == (1, 0)
    assert graph.last_use == (2, 2, 2, 3, 4)
    assert graph.output == 4


@pytest.mark.parametrize(
    ("name", "parameters", "billions"),
    [("yolov4", 64_429_405, 128.459), ("yolov4-tiny", 6_062_814, 6.910), ("yolov3-spp", 63_052_381, 141.531)],
)
def test_published_totals(name: str, parameters: int, billions: float, darknet_zoo) -> None:
    graph = plan(parse_cfg((darknet_zoo / f"{name}.cfg").read_text()))
    assert graph.parameters == parameters
    assert sum(node.operations for node in graph.nodes) / 1e9 == pytest.approx(billions, abs=6e-4)


def test_what_a_classifier_returns() -> None:
    for end, output in (("[softmax]\n", 0), ("[softmax]\n[cost]\n", 0), ("[cost]\n", 0), ("", 0), ("[avgpool]\n", 1)):
        assert plan(parse_cfg(NET + CONV.format(8, 1) + end)).output == output


def test_the_table_has_what_darknets_has(darknet_zoo) -> None:
    lines = summary(plan(parse_cfg((darknet_zoo / "yolov4.cfg").read_text()))).splitlines()
    assert len(lines) == 1 + 162 + 1
    rows = [" ".join(line.split()) for line in lines]
    assert rows[1] == "0 convolutional 32 3x3/1 608 x 608 x 3 -> 608 x 608 x 32 992 0.639"
    assert rows[6] == "5 convolutional 32 1x1/1 304 x 304 x 64 -> 304 x 304 x 32 2,176 0.379"
    assert rows[4] == "3 route 1 304 x 304 x 64 -> 304 x 304 x 64"
    assert "64,429,405 parameters (245.8 MiB of .weights), 128.459 BFLOPs" in lines[-1]


def test_the_table_shows_groups_dilation_and_strides() -> None:
    text = NET + "[convolutional]\nfilters=6\ngroups=3\nsize=3\npad=1\ndilation=2\nstride_x=2\n[upsample]\nstride=2\n"
    lines = summary(plan(parse_cfg(text))).splitlines()
    assert "3x3/2x1 g3 d2" in lines[1]
    assert "2x " in lines[2]


def test_unsupported_sections_are_named() -> None:
    refused(NET + CONV.format(8, 1) + "[lstm]\noutput=8\n", r"a\.cfg:12: \[lstm\] this kind of layer is not supported")
    refused(NET, r"a\.cfg:1: \[net\] no layers after it")


def test_an_input_without_size() -> None:
    refused("[net]\nwidth=32\nchannels=3\n" + CONV.format(8, 1), r"a\.cfg:1: \[net\] width=32 height=0 channels=3")


@pytest.mark.parametrize("layers", ["0,1", "-1,-2"])
def test_routes_of_different_size(layers: str) -> None:
    text = NET + CONV.format(8, 1) + CONV.format(8, 2) + f"[route]\nlayers={layers}\n"
    refused(text, rf"a\.cfg:19: \[route\] layers={layers}: layer \d is \d+x\d+ and layer \d \d+x\d+")


def test_references_that_lead_nowhere() -> None:
    for section, key in (("route", "layers"), ("shortcut", "from"), ("sam", "from"), ("scale_channels", "from")):
        for value in (1, 2, -2):
            refused(
                NET + CONV.format(8, 1) + f"[{section}]\n{key}={value}\n", rf"a\.cfg:13: \[{section}\] {key}={value}"
            )


def test_groups_that_do_not_divide() -> None:
    text = NET + "[convolutional]\nfilters=4\ngroups=2\n"
    refused(text, r"a\.cfg:5: \[convolutional\] groups=2 does not divide the 3 channels")
    refused(
        NET + CONV.format(7, 1) + "[route]\nlayers=0\ngroups=2\n", "groups=2 does not divide the 7 channels of layer 0"
    )
    refused(NET + "[maxpool]\nmaxpool_depth=1\nout_channels=2\n", "out_channels=2 does not divide the 3 channels")
    refused(NET + "[softmax]\ngroups=5\n", "groups=5 does not divide its input of 3x64x32")


def test_a_window_larger_than_its_map() -> None:
    refused(NET + "[convolutional]\nsize=40\n", "size=40 does not fit into 32 pixels and 0 of padding")
    refused(NET + "[maxpool]\nsize=40\npadding=0\n", "size=40 does not fit into 32 pixels")
    refused(NET + "[maxpool]\nsize=2\npadding=4\n", "padding=4 leaves windows of size=2 outside")
    refused(NET + "[crop]\ncrop_height=64\ncrop_width=33\n", "64x33 is larger than its input of 64x32")


def test_dilation_wants_the_padding_that_keeps_the_size() -> None:
    refused(NET + "[convolutional]\nsize=3\ndilation=2\n", "dilation=2 with size=3 wants padding=1")


def test_keys_no_published_network_uses() -> None:
    refused(NET + "[convolutional]\ncoordconv=1\n", "coordconv=1 is not supported")
    refused(NET + "[reorg]\nstride=2\nreverse=1\n", r"\[reorg\] reverse=1 is not supported")


def test_reorg_and_upsample_that_do_not_divide() -> None:
    refused(NET + "[reorg3d]\nstride=3\n", "stride=3 does not divide its input of 3x64x32")
    refused(NET + "[reorg]\nstride=2\n", "stride=2 does not divide its input of 3x64x32")
    refused(NET + "[reorg3d]\nstride=2\nreverse=1\n", "stride=2 wants a multiple of 4 channels, not 3")
    refused(NET + "[upsample]\nstride=-3\n", "stride=-3 does not divide its input of 64x32")


def test_merging_layers_of_different_shape() -> None:
    two = NET + CONV.format(8, 1) + CONV.format(8, 3)
    refused(two + "[shortcut]\nfrom=-2\n", r"from=-2: layer 0 is 64x32, the previous layer 22x11 \(wanted the same")
    refused(two + "[sam]\nfrom=0\n", "from=0: layer 0 is 8x64x32, the previous layer 8x22x11")
    refused(two + "[scale_channels]\nfrom=0\n", r"from=0: the previous layer is 8x22x11 \(wanted 8x1x1\)")
    refused(two + "[scale_channels]\nscale_wh=1\nfrom=0\n", r"the previous layer is 8x22x11 \(wanted 1x64x32\)")


def test_sharing_with_a_layer_of_another_shape() -> None:
    refused(NET + "[maxpool]\n[convolutional]\nshare_index=0\n", r"share_index=0 is a \[maxpool\]")
    refused(
        NET + CONV.format(3, 1) + "[convolutional]\nfilters=3\nshare_index=-1\n",
        r"share_index=-1: .* \(wanted the same\)",
    )


HEAD = "[yolo]\nmask=0,1\nanchors=1,2,3,4\nnum=2\nclasses=3\n"


def test_filters_before_a_head() -> None:
    text = NET + CONV.format(15, 2) + HEAD
    refused(
        text,
        r"a\.cfg:12: \[yolo\] classes=3 with 2 anchors wants 16 channels, the layer before has 15 \(set filters=16",
    )
    refused(text.replace("yolo", "Gaussian_yolo"), "wants 24 channels")
    refused(NET + CONV.format(15, 2) + "[region]\nnum=2\nclasses=3\nanchors=1,2,3,4\n", "wants 16 channels")


def test_heads_end_their_branch() -> None:
    text = NET + CONV.format(16, 2) + HEAD
    refused(text + CONV.format(8, 1), r"a\.cfg:17: \[convolutional\] reads layer 1, a \[yolo\] head")
    refused(text + "[route]\nlayers=0\n[route]\nlayers=1,0\n", r"\[route\] reads layer 1, a \[yolo\] head")


def test_heads_have_the_same_classes() -> None:
    other = "[route]\nlayers=0\n" + CONV.format(18, 1) + HEAD.replace("classes=3", "classes=4")
    refused(NET + CONV.format(16, 2) + HEAD + other, r"the heads have 3, 4 classes")


def test_networks_too_big_to_be_meant() -> None:
    started = time.perf_counter()
    refused(
        NET + CONV.format(65536, 1) * 2, r"a\.cfg:12: \[convolutional\] brings the network to 38,656,\d+,\d+ parameters"
    )
    refused(NET + CONV.format(1000000000, 1), r"a\.cfg:6: \[convolutional\] filters=1000000000")
    huge = NET.replace("32", "32768").replace("64", "32768") + CONV.format(64, 1)
    refused(huge, "brings one image to 71,940,702,208 activations, 268 GiB")
    assert time.perf_counter() - started < 2


def idle(text: str) -> bool:
    return plan(parse_cfg(text, source="a.cfg")).some_idle


def test_steps_in_which_parameters_get_no_gradient() -> None:
    text = NET + CONV.format(4, 1) + CONV.format(16, 2) + HEAD
    assert not idle(text)
    assert not idle(text.replace("filters=4", "filters=4\nstopbackward=1", 1))  # frozen for good
    assert idle(text.replace("filters=4", "filters=4\nstopbackward=100", 1))
    assert idle(text.replace("filters=4", "filters=4\nonlyforward=1", 1))
    assert idle(NET + CONV.format(4, 1) + CONV.format(4, 1) + "[route]\nlayers=0\n" + CONV.format(16, 2) + HEAD)


def test_an_input_that_no_cell_divides_is_told_from_a_broken_cfg() -> None:
    joined = CONV.format(8, 2) + CONV.format(8, 2) + "[upsample]\nstride=2\n[route]\nlayers=-1,0\n"
    refused(
        NET.replace("width=32", "width=30") + joined,
        r"layer 0 is 32x15 and layer 2 32x16 \(wanted the same height and width\); "
        r"the input is 30 wide and 64 high, take multiples of 32$",
    )
    refused(NET + joined.replace("stride=2\n[route]", "stride=4\n[route]"), r"same height and width\)$")
    refused(
        NET.replace("height=64", "height=50") + joined.replace("[route]\nlayers=-1,0", "[shortcut]\nfrom=0"),
        r"or a multiple\); the input is 32 wide and 50 high, take multiples of 32$",
    )
