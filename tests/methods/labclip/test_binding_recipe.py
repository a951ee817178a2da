"""LABCLIP as a recipe: twins of a column and of other images, images that rest, and what is refused."""

from dataclasses import replace

import pytest
import torch

import tether
from memory_rows import COLOURS, MemoryRows, squares
from tether.adaptation.recipes import Given
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.model_digest import model_digest
from tether.methods.labclip import BindingRecipe
from tether.methods.labclip.recipe import _others
from tether.models import create


def twinned(count=60):
    """Captions whose colour is another one in their twin."""
    names = list(COLOURS)
    rows = [
        replace(row, meta={"twin": row.texts[0].replace(name := row.meta["label"], names[names.index(name) - 1])})
        for row in squares(count).rows
    ]
    return MemoryRows(rows, name="twinned")


@pytest.fixture(scope="module")
def model():
    return create("tiny", seed=1).eval()


def test_binding_learns_from_twins_and_leaves_images(model):
    done = tether.adapt(model, twinned(), recipe={"name": "binding", "twins": "twin", "steps": 150}, keep=squares(12))
    twins = done.report.own[1]
    assert twins.name == "nearer to the caption than to its twin"
    assert twins.after.value > twins.before.value
    assert done.report.frozen.image_side
    assert not done.report.frozen.text_side
    rows = twinned(6).rows
    assert torch.equal(done.model.embed([row.image for row in rows]), model.embed([row.image for row in rows]))


def test_rows_without_a_twin_are_left_out(model):
    rows = twinned(30).rows
    odd = [replace(row, meta={"twin": (None, row.texts[0], " ", row.meta["twin"])[number % 4]})
           for number, row in enumerate(rows)]  # fmt: skip
    given = Given("pairs", MemoryRows(odd), 30)
    image, text, twin = BindingRecipe(twins="twin")._part(model, given, "train")
    assert len(image) == len(text) == len(twin) == 7
    embedded = given.embed(model, texts=True)
    assert torch.equal(image, embedded.image[3::4])
    assert torch.equal(text, embedded.text[3::4])
    with pytest.raises(InputError, match="has no column 'swapped'; its columns: twin"):
        BindingRecipe(twins="swapped")._part(model, given, "train")
    with pytest.raises(InputError, match="none of 2 captions of the train part has a twin in column 'twin'"):
        BindingRecipe(twins="twin")._part(model, Given("pairs", MemoryRows(odd[:2]), 2), "train")
    alike = MemoryRows([replace(row, texts=("a square",)) for row in rows])
    with pytest.raises(InputError, match=r"none of 30 captions .* in another image's caption"):
        BindingRecipe()._part(model, Given("pairs", alike, 30), "train")


def test_other_captions_are_of_other_images():
    image, text = torch.eye(4).repeat_interleave(2, 0), torch.eye(3)[[0, 1, 0, 0, 2, 2, 1, 1]]
    twin = _others(image, text, generator=torch.Generator().manual_seed(0))
    assert (image[twin] != image).any(dim=1).all()
    assert (text[twin] != text).any(dim=1).all()


def test_the_check_copies_the_text_projection_alone(model, monkeypatch):
    copied, copy_of, digest = [], torch.nn.Parameter.__deepcopy__, model_digest(model)
    monkeypatch.setattr(
        torch.nn.Parameter, "__deepcopy__", lambda one, memo: copied.append(one.numel()) or copy_of(one, memo)
    )
    BindingRecipe().check(model)
    assert copied == [model.text.projection.weight.numel()]
    assert model_digest(model) == digest


def test_a_projection_that_cannot_be_changed_alone_is_refused(model):
    with pytest.raises(UnsupportedModelError, match="geometry is euclidean"):
        BindingRecipe().check(create("tiny", geometry="euclidean"))
    shared = create("tiny", towers="shared").eval()
    with pytest.raises(UnsupportedModelError, match="text projection, and this model's cannot be changed alone: Clip"):
        BindingRecipe().check(shared)
