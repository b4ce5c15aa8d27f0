"""Darknet cfg text to typed sections, and back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from utils.cfg.layers import Section, Unsupported
from utils.cfg.net import Net
from utils.cfg.options import Options
from utils.cfg.sections import ALIASES, SECTIONS, UNSUPPORTED, Config
from utils.cfg.values import did_you_mean, shown
from utils.errors import CfgError

CFG_FOLDER = Path(__file__).resolve().parents[2] / "cfg"
_LONGEST = 2 * 2**20  # characters; the longest published cfg has 31 thousand
_MOST_LAYERS = 10_000
_MOST_WARNINGS = 1000
_BLANKS = str.maketrans("", "", " \t\r\n")


def load_cfg(name_or_path: str | Path, *, lenient: bool = False) -> Config:
    """Parse a cfg file: a path, or a name of the folder ``cfg/`` with or without ``.cfg``."""
    path = find_cfg(name_or_path)
    try:
        with path.open("rb") as file:
            data = file.read(_LONGEST + 1)
    except OSError as error:
        raise CfgError(f"{shown(str(path), 400)}: cannot be read: {error.strerror}") from None
    return parse_cfg(_decode(data), source=str(path), lenient=lenient)


def find_cfg(name_or_path: str | Path) -> Path:
    """The file a ``--cfg`` value means."""
    path = Path(name_or_path)
    for candidate in (path, CFG_FOLDER / path, CFG_FOLDER / f"{path}.cfg"):
        if _is_file(candidate):
            return candidate
    known = sorted(file.stem for file in CFG_FOLDER.glob("*.cfg"))
    hint = did_you_mean(path.stem, known) or f"{CFG_FOLDER.name}/ has {', '.join(known)}"
    raise CfgError(f"{shown(str(path), 400)}: no such cfg file or name; {hint}")


def _is_file(path: Path) -> bool:
    """Whether there is something to read, be it a pipe; a path too long or in a locked folder is not."""
    try:
        return path.exists() and not path.is_dir()
    except OSError:
        return False


def _decode(data: bytes) -> str:
    """UTF-8 where it is; otherwise Latin-1, in which old comments are written and every byte is legal."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def parse_cfg(text: str, *, source: str = "<string>", lenient: bool = False) -> Config:
    """Parse Darknet cfg text into typed sections.

    Values get their type here, once (``new_coords=0`` is False), and a key no section declares is an
    error: in this format a misspelt key is otherwise a default applied in silence.

    Args:
        text: the cfg.
        source: the file, for messages.
        lenient: an unknown key or a line that is not ``key=value`` is a warning, not an error.

    Returns:
        ``Config(net, layers)``; ``layers[i]`` is what ``[route] layers=i`` refers to.

    Raises:
        CfgError: ``FILE:LINE: [section] key=value: what was wanted``.
    """
    report = _Report(shown(source, 400), lenient)
    if len(text) > _LONGEST:
        report.fail(1, f"more than {_LONGEST:,} characters (wanted a Darknet cfg, which is short)")
    if "\0" in text:
        report.fail(text.count("\n", 0, text.index("\0")) + 1, "a NUL byte (wanted a Darknet cfg, which is text)")
    net: Net | None = None
    layers: list[Section] = []
    for raw in _raw_sections(text.removeprefix("\ufeff"), report):
        if net is None:
            net = _typed_net(raw, report)
        elif len(layers) == _MOST_LAYERS:
            report.fail(raw.line, f"more than {_MOST_LAYERS} layers")
        else:
            layers.append(_typed_layer(raw, len(layers), report))
    if net is None:
        report.fail(1, "no section at all (wanted [net] and the layers after it)")
    return Config(net, tuple(layers), report.source, report.lines())


def format_cfg(config: Config) -> str:
    """Text that parses to an equal Config and that Darknet reads. Comments are not kept."""
    return "\n".join(_format_section(section) for section in (config.net, *config.layers))


def _format_section(section: Options) -> str:
    if isinstance(section, Unsupported):
        options = [f"{key}={text}" for key, text in section.options]
    else:
        kinds = {f.name: (key, f.metadata["kind"]) for key, f in section.keys().items()}
        options = [
            f"{kinds[name][0]}={kinds[name][1].format(value)}"
            for name, value in section.explicit().items()
            if value not in (None, (), math.inf)  # these have no spelling; they are the defaults of their keys
        ]
    return "".join(f"{line}\n" for line in (f"[{section.kind}]", *options))


@dataclass
class _Report:
    """Where faults of one text go."""

    source: str
    lenient: bool
    warnings: list[tuple[int, str]] = field(default_factory=list)

    def lines(self) -> tuple[str, ...]:
        """The warnings in the order of the text."""
        return tuple(f"{self.source}:{line}: {message}" for line, message in sorted(self.warnings))

    def fail(self, line: int, message: str) -> NoReturn:
        raise CfgError(f"{self.source}:{line}: {message}")

    def warn(self, line: int, message: str) -> None:
        if len(self.warnings) == _MOST_WARNINGS:
            self.fail(line, f"more than {_MOST_WARNINGS} oddities before this line (wanted a Darknet cfg)")
        self.warnings.append((line, message))

    def fail_unless_lenient(self, line: int, message: str) -> None:
        if not self.lenient:
            self.fail(line, message)
        self.warn(line, f"{message}; ignored")


