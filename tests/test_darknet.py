"""The network as a whole: building, running, memory, training modes, finding objects."""

from __future__ import annotations

import copy
import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models import load_network
from models.darknet import Darknet
from models.weights import save_darknet_weights
from utils.cfg import parse_cfg
from utils.checkpoint import save_checkpoint
from utils.errors import WeightsError
from utils.image import write_image

NET = "[net]\nwidth=64\nheight=32\nchannels=3\n"
CONV = "[convolutional]\nbatch_normalize=1\nfilters={0}\nsize=3\npad=1\nstride={1}\nactivation={2}\n"
LAST = "[convolutional]\nfilters=16\nsize=1\nactivation=linear\n"
HEAD = "[yolo]\nmask={0}\nanchors=8,8,16,16,24,24,32,32\nnum=4\nclasses=3\n"
TINY = (
    NET
    + "batch=4\nmax_batches=100\n"
    + CONV.format(8, 2, "mish")
    + CONV.format(16, 2, "leaky")
    + CONV.format(16, 1, "leaky")
    + "[shortcut]\nfrom=-2\n"
    + LAST
    + HEAD.format("0,1")
    + "[route]\nlayers=-3\n"
    + CONV.format(16, 2, "swish")
    + LAST
    + HEAD.format("2,3")
)


def tiny(text: str = TINY) -> Darknet:
    """A network with two heads, of stride 4 and 8, whose batch norms have seen something."""
    network = Darknet(parse_cfg(text, source="tiny.cfg"))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
    return network.eval()


def images(batch: int = 2, size: tuple[int, int] = (32, 64)) -> torch.Tensor:
    return torch.rand(batch, 3, *size)


# Building


def test_attributes() -> None:
    network = tiny()
    assert network.size == (32, 64)
    assert network.num_classes == 3
    assert [head.index for head in network.heads] == [5, 9]
    assert [head.stride for head in network.heads] == [(4, 4), (8, 8)]
    assert network.heads[1].anchors.tolist() == [[24, 24], [32, 32]]
    assert len(network.layers) == len(network.config.layers) == 10
    assert "layers.0.conv.weight" in network.state_dict()
    assert "layers.0.bn.running_mean" in network.state_dict()
    assert network.summary().startswith("layer  kind")


