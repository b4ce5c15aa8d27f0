"""What a script imports before it has looked at its flags: a refusal should not take longer than torch takes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.ranks import ROOT

SLOW = ("torchvision", "torch._dynamo", "sympy", "albumentations", "tensorboard", "onnx", "optuna")


@pytest.mark.parametrize("script", ["train", "eval", "detect", "export"])
def test_starting_imports_nothing_slow_but_torch(script: str) -> None:
    code = f"import runpy, sys; runpy.run_path('{script}.py'); print([name for name in {SLOW} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
