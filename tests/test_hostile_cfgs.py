"""Cfgs that are damaged, contradict themselves or ask for the impossible: a network, or one line that says where."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.darknet import Darknet
from models.graph import Graph, plan
from tests.golden_cases import OWN
from utils.cfg import CFG_FOLDER, format_cfg, load_cfg, parse_cfg
from utils.errors import CfgError

NET = "[net]\nwidth=64\nheight=64\nchannels=3\n"
CONV = "[convolutional]\nfilters=8\nsize=3\npad=1\nactivation=leaky\n"

# Mutations: each takes the lines of a cfg and returns those of a damaged one.


def delete_lines(lines: list[bytes], rng: random.Random) -> list[bytes]:
    start = rng.randrange(len(lines))
    return lines[:start] + lines[start + rng.randint(1, 12) :]


def repeat_lines(lines: list[bytes], rng: random.Random) -> list[bytes]:
    start = rng.randrange(len(lines))
    stop = start + rng.randint(1, 12)
    place = rng.choice([stop, rng.randrange(len(lines))])
    return lines[:place] + lines[start:stop] + lines[place:]


def permute_lines(lines: list[bytes], rng: random.Random) -> list[bytes]:
    start = rng.randrange(len(lines))
    part = lines[start : start + rng.randint(2, 20)]
    rng.shuffle(part)
    return lines[:start] + part + lines[start + len(part) :]


def permute_sections(lines: list[bytes], rng: random.Random) -> list[bytes]:
    sections = [part for part in b"\n".join(lines).split(b"\n[") if part]
    one, two = rng.randrange(1, len(sections)), rng.randrange(1, len(sections))
    sections[one], sections[two] = sections[two], sections[one]
    return b"\n[".join(sections).split(b"\n")


def change_digits(lines: list[bytes], rng: random.Random) -> list[bytes]:
    def other(found: re.Match[bytes]) -> bytes:
        return str(rng.randrange(10)).encode() if rng.random() < 0.02 else found[0]

    return re.sub(rb"\d", other, b"\n".join(lines)).split(b"\n")


def change_numbers(lines: list[bytes], rng: random.Random, numbers: tuple[bytes, ...]) -> list[bytes]:
    """Put one of ``numbers`` in the place of one or two."""
    text = b"\n".join(lines)
    for _ in range(rng.randint(1, 2)):
        found = rng.choice(list(re.finditer(rb"-?[\d.]+", text)))
        text = text[: found.start()] + rng.choice(numbers).replace(b"N", found[0]) + text[found.end() :]
    return text.split(b"\n")


def change_signs(lines: list[bytes], rng: random.Random) -> list[bytes]:
    return change_numbers(lines, rng, (b"-N", b"+N", b"--N", b"-0", b"0"))


def huge_numbers(lines: list[bytes], rng: random.Random) -> list[bytes]:
    return change_numbers(lines, rng, (b"1000000000", b"99999", b"1e30", b"9" * 400, b"2147483648", b"-4294967297"))


def other_bytes(lines: list[bytes], rng: random.Random) -> list[bytes]:
    text = bytearray(b"\n".join(lines))
    for _ in range(rng.randint(1, 8)):
        text[rng.randrange(len(text))] = rng.choice(b"\xff\xfe\x80\x00\xc3\r\t=[]#,;-")
    return bytes(text).split(b"\n")


def truncate(lines: list[bytes], rng: random.Random) -> list[bytes]:
    text = b"\n".join(lines)
    return text[: rng.randrange(len(text))].split(b"\n")


MUTATIONS = (
    delete_lines, repeat_lines, permute_lines, permute_sections, change_digits, change_signs, huge_numbers, other_bytes,
    truncate,
)  # fmt: skip
SOURCES = (CFG_FOLDER / "yolov4-tiny.cfg", CFG_FOLDER / "yolov4.cfg", OWN / "training" / "ciou_v4.cfg")
EACH = 36  # 324 cfgs in all


def outcome(path: Path) -> Graph | str:
    """The plan of a cfg, or the line that says what is wrong with it."""
    try:
        config = load_cfg(path)
        graph = plan(config)
    except CfgError as error:
        return str(error)
    assert parse_cfg(format_cfg(config)) == config
    return graph


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_damaged_cfgs_are_networks_or_one_line(
    mutate: Callable[[list[bytes], random.Random], list[bytes]], tmp_path: Path
) -> None:
    refused = 0
    for seed in range(EACH):
        rng = random.Random(f"{mutate.__name__} {seed}")
        lines = SOURCES[seed % len(SOURCES)].read_bytes().split(b"\n")
        path = tmp_path / f"{seed}.cfg"
        path.write_bytes(b"\n".join(mutate(lines, rng)))
        found = outcome(path)
        if isinstance(found, str):
            assert re.match(rf"{re.escape(str(path))}:\d+: ", found), found
            assert found.isprintable() and len(found) < 700, found
            refused += 1
        elif seed % len(SOURCES) != 1:  # yolov4 takes long to build
            assert_runs(load_cfg(path))
    assert 0 < refused < EACH


def assert_runs(config) -> None:
    """Build the network and run it, without the memory: what was planned comes out."""
    with torch.device("meta"):
        network = Darknet(config).eval()
        outputs = network(torch.zeros(1, config.net.channels, *network.size))
    nodes = network.graph.nodes
    if network.heads:
        assert [tuple(output.shape[1:]) for output in outputs] == [nodes[head.index].outputs for head in network.heads]


# References


@pytest.mark.parametrize(
    ("section", "reference", "match"),
    [
        (section, reference, match)
        for section in (
            "[route]\nlayers={}\n",
            "[shortcut]\nfrom={}\n",
            "[sam]\nfrom={}\n",
            "[scale_channels]\nfrom={}\n",
        )
        for reference, match in (
            (2, r"wanted 0 to 1 or -1 to -2, as this is layer 2"),  # itself
            (0x7FFFFFFF, r"wanted a whole number from -1000000 to 1000000"),
            (3, r"wanted 0 to 1"),  # forward
            (-3, r"-1 to -2"),  # before the first
            (999999, r"wanted 0 to 1"),
            (-999999, r"wanted 0 to 1"),
            ("-1,2", r"wanted (0 to 1|a whole number)"),
            ("", r"wanted key=value"),
            ("-", r"wanted a whole number"),
            ("-1,,-2", r"wanted a whole number"),
        )
    ],
)
def test_references_to_what_is_not_an_earlier_layer(section: str, reference: object, match: str) -> None:
    text = NET + CONV * 2 + section.format(reference) + CONV
    with pytest.raises(CfgError, match=rf"^a\.cfg:16: \[\w+\] .*{match}") as caught:
        plan(parse_cfg(text, source="a.cfg"))
    assert str(caught.value).isprintable()


# Size


_TOO_MUCH = {
    "filters": (f"{NET}[convolutional]\nfilters=1000000000\n", "6: [convolutional] filters=1000000000 (wanted"),
    "width": ("[net]\nwidth=1000000000\nheight=64\nchannels=3\n", "2: [net] width=1000000000 (wanted"),
    "kernel": (f"{NET}[convolutional]\nfilters=65536\nsize=1024\npad=1\n", "parameters (wanted at most"),
    "two layers": (f"{NET}" + "[convolutional]\nfilters=65536\n" * 2, "parameters (wanted at most"),
    "connected": (f"{NET}[connected]\noutput=10000000\n", "parameters (wanted at most"),
    "implicit": (f"{NET}{CONV}[implicit]\nfilters=65536\natoms=65536\n", "parameters (wanted at most"),
    "weighted shortcut": (
        f"{NET}[convolutional]\nfilters=65536\n[shortcut]\nfrom={'0,' * 20000}0\nweights_type=per_channel\n",
        "parameters (wanted at most",
    ),
    "image": ("[net]\nwidth=32768\nheight=32768\nchannels=4096\n[avgpool]\n", "1: [net] an image of 4,398,046,511,104"),
    "upsample": (NET + "[upsample]\nstride=64\n" * 3, "GiB (wanted at most"),
    "route": (f"{NET}{CONV}[route]\nlayers={'0,' * 60000}0\n[upsample]\nstride=8\n", "GiB (wanted at most"),
}  # fmt: skip
_PROBE = """
import resource, sys, time
import detect
from utils import cli
with open("/proc/self/statm") as file:
    held = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 500 * 2**20,) * 2)  # so much more than the program itself takes
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    start = time.perf_counter()
    try:
        cli.run(detect.main, ["--cfg", path, "--weights", "none.weights", "--source", "none.jpg", "--device", "cpu"])
    except SystemExit as end:
        print(end.code, f"{time.perf_counter() - start:.3f}", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
"""


def test_networks_too_big_are_refused_before_a_tensor_is_made(tmp_path: Path) -> None:
    """One line and exit code 3 each, with 500 MB of address space to spare; the time and the memory are printed."""
    paths = []
    for name, (text, _) in _TOO_MUCH.items():
        paths.append(tmp_path / f"{name.replace(' ', '_')}.cfg")
        paths[-1].write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, *map(str, paths)],
        capture_output=True,
        text=True,
        cwd=CFG_FOLDER.parent,
        check=False,
    )
    lines = done.stderr.splitlines()
    assert len(lines) == len(paths), done.stderr
    for line, path, (_, match) in zip(lines, paths, _TOO_MUCH.values(), strict=True):
        assert line.startswith(f"yolov4: error: {path}:") and match in line, line
    figures = [line.split() for line in done.stdout.splitlines()]
    assert [code for code, _, _ in figures] == ["3"] * len(paths), done.stdout
    for path, (_, seconds, kilobytes) in zip(paths, figures, strict=True):
        print(f"{path.stem}: {seconds} s, {kilobytes} kB")
