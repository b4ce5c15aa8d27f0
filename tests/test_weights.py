"""Darknet's .weights files: every value accounted for, in both directions, and nothing read that does not fit."""

from __future__ import annotations

import struct
import subprocess
import sys
import tracemalloc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models import weights
from models.darknet import Darknet
from models.weights import load_darknet_weights, save_darknet_weights
from models.weights_file import backbone_layers, num_floats
from utils.cfg import load_cfg, parse_cfg
from utils.errors import WeightsError

NET = "[net]\nwidth=8\nheight=8\nchannels=3\n"
TEXT = (
    NET
    + "[convolutional]\nbatch_normalize=1\nfilters=2\nsize=3\npad=1\nactivation=mish\n"  # 2*27 + 8 = 62
    + "[maxpool]\nsize=2\nstride=2\n"
    + "[convolutional]\nfilters=2\nsize=1\nactivation=linear\n"  # 4 + 2 = 6
    + "[shortcut]\nfrom=-2\nweights_type=per_channel\n"  # 4
    + "[batchnorm]\n"  # 8
    + "[implicit]\nfilters=3\natoms=2\n"  # 6
    + "[connected]\noutput=4\nbatch_normalize=1\nactivation=relu\n"  # 4*6 + 16 = 40
    + "[connected]\noutput=5\nactivation=linear\n[softmax]\n"  # 4*5 + 5 = 25
)
COUNT = 62 + 6 + 4 + 8 + 6 + 40 + 25


def network(text: str = TEXT) -> Darknet:
    return Darknet(parse_cfg(text, source="a.cfg"))


def write(
    path: Path, count: int, *, version: tuple[int, int, int] = (0, 2, 5), seen: bytes = struct.pack("<Q", 9)
) -> Path:
    values = np.random.default_rng(0).normal(size=count).astype("<f4")
    path.write_bytes(struct.pack("<3i", *version) + seen + values.tobytes())
    return path


def values_of(path: Path) -> np.ndarray:
    return np.frombuffer(path.read_bytes()[20:], "<f4")


def test_order_of_values(tmp_path: Path) -> None:
    path = tmp_path / "a.weights"
    header = struct.pack("<3iQ", 0, 2, 5, 12345678901)
    path.write_bytes(header + np.arange(COUNT, dtype="<f4").tobytes())
    net = network()
    assert load_darknet_weights(net, path) == net.seen == 12345678901
    first, last = net.layers[0], net.layers[7]
    assert first.bn.bias.tolist() == [0, 1]
    assert first.bn.weight.tolist() == [2, 3]
    assert first.bn.running_mean.tolist() == [4, 5]
    assert first.bn.running_var.tolist() == [6, 7]
    assert first.conv.weight.flatten().tolist() == list(range(8, 62))
    assert net.layers[2].conv.bias.tolist() == [62, 63]
    assert net.layers[3].weight.tolist() == [[68, 69], [70, 71]]
    assert net.layers[4].bn.bias.tolist() == [72, 73]
    assert net.layers[5].weight.tolist() == list(range(80, 86))
    connected = net.layers[6]  # bias, weights, and only then scale, mean and variance
    assert connected.bn.bias.tolist() == [86, 87, 88, 89]
    assert connected.linear.weight[0].tolist() == list(range(90, 96))
    assert connected.bn.weight.tolist() == [114, 115, 116, 117]
    assert last.linear.bias.tolist() == [126, 127, 128, 129, 130]


def test_saving_what_was_loaded_gives_the_same_bytes(tmp_path: Path) -> None:
    source, target = write(tmp_path / "a.weights", COUNT), tmp_path / "b.weights"
    net = network()
    load_darknet_weights(net, source)
    save_darknet_weights(net, target)
    assert target.read_bytes() == source.read_bytes()
    save_darknet_weights(net, target, seen=5)
    assert target.read_bytes()[12:20] == struct.pack("<Q", 5)
    assert len(list(tmp_path.iterdir())) == 2  # nothing temporary is left


@pytest.mark.parametrize("name", ["yolov4-tiny", "enet-coco", "go.test"])
def test_published_networks_in_both_directions(name: str, darknet_zoo: Path, tmp_path: Path) -> None:
    config = load_cfg(darknet_zoo / f"{name}.cfg")
    one, other, again = Darknet(config), Darknet(config), tmp_path / "b.weights"
    save_darknet_weights(one, tmp_path / "a.weights", seen=3)
    assert num_floats(tmp_path / "a.weights") == one.graph.parameters
    assert load_darknet_weights(other, tmp_path / "a.weights") == 3
    save_darknet_weights(other, again)
    assert again.read_bytes() == (tmp_path / "a.weights").read_bytes()
    state = other.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in one.state_dict().items())


def test_trained_networks_load(shared_data: Path, tmp_path: Path) -> None:
    for source in sorted((shared_data / "weights").rglob("*.weights")):
        net = Darknet(load_cfg(source.with_suffix(".cfg")))
        load_darknet_weights(net, source)
        save_darknet_weights(net, tmp_path / "a.weights")
        assert (tmp_path / "a.weights").read_bytes() == source.read_bytes()


