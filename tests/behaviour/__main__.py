"""Write down what the programs compute, or compare it with what was written down.

python -m tests.behaviour --write before.json              all cases, before a change
python -m tests.behaviour --compare before.json            all cases, after it: exit code 1 where anything differs
python -m tests.behaviour --compare before.json --only detector evaluated --keep look
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.behaviour.cases import CASES, MACHINE, Bench
from tests.behaviour.digests import Digests
from tests.behaviour.programs import ProgramFailed

ROOT = Path(__file__).resolve().parents[2]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cases that the flags name; return the exit code."""
    args = parse_flags(argv)
    with ExitStack() as closing:
        work = args.keep or Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="behaviour-")))
        bench = Bench(args.root, work)
        return write(bench, args.only, args.write) if args.write else compare(bench, args.only, args.compare)


def parse_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.behaviour", description=__doc__.splitlines()[0])
    todo = parser.add_mutually_exclusive_group(required=True)
    todo.add_argument("--write", type=Path, metavar="FILE", help="write the digests to this json file")
    todo.add_argument("--compare", type=Path, metavar="FILE", help="compare with the digests in this file")
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--root", type=Path, default=ROOT, metavar="DIR", help="the tree to run (default: this one)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave what the programs wrote in this new folder")
    args = parser.parse_args(argv)
    if args.keep and args.keep.exists():
        parser.error(f"--keep {args.keep}: is there already")
    return args


def write(bench: Bench, only: Sequence[str] | None, path: Path) -> int:
    """Write the digests of the cases ``only``, or of all, as {case: {what: SHA-256}}."""
    found: dict[str, Digests] = {}
    for name in only or CASES:
        start = time.monotonic()
        try:
            found[name] = bench.digests(name)
        except ProgramFailed as failure:
            print(f"{name:20} {failure}", file=sys.stderr)
            return 1
        print(f"{name:20} {len(found[name]):3} digests  {time.monotonic() - start:5.1f} s", flush=True)
    path.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return 0


def compare(bench: Bench, only: Sequence[str] | None, path: Path) -> int:
    """Print of each case whether it computes what ``path`` says; return 1 where one does not."""
    before: dict[str, Digests] = json.loads(path.read_text(encoding="utf-8"))
    names = only or [*CASES, *sorted(before.keys() - CASES.keys())]
    verdicts = {}
    for name in names:
        verdicts[name] = verdict(bench, name, before)
        print(f"{name:20} {verdicts[name]}", flush=True)
    differing = [name for name, said in verdicts.items() if said.startswith("DIFFERENT")]
    print(f"{len(differing)} of {len(names)} cases differ" + (f": {', '.join(differing)}" if differing else ""))
    if MACHINE in differing:
        print("the digests are of another machine: write them again, of the tree before the change (--root)")
    return int(bool(differing))


def verdict(bench: Bench, name: str, before: Mapping[str, Digests]) -> str:
    """Whether a case computes what it did, and if not, what differs."""
    if name not in CASES:
        return "DIFFERENT: there is no such case any more"
    if name not in before:
        return "new: not written down before"
    try:
        now = bench.digests(name)
    except ProgramFailed as failure:
        return f"DIFFERENT: {failure}"
    differing = differences(before[name], now)
    return f"DIFFERENT: {'; '.join(differing)}" if differing else f"same ({len(now)})"


def differences(before: Digests, now: Digests) -> list[str]:
    """What differs between the digests of a case, what is gone and what is new."""
    changed = [what for what in before if what in now and before[what] != now[what]]
    gone = [f"{what} is gone" for what in before if what not in now]
    return [*changed, *gone, *(f"{what} is new" for what in now if what not in before)]


if __name__ == "__main__":
    sys.exit(main())
