"""The programs of a source tree, run as people run them: by command lines, in a folder of their own."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.behaviour.digests import Digests, folder_digests, masked
from tests.behaviour.networks import write_networks
from tests.behaviour.pictures import write_cells, write_clip, write_shades

PATIENCE = 900  # seconds for what takes ten; the machine may be busy with other things

# One thread, because sums in another order are other sums; no GPU; texts as wide on every terminal. Hashes of strings
# stay random from process to process: what depends on them is a fault that two runs should show.
_SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "COLUMNS": "120",
    "LC_ALL": "C.UTF-8",
    "MPLBACKEND": "Agg",
}
_UNWANTED = {"PYTHONHASHSEED", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "YOLOV4_OPS"}


class ProgramFailed(RuntimeError):
    """A program ended otherwise than a case expects."""


class Place:
    """A folder with data sets and cfgs in which the programs of the tree ``root`` run.

    All a program is told lies below the folder, by relative paths, so that neither what it prints nor what it writes
    depends on where that is.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root.resolve(), folder.resolve()
        self.folder.mkdir(parents=True)
        write_networks(self.folder)
        write_cells(self.folder / "cells")
        write_shades(self.folder / "shades")
        write_clip(self.folder / "clip.avi")
        self._inputs = {path.name for path in self.folder.iterdir()}
        self._printed = 0

    @property
    def names(self) -> dict[str, str]:
        """The folders of the machine that texts may hold, and what digests have in their place."""
        return {f"{self.folder}": "<folder>", f"{self.root}/": "", f"{self.root}": "<tree>"}

    def lend(self, source: Path, name: str) -> None:
        """Copy a folder to ``name``; it does not count as made here."""
        shutil.copytree(source, self.folder / name)
        self._inputs.add(name)

    def run(self, line: str, *, code: int = 0, ranks: int = 1) -> str:
        """Run a command line such as ``eval.py --help`` and keep what it prints, as a file and as the result.

        Args:
            code: the exit code it must have; if it is not 0 the error is kept, too.
            ranks: processes, started by torchrun.
        """
        done = subprocess.run(
            self._command(line, ranks),
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        if done.returncode != code:
            raise ProgramFailed(f"{line}: ended with {done.returncode} (wanted {code}): {done.stderr[-2000:]}")
        errors = [row for row in done.stderr.splitlines(keepends=True) if code and row.startswith("yolov4: error: ")]
        return self.keep(line, done.stdout + "".join(errors))

    def stop(self, line: str, metrics: str) -> None:
        """Start a training and send SIGTERM when its first iteration is in the file ``metrics``.

        Where it stops is left to the machine: whatever the iteration, a resumed run must end as an unbroken one.
        """
        rows, until = self.folder / metrics, time.monotonic() + PATIENCE
        with subprocess.Popen(
            self._command(line, 1),
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            while process.poll() is None and time.monotonic() < until and not (rows.exists() and rows.stat().st_size):
                time.sleep(0.005)
            process.send_signal(signal.SIGTERM)
            said = process.communicate(timeout=PATIENCE)[0]
        if process.returncode != 128 + signal.SIGTERM:
            raise ProgramFailed(f"{line}: ended with {process.returncode} (wanted a stop): {said[-2000:]}")
        self.keep(line, said.splitlines()[-1])

    def keep(self, line: str, printed: str) -> str:
        """Write ``printed`` as the next file of what programs said, without times; return it."""
        self._printed += 1
        said = masked(printed, self.names)
        path = self.folder / f"printed-{self._printed:02}-{Path(shlex.split(line)[0]).stem}.txt"
        path.write_text(said, encoding="utf-8")
        return said

    def digests(self) -> Digests:
        """The digests of all files that were made here."""
        return folder_digests(self.folder, inputs=sorted(self._inputs), places=self.names)

    def _command(self, line: str, ranks: int) -> Sequence[str]:
        script, *flags = shlex.split(line)
        program = [str(self.root / script)] if script.endswith(".py") else ["-m", script]
        if ranks > 1:
            program = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), *program]
        return [sys.executable, *program, *flags]

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in _UNWANTED}
        return {**kept, **_SETTINGS, "PYTHONPATH": str(self.root)}
