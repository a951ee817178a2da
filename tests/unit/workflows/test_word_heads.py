"""A word learnt from a few images, as a head and in the texts of search and classify."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tether
from memory_rows import squares, without_words
from tether.adaptation.heads import WordHead, load_head
from tether.core.errors import InputError
from tether.methods.dti.recipe import NewWordRecipe
from tether.models import create
from tether.workflows.words import with_words

SETTINGS = {"word": "<it>", "init_word": "cat", "steps": 30, "learning_rate": 0.05}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Red images to learn from, and green and blue ones."""
    place = tmp_path_factory.mktemp("images")
    for name, colour in (("red", (220, 40, 30)), ("green", (30, 200, 60)), ("blue", (40, 60, 220))):
        folder = place / ("own" if name == "red" else "others")
        folder.mkdir(exist_ok=True)
        for number in range(6):
            pixels = np.full((32, 32, 3), colour, np.uint8)
            pixels[number : number + 8] //= 2
            Image.fromarray(pixels).save(folder / f"{name}{number}.png")
    return {name: place / name for name in ("own", "others")}


@pytest.mark.parametrize(("word", "known"), [("<it>", False), ("qvxzzt", False), ("dog", True), ("cat", True)])
def test_a_word_that_texts_have_already_is_remarked(word: str, known: bool, folders: dict[str, Path]) -> None:
    recipe = NewWordRecipe(**{**SETTINGS, "word": word}, others=str(folders["others"]))
    found = recipe.remarks(create("tiny").eval())
    assert [line.startswith(f"The model knows the word {word!r} already") for line in found] == [True] * known


def learnt(model: Any, folders: dict[str, Path], **more: Any) -> Any:
    spec = {"name": "new-word", **SETTINGS, "others": str(folders["others"]), **more}
    return tether.adapt(model, folders["own"], recipe=spec)


def test_a_word_is_learnt_kept_and_found(folders: dict[str, Path], tmp_path: Path) -> None:
    model = create("tiny").eval()
    done = learnt(model, folders, templates=["a {}", "{} {x} {"])
    head = done.head
    assert isinstance(head, WordHead)
    assert head.classes == ("<it>",)
    assert (head.init_word, len(head.tokenizer)) == ("cat", 32)
    torch.testing.assert_close(head.direction.norm(dim=1), torch.ones(1))
    own, others = (model.embed([*sorted(folders[name].glob("*.png"))]) for name in ("own", "others"))
    assert float(head.logits(own).min()) > float(head.logits(others).max())
    done.save(tmp_path / "it")
    again = load_head(tmp_path / "it", model=model)
    assert torch.equal(again.logits(own), head.logits(own))
    worded = with_words(model, tmp_path / "it")
    row = worded.embed(["a <it>"])
    assert float((row @ own.T).mean()) > float((row @ others.T).mean())
    plain = tether.search(folders["others"].parent, "a <it>", model=model, words=[tmp_path / "it"], top=6)
    assert all(hit.key.startswith("own") for hit in plain["a <it>"])
    found = tether.classify(folders["others"], ["<it>", "table"], model=model, words=head)
    assert len(found.labels) == 12
    with pytest.raises(InputError, match="text side"):
        head.token(create("tiny", seed=1).eval())
    with pytest.raises(InputError, match="image side"):
        with_words(create("tiny", seed=1).eval(), head)


def test_what_does_not_go_with_words_is_told(folders: dict[str, Path], tmp_path: Path) -> None:
    model = create("tiny").eval()
    head = learnt(model, folders, steps=1).head
    with pytest.raises(InputError, match="--head: is the word <it>"):
        tether.classify(folders["own"], model=model, head=head)
    with pytest.raises(InputError, match="--words: goes with --long-text cut"):
        tether.search(folders["own"], "a <it>", model=model, words=head, long_text="windows")
    with pytest.raises(InputError, match="--words: goes with no --none-of-these"):
        tether.classify(
            folders["own"], ["<it>", "x"], model=model, words=head, none_of_these="auto", cutoff_from="digits"
        )
    probe = tether.adapt(model, squares(24), recipe="gda", keep=squares(6))
    probe.save(tmp_path / "probe")
    with pytest.raises(InputError, match="expected a word of tether adapt"):
        with_words(model, tmp_path / "probe")
    with pytest.raises(InputError, match="tokens: expected words"):
        with_words(model, [head, head])
    spec = {"name": "new-word", **SETTINGS, "others": str(folders["own"])}
    with pytest.raises(InputError, match=r"others: .*none but the thing's own"):
        tether.adapt(model, folders["own"], recipe=spec, test=folders["others"])
    with pytest.raises(InputError, match="templates: expected texts"):
        NewWordRecipe(word="<it>", init_word="cat", others="x", templates=["it"])
    with pytest.raises(InputError, match="init_word, word: expected words"):
        tether.adapt(
            model, without_words(squares(6)), recipe={"name": "new_word", **SETTINGS, "word": "a b", "others": "x"}
        )
