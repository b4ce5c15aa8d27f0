"""export.py: a trained network as Darknet's files, and that another program finds the same objects with them."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from export.commands import main
from export.darknet import export_backbone, export_weights
from models import describe_network, load_network
from models.darknet import Darknet
from models.weights import load_darknet_weights, save_darknet_weights
from models.weights_file import num_floats
from tests.painted import CFG, NAMES
from utils.cfg import format_cfg, load_cfg, parse_cfg
from utils.checkpoint import save_checkpoint
from utils.errors import UsageError

SEEN = 40 * 8  # iterations of a checkpoint times the cfg's batch

# What the published detectors are made of, at the size of a stamp: mish, leaky, CSP's halved routes, a shortcut, SPP,
# an upsampled path, and two heads.
CONV = "[convolutional]\nbatch_normalize=1\nsize={size}\nstride={stride}\npad=1\nfilters={filters}\nactivation={act}\n"
HEAD = (
    "[convolutional]\nsize=1\nstride=1\npad=1\nfilters=21\nactivation=linear\n[yolo]\nmask={mask}\nclasses=2\nnum=6\n"
)
HEAD += "anchors=8,9, 14,20, 25,16, 30,40, 50,33, 60,60\nscale_x_y=1.05\n{more}"


def conv(filters: int, size: int = 3, stride: int = 1, act: str = "mish") -> str:
    return CONV.format(filters=filters, size=size, stride=stride, act=act)


DETECTOR = (
    "[net]\nwidth=96\nheight=64\nchannels=3\n"
    + conv(8, stride=2)  # 0
    + conv(16, stride=2, act="leaky")  # 1
    + "[route]\nlayers=-1\ngroups=2\ngroup_id=1\n"  # 2
    + conv(8, size=1)  # 3
    + conv(8)  # 4
    + "[shortcut]\nfrom=-2\nactivation=linear\n"  # 5
    + "[route]\nlayers=-1,1\n"  # 6
    + "[maxpool]\nsize=2\nstride=2\n"  # 7
    + conv(16)  # 8
    + "[maxpool]\nstride=1\nsize=5\n[route]\nlayers=-1,-2\n"  # 9, 10
    + conv(24, stride=2)  # 11
    + HEAD  # 12, 13
    + "[route]\nlayers=-3\n"  # 14
    + conv(8, size=1)  # 15
    + "[upsample]\nstride=2\n[route]\nlayers=-1,8\n"  # 16, 17
    + conv(16, act="swish")  # 18
    + HEAD  # 19, 20
)


def detector_text(more: str = "") -> str:
    first, second, end = DETECTOR.split("{more}")
    return (
        (first + "{more}" + second + "{more}" + end)
        .replace("{mask}", "3,4,5", 1)
        .replace("{mask}", "0,1,2")
        .replace("{more}", more)
    )


def trained_like(text: str, source: str = "a.cfg") -> Darknet:
    """A network no two of whose numbers are alike, with batch norms that have seen images."""
    network = Darknet(parse_cfg(text, source=source))
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith(("bn.weight", "running_var")):
                tensor.copy_(torch.rand_like(tensor) + 0.5)
            elif tensor.is_floating_point() and tensor.dim() == 1:
                tensor.copy_(torch.randn_like(tensor) / 2)
    return network.eval()


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Path, Darknet]:
    network = trained_like(CFG)
    path = tmp_path / "run" / "best.pt"
    path.parent.mkdir()
    about = {"cfg": format_cfg(network.config), "names": list(NAMES), "iteration": 40}
    save_checkpoint(path, {**about, "model": network.state_dict()})
    return path, network


# .pt or .weights to .weights


def test_a_checkpoint_becomes_what_darknet_reads(checkpoint, tmp_path: Path, capsys) -> None:
    path, network = checkpoint
    out = tmp_path / "new" / "blood.weights"
    main(["--weights", str(path), "--weights-out", str(out)])
    assert capsys.readouterr().out.splitlines() == [str(out.with_suffix(s)) for s in (".weights", ".cfg", ".names")]
    assert out.with_suffix(".names").read_text() == "red\nblue\n"
    config, _ = describe_network(out.with_suffix(".cfg"), out)
    assert config == network.config
    again = load_network(config, out, fuse=False)
    assert again.seen == SEEN
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert sorted(file.name for file in out.parent.iterdir()) == ["blood.cfg", "blood.names", "blood.weights"]


def test_the_average_is_exported_where_there_is_one(checkpoint, tmp_path: Path) -> None:
    path, network = checkpoint
    average = {
        name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in network.state_dict().items()
    }
    about = {"cfg": format_cfg(network.config), "names": list(NAMES)}
    save_checkpoint(path, {**about, "model": network.state_dict(), "ema": average})
    main(["--weights", str(path), "--weights-out", str(tmp_path / "a.weights")])
    again = load_network(network.config, tmp_path / "a.weights", fuse=False)
    assert torch.equal(again.layers[0].conv.weight, network.layers[0].conv.weight + 1)


def test_weights_of_a_named_cfg_get_no_second_one(tmp_path: Path) -> None:
    network = trained_like(CFG)
    (tmp_path / "my.cfg").write_text(CFG)
    save_darknet_weights(network, tmp_path / "my.weights", seen=7)
    flags = ["--cfg", str(tmp_path / "my.cfg"), "--weights", str(tmp_path / "my.weights")]
    main([*flags, "--weights-out", str(tmp_path / "copy.weights")])
    assert (tmp_path / "copy.weights").read_bytes() == (tmp_path / "my.weights").read_bytes()
    assert {file.name for file in tmp_path.iterdir()} == {"my.cfg", "my.weights", "copy.weights"}


def test_a_cfg_that_means_the_same_is_kept_and_another_is_not_overwritten(checkpoint, tmp_path: Path) -> None:
    path, _ = checkpoint
    out, cfg, names = (tmp_path / f"a{suffix}" for suffix in (".weights", ".cfg", ".names"))
    cfg.write_text("# mine\n" + CFG)
    main(["--weights", str(path), "--weights-out", str(out)])
    assert cfg.read_text().startswith("# mine")
    out.unlink()
    for file, text in ((cfg, CFG.replace("filters=8", "filters=9")), (cfg, "no cfg"), (names, "cat\ndog\n")):
        before = file.read_text()
        file.write_text(text)
        with pytest.raises(UsageError, match=rf"a{file.suffix}: is there already and says something else; move it"):
            main(["--weights", str(path), "--weights-out", str(out)])
        assert not out.exists()
        assert file.read_text() == text
        file.write_text(before)


# Backbones


def test_a_backbone_is_what_darknet_partial_writes(tmp_path: Path) -> None:
    """Darknet's: header 0.2.5, no images seen, then the first layers' values, byte for byte."""
    network = trained_like(detector_text())
    (tmp_path / "a.cfg").write_text(detector_text())
    save_darknet_weights(network, tmp_path / "a.weights", seen=32_000_000)
    whole = (tmp_path / "a.weights").read_bytes()
    for layers in (1, 9, 21):
        out = tmp_path / f"a.conv.{layers}"
        flags = ["--cfg", str(tmp_path / "a.cfg"), "--weights", str(tmp_path / "a.weights"), "--layers", str(layers)]
        main(["partial", *flags, "--out", str(out)])
        count = sum(node.parameters for node in network.graph.nodes[:layers])
        assert out.read_bytes() == struct.pack("<3iQ", 0, 2, 5, 0) + whole[20 : 20 + 4 * count]
    fresh = trained_like(detector_text())
    load_darknet_weights(fresh, tmp_path / "a.conv.9", stop_before=9)
    assert torch.equal(fresh.layers[8].conv.weight, network.layers[8].conv.weight)
    assert not torch.equal(fresh.layers[11].conv.weight, network.layers[11].conv.weight)


def test_the_backbone_of_yolov4_has_the_official_size(darknet_zoo: Path, tmp_path: Path) -> None:
    with torch.device("meta"):
        nodes = Darknet(load_cfg(darknet_zoo / "yolov4.cfg")).graph.nodes
    assert 20 + 4 * sum(node.parameters for node in nodes[:137]) == 170_038_676


@pytest.mark.parametrize("layers", [0, -1, 22])
def test_a_backbone_of_more_layers_than_there_are(layers: int, tmp_path: Path) -> None:
    network = trained_like(detector_text())
    with pytest.raises(UsageError, match=f"--layers {layers}: a.cfg has 21 layers \\(wanted 1 to 21\\)"):
        export_backbone(network, tmp_path / "b", layers)
    assert not list(tmp_path.iterdir())


def test_a_suffix_that_no_script_would_know(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a\.pt: the scripts know .* name it a\.weights"):
        export_weights(trained_like(CFG), tmp_path / "a.pt")


# Another program with the exported files


def for_opencv(weights: Path, cfg: Path, out: Path) -> Path:
    """The same network with each variance 9e-6 higher: OpenCV adds 1e-6 to it where Darknet adds 1e-5."""
    network = load_network(cfg, weights, fuse=False)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.add_(9e-6)
    save_darknet_weights(network, out)
    return out


def rows_of(network: Darknet, images: torch.Tensor) -> list[np.ndarray]:
    """OpenCV's rows: (GH*GW*A, 5 + K) centre and size relative to the input, objectness, scores; cell by cell."""
    height, width = images.shape[2:]
    tables = []
    with torch.inference_mode():
        for raw, head in zip(network(images), network.heads, strict=True):
            boxes, objectness, probs = (part[0] for part in head.decode(raw))
            low, high = boxes[:, :2], boxes[:, 2:]
            scale = torch.tensor([width, height])
            scores = objectness[:, None] * probs
            table = torch.cat(((low + high) / 2 / scale, (high - low) / scale, objectness[:, None], scores), 1)
            tables.append(table.unflatten(0, (head.num_anchors, -1)).transpose(0, 1).flatten(0, 1).numpy())
    return tables


