"""Heads: what they compute, their file, and the encoder that they belong to."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from families import FAMILIES
from tether.adapt.heads import HEAD_FILE, HEADS, LinearHead, image_digest, load_head
from tether.core.errors import InputError
from tether.models import create
from tether.models.cached import CachedEncoder

ROWS = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def head():
    model = create("tiny", seed=1).eval()
    return LinearHead(torch.randn(3, model.dim), classes=("a", "b", "c"), bias=torch.randn(3)).bind_(model), model


@pytest.mark.parametrize("estimator", [LogisticRegression, LinearDiscriminantAnalysis])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_head_of_scikit_learn_gives_its_probabilities(estimator, classes):
    unit = F.normalize(ROWS, dim=1).numpy()
    fitted = estimator().fit(unit, np.arange(60) % classes)
    found = LinearHead.of(fitted, classes=[str(one) for one in range(classes)])
    probability = F.softmax(found.logits(ROWS), dim=1).numpy()
    np.testing.assert_allclose(probability, fitted.predict_proba(unit), atol=1e-5)


def test_only_the_direction_of_an_embedding_counts():
    found = LinearHead(torch.randn(2, 8), classes=("a", "b"))
    torch.testing.assert_close(found.logits(ROWS), found.logits(3 * ROWS))


def test_it_is_saved_whole_and_opens_on_its_encoder_alone(head, tmp_path):
    made, model = head
    opened = load_head(made.save(tmp_path), model=model)
    rows = torch.randn(4, model.dim)
    assert torch.equal(opened.logits(rows), made.logits(rows))
    assert (opened.classes, opened.encoder) == (made.classes, image_digest(model))
    other = create("tiny", seed=2).eval()
    with pytest.raises(InputError) as caught:
        load_head(tmp_path, model=other)
    assert image_digest(model)[:12] in str(caught.value)
    assert image_digest(other)[:12] in str(caught.value)


def test_texts_and_scale_may_be_trained_further(head, tmp_path):
    made, model = head
    made.save(tmp_path)
    with torch.no_grad():
        model.log_logit_scale.add_(1)
        next(model.text.parameters()).add_(1)
    assert load_head(tmp_path, model=CachedEncoder(model)).classes == made.classes
    with torch.no_grad():
        next(model.visual.parameters()).add_(1)
    with pytest.raises(InputError, match="was fitted on an image side"):
        load_head(tmp_path, model=model)


def test_the_map_of_a_composed_encoder_belongs_to_the_image_side(tmp_path):
    model = FAMILIES["composed EfficientNet"](tmp_path).eval()
    before = image_digest(model)
    with torch.no_grad():
        next(model.parts.text_map.parameters()).add_(1)
    assert image_digest(model) == before
    with torch.no_grad():
        next(model.parts.image_map.parameters()).add_(1)
    assert image_digest(model) != before


def test_a_damaged_or_strange_file_is_refused(head, tmp_path, monkeypatch):
    made, _ = head
    with pytest.raises(InputError, match="no such file"):
        load_head(tmp_path)
    made.save(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(LinearHead, "kind", "other")
        made.save(tmp_path / "other")
    with pytest.raises(InputError, match="unknown kind of head 'other'"):
        load_head(tmp_path / "other")
    path = tmp_path / HEAD_FILE
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        load_head(tmp_path)


@pytest.mark.parametrize(
    ("weight", "classes", "bias", "message"),
    [
        (torch.eye(3), ("a", "b"), None, "expected .2, d. weights"),
        (torch.eye(2), ("a", "b"), torch.zeros(3), "biases"),
        (torch.full((2, 2), torch.nan), ("a", "b"), None, "finite"),
        (torch.eye(2), ("a", "a"), None, "two different names"),
        (torch.eye(1), ("a",), None, "two different names"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(weight, classes, bias, message):
    with pytest.raises(InputError, match=message):
        LinearHead(weight, classes=classes, bias=bias)


def test_embeddings_that_do_not_fit_are_refused(head):
    made, model = head
    with pytest.raises(InputError, match=r"expected \(n, 64\) embeddings"):
        made.logits(torch.zeros(2, 3))
    with pytest.raises(InputError, match="not finite"):
        made.logits(torch.full((1, model.dim), torch.inf))
    with pytest.raises(InputError, match="length 5"):
        LinearHead(torch.eye(5)[:2], classes=("a", "b")).bind_(model)
    with pytest.raises(InputError, match="save: expected the encoder"):
        LinearHead(torch.eye(2), classes=("a", "b")).save("nowhere")


def test_kinds_have_the_names_of_their_files():
    assert {name: kind.kind for name, kind in HEADS.items()} == {name: name for name in HEADS}
