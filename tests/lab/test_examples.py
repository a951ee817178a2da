"""The example in the docstring of every paper's first part runs and prints what it says."""

from __future__ import annotations

import doctest

import pytest
import torch

from tether_lab.lab.part_reference import described, example
from tether_lab.papers import CARDS

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.filterwarnings("ignore")  # those of other libraries
@pytest.mark.parametrize("slug", list(CARDS))
def test_the_example_of_a_paper_runs(slug, tmp_path, monkeypatch):
    part = CARDS[slug].parts[0]
    text = example(part)
    assert ">>>" in text, f"{part}: its docstring has no Example"
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    found = doctest.DocTestParser().get_doctest(text, {}, part, None, 0)
    said: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS).run(found, out=said.append)
    assert not said, "".join(said)
    assert f"```python\n{text}" in described(part)
