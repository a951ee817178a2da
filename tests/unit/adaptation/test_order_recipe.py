"""The recipe order: several texts, what it refuses, and its head's file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tether
from memory_rows import MemoryRows, squares, without_words
from tether.adaptation.heads import OrderHead, load_head
from tether.adaptation.recipes import OrderRecipe
from tether.core.errors import InputError
from tether.core.state_file import read_state, write_state
from tether.models import create

SETTINGS = {"name": "order", "column": "amount", "steps": 3, "group": 6, "n_rank_tokens": 2}


def tasks(count: int = 24, *, first: int = 0) -> MemoryRows:
    """Two orders of the same kind of images."""
    rows = without_words(squares(first + count)).rows[first:]
    return MemoryRows([replace(row, meta={**row.meta, "task": "ab"[n % 2]}) for n, row in enumerate(rows)])


def test_several_texts_make_a_head_of_several(tmp_path: Path) -> None:
    model = create("tiny").eval()
    recipe = {**SETTINGS, "text_column": "task", "components": ["rank", "regression", "bce"], "mask_ties": True}
    done = tether.adapt(model, tasks(), recipe=recipe, test=tasks(first=24), out=tmp_path / "head")
    head = load_head(tmp_path / "head", model=model)
    assert isinstance(head, OrderHead)
    assert set(head.classes) == {"a", "b"}
    assert (done.report.own[0].n, done.report.own[0].chance) == (24, 0)
    page = (tmp_path / "head" / "report.html").read_text()
    assert '<td data-of="chance">0.000</td>' in page  # chance of a correlation is no share
    rows = torch.randn(3, head.dim)
    assert head.logits(rows).shape == (3, 2)
    found = tether.rank(tasks(), model=model, head=head, by="b")
    assert (found.used, found.by, len(found.hits)) == ("head", "b", 24)
    with pytest.raises(InputError, match="--by: the head orders by"):
        tether.rank(tasks(), model=model, head=head)


def test_the_score_starts_at_the_mean_and_ends_in_the_unit_of_the_numbers() -> None:
    model, rows = create("tiny").eval(), without_words(squares(24)).rows
    far = [replace(row, meta={"amount": 1e4 + n}) for n, row in enumerate(rows)]
    recipe = {**SETTINGS, "text": "walls"}
    head = tether.adapt(model, MemoryRows(far[:12]), recipe=recipe, test=MemoryRows(far[12:])).head
    assert head is not None
    scores = head.logits(torch.randn(5, head.dim))
    assert (scores - 1e4).abs().max() < 100


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "expected one of text and text_column"),
        ({"text": "walls", "text_column": "task"}, "and not both"),
        ({"text": " "}, "text: expected words"),
        ({"text": "walls", "column": "stars"}, "has no column 'stars'; its columns: amount, task"),
        ({"text": "walls", "column": "task"}, "task: expected a finite number, got 'a'"),
        ({"text_column": "nothing"}, "has nothing in column 'nothing'"),
        ({"text": "walls", "n_heads": 7}, "heads: expected a divisor of dim=64"),
        ({"text": "walls", "group": 1}, "group"),
        ({"text": "walls", "components": ["ranks"]}, "components"),
    ],
)
def test_bad_settings_and_rows(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tether.adapt(create("tiny"), tasks(), recipe={**SETTINGS, **settings})


def test_equal_numbers_have_no_order() -> None:
    same = MemoryRows([replace(row, meta={"score": 2}) for row in squares(6).rows])
    with pytest.raises(InputError, match=r"all with score 2.0: nothing to order"):
        OrderRecipe(text="walls").read(create("tiny").eval(), same)


def test_a_file_that_was_meddled_with(tmp_path: Path) -> None:
    model = create("tiny").eval()
    done = tether.adapt(model, tasks(), recipe={**SETTINGS, "text": "walls"}, test=tasks(first=24))
    assert done.head is not None
    path = done.head.save(tmp_path) / "head.safetensors"
    settings, arrays = read_state(path, what="head", format="tether.head/1")
    for more, other, message in [
        ({"adapter": settings["adapter"] | {"dim": 2**40}}, {}, "order head: "),
        ({"patches": 0}, {}, "order head: "),
        ({}, {"tokens": np.full_like(arrays["tokens"], np.nan)}, "finite"),
    ]:
        write_state(path, format="tether.head/1", settings={**settings, **more}, arrays={**arrays, **other})
        with pytest.raises(InputError, match=message):
            load_head(tmp_path)
