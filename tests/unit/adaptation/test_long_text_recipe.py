"""A caption past 77 tokens is read whole afterwards, and the first positions rest."""

from dataclasses import replace

import pytest
import torch

import tether
from families import FAMILIES
from memory_rows import MemoryRows, squares
from tether.adaptation.recipes.long_text import LongTextRecipe
from tether.core.errors import InputError, UnsupportedModelError
from tether.models import create

pytestmark = pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")
LONG = "a red square on a wall. " + "beside it hangs a picture of a dog that sleeps in the grass. " * 8
SETTINGS = {"name": "long_text", "steps": 3, "batch_size": 8, "learning_rate": 1e-3}


def told() -> MemoryRows:
    return MemoryRows([replace(row, texts=(f"{row.texts[0]}. {LONG}",)) for row in squares(24).rows])


def test_long_captions_are_read_whole_and_the_first_positions_rest():
    base = create("tiny", context=77, seed=1).eval()
    long = tether.adapt(base, told(), recipe=SETTINGS).model
    assert (base.tokenizer.context_length, long.tokenizer.context_length) == (77, 248)
    other = LONG.rsplit("grass", 1)[0] + "sun. "  # the last word, past the 77
    before, after = (one.embed([LONG, other], long_text=how) for one, how in ((base, "cut"), (long, "raise")))
    assert torch.equal(before[0], before[1])
    assert not torch.allclose(after[0], after[1], atol=1e-5)
    assert torch.equal(long.text.position[:20], base.text.position[:20])
    spread = base.resized(context=248, how={"name": "stretch", "keep": 20, "ratio": 4})
    assert (long.text.position[20:] != spread.text.position[20:]).any(dim=1).all()


def test_the_length_may_be_chosen():
    base = create("tiny", context=24, seed=1).eval()
    spec = SETTINGS | {"keep": 8}
    assert tether.adapt(base, told(), recipe=spec | {"context": 40}).model.tokenizer.context_length == 40
    for change, says in (
        ({"context": 24}, "context: the model reads 24 tokens already; expected more, got 24"),
        ({"ratio": 1}, "expected more, got 24"),
        ({"context": 73}, "makes 72 positions of 24, got 73"),
        ({"keep": 23}, "keep: expected at most 22 of 24"),
    ):
        with pytest.raises(InputError, match=says):
            tether.adapt(base, told(), recipe=spec | change)


def test_what_is_refused(tmp_path):
    for model, reason in (
        (FAMILIES["CLIPA"](tmp_path), "this text tower reads the padding behind them: a short text's cosine"),
        (FAMILIES["roberta-ViT"](tmp_path), "its text tower is another library's and has no more positions"),
        (create("tiny", geometry="euclidean"), "compares embeddings by cosine"),
        (create("tiny").resized(context=56, how="rotary"), "has 0 tables"),
    ):
        with pytest.raises(UnsupportedModelError, match=reason):
            LongTextRecipe(keep=8).check(model)
