"""The Python in a guide runs as it stands, each block for itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
# Guides whose Python asks for a trained run, a data set of one's own or a download.
NOT_RUN = {"export", "models", "search"}
BLOCKS = [
    pytest.param(block, id=f"{guide.stem}-{number}")
    for guide in sorted(GUIDES.glob("*.md"))
    if guide.stem not in NOT_RUN
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", guide.read_text("utf-8"), re.S))
]


def test_only_guides_that_exist_are_left_out() -> None:
    assert {guide.stem for guide in GUIDES.glob("*.md")} >= NOT_RUN


@pytest.mark.filterwarnings("ignore")  # those of other libraries
@pytest.mark.parametrize("block", BLOCKS)
def test_example_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        exec(compile(block, "guide", "exec"), {"__name__": "guide"})
