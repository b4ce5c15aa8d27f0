"""training.pretrained: what of other weights gets into a network, and what stays new or frozen."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from models.darknet import Darknet
from models.weights import save_darknet_weights
from tests.painted import CFG
from training.pretrained import expect_background, freeze, is_trained_detector, load_pretrained
from utils.cfg import Config, format_cfg, parse_cfg, with_classes
from utils.checkpoint import save_checkpoint
from utils.errors import UsageError, WeightsError

TWO = parse_cfg(CFG, source="two.cfg")
FIVE = with_classes(TWO, 5)


def network_of(config: Config, seed: int) -> Darknet:
    torch.manual_seed(seed)
    network = Darknet(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.rand_like(parameter))  # no two alike, biases and batch norms included
    return network


def equal_layers(first: Darknet, second: Darknet) -> set[int]:
    """Layers with parameters whose tensors all agree."""
    other = second.state_dict()
    same: dict[int, bool] = {}
    for name, tensor in first.state_dict().items():
        layer = int(name.split(".")[1])
        if not name.endswith("num_batches_tracked"):
            same[layer] = same.get(layer, True) and torch.equal(tensor, other[name])
    return {layer for layer, equal in same.items() if equal}


ALL, BACKBONE = {0, 1, 2, 4, 5, 6}, {0, 1, 2, 4, 5}


def test_the_same_network_takes_everything(tmp_path: Path) -> None:
    donor, network = network_of(TWO, 1), network_of(TWO, 2)
    assert not equal_layers(donor, network)
    save_darknet_weights(donor, tmp_path / "a.weights")
    assert load_pretrained(network, tmp_path / "a.weights", TWO) == f"{tmp_path}/a.weights: loaded every layer"
    assert equal_layers(donor, network) == ALL


def test_another_class_count_takes_all_but_the_heads(tmp_path: Path) -> None:
    donor, network, before = network_of(TWO, 1), network_of(FIVE, 2), network_of(FIVE, 2)
    save_darknet_weights(donor, tmp_path / "a.weights")
    line = load_pretrained(network, tmp_path / "a.weights", TWO)
    assert line.endswith("layers.6 start new (another shape)")
    state, own = donor.state_dict(), network.state_dict()
    fitting = [name for name in own if own[name].shape == state[name].shape]
    assert all(torch.equal(own[name], state[name]) for name in fitting)
    assert equal_layers(network, before) == {6}


def test_a_backbone_file(tmp_path: Path) -> None:
    donor, network, before = network_of(TWO, 1), network_of(FIVE, 2), network_of(FIVE, 2)
    save_darknet_weights(donor, tmp_path / "a.conv.4", stop_before=4)
    line = load_pretrained(network, tmp_path / "a.conv.4", TWO)
    assert line == f"{tmp_path}/a.conv.4: loaded the first 4 of 8 layers"
    assert equal_layers(network, donor) == {0, 1, 2}
    assert equal_layers(network, before) == {4, 5, 6}


@pytest.mark.parametrize("average", [True, False])
def test_a_checkpoint_gives_its_average_where_it_has_one(tmp_path: Path, average: bool) -> None:
    donor, other, network = network_of(TWO, 1), network_of(TWO, 3), network_of(FIVE, 2)
    parts = {"model": other.state_dict(), "ema": donor.state_dict()} if average else {"model": donor.state_dict()}
    save_checkpoint(tmp_path / "best.pt", {"cfg": "", "names": [], **parts})
    line = load_pretrained(network, tmp_path / "best.pt", TWO)
    assert "best.pt: loaded 30 of 32 tensors; layers.6 start new (another shape)" in line
    assert network.state_dict()["layers.0.conv.weight"].equal(donor.state_dict()["layers.0.conv.weight"])


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    wide = parse_cfg(CFG.replace("filters=8", "filters=12").replace("filters=16", "filters=20"))
    odd = parse_cfg(CFG.replace("filters=8\nsize=3", "filters=7\nsize=1").replace("filters=16", "filters=9"))
    save_darknet_weights(network_of(wide, 1), tmp_path / "wide.weights")
    with pytest.raises(WeightsError, match=r"wide\.weights holds .* floats, two\.cfg needs .*is this the right pair\?"):
        load_pretrained(network_of(FIVE, 2), tmp_path / "wide.weights", TWO)
    state = {name: tensor for name, tensor in network_of(odd, 1).state_dict().items() if name.split(".")[1] in "01"}
    save_checkpoint(tmp_path / "odd.pt", {"cfg": "", "names": [], "model": state})
    with pytest.raises(WeightsError, match=r"odd\.pt: no layer of it fits two\.cfg; is this the right pair\?"):
        load_pretrained(network_of(TWO, 2), tmp_path / "odd.pt", TWO)


def test_new_heads_expect_background() -> None:
    network = network_of(FIVE, 0)
    before = network.state_dict()["layers.6.conv.bias"].clone().view(2, 10)
    expect_background(network)
    after = network.state_dict()["layers.6.conv.bias"].view(2, 10)
    assert after[:, 4].sigmoid().tolist() == pytest.approx([0.01, 0.01])
    others = [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert torch.equal(after[:, others], before[:, others])
    expect_background(network, prior=0.5)
    assert after[:, 4].tolist() == pytest.approx([0.0, 0.0])
    assert math.log(0.01 / 0.99) == pytest.approx(-4.595, abs=1e-3)


def test_frozen_layers_neither_learn_nor_gather_statistics() -> None:
    network = network_of(TWO, 0).train()
    freeze(network, 2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network.train()  # must not wake them
    network(torch.rand(2, 3, 64, 64))[0].square().sum().backward()
    optimizer.step()
    changed = {
        int(name.split(".")[1]) for name, tensor in network.state_dict().items() if not tensor.equal(before[name])
    }
    assert changed == {2, 4, 5, 6}


def test_freezing_nothing_and_too_much() -> None:
    network = network_of(TWO, 0)
    freeze(network, 0)
    assert all(parameter.requires_grad for parameter in network.parameters())
    with pytest.raises(UsageError, match=r"--freeze 8: two\.cfg has 8 layers; leave some to train"):
        freeze(network, 8)


def test_the_backbone_is_frozen_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    network = network_of(TWO, 0)
    freeze(network, "backbone")  # no block joins anything here: all before the head and its convolution
    learning = {int(name.split(".")[1]) for name, tensor in network.named_parameters() if tensor.requires_grad}
    assert learning == {6}
    assert capsys.readouterr().out == "frozen: the first 6 of 8 layers, the backbone\n"


def test_what_counts_as_a_trained_detector(tmp_path: Path) -> None:
    two, five = network_of(TWO, 1), network_of(FIVE, 1)
    save_darknet_weights(two, tmp_path / "two.weights")
    save_darknet_weights(two, tmp_path / "two.conv.6", stop_before=6)
    assert is_trained_detector(tmp_path / "two.weights", TWO)
    assert is_trained_detector(tmp_path / "two.weights", FIVE, TWO)  # the cfg before it was adapted
    assert not is_trained_detector(tmp_path / "two.weights", FIVE)
    assert not is_trained_detector(tmp_path / "two.conv.6", FIVE, TWO)
    for name, config in (("two", format_cfg(TWO)), ("other", CFG.replace("filters=8", "filters=12")), ("broken", "[")):
        save_checkpoint(tmp_path / f"{name}.pt", {"cfg": config, "names": [], "model": five.state_dict()})
    assert is_trained_detector(tmp_path / "two.pt", FIVE)  # heads of another class count
    assert not is_trained_detector(tmp_path / "other.pt", FIVE, TWO)
    assert not is_trained_detector(tmp_path / "broken.pt", FIVE)


def test_a_classifier_is_no_detector(tmp_path: Path) -> None:
    body = CFG[: CFG.rindex("[convolutional]")]
    classifier = parse_cfg(f"{body}[avgpool]\n[convolutional]\nfilters=7\nactivation=linear\n[softmax]\n")
    save_darknet_weights(network_of(classifier, 1), tmp_path / "c.weights")
    save_checkpoint(tmp_path / "c.pt", {"cfg": format_cfg(classifier), "names": [], "model": {}})
    for name in ("c.weights", "c.pt"):
        assert not is_trained_detector(tmp_path / name, classifier, TWO)