def opencv_rows(cfg: Path, weights: Path, images: torch.Tensor) -> list[np.ndarray]:
    network = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    network.setInput(images.numpy())
    outputs = network.forward(network.getUnconnectedOutLayersNames())
    return [np.asarray(output) for output in outputs]


def test_opencv_finds_the_same_boxes(tmp_path: Path) -> None:
    source = tmp_path / "best.pt"
    network = trained_like(detector_text())
    save_checkpoint(source, {"cfg": detector_text(), "names": list(NAMES), "model": network.state_dict()})
    out = tmp_path / "a.weights"
    main(["--weights", str(source), "--weights-out", str(out)])
    assert num_floats(out) == network.graph.parameters

    theirs = tmp_path / "theirs.cfg"
    theirs.write_text(detector_text(more="thresh=0\n"))  # by default it drops class scores below 0.2
    images = torch.rand(1, 3, 64, 96)
    found = opencv_rows(theirs, for_opencv(out, out.with_suffix(".cfg"), tmp_path / "theirs.weights"), images)
    for ours, row in zip(rows_of(network, images), found, strict=True):
        assert ours.shape == row.shape
        assert ours[:, 4].std() > 0.01  # the cells differ, so that an order mixed up would be seen
        np.testing.assert_allclose(row, ours, rtol=1e-4, atol=1e-5)
