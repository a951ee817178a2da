"""First positions that rest: no parameter, no decay, and states with or without them load."""

import copy

import pytest
import torch

from families import FAMILIES
from tether.adaptation.finetune import ADAPTERS, KeptPositions
from tether.core.component import build
from tether.core.errors import InputError, UnsupportedModelError
from tether.models import create
from tether.models.composed.cached import CachedEncoder
from tether.optim import parameter_groups


def long_model():
    return create("tiny").resized(context=56, how={"name": "stretch", "keep": 8, "ratio": 3})


def test_the_first_rows_never_move():
    model = long_model()
    before = model.text.position.detach().clone()
    edit = KeptPositions(keep=8)
    edit.apply_(model)
    assert len(model.text.parametrizations.position.original) == 48
    optimizer = torch.optim.AdamW(parameter_groups(model, weight_decay=0.5), lr=0.1)
    ids = model.tokenizer(["a cat", "a red dog " * 10])
    model.encode_text(ids).pooled.square().sum().backward()
    optimizer.step()
    edit.merge_(model)
    after = model.text.position
    assert isinstance(after, torch.nn.Parameter)
    assert torch.equal(after[:8], before[:8])
    assert (after[8:] != before[8:]).any(dim=1).all()  # decay reaches the rest, gradient or not


def test_states_of_both_kinds_load():
    plain, kept = long_model(), long_model()
    KeptPositions(keep=8).apply_(kept)
    with torch.no_grad():
        plain.text.position.add_(1)
    kept.load_state_dict(plain.state_dict())
    assert torch.equal(kept.text.position, plain.text.position)
    other = copy.deepcopy(kept)
    other.load_state_dict(kept.state_dict())
    assert torch.equal(other.text.position, plain.text.position)
    assert KeptPositions(keep=8).merge_(other).state_dict().keys() == plain.state_dict().keys()
    assert len(kept.text.parametrizations.position.original) == 48


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("AltCLIP", 5),
        ("Chinese-CLIP", 3),
        ("roberta-ViT", 4),
        ("ViT and BERT", 3),
        ("transformers' CLIP", 3),
    ],
)
def test_every_table_is_found_and_roberta_begins_behind_its_padding(name, rows, tmp_path):
    model = FAMILIES[name](tmp_path)
    texts = ["a", "a a red dog"]
    before = model.embed(texts)
    edit = KeptPositions(keep=3)
    edit.apply_(model)
    assert [len(value) for key, value in model.named_buffers() if key.endswith(".first")] == [rows]
    torch.testing.assert_close(model.embed(texts), before)
    for key, value in model.named_parameters():
        if key.endswith(".original"):
            value.data.neg_()
    after = edit.merge_(model).embed(texts)
    torch.testing.assert_close(after[0], before[0])
    assert not torch.allclose(after[1], before[1], atol=1e-3)


def test_a_table_that_rested_before_still_does():
    model = create("tiny")
    model.text.position.requires_grad_(False)
    KeptPositions(keep=3).apply_(model)
    assert not model.text.parametrizations.position.original.requires_grad


def test_what_is_refused():
    model = create("tiny")
    with pytest.raises(InputError, match="key 'keep' is required"):
        build("kept_positions", ADAPTERS, where="edits")
    with pytest.raises(InputError, match="keep: expected at most 22 of 24 rows, got 23"):
        KeptPositions(keep=23).apply_(model)
    with pytest.raises(InputError, match="Clip: none of its positions rest"):
        KeptPositions(keep=8).merge_(model)
    KeptPositions(keep=8).apply_(model)
    with pytest.raises(InputError, match="rest already"):
        KeptPositions(keep=8).apply_(model)
    with pytest.raises(UnsupportedModelError, match="0 tables"):
        KeptPositions(keep=8).apply_(create("tiny").resized(context=56, how="rotary"))
    with pytest.raises(UnsupportedModelError, match="CachedEncoder"):
        KeptPositions(keep=8).apply_(CachedEncoder(model))
