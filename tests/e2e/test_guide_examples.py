"""The Python in a guide runs as it stands, each block for itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
# Guides with a block that needs a trained model, a file, or the block before it.
NOT_RUN = {"classify", "clippers-elsewhere", "evaluate", "models", "papers", "search", "train"}
BLOCKS = [
    pytest.param(block, id=f"{path.stem}-{number}")
    for path in sorted(GUIDES.glob("*.md"))
    if path.stem not in NOT_RUN
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", path.read_text("utf-8"), re.S))
]


def test_guides_left_out_are_there() -> None:
    assert {path.stem for path in GUIDES.glob("*.md")} >= NOT_RUN


@pytest.mark.filterwarnings("ignore")  # those of other libraries
@pytest.mark.parametrize("block", BLOCKS)
def test_example_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        exec(compile(block, "guide", "exec"), {"__name__": "guide"})
