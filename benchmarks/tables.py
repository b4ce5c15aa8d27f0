"""Markdown tables that say where their numbers come from: machine, date, command, how busy the machine was."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

NOT_MEASURED = "not measured"
RESULTS = Path(__file__).parent / "results"


def machine(device: str = "cpu") -> str:
    """Processor or GPU, threads, versions, and the load average: a shared machine shows in its numbers."""
    parts = [_processor(), f"{torch.get_num_threads()} threads"]
    if device == "cuda":
        found = torch.cuda.get_device_properties(0)
        parts = [f"{found.name}, {found.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"]
    load = f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    return ", ".join([*parts, f"torch {torch.__version__}", f"Python {platform.python_version()}", load])


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].split(":")[1].strip() if names else platform.processor() or platform.machine()


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
        command = shlex.join(["python", *sys.argv])
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
        path.parent.mkdir(parents=True, exist_ok=True)
        busy = os.getloadavg()[0] > 0.5 * (os.cpu_count() or 1)
        note = "\\\nOther programs were running: the times are rough, the ratios less so." if busy else ""
        path.write_text(f"# {title}\n\n{machine(device)}\\\n{now}, `{command}`{note}\n")

    def add(self, text: str) -> None:
        """Append a section and show it."""
        print(text, flush=True)
        with self.path.open("a") as file:
            file.write(f"\n{text}")
