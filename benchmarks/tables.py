"""Markdown tables that say where their numbers come from: machine, date, command, how busy the machine was."""

from __future__ import annotations

import datetime
import platform
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

NOT_MEASURED = "not measured"
RESULTS = Path(__file__).parent / "results"


def machine(device: str = "cpu") -> str:
    """Processor or GPU, threads, versions."""
    parts = [_processor(), f"{torch.get_num_threads()} threads"]
    if device == "cuda":
        found = torch.cuda.get_device_properties(0)
        parts = [f"{found.name}, {found.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"]
    return ", ".join([*parts, f"torch {torch.__version__}", f"Python {platform.python_version()}"])


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].split(":")[1].strip() if names else platform.processor() or platform.machine()


def others_share(seconds: float = 0.5) -> float:
    """How much of all cores' time others take, measured while this program sleeps; 0 where /proc/stat is missing."""
    begin = _processor_ticks()
    time.sleep(seconds)
    ticks = [after - before for before, after in zip(begin, _processor_ticks(), strict=True)]
    return 1 - sum(ticks[3:5]) / sum(ticks) if any(ticks) else 0.0  # 3, 4: idle, waiting for a disk


def _processor_ticks() -> list[int]:
    file = Path("/proc/stat")
    return [int(ticks) for ticks in file.read_text().split("\n", 1)[0].split()[1:9]] if file.exists() else []


def command_line() -> str:
    """What was typed: modules by name, and of paths outside this folder only the last part."""
    spec = sys.modules["__main__"].__spec__
    script = ["-m", spec.name.removesuffix(".__main__")] if spec else [sys.argv[0]]
    return shlex.join(
        ["python", *(Path(part).name if part.startswith(("/", "../")) else part for part in (*script, *sys.argv[1:]))]
    )


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; numbers with three digits that count, None as "not measured"."""
    lines = [header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _cell(value: object) -> str:
    if value is None:
        return NOT_MEASURED
    return (
        f"{value:.3g}"
        if isinstance(value, float) and abs(value) < 100
        else str(round(value) if isinstance(value, float) else value)
    )


class Report:
    """A results file that grows section by section, so that an interrupted run keeps what it measured."""

    def __init__(self, path: Path, title: str, device: str = "cpu") -> None:
        """Write the head: title, machine, date, command."""
        self.path = path
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
        path.parent.mkdir(parents=True, exist_ok=True)
        others = others_share()
        note = f"\\\nOthers took {others:.0%} of the cores: times are rough, ratios less so." if others > 0.1 else ""
        path.write_text(f"# {title}\n\n{machine(device)}\\\n{now}, `{command_line()}`{note}\n")

    def add(self, text: str) -> None:
        """Append a section and show it."""
        print(text, flush=True)
        with self.path.open("a") as file:
            file.write(f"\n{text}")
