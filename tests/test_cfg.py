"""Cfg text to sections and back: grammar, types, messages, edits."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.cfg import (
    Config,
    find_cfg,
    format_cfg,
    load_cfg,
    parse_cfg,
    values,
    with_activation,
    with_classes,
    with_counters,
    with_net,
    with_size,
)
from utils.cfg.heads import GaussianYolo, Region, Yolo
from utils.cfg.layers import ACTIVATIONS, Convolutional, Maxpool, Route, Shortcut, Unsupported
from utils.cfg.net import Net
from utils.cfg.options import Options
from utils.cfg.sections import ALIASES, SECTIONS, UNSUPPORTED
from utils.errors import CfgError

CONV = "[convolutional]\nfilters=8\nsize=3\npad=1\nactivation=mish\n"


def parse_layer(text: str, *, before: int = 2) -> Any:
    """The one section in ``text``, after ``before`` convolutions."""
    return parse_cfg("[net]\n" + CONV * before + text).layers[before]


def fails(match: str, text: str, **kwargs: Any) -> None:
    """Assert that ``text`` is refused with one line of a sane length that has ``match``."""
    with pytest.raises(CfgError, match=match) as caught:
        parse_cfg(text, **kwargs)
    message = str(caught.value)
    assert "\n" not in message and message.isprintable() and len(message) < 700
    assert caught.value.exit_code == 3


# Grammar


def test_blanks_are_deleted_and_comments_skipped():
    config = parse_cfg("\ufeff# title\r\n [ net ]\r\n; note\r\n steps = 1, 2 0 \t\r\nscales=.1,.1\r\n\r\nbatch = 6 4")
    assert config.net.steps == (1, 20)
    assert config.net.batch == 64
    assert config.layers == () and config.warnings == ()


def test_values_have_their_type():
    net = parse_cfg(
        "[net]\nmosaic=1\nflip=0\nhue=.1\nbatch=+8\npolicy=poly\nmax_batches=5e0\n".replace("5e0", "5.")
    ).net
    assert (net.mosaic, net.flip, net.hue, net.batch, net.policy, net.max_batches) == (True, False, 0.1, 8, "poly", 5)
    yolo = parse_layer("[yolo]\nnum=3\nmask=1,2\nanchors=1,2, 3,4, 5,6\nnew_coords=0\nrandom=1.4\n")
    assert (yolo.mask, yolo.anchors) == ((1, 2), ((1.0, 2.0), (3.0, 4.0), (5.0, 6.0)))
    assert yolo.new_coords is False and yolo.random == 1.4 and yolo.max_delta == math.inf


@pytest.mark.parametrize("comment", ["#32", " # see above", ";x", "# a = b"])
def test_inline_comments_do_not_reach_the_value(comment):
    layer = parse_layer(f"[convolutional]\nfilters=40{comment}\ngroups=4\nactivation=mish{comment}\n")
    assert (layer.filters, layer.activation) == (40, "mish")


def test_the_first_of_equal_keys_wins_with_a_warning():
    config = parse_cfg("[net]\nbatch=4\n\nbatch=8\n", source="a.cfg")
    assert config.net.batch == 4
    assert config.warnings == ("a.cfg:4: [net] batch=8 ignored: line 2 has set it",)


@pytest.mark.parametrize(("alias", "kind"), sorted(ALIASES.items()))
def test_aliases(alias, kind):
    if kind == "net":
        assert parse_cfg(f"[{alias}]").net == Net()
    else:
        assert parse_layer(f"[{alias}]").kind == kind


def test_lines_are_counted_for_every_section():
    config = parse_cfg(f"\n\n[net]\n\n{CONV}\n[maxpool]\n", source="a.cfg")
    assert [config.net.line, *(layer.line for layer in config.layers)] == [3, 5, 11]
    assert config.where(config.layers[1]) == "a.cfg:11: [maxpool]"


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_sections_nobody_builds_are_kept_as_text(kind):
    layer = parse_layer(f"[{kind}]\noutput = 3\nwhatever=x\n")
    assert layer == Unsupported(kind=kind, options=(("output", "3"), ("whatever", "x")))
    assert layer.line == 12


@pytest.mark.parametrize("kind", SECTIONS)
def test_every_section_accepts_the_keys_of_all_layers(kind):
    wanted = {"route": "layers=-1", "shortcut": "from=-1", "scale_channels": "from=-1", "sam": "from=-1"}.get(kind, "")
    assert parse_layer(f"[{kind}]\n{wanted}\nstopbackward=800\ndontload=1\nonlyforward=1\n").stopbackward == 800


# What follows from other keys


def test_convolution_fills_in_what_it_is_not_told():
    layer = parse_layer("[conv]\nsize=5\nstride=2\npad=1\nstride_y=3\ndilation=2\n")
    assert (layer.padding, layer.stride_x, layer.stride_y, layer.dilation) == (2, 2, 3, 2)
    assert parse_layer("[conv]\nsize=1\ndilation=4\n").dilation == 1
    assert parse_layer("[conv]\nfilters=8\ngroups=8\nxnor=1\n").groups == 1
    assert parse_layer("[conv]\ncbn=1\n").batch_normalize == 2
    assert parse_layer("[conv]\nsize=5\npad=2\n").padding == 2  # Darknet takes any non-zero pad as on


def test_pool_fills_in_what_it_is_not_told():
    assert parse_layer("[maxpool]\nstride=2\n") == Maxpool(stride=2, size=2, padding=1, stride_x=2, stride_y=2)
    assert parse_layer("[maxpool]\nsize=3\nstride=2\npadding=0\n").padding == 0


def test_heads_fill_in_mask_and_anchors():
    yolo = parse_layer("[yolo]\nnum=2\n")
    assert (yolo.mask, yolo.anchors) == ((0, 1), ((0.5, 0.5), (0.5, 0.5)))
    assert parse_layer("[yolo]\nnum=2\nanchors=1,2,3,4,5,6").anchors == ((1, 2), (3, 4))
    assert parse_layer("[region]\nnum=1\nanchors=1,2,3,4").anchors == ((1, 2),)
    assert parse_layer("[region]\nnum=2\n").anchors == ((0.5, 0.5), (0.5, 0.5))


def test_a_mask_beyond_num_finds_its_anchors():
    yolo = parse_layer("[yolo]\nnum=1\nmask=1,2\nanchors=1,2,3,4,5,6,7,8")
    assert (yolo.num, yolo.anchors) == (3, ((1, 2), (3, 4), (5, 6)))


def test_an_odd_list_of_anchors_warns():
    config = parse_cfg(f"[net]\n{CONV}[yolo]\nnum=2\nanchors=10,1314,20\n")
    assert config.layers[1].anchors == ((10, 1314), (20, 0.5))
    assert "line" not in config.warnings[0] and "run together" in config.warnings[0]


def test_net_fills_in_crops_and_cycle():
    net = parse_cfg("[net]\nwidth=64\nheight=32\nchannels=3\nmax_batches=9\nbatch=4\nsubdivisions=2").net
    assert (net.min_crop, net.max_crop, net.sgdr_cycle, net.inputs) == (64, 128, 9, 6144)
    assert net.sequential_subdivisions == 2


# Refusals


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "1: no section at all"),
        ("# only a comment\n", "no section at all"),
        ("batch=1\n[net]", r"<string>:1: 'batch=1' stands before any section \(wanted \[net\] first\)"),
        (CONV, r"\[convolutional\] is the first section"),
        ("[net]\n[rnn]\n[net]", "3: a second"),
        ("[net]\n[net]", "2: a second"),
        ("[net]\n[yolo4]", r"2: unknown section \[yolo4\]; did you mean 'yolo'\?"),
        ("[net]\n[???]", "unknown section .*docs/darknet.md"),
        ("[net\n", r"'\[net' \(wanted a section"),
        ("[net]x\n", "wanted a section"),
        ("[net]\nbatch\n", r"2: \[net\] 'batch' \(wanted key=value\)"),
        ("[net]\nbatch=\n", "wanted key=value"),
        ("[net]\n=3\n", "wanted key=value"),
        ("[net]\n\0\n", "2: a NUL byte"),
        ("[net]\n\n[yolo]\nscale_xy=1", r"<string>:4: \[yolo\] has no key 'scale_xy'; did you mean 'scale_x_y'\?"),
        ("[net]\nqqqqqq=1", r"\[net\] has no key 'qqqqqq'$"),
        ("[net]\nmax_delta=1", "has no key 'max_delta'"),
        ("[net]\nsubdivisions=2", r"\[net\] subdivisions=2 \(wanted at most batch, which is 1\)"),
        ("[net]\npolicy=steps", r"policy=steps \(wanted steps="),
        ("[net]\npolicy=steps\nsteps=1,2\nscales=.1", r"4: \[net\] scales=.1 \(wanted one for each of the 2 steps"),
        ("[net]\npolicy=step_s", r"policy=step_s \(did you mean 'steps?'\?\)"),
        ("[net]\npolicy=zzz", r"\(wanted one of constant, step"),
        ("[net]\n[conv]\nfilters=10\ngroups=4", r"groups=4 \(wanted a divisor of filters=10\)"),
        ("[net]\n[conv]\nactivation=msh", r"\[convolutional\] activation=msh \(did you mean 'mish'\?\)"),
        ("[net]\n[conv]\nstride=0", r"stride=0 \(wanted a whole number from 1"),
        ("[net]\n[upsample]\nstride=0", r"stride=0 \(wanted anything but 0"),
        ("[net]\n[route]\n", r"2: \[route\] has no layers"),
        (f"[net]\n{CONV}[shortcut]\n", r"\[shortcut\] has no from"),
        (f"[net]\n{CONV}[sam]\n", r"\[sam\] has no from"),
        (f"[net]\n{CONV}[scale_channels]\n", r"\[scale_channels\] has no from"),
        (f"[net]\n{CONV}[route]\nlayers=1", r"8: \[route\] layers=1 \(wanted 0 to 0 or -1 to -1, as this is layer 1"),
        (f"[net]\n{CONV}[shortcut]\nfrom=-2", r"from=-2 \(wanted 0 to 0"),
        ("[net]\n[conv]\nshare_index=0", r"share_index=0 \(wanted no such key, as this is layer 0"),
        (f"[net]\n{CONV}[route]\nlayers=0\ngroups=2\ngroup_id=2", r"group_id=2 \(wanted less than groups=2"),
        ("[net]\n[yolo]\nnum=2\nanchors=1,2", r"anchors=1,2 \(wanted num=2 pairs, got 1"),
        ("[net]\n[yolo]\nnum=2\nmask=2", r"mask=2 \(wanted anchors from 0 to 1\)"),
        ("[net]\n[yolo]\nclasses=2\ncounters_per_class=1,2,3", "wanted one for each of the 2 classes"),
        ("[net]\n[region]\nnum=2\nanchors=1,2", "wanted num=2 pairs, got 1"),
        ("[net]\n[region]\nanchors=1,2,3", "wanted pairs of numbers, got 3"),
        ("[net]\nsteps=1,,2", "wanted a whole number .*for each item"),
        ("[net]\nsteps=" + "1," * 70000, "wanted at most 65536 items"),
        ("[net]\n[softmax]\ntree=" + "x" * 5000, "wanted a file name"),
        ("[net]\n" + "[avgpool]\n" * 10001, "10002: more than 10000 layers"),
        ("[net]\n" + "batch=1\n" * 1002, "1003: more than 1000 oddities"),
        ("#" * (2**21 + 1), "more than 2,097,152 characters"),
    ],
)
def test_refusals(text, match):
    fails(match, text)


@pytest.mark.parametrize(
    "text", ["x", "3x", "1.5", "-1", "0", "65537", "1" + "0" * 20, "nan", "inf", "0x10", "1_0", "²", "1e3"]
)
def test_filters_must_be_a_sensible_whole_number(text):
    fails(
        r"<string>:3: \[convolutional\] filters=.*wanted a whole number from 1 to 65536",
        f"[net]\n[conv]\nfilters={text}",
    )


@pytest.mark.parametrize(
    "text", ["x", "nan", "-inf", "1e999", "1e10", "-.1", "1..2", "1e", ".", "1" * 5000, "0.1.2", "٣"]
)
def test_learning_rate_must_be_a_sensible_number(text):
    fails(r"<string>:2: \[net\] learning_rate=.*wanted a number from 0 to 1000", f"[net]\nlearning_rate={text}")


@pytest.mark.parametrize("text", ["2", "-1", "yes", "0.5"])
def test_switches_are_0_or_1(text):
    fails(r"mosaic=.*\(wanted 0 or 1\)", f"[net]\nmosaic={text}")


def test_hostile_text_is_shown_escaped_and_short():
    fails(r"has no key '\\x1b\[31mred'", "[net]\n\x1b[31mred=1")
    fails(r"\.\.\.", "[net]\n" + "y" * 100_000 + "=1")
    fails(r"^a\\nb:1: ", "", source="a\nb")


def test_lenient_ignores_unknown_keys_and_bad_lines_but_not_bad_values():
    config = parse_cfg("[net]\nbatchh=3\nbatch\nmomentum=.5", lenient=True)
    assert config.net.momentum == 0.5
    assert config.warnings[0] == "<string>:2: [net] has no key 'batchh'; did you mean 'batch'?; ignored"
    assert config.warnings[1].endswith("(wanted key=value); ignored")
    fails("batch=x", "[net]\nbatch=x", lenient=True)
    fails("unknown section", "[net]\n[what]", lenient=True)


@pytest.mark.parametrize(
    "text",
    [
        "[net]\n[avgpool]\n" + "[route]\nlayers=-1\n" * 100_000,
        "[net]\n[avgpool]\n[route]\nlayers=0" + ",0" * 100_000,
        "[net]\n" + "".join(f"k{i}=1\n" for i in range(100_000)),
        "[" * 1_000_000,
        "\n" * 2_000_000,
    ],
)
def test_hostile_text_is_refused_quickly(text):
    start = time.process_time()
    fails(":", text, lenient=True)
    assert time.process_time() - start < 5


# Files


def test_load_cfg_reads_odd_encodings(tmp_path):
    path = tmp_path / "odd.cfg"
    path.write_bytes(b"\xef\xbb\xbf[net]\r\nbatch=2\r\n")
    assert load_cfg(path).net.batch == 2
    path.write_bytes(b"# caf\xe9 \x85 latin-1\n[net]\nbatch=3\n")
    config = load_cfg(str(path))
    assert config.net.batch == 3 and config.net.line == 2 and config.source == str(path)
    path.write_bytes("[net]".encode("utf-16"))
    with pytest.raises(CfgError, match=r"odd.cfg:1: a NUL byte"):
        load_cfg(path)


def test_load_cfg_names_what_it_cannot_find(tmp_path):
    assert find_cfg("yolov4") == find_cfg("yolov4.cfg")
    with pytest.raises(CfgError, match=r"yolov4-mich: no such cfg file or name; did you mean 'yolov4-mish'\?"):
        load_cfg("yolov4-mich")
    with pytest.raises(CfgError, match=r"no such cfg file or name; cfg/ has .*yolov4-tiny"):
        load_cfg(tmp_path / "qqqqqqqq")
    with pytest.raises(CfgError, match="no such cfg file"):
        load_cfg(tmp_path)
    with pytest.raises(CfgError, match="no such cfg file"):
        load_cfg("x" * 5000)


def test_load_cfg_reports_an_unreadable_file(tmp_path, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "locked.cfg"
    path.write_text("[net]")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CfgError, match=r"locked.cfg: cannot be read: Permission denied"):
        load_cfg(path)


def test_load_cfg_stops_at_endless_files():
    if not Path("/dev/zero").exists():
        pytest.skip("/dev/zero is absent")
    with pytest.raises(CfgError, match="more than 2,097,152 characters"):
        load_cfg("/dev/zero")


# Formatting


def _value_of(kind: values.Kind) -> st.SearchStrategy[Any]:
    """Values that a kind of key can hold."""
    match kind:
        case values.Integer(low, high):
            return st.integers(low, high)
        case values.Real(low, high):
            return st.floats(low, high)
        case values.Switch():
            return st.booleans()
        case values.Word(choices):
            return st.sampled_from(choices)
        case values.Text():
            return st.from_regex(r"[a-zA-Z0-9_./-]{1,20}", fullmatch=True)
        case values.Items(item):
            return st.lists(_value_of(item), min_size=1, max_size=4).map(tuple)
        case values.Pairs(item):
            return st.lists(st.tuples(_value_of(item), _value_of(item)), min_size=1, max_size=4).map(tuple)
    raise AssertionError(kind)


@st.composite
def _sections(draw: st.DrawFn, section_type: type[Options]) -> Options:
    """Any section of a type whose keys fit each other and that may stand second."""
    keys = section_type.keys()
    chosen = draw(st.lists(st.sampled_from(sorted(keys)), unique=True, max_size=6))
    drawn = {key: draw(_value_of(keys[key].metadata["kind"])) for key in chosen}
    for key in section_type.reference_keys():
        drawn[key] = (0, -1) if isinstance(keys[key].metadata["kind"], values.Items) else -1
    section = section_type(**{keys[key].name: value for key, value in drawn.items()})
    unfit = {key for key, _ in section.problems()}
    return section_type() if unfit else section


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_formatted_text_parses_to_an_equal_config(data):
    kind = data.draw(st.sampled_from(["net", *SECTIONS]))
    if kind == "net":
        config = Config(data.draw(_sections(Net)), ())
    else:
        config = Config(Net(), (Convolutional(filters=3), data.draw(_sections(SECTIONS[kind]))))
    if kind in {"route", "shortcut", "sam", "scale_channels"} and not config.layers[1].explicit():
        return
    assert parse_cfg(format_cfg(config)) == config


def test_format_keeps_the_given_keys_in_order_and_writes_no_others():
    text = "[net]\nheight=32\nwidth=64\nbatch=1\n\n[convolutional]\nsize=3\npad=1\nfilters=1\n\n[gru]\noutput=2\nzz=1\n"
    assert format_cfg(parse_cfg(text)) == text


def test_format_writes_every_changed_key_of_sections_built_in_code():
    layers = (Convolutional(filters=4, size=3, pad=True), Shortcut(from_=(-1,)), Route(layers=(0, -1)))
    text = format_cfg(Config(Net(hue=0.1), layers))
    assert text == (
        "[net]\nhue=0.1\n\n[convolutional]\nfilters=4\nsize=3\npad=1\n\n[shortcut]\nfrom=-1\n\n[route]\nlayers=0,-1\n"
    )


# Edits


DETECTOR = f"""[net]\nwidth=64\nheight=64\nchannels=3\nbatch=4
[convolutional]\nbatch_normalize=1\nfilters=8\nactivation=leaky
{CONV}[yolo]\nnum=3\nmask=0,1\nanchors=1,2,3,4,5,6\nclasses=2\ncounters_per_class=5,6
{CONV}[Gaussian_yolo]\nnum=3\nmask=2\nanchors=1,2,3,4,5,6
{CONV}[region]\nnum=5
"""


def test_with_classes_changes_heads_and_the_filters_before_them():
    before = parse_cfg(DETECTOR)
    copy = dataclasses.replace(before)
    after = with_classes(before, 7)
    assert before == copy
    assert [type(layer) for layer in after.layers[2::2]] == [Yolo, GaussianYolo, Region]
    assert [layer.classes for layer in after.layers[2::2]] == [7, 7, 7]
    assert [layer.filters for layer in after.layers[1::2]] == [2 * 12, 1 * 16, 5 * 12]
    assert after.layers[0] == before.layers[0] and after.net == before.net
    assert after.layers[2].counters_per_class is None
    assert with_classes(parse_cfg(DETECTOR), 2).layers[2].counters_per_class == (5, 6)
    assert parse_cfg(format_cfg(after)) == after


def test_with_counters_weighs_every_kind_of_head():
    before = with_classes(parse_cfg(DETECTOR), 3)
    after = with_counters(before, [4, 0, 9])
    assert [layer.counters_per_class for layer in after.layers[2::2]] == [(4, 0, 9)] * 3
    assert parse_cfg(format_cfg(after)) == after
    assert with_counters(after, None) == before == with_classes(with_classes(after, 2), 3)
    with pytest.raises(CfgError, match=r"counters_per_class=\(4, 9\) \(wanted one for each of the 3 classes\)"):
        with_counters(before, [4, 9])
    region = with_classes(parse_cfg(f"[net]\nwidth=64\nheight=64\nchannels=3\n{CONV}[region]\nnum=5"), 3)
    with pytest.raises(CfgError, match=r"\[region\] counters_per_class=.*wanted one for each of the 3 classes"):
        with_counters(region, [4, 9])


def test_with_classes_refusals():
    with pytest.raises(CfgError, match=r"<string>: no \[yolo\].*classes=3 has no place"):
        with_classes(parse_cfg(f"[net]\n{CONV}"), 3)
    with pytest.raises(CfgError, match=r"2: \[yolo\]: wanted a \[convolutional\] just before it"):
        with_classes(parse_cfg("[net]\n[yolo]"), 3)
    with pytest.raises(CfgError, match=r"wanted a \[convolutional\] just before it"):
        with_classes(parse_cfg(f"[net]\n{CONV}[avgpool]\n[yolo]"), 3)
    with pytest.raises(CfgError, match=r"\[yolo\] classes=0 \(wanted a whole number"):
        with_classes(parse_cfg(DETECTOR), 0)


def test_with_size_sets_what_follows_from_the_width():
    net = with_size(parse_cfg(DETECTOR), (32, 96)).net
    assert (net.height, net.width, net.max_crop, net.inputs) == (32, 96, 192, 32 * 96 * 3)


def test_with_net_takes_text_or_values():
    config = parse_cfg(DETECTOR)
    net = with_net(config, policy="steps", steps="1, 2", scales=(0.1, 0.5), mosaic="1", flip=False, batch=8).net
    assert (net.policy, net.steps, net.scales, net.mosaic, net.flip) == ("steps", (1, 2), (0.1, 0.5), True, False)
    assert with_net(config, batch=None).net.batch == 1  # back to the default
    assert config.net.batch == 4


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"moasic": 1}, r"<string>:1: \[net\] has no key 'moasic'; did you mean 'mosaic'\?"),
        ({"batch": "x"}, r"\[net\] batch=x \(wanted a whole number"),
        ({"batch": [1]}, r"batch=\[1\] \(wanted"),
        ({"batch": 1.5}, r"batch=1.5 \(wanted a whole number"),
        ({"hue": object()}, r"hue=<object"),
        ({"hue": math.nan}, r"hue=nan \(wanted a number"),
        ({"steps": ()}, r"steps=\(\) \(wanted"),
        ({"subdivisions": 8}, r"subdivisions=8 \(wanted at most batch, which is 4\)"),
    ],
)
def test_with_net_refusals(changes, match):
    with pytest.raises(CfgError, match=match):
        with_net(parse_cfg(DETECTOR), **changes)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_with_activation_leaves_convolutions_without_batch_norm(name):
    after = with_activation(parse_cfg(DETECTOR), name)
    assert [layer.activation for layer in after.layers if isinstance(layer, Convolutional)] == [name, *["mish"] * 3]


def test_with_activation_knows_the_names():
    with pytest.raises(CfgError, match=r"activation=mihs \(did you mean 'mish'\?\)"):
        with_activation(parse_cfg(DETECTOR), "mihs")