def test_sizes_of_the_official_files(darknet_zoo: Path, tmp_path: Path) -> None:
    tiny = Darknet(load_cfg(darknet_zoo / "yolov4-tiny.cfg"))
    save_darknet_weights(tiny, tmp_path / "tiny.weights")
    assert (tmp_path / "tiny.weights").stat().st_size == 24_251_276
    with torch.device("meta"):
        assert 20 + 4 * Darknet(load_cfg(darknet_zoo / "yolov4.cfg")).graph.parameters == 257_717_640


@pytest.mark.parametrize(
    ("version", "seen"),
    [((0, 1, 0), struct.pack("<I", 7)), ((0, 2, 0), struct.pack("<Q", 7)), ((1, 0, 0), struct.pack("<Q", 7))],
)
def test_headers(version: tuple[int, int, int], seen: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "a.weights", COUNT, version=version, seen=seen)
    assert num_floats(path) == COUNT
    assert load_darknet_weights(network(), path) == 7


def test_transposed_connected_layers(tmp_path: Path) -> None:
    text = NET + "[connected]\noutput=5\nactivation=linear\n"
    one, other = network(text), network(text)
    path = write(tmp_path / "a.weights", 192 * 5 + 5)
    load_darknet_weights(one, path)
    write(path, 192 * 5 + 5, version=(0, 1001, 0))
    load_darknet_weights(other, path)
    flat = one.layers[0].linear.weight.flatten()
    assert torch.equal(other.layers[0].linear.weight, flat.view(192, 5).T)
    assert torch.equal(other.layers[0].linear.bias, one.layers[0].linear.bias)


def test_backbone_files(tmp_path: Path) -> None:
    net = network()
    for layers, count in ((2, 62), (3, 68), (8, COUNT)):
        path = write(tmp_path / f"a.conv.{layers}", count)
        assert backbone_layers(net.graph, path) == (9 if layers == 8 else layers)
        before = {key: value.clone() for key, value in net.state_dict().items()}
        load_darknet_weights(net, path, stop_before=layers)
        changed = {
            int(key.split(".")[1]) for key, value in net.state_dict().items() if not torch.equal(value, before[key])
        }
        assert changed
        assert max(changed) < layers
    assert backbone_layers(net.graph, write(tmp_path / "b", 61)) is None
    assert backbone_layers(net.graph, write(tmp_path / "b", COUNT + 1)) is None
    assert backbone_layers(net.graph, write(tmp_path / "b", 0)) is None
    save_darknet_weights(net, tmp_path / "c", stop_before=3)
    assert num_floats(tmp_path / "c") == 68


def test_the_official_backbone_ends_where_its_name_says(darknet_zoo: Path) -> None:
    with torch.device("meta"):
        net = Darknet(load_cfg(darknet_zoo / "yolov4.cfg"))
    nodes = net.graph.nodes
    assert nodes[137].parameters > 0  # so that 137, not a layer without parameters before it, is the border
    assert nodes[136].parameters > 0


