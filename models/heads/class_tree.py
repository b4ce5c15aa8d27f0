"""YOLO9000's classes: a tree in which brothers compete and a class is as likely as all its ancestors together allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from utils.cfg.values import shown
from utils.errors import CfgError

_LONGEST = 2**24  # bytes; the tree of 9,418 classes has 130 thousand


@dataclass(frozen=True)
class ClassTree:
    """A hierarchy of K classes in G groups of brothers (arXiv 1612.08242, section 4).

    Attributes:
        names: of the K classes.
        parents: int64 (K,), -1 for those without; a parent stands before its children.
        groups: int64 (K,), the group of brothers each class is in, counted from 0.
        paths: int64 (K, D), each class, its parent, its grandparent ..., filled up with -1.
    """

    names: tuple[str, ...]
    parents: Tensor
    groups: Tensor
    paths: Tensor

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device) -> ClassTree:
        """The same tree on ``device``."""
        return ClassTree(self.names, *(part.to(device) for part in (self.parents, self.groups, self.paths)))

    def softmax(self, logits: Tensor) -> Tensor:
        """Probability of each class among its brothers, given its parent: (..., K)."""
        groups = self.groups.expand_as(logits)
        shape = (*logits.shape[:-1], int(self.groups[-1]) + 1)
        highest = logits.new_full(shape, -torch.inf).scatter_reduce(-1, groups, logits, "amax")
        odds = (logits - highest[..., self.groups]).exp()
        return odds / odds.new_zeros(shape).index_add(-1, self.groups, odds)[..., self.groups]

    def absolute(self, probs: Tensor) -> Tensor:
        """Probability of each class with all its ancestors (..., K), from those among brothers."""
        product = probs
        for level in self.paths.T[1:]:
            product = torch.where(level < 0, product, product * probs[..., level])
        return product

    def most_specific(self, probs: Tensor, bar: float) -> Tensor:
        """(..., K): of the absolute probabilities above ``bar`` that of the last class in the file, 0 elsewhere.

        Children stand after their parents, so it is the most specific of them.
        """
        order = torch.arange(len(self), device=probs.device)
        last = torch.where(probs > bar, order, -1).amax(-1, keepdim=True)
        return torch.where(order == last, probs, 0)


def read_class_tree(path: Path) -> ClassTree:
    """Read a tree: on each line the name of a class and the line number of its parent from 0, or -1.

    Raises:
        CfgError: the file cannot be read, or a line of it.
    """
    names, parents = [], []
    for number, line in enumerate(_lines(path)):
        name, *rest = line.split() or [""]
        parent = _whole(rest[0] if rest else "-1")
        if not name or len(rest) > 1 or parent is None or not -1 <= parent < number:
            wanted = "a name and the line of its parent, counted from 0 and before it, or -1"
            raise CfgError(f"{path}:{number + 1}: '{shown(line)}' (wanted {wanted})")
        names.append(name)
        parents.append(parent)
    if not names:
        raise CfgError(f"{path}: no classes (wanted a name and a parent on each line)")
    return _tree(names, parents)


def read_class_map(path: Path, classes: int) -> Tensor:
    """Read which of ``classes`` classes each class of a data set is, a number on each line: int64 (labels,).

    Raises:
        CfgError: the file cannot be read, or a line of it.
    """
    found = []
    for number, line in enumerate(_lines(path), start=1):
        label = _whole(line.strip())
        if label is None or not 0 <= label < classes:
            raise CfgError(f"{path}:{number}: '{shown(line)}' (wanted a class from 0 to {classes - 1})")
        found.append(label)
    if not found:
        raise CfgError(f"{path}: no classes (wanted a number on each line)")
    return torch.tensor(found)


def find_class_file(name: str, source: str, what: str) -> Path:
    """The file a cfg means: beside the cfg, beside its folder, or in the working directory, as Darknet looks.

    Args:
        source: the cfg.
        what: the start of a message: where the name stands.

    Raises:
        CfgError: there is no such file.
    """
    folder = Path(source).parent
    for place in (folder, folder.parent, Path()):
        if (place / name).is_file():
            return place / name
    raise CfgError(f"{what}: no such file (looked in {folder}, the folder above and the working directory)")


def _tree(names: Sequence[str], parents: Sequence[int]) -> ClassTree:
    paths: list[list[int]] = []
    for index, parent in enumerate(parents):
        paths.append([index] + (paths[parent] if parent >= 0 else []))
    depth = max(map(len, paths))
    parent_of = torch.tensor(parents)
    # Brothers stand together: a group ends where the parent changes.
    groups = torch.cat((torch.zeros(1, dtype=torch.long), (parent_of[1:] != parent_of[:-1]).long().cumsum(0)))
    padded = torch.tensor([path + [-1] * (depth - len(path)) for path in paths])
    return ClassTree(tuple(names), parent_of, groups, padded)


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            data = file.read(_LONGEST + 1)
    except OSError as error:
        raise CfgError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > _LONGEST:
        raise CfgError(f"{path}: more than {_LONGEST:,} bytes (wanted a list of classes)")
    return data.decode("utf-8", "replace").splitlines()


def _whole(text: str) -> int | None:
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 10 else None
