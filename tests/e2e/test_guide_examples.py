"""The Python in a guide runs as it stands, each block for itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
# Guides whose every Python block needs nothing but an installed Tether.
NAMES = (
    "adagc",
    "alignclip",
    "autoclip",
    "beyond-tail",
    "clip-in",
    "clip-radagrad",
    "clip-refine",
    "clipood",
    "clipped-sgd-bias",
    "comco",
    "contrastive-gap",
    "curate",
    "devil-number",
    "double-ellipsoid",
    "ent",
    "euclip",
    "evaluating-clip",
    "fairerclip",
    "fairpivara",
    "fake-thumbnail",
    "hybridnorm",
    "inspect",
    "labclip",
    "laclip",
    "logitclip",
    "m2-mix",
    "medical-survey",
    "metaclip2",
    "mmcl-robustness",
    "moral-direction",
    "nalaformer",
    "nfnet-agc",
    "norm-clipping",
    "normformer",
    "offensiveness",
    "parrot-captions",
    "paraclip",
    "positional-artefacts",
    "q16",
    "saner",
    "scientific-papers",
    "skip-middle",
    "specs",
    "stable-spam",
    "text-decomposition",
    "tripletclip",
    "troll",
    "veclip",
    "wgan-gp",
    "zclip",
)
BLOCKS = [
    pytest.param(block, id=f"{name}-{number}")
    for name in NAMES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", (GUIDES / f"{name}.md").read_text("utf-8"), re.S))
]


def test_every_guide_has_an_example() -> None:
    assert {str(block.id).rpartition("-")[0] for block in BLOCKS} == set(NAMES)


@pytest.mark.filterwarnings("ignore")  # those of other libraries
@pytest.mark.parametrize("block", BLOCKS)
def test_example_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        exec(compile(block, "guide", "exec"), {"__name__": "guide"})