def test_the_same_seed_gives_the_same_weights() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(Darknet(parse_cfg(TINY)).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


# Running


def test_raw_heads() -> None:
    outputs = tiny()(images())
    assert [tuple(output.shape) for output in outputs] == [(2, 16, 8, 16), (2, 16, 4, 8)]


def test_classifier_gives_logits() -> None:
    text = NET + CONV.format(8, 2, "relu") + "[avgpool]\n[softmax]\n[cost]\n"
    network = Darknet(parse_cfg(text)).eval()
    x = images()
    (logits,) = network(x)
    torch.testing.assert_close(logits, network.layers[0](x).mean((2, 3)))
    assert network.num_classes == 8
    assert network.heads == ()


def test_other_sizes_run_and_boxes_grow_with_them() -> None:
    network = tiny()
    outputs = network(images(1, (48, 80)))
    assert [tuple(output.shape[2:]) for output in outputs] == [(12, 20), (6, 10)]
    assert [head.input_size(raw) for head, raw in zip(network.heads, outputs, strict=True)] == [(48, 80)] * 2
    outputs[1].zero_()
    assert network.heads[1].decode(outputs[1]).boxes[0, 59].tolist() == [76 - 12, 44 - 12, 76 + 12, 44 + 12]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(1, 3, 32, 64, dtype=torch.uint8), r"uint8 \(1, 3, 32, 64\) \(wanted float \(B, 3, H, W\)"),
        (torch.zeros(3, 32, 64), r"float32 \(3, 32, 64\)"),
        (torch.zeros(1, 1, 32, 64), r"\(1, 1, 32, 64\)"),
        (torch.zeros(1, 3, 36, 64), r"36x64 \(wanted 32x64 or multiples of 8x8\)"),
        (torch.zeros(1, 3, 0, 64), r"0x64"),
    ],
)
def test_wrong_images(batch: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny()(batch)


def test_connected_layers_fix_the_size() -> None:
    network = Darknet(parse_cfg(NET + "[connected]\noutput=4\n"))
    with pytest.raises(ValueError, match=r"64x64 \(wanted 32x64\)"):
        network(images(1, (64, 64)))


def test_activations_live_no_longer_than_needed() -> None:
    """While a layer runs, only what it and later layers read is alive."""
    network = tiny()
    alive: dict[int, weakref.ref] = {}
    seen: dict[int, set[int]] = {}

    def watch(index: int):
        def before(module: nn.Module, inputs: tuple) -> None:
            gc.collect()
            seen[index] = {i for i, reference in alive.items() if reference() is not None}

        def after(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
            alive[index] = weakref.ref(output)

        network.layers[index].register_forward_pre_hook(before)
        network.layers[index].register_forward_hook(after)

    for index in range(len(network.layers)):
        watch(index)
    with torch.no_grad():
        network(images())
    assert seen[2] == {1}  # kept for the shortcut, and its own input
    assert seen[3] == {1, 2}
    assert seen[4] == {3}  # read again by the route
    assert seen[6] - {4, 5} == {3}  # 4 is 5: a head hands on its raw map
    assert seen[8] - {4, 5} == {7}


def test_autocast_and_channels_last() -> None:
    network = tiny().to(memory_format=torch.channels_last)
    wanted = network(images())
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        outputs = network(images())
    assert all(output.dtype == torch.float32 for output in outputs)
    assert [output.shape for output in outputs] == [output.shape for output in wanted]


# Training


def test_every_parameter_learns() -> None:
    network = tiny().train()
    sum(output.square().sum() for output in network(images())).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def _stopped(stop: int) -> Darknet:
    lines = CONV.format(16, 2, "leaky")
    return tiny(TINY.replace(lines, f"{lines}stopbackward={stop}\n", 1)).train()


def test_stopbackward_one_freezes_for_good() -> None:
    network = _stopped(1)
    before = copy.deepcopy(network.state_dict())
    network.seen = 4000
    sum(output.sum() for output in network(images())).backward()
    assert not any(parameter.requires_grad for parameter in network.layers[:2].parameters())
    assert all(parameter.grad is not None for parameter in network.layers[2:].parameters())
    assert torch.equal(network.state_dict()["layers.1.bn.running_mean"], before["layers.1.bn.running_mean"])
    assert not torch.equal(network.state_dict()["layers.2.bn.running_mean"], before["layers.2.bn.running_mean"])
    network.eval().train()
    assert not network.layers[1].training
    assert network.layers[2].training


def test_stopbackward_until_an_iteration() -> None:
    network = _stopped(10)
    network.seen = 39  # iteration 9 of batch 4
    before = network.layers[1].bn.running_mean.clone()
    sum(output.sum() for output in network(images())).backward()
    assert all(parameter.grad is None for parameter in network.layers[:2].parameters())
    assert not torch.equal(network.layers[1].bn.running_mean, before)  # the statistics move on
    network.seen = 40
    sum(output.sum() for output in network(images())).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_freeze() -> None:
    network = tiny().train()
    network.freeze(3)
    network.eval().train()
    assert [layer.training for layer in network.layers[:4]] == [False, False, False, True]
    assert not any(parameter.requires_grad for parameter in network.layers[:3].parameters())


def test_onlyforward_stops_the_gradient() -> None:
    network = tiny(TINY.replace("[route]\n", "[route]\nonlyforward=1\n")).train()
    network(images())[1].sum().backward()
    assert network.layers[8].conv.weight.grad is not None
    assert network.layers[0].conv.weight.grad is None


# Inference


def test_fused_network_agrees_and_has_no_batch_norm() -> None:
    network = tiny()
    wanted = network(images(3))
    torch.manual_seed(0)
    fused = copy.deepcopy(network).fuse()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    x = images(3)
    for one, other in zip(network(x), fused(x), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert wanted[0].shape == (3, 16, 8, 16)


@pytest.mark.parametrize(
    "old, new, joined",
    [
        ("", "", True),
        ("[shortcut]\nfrom=-2\n", "[shortcut]\nfrom=-2\nactivation=leaky\n", False),
        ("[shortcut]\nfrom=-2\n", "[shortcut]\nfrom=-2\nweights_type=per_feature\n", False),
        ("[shortcut]\nfrom=-2\n", "[shortcut]\nfrom=-3\n", False),  # another shape
        ("[route]\nlayers=-3\n", "[route]\nlayers=-4\n", False),  # of the convolution before it
        ("filters=16\nsize=3\npad=1\nstride=1\n", "filters=16\nsize=3\npad=1\nstride=1\nantialiasing=1\n", False),
    ],
)
def test_fused_convolutions_add_what_a_shortcut_would(old: str, new: str, joined: bool) -> None:
    torch.manual_seed(0)
    network = Darknet(parse_cfg(TINY.replace(old, new))).eval()
    shortcut = next(index for index, node in enumerate(network.graph.nodes) if node.section.kind == "shortcut")
    assert network._sources[shortcut] == network.graph.nodes[shortcut].sources
    x = torch.rand(2, 3, 32, 64)
    with torch.no_grad():
        wanted = network(x)
        found = network.fuse()(x)
    assert (network._sources[shortcut] == ()) is joined
    assert (network._sources[shortcut - 1] == network.graph.nodes[shortcut].sources) is joined
    for one, other in zip(wanted, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_load_network(tmp_path: Path) -> None:
    network = tiny()
    cfg, weights, checkpoint = (tmp_path / f"tiny.{suffix}" for suffix in ("cfg", "weights", "pt"))
    cfg.write_text(TINY)
    save_darknet_weights(network, weights, seen=77)
    ema = {name: value + 1 if value.is_floating_point() else value for name, value in network.state_dict().items()}
    save_checkpoint(checkpoint, {"model": network.state_dict(), "ema": None, "cfg": TINY, "names": []})
    averaged = tmp_path / "averaged.pt"
    save_checkpoint(averaged, {"model": network.state_dict(), "ema": ema, "cfg": TINY, "names": []})
    x = images()
    wanted = network(x)
    for source in (weights, checkpoint):
        for fuse in (False, True):
            loaded = load_network(cfg, source, fuse=fuse)
            assert not loaded.training
            for one, other in zip(wanted, loaded(x), strict=True):
                torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert load_network(cfg, weights).seen == 77
    assert torch.equal(
        load_network(network.config, averaged, fuse=False).layers[0].conv.weight, network.layers[0].conv.weight + 1
    )


def test_load_network_in_bfloat16(tmp_path: Path) -> None:
    weights = tmp_path / "tiny.weights"
    network = tiny()
    save_darknet_weights(network, weights)
    x = images()
    for fuse in (False, True):
        half = load_network(network.config, weights, precision="bf16", fuse=fuse)
        assert half.dtype == torch.bfloat16
        for one, other in zip(network(x), half(x), strict=True):
            assert other.dtype == torch.float32
            torch.testing.assert_close(one, other, atol=0.15, rtol=0.05)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    state = tiny(TINY.replace("filters=8", "filters=4")).state_dict()
    del state["layers.8.conv.bias"]
    save_checkpoint(path, {"model": state, "cfg": TINY, "names": []})
    message = (
        r"other\.pt does not fit tiny\.cfg: layers\.0\.conv\.weight \(8, 3, 3, 3\) here, \(4, 3, 3, 3\) there; .* more"
    )
    with pytest.raises(WeightsError, match=message):
        load_network(tiny().config, path)


def test_detect_takes_arrays_and_paths(tmp_path: Path) -> None:
    network = tiny()
    with torch.no_grad():
        network.layers[4].conv.bias.fill_(2)  # objects everywhere
    picture = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    write_image(tmp_path / "a.png", picture)
    found = network.detect([picture, tmp_path / "a.png", str(tmp_path / "a.png"), picture[:20]])
    assert len(found) == 4
    assert len(found[0]) > 0
    assert torch.equal(found[0].boxes, found[1].boxes)
    assert torch.equal(found[0].scores, found[2].scores)
    assert (found[0].scores.diff() <= 0).all()
    assert found[0].scores.min() > 0.25
    assert len(network.detect([picture] * 9, score_threshold=0.999)) == 9
    letterboxed = network.detect([picture], letterbox=True)[0]
    assert letterboxed.boxes.shape != found[0].boxes.shape or not torch.equal(letterboxed.boxes, found[0].boxes)
    assert network.detect([]) == []


def test_detect_wants_a_detector_and_a_list() -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=r"detect: got one image \(wanted a list of images\)"):
        tiny().detect(picture)
    classifier = Darknet(parse_cfg(NET + CONV.format(8, 2, "relu") + "[avgpool]\n", source="c.cfg"))
    with pytest.raises(ValueError, match=r"c\.cfg: a network without a head finds no objects"):
        classifier.detect([picture])


def test_casting_reaches_layers_of_every_kind() -> None:
    text = NET + "[batchnorm]\n" + LAST + "[implicit]\nfilters=4\natoms=1\n" + LAST + "[connected]\noutput=3\n"
    (logits,) = Darknet(parse_cfg(text)).eval().cast(torch.bfloat16)(images())
    assert logits.dtype == torch.float32
    assert logits.shape == (2, 3)
