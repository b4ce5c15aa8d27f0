"""Files as digests: equal where two runs did the same, different where one bit of what they computed differs.

What differs between two runs of the same program is left out or masked, and nothing else:

* how long something took and how fast it was: measured, not computed;
* the version of torch in a checkpoint: it says where it was written;
* the wall clock in TensorBoard's events, and in their names the host and the process too;
* folders of the machine in texts: where a tree lies is not what it does;
* lines that say twice a minute that a training is alive: a fast machine prints none.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

Digests = dict[str, str]
Json = Any  # what json.loads returns

EVENTS = "events.out.tfevents"  # TensorBoard's files begin with it
TEXTS = {".cfg", ".csv", ".data", ".jsonl", ".names", ".txt"}
VOLATILE = {"seconds", "images_per_second", "torch"}  # keys of json objects, metrics and checkpoints

_NOT_DIGESTED = {"search.db", "log.txt"}  # Optuna's file keeps dates; what a trial prints goes there with its bar
_ALIVE = re.compile(r"^iteration \d+ of \d+: .*\n", re.MULTILINE)
_MASKS = (
    (re.compile(re.escape(EVENTS) + r"\S*"), EVENTS),
    (re.compile(r"\d+\.\d (ms|s|images/s|frames/s)\b"), r"<time> \1"),
    (re.compile(r"^( *\d+) +\d+\.\d(?= +\d\.\d{3}\b)", re.MULTILINE), r"\1 <minutes>"),  # of the evaluations' table
)
_WALL_TIME, _DOUBLE, _BYTES, _VARINT = 1, 1, 2, 0  # a field of TensorBoard's Event; wire types of protobuf


def folder_digests(folder: Path, *, inputs: Sequence[str] = (), places: Mapping[str, str] | None = None) -> Digests:
    """Every file below ``folder`` by its path, hidden files aside.

    Args:
        inputs: entries of ``folder`` that were there before.
        places: folders of the machine, and what to read in their place.
    """
    found: Digests = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in parts)
        if path.is_file() and not hidden and parts[0] not in inputs and path.name not in _NOT_DIGESTED:
            name = Path(*parts[:-1], _lasting_name(path))
            for what, digest in file_digests(path, places or {}).items():
                found[f"{name} {what}".rstrip()] = digest
    return found


def _lasting_name(path: Path) -> str:
    """The name of a file; those of TensorBoard, which hold time, host and process, are numbered by their age."""
    if not path.name.startswith(EVENTS):
        return path.name
    return f"{EVENTS}.{sorted(path.parent.glob(f'{EVENTS}*')).index(path)}"


def file_digests(path: Path, places: Mapping[str, str]) -> Digests:
    """The digests of one file by what they are of; most files have one, without a name."""
    if path.suffix == ".pt":
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {"tensors": _sha(tensor_lines(state)), "values": _sha(value_lines(state))}
    if path.name.startswith(EVENTS):
        return {"": _sha(event_records(path))}
    if path.suffix == ".json":
        return {"": _sha([_text_of(without_volatile(json.loads(path.read_bytes())), places)])}
    if path.name == "metrics.jsonl":
        rows = [without_volatile(json.loads(row)) for row in path.read_text(encoding="utf-8").splitlines()]
        return {"": _sha(_text_of(row, {}) for row in rows)}
    if path.suffix in TEXTS:
        return {"": _sha([at_no_place(path.read_text(encoding="utf-8"), places)])}
    return {"": _sha([path.read_bytes()])}


def tensor_lines(state: Json, name: str = "") -> Iterator[str | bytes]:
    """Name, dtype, shape and bytes of every tensor in a checkpoint; in the order of their names."""
    for key, value in _leaves(state, name):
        if isinstance(value, torch.Tensor):
            yield f"{key} {value.dtype} {tuple(value.shape)}"
            yield value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def value_lines(state: Json, name: str = "") -> Iterator[str]:
    """Name, type and value of everything else: numbers and text, but for those that are volatile."""
    for key, value in _leaves(state, name):
        if not isinstance(value, torch.Tensor):
            yield f"{key} {type(value).__name__} {value!r}"


def without_volatile(value: Json) -> Json:
    """A json value without the keys that say how long something took."""
    if isinstance(value, dict):
        return {key: without_volatile(item) for key, item in value.items() if key not in VOLATILE}
    return [without_volatile(item) for item in value] if isinstance(value, list) else value


def masked(printed: str, places: Mapping[str, str]) -> str:
    """What a program printed, without times and folders of the machine."""
    text = _ALIVE.sub("", at_no_place(printed, places))
    for pattern, mask in _MASKS:
        text = pattern.sub(mask, text)
    return text


def at_no_place(text: str, places: Mapping[str, str]) -> str:
    """``text`` with other words for the folders ``places``, the longest first: one may lie in another."""
    for folder in sorted(places, key=len, reverse=True):
        text = text.replace(folder, places[folder])
    return text


def event_records(path: Path) -> Iterator[bytes]:
    """The events of a TensorBoard file without their wall time, which is field 1 of the message.

    A record is its length, a checksum of that, the message, and a checksum of that, which covers the time.
    """
    content, start = path.read_bytes(), 0
    while start < len(content):
        (length,) = struct.unpack_from("<Q", content, start)
        message = content[start + 12 : start + 12 + length]
        yield b"".join(field for number, field in _fields(message) if number != _WALL_TIME)
        start += 16 + length


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each field of a protobuf message."""
    start = 0
    while start < len(message):
        tag, end = _varint(message, start)
        kind = tag & 7
        if kind == _VARINT:
            end = _varint(message, end)[1]
        elif kind == _BYTES:
            length, end = _varint(message, end)
            end += length
        else:
            end += 8 if kind == _DOUBLE else 4
        yield tag >> 3, message[start:end]
        start = end


def _varint(message: bytes, start: int) -> tuple[int, int]:
    """The number that begins at ``start``, and where it ends."""
    value = shift = 0
    while True:
        byte = message[start]
        value |= (byte & 127) << shift
        start, shift = start + 1, shift + 7
        if byte < 128:
            return value, start


def _leaves(value: Json, name: str) -> Iterator[tuple[str, Json]]:
    """Whatever is neither a mapping nor a sequence, with the keys that lead to it; the order of keys does not count."""
    if isinstance(value, Mapping):
        items = sorted(((str(key), item) for key, item in value.items()), key=lambda pair: pair[0])
        items = [(key, item) for key, item in items if key not in VOLATILE]
    elif isinstance(value, list | tuple):
        items = [(str(number), item) for number, item in enumerate(value)]
    else:
        yield name, value
        return
    if not items:
        yield name, f"empty {'mapping' if isinstance(value, Mapping) else 'sequence'}"
    for key, item in items:
        yield from _leaves(item, f"{name}/{key}")


def _text_of(value: Json, places: Mapping[str, str]) -> str:
    return at_no_place(json.dumps(value, sort_keys=True), places)


def _sha(parts: Iterator[str | bytes] | Sequence[str | bytes]) -> str:
    """SHA-256 of the parts, each with its length, so that no two lists of parts run into each other."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        digest.update(struct.pack("<Q", len(content)))
        digest.update(content)
    return digest.hexdigest()