def test_a_backbone_needs_stop_before(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conv.2", 62)
    with pytest.raises(WeightsError, match="holds 62 floats, a.cfg needs 151; it ends in layer 2 convolutional bias"):
        load_darknet_weights(network(), path)
    with pytest.raises(WeightsError, match="holds 62 floats, a.cfg before layer 3 needs 68"):
        load_darknet_weights(network(), path, stop_before=3)
    with pytest.raises(WeightsError, match="holds 62 floats, a.cfg before layer 1 needs 0|before layer 0 needs 0"):
        load_darknet_weights(network(), path, stop_before=0)


def test_dontload_and_dontloadscales(tmp_path: Path) -> None:
    text = TEXT.replace("filters=2\nsize=3", "filters=2\ndontloadscales=1\nsize=3").replace(
        "filters=2\nsize=1", "filters=2\ndontload=1\nsize=1"
    )
    net = network(text)
    kept = net.layers[2].conv.weight.clone()
    load_darknet_weights(net, write(tmp_path / "a.weights", COUNT - 6 - 6))
    assert net.layers[0].bn.weight.tolist() == [1, 1]
    assert torch.equal(net.layers[2].conv.weight, kept)
    save_darknet_weights(net, tmp_path / "b.weights")
    assert num_floats(tmp_path / "b.weights") == COUNT


# What is refused


@pytest.mark.parametrize(
    ("count", "where"),
    [
        (0, "layer 0 convolutional bias"),
        (3, "layer 0 convolutional bn scale"),
        (5, "layer 0 convolutional bn mean"),
        (7, "layer 0 convolutional bn variance"),
        (61, "layer 0 convolutional weights"),
        (70, "layer 3 shortcut weights"),
        (73, "layer 4 batchnorm bias"),
        (85, "layer 5 implicit weights"),
        (100, "layer 6 connected weights"),
        (COUNT - 1, "layer 7 connected weights"),
    ],
)
def test_a_short_file_says_where_it_ends(count: int, where: str, tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=rf"a\.weights holds {count} floats, a\.cfg needs 151; it ends in {where}; is"
    ):
        load_darknet_weights(network(), write(tmp_path / "a.weights", count))


def test_a_long_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds 152 floats, a\.cfg needs 151; is this the right pair\?"):
        load_darknet_weights(network(), write(tmp_path / "a.weights", COUNT + 1))


def test_the_wrong_pair(darknet_zoo: Path, tmp_path: Path) -> None:
    save_darknet_weights(Darknet(load_cfg(darknet_zoo / "yolov4-tiny.cfg")), tmp_path / "tiny.weights")
    with torch.device("meta"):
        net = Darknet(load_cfg(darknet_zoo / "yolov4.cfg"))
    with pytest.raises(WeightsError, match=r"tiny\.weights holds 6,062,814 floats, .*yolov4\.cfg needs 64,429,405"):
        load_darknet_weights(net, tmp_path / "tiny.weights")


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(0, 20 + 4 * COUNT + 40))
def test_any_length_but_the_right_one_is_refused(length: int, tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", COUNT + 10).read_bytes()
    path = tmp_path / "cut.weights"
    path.write_bytes(whole[:length])
    net = network()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    if length == 20 + 4 * COUNT:
        load_darknet_weights(net, path)
        return
    with pytest.raises(WeightsError, match=r"cut\.weights"):
        load_darknet_weights(net, path)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_no_header(tmp_path: Path) -> None:
    path = tmp_path / "a.weights"
    for data in (b"", b"abc", struct.pack("<3i", 0, 2, 5) + b"1234"):
        path.write_bytes(data)
        with pytest.raises(WeightsError, match=rf"a\.weights: {len(data)} bytes are no header"):
            load_darknet_weights(network(), path)
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(WeightsError, match=r"header says version 67324752\.0"):
        load_darknet_weights(network(), path)


def test_half_a_value(tmp_path: Path) -> None:
    path = write(tmp_path / "a.weights", COUNT)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(WeightsError, match="625 bytes are no whole number of float32 values"):
        load_darknet_weights(network(), path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers(bad: float, tmp_path: Path) -> None:
    path = write(tmp_path / "a.weights", COUNT)
    values = values_of(path).copy()
    values[5] = bad
    path.write_bytes(path.read_bytes()[:20] + values.tobytes())
    with pytest.raises(WeightsError, match="NaN or infinity in layer 0 convolutional bn mean"):
        load_darknet_weights(network(), path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.weights: cannot be read: No such file"):
        load_darknet_weights(network(), tmp_path / "none.weights")
    with pytest.raises(WeightsError, match="cannot be read: Is a directory"):
        num_floats(tmp_path)


def test_a_fused_network_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a fused network has no batch norms to save"):
        save_darknet_weights(network().fuse(), tmp_path / "a.weights")
    assert not list(tmp_path.iterdir())


def test_a_fused_network_takes_no_weights(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a fused network has no batch norms to save or load"):
        load_darknet_weights(network().fuse(), write(tmp_path / "a.weights", COUNT))


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.weights", 3)
    before = path.read_bytes()
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from models.darknet import Darknet\n"
        "from models.weights import save_darknet_weights\n"
        "from utils.cfg import parse_cfg\n"
        "from utils.errors import EnvironmentFault\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "net = Darknet(parse_cfg(sys.argv[2]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))\n"
        "try:\n"
        "    save_darknet_weights(net, Path(sys.argv[1]))\n"
        "except EnvironmentFault as fault:\n"
        "    sys.exit(str(fault))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path), TEXT], capture_output=True, text=True, check=False)
    assert "a.weights: cannot write" in done.stderr
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.weights"]


def test_memory_is_that_of_the_network_and_no_more(tmp_path: Path, monkeypatch) -> None:
    """At no moment is more than two blocks of the file mapped, and next to nothing allocated besides."""
    text = NET + "[convolutional]\nfilters=512\nsize=1\nactivation=linear\n" * 3 + "[avgpool]\n"
    net, path = network(text + "[connected]\noutput=512\nactivation=linear\n"), tmp_path / "a.weights"
    save_darknet_weights(net, path)
    # Of a version whose connected layers are transposed, which a copy of the whole would be the easy way to undo.
    path.write_bytes(struct.pack("<3i", 0, 1002, 5) + path.read_bytes()[12:])
    held, most, memmap = 0, 0, np.memmap

    def release(size: int) -> None:
        nonlocal held
        held -= size

    def counted(*arguments: object) -> np.memmap:
        nonlocal held, most
        array = memmap(*arguments)
        held += array.nbytes
        most = max(most, held)
        weakref.finalize(array, release, array.nbytes)
        return array

    monkeypatch.setattr(weights, "_BLOCK", 2**12)
    monkeypatch.setattr(weights.np, "memmap", counted)
    tracemalloc.start()
    load_darknet_weights(net, path)
    _, allocated = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > 3 * 2**20
    assert 4 * 2**12 <= most <= 2 * 4 * 2**12
    assert allocated < 2**17
