"""How many answers survive a typo."""

import pytest
import torch

from tether.core.errors import InputError
from tether.methods.leaf import typo_robustness
from tether.models import create
from tether.models.embed import encode_texts

NAMES = ["cat", "dog", "large house", "small boat"]
LABELS = torch.arange(4)


@pytest.fixture(scope="module")
def model():
    return create("tiny", seed=1).eval()


@pytest.fixture(scope="module")
def rows(model):
    return encode_texts(model, NAMES)


def test_the_stronger_the_attack_the_fewer_answers_survive(model, rows):
    settings = {"gallery": rows, "labels": LABELS, "k": 2}
    strong = typo_robustness(model, NAMES, n=5, **settings)
    weak = typo_robustness(model, NAMES, attack="random", rho=1, generator=torch.Generator().manual_seed(0), **settings)
    assert strong.accuracy[0] == weak.accuracy[0] == 1
    assert strong.accuracy[1] < weak.accuracy[1] + 1e-9
    assert strong.accuracy[1] < 1
    again = (encode_texts(model, list(strong.texts)) @ (rows / rows.norm(dim=1, keepdim=True)).T).argmax(
        dim=1
    ) == LABELS
    assert again.tolist() == strong.attacked.tolist()


def test_no_typo_is_no_loss(model, rows):
    found = typo_robustness(model, NAMES, gallery=rows, labels=LABELS, k=0)
    assert found.accuracy == (1, 1)
    assert found.texts == tuple(NAMES)
    assert found.distance == pytest.approx(0, abs=1e-9)
    assert found.encodings == 0


def test_distances_are_from_the_rows_that_are_given(model, rows):
    moved = rows + 1
    found = typo_robustness(
        model, NAMES, gallery=rows, labels=LABELS, objective="l2", clean=moved, attack="leaf", rho=4,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    expected = (encode_texts(model, list(found.texts)) - moved).square().sum(dim=1).mean()
    assert found.distance == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")
def test_a_text_that_lost_its_end_is_counted(model, rows):
    full = [" ".join(["cat"] * (model.tokenizer.context_length - 2))] * 1
    found = typo_robustness(
        model, full, gallery=rows, labels=LABELS[:1], objective="l2", n=3, alphabet=[ord(" "), ord("!")]
    )
    assert found.cut == 1


def test_refused(model, rows):
    other = create("tiny", geometry="euclidean-squared", final_layernorm="drop").eval()
    with pytest.raises(InputError, match="cosine"):
        typo_robustness(other, NAMES, gallery=rows, labels=LABELS)
    with pytest.raises(InputError, match="one of 4"):
        typo_robustness(model, NAMES, gallery=rows, labels=LABELS + 1)
    with pytest.raises(InputError, match="generator"):
        typo_robustness(model, NAMES, gallery=rows, labels=LABELS, attack="leaf")
