"""What a process imports: any one module can be the first, and plain use needs little of the package."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import imported_first
import tether

PACKAGE = Path(tether.__file__).parent
MODULES = sorted(
    ".".join(("tether", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
)
NOT_IMPORTED = {
    "tether.__main__": "it is the command line",
    "tether.models.encoders.onnx.run": "it is copied into exported folders and reads what lies there",
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="it forks")
@pytest.mark.parametrize(
    "every", [pytest.param(True, marks=pytest.mark.nightly, id="module"), pytest.param(False, id="package")]
)
def test_each_can_be_the_first(every):
    wanted = [
        name
        for name in MODULES
        if name not in NOT_IMPORTED and (every or (PACKAGE.parent / name.replace(".", "/")).is_dir())
    ]
    done = subprocess.run(
        [sys.executable, imported_first.__file__], input=json.dumps(wanted), capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == {}


@pytest.mark.slow
def test_plain_use_imports_little(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3]))
    sizes = importlib.import_module("benchmarks.import_sizes")
    sizes.run(sizes.MAKE, tmp_path)
    for name in ("load", "train", "segment"):
        assert sizes.lines(sizes.imported(sizes.CASES[name], tmp_path)) <= sizes.CASES[name].limit, name