@dataclass
class _RawSection:
    """A section as text: ``options`` maps a key to its value and line."""

    kind: str
    line: int
    options: dict[str, tuple[str, int]] = field(default_factory=dict)


def _raw_sections(text: str, report: _Report) -> Iterator[_RawSection]:
    """Cut text into sections by Darknet's rules: blanks are deleted everywhere, the first of equal keys wins."""
    section = None
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.translate(_BLANKS)
        if not line or line[0] in "#;":
            continue
        if line[0] == "[":
            if section is not None:
                yield section
            section = _RawSection(_section_kind(line, number, report), number)
        elif section is None:
            report.fail(number, f"'{shown(line)}' stands before any section (wanted [net] first)")
        else:
            _add_option(section, line, number, report)
    if section is not None:
        yield section


def _section_kind(line: str, number: int, report: _Report) -> str:
    name, bracket, rest = line[1:].partition("]")
    if not bracket or (rest and rest[0] not in "#;"):
        report.fail(number, f"'{shown(line)}' (wanted a section such as [convolutional])")
    kind = ALIASES.get(name, name)
    if kind != "net" and kind not in SECTIONS and kind not in UNSUPPORTED:
        hint = did_you_mean(name, ("net", *SECTIONS, *UNSUPPORTED)) or "see docs/darknet.md for the sections there are"
        report.fail(number, f"unknown section [{shown(name)}]; {hint}")
    return kind


def _add_option(section: _RawSection, line: str, number: int, report: _Report) -> None:
    key, _, value = line.partition("=")
    value = value.partition("#")[0].partition(";")[0]  # C's atoi stops there; names need the help
    if not key or not value:
        report.fail_unless_lenient(number, f"[{section.kind}] '{shown(line)}' (wanted key=value)")
    elif key in section.options:
        first = section.options[key][1]
        report.warn(number, f"[{section.kind}] {shown(key)}={shown(value)} ignored: line {first} has set it")
    else:
        section.options[key] = (value, number)


def _typed_net(raw: _RawSection, report: _Report) -> Net:
    if raw.kind != "net":
        report.fail(raw.line, f"[{raw.kind}] is the first section (wanted [net])")
    return _typed(Net, raw, report)


def _typed_layer(raw: _RawSection, index: int, report: _Report) -> Section:
    if raw.kind == "net":
        report.fail(raw.line, "a second [net] (wanted layers after the first)")
    if raw.kind in UNSUPPORTED:
        options = tuple((key, value) for key, (value, _) in raw.options.items())
        return Unsupported(kind=raw.kind, line=raw.line, options=options)
    section = _typed(SECTIONS[raw.kind], raw, report)
    _check_references(section, raw, index, report)
    return section


def _typed(section_type: type[Options], raw: _RawSection, report: _Report) -> Any:
    """Give every option its type, and check that they fit each other."""
    keys, values = section_type.keys(), {}
    for key, (text, line) in raw.options.items():
        if key in keys:
            try:
                values[key] = keys[key].metadata["kind"].parse(text)
            except ValueError as error:
                report.fail(line, f"[{raw.kind}] {key}={shown(text)} ({error})")
        elif key not in section_type.ignored:
            hint = did_you_mean(key, keys)
            message = f"[{raw.kind}] has no key '{shown(key)}'"
            report.fail_unless_lenient(line, f"{message}; {hint}" if hint else message)
    fields = {keys[key].name: value for key, value in values.items()}
    section = section_type(**fields, line=raw.line, given=tuple(values))
    for key, reason in section.problems():
        _fail_at(key, reason, raw, report)
    for key, reason in section.remarks():
        report.warn(raw.options[key][1], f"[{raw.kind}] {key}: {reason}")
    return section


def _check_references(section: Section, raw: _RawSection, index: int, report: _Report) -> None:
    """Refuse an index that is not one of an earlier layer."""
    for key in section.reference_keys():
        value = section.value(key)
        for reference in value if isinstance(value, tuple) else (value,):
            if reference is not None and not -index <= reference < index:
                wanted = f"wanted 0 to {index - 1} or -1 to {-index}" if index else "wanted no such key"
                _fail_at(key, f"{wanted}, as this is layer {index}", raw, report)


def _fail_at(key: str, reason: str, raw: _RawSection, report: _Report) -> NoReturn:
    if key not in raw.options:
        report.fail(raw.line, f"[{raw.kind}] has no {key} ({reason})")
    text, line = raw.options[key]
    report.fail(line, f"[{raw.kind}] {key}={shown(text)} ({reason})")
