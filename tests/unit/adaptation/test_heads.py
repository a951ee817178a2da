"""Heads: what they compute, files that another program wrote, and the encoder that they belong to."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from families import FAMILIES
from tether.adaptation.heads import HEAD_FILE, CacheHead, DefectTextsHead, LinearHead, WordHead, load_head
from tether.core.errors import InputError
from tether.core.state_file import write_state
from tether.methods.adaptclip import AnomalyAdaptersHead
from tether.methods.adaptclip.adapters import AdaptClip, TrainedAdapters
from tether.methods.clip_dinoiser import GroupingHead
from tether.methods.fairerclip import KernelHead
from tether.models import create
from tether.models.composed.cached import CachedEncoder
from tether.models.features.image_digest import image_digest
from tether.models.features.patch_grouping import DinoiserHead
from tether.models.load import load
from tether.models.save import save
from tether.models.texts.defect_texts import DefectTexts

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


@pytest.mark.parametrize(
    ("weight", "classes", "bias", "message"),
    [
        (torch.eye(3), ("a", "b"), None, "expected .2, d. weights"),
        (torch.eye(2), ("a", "b"), torch.zeros(3), "biases"),
        (torch.full((2, 2), torch.nan), ("a", "b"), None, "'weight': expected finite numbers"),
        (torch.eye(2), ("a", "b"), torch.full((2,), 1e30), "'bias': expected finite numbers below 1e.30, got up to 1e"),
        (torch.eye(2), ("a", "b\x1b[2J"), None, r"number 2 of 2: expected text without control.*'b\\x1b\[2J'"),
        (torch.eye(2), ("a", ""), None, "number 2 of 2: expected text"),
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


KINDS = {
    "linear": LinearHead(torch.eye(2), classes=("a", "b")),
    "cache": CacheHead(
        torch.zeros(2, 2), torch.eye(2), torch.tensor([0, 1]), classes=("a", "b"), alpha=1.0, beta=1.0
    ),
    "kernel": KernelHead(
        torch.eye(2), offsets=torch.zeros(2), image_map=torch.eye(2), centre=torch.zeros(2), codes=torch.eye(2),
        classes=("a", "b"), scale=1.0,
    ),
    "grouping": GroupingHead(DinoiserHead(features=4, dim=2), grid=(2, 2)),
    "word": WordHead(
        torch.eye(2), start=torch.eye(2), text=torch.ones(1, 2), word="<v>", init_word="cup", length=1.0, text_side="0",
        tokenizer="0", scale=1.0,
    ),
    "defect_texts": DefectTextsHead(DefectTexts(torch.eye(2), layers=(0, 1))),
    "anomaly_adapters": AnomalyAdaptersHead(
        TrainedAdapters(AdaptClip(torch.eye(2), layers=2, hidden=2, reduction=1), layers=(0, 1))
    ),
}  # fmt: skip


def forged(folder, kind, values):
    """A head's file with other settings and arrays, as another program may write it."""
    head = KINDS[kind]
    settings = {"kind": kind, "classes": list(head.classes), "encoder": "0"} | head.settings()
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    settings |= {name: value for name, value in values.items() if name not in arrays}
    settings = {name: value for name, value in settings.items() if value != "missing"}
    write_state(folder / HEAD_FILE, format="tether.head/1", settings=settings, arrays=head.arrays() | arrays)
    return folder


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("cache", {"alpha": 10**30}, "alpha: expected an integer of at most 63 bits, got 1000"),
        ("cache", {"alpha": 1e300}, r"alpha: expected a number in \[0, 1e\+30\), got 1e\+300"),
        ("cache", {"beta": 10**400}, "beta: expected an integer of at most 63 bits, got 1000"),
        ("kernel", {"scale": 10**400}, "scale: expected an integer of at most 63 bits, got 1000"),
        ("kernel", {"codes": np.full((2, 2), 1e308)}, "'codes': expected finite numbers below"),
        ("linear", {"weight": np.full((2, 2), np.inf, np.float32)}, "'weight': expected finite numbers below"),
        ("linear", {"classes": ["a", 3]}, "classes: number 2 of 2: expected text without control characters, got 3"),
        ("linear", {"classes": ["a\0", "b"]}, r"classes: number 1 of 2: expected text .*, got 'a\\x00'"),
        ("linear", {"classes": "missing"}, "'classes' is missing"),
        ("linear", {"reads": "missing"}, "'reads' is missing"),
        ("linear", {"encoder": None}, "encoder: expected a digest, got None"),
        ("grouping", {"grid": ["a", 2]}, "invalid literal for int"),
        ("grouping", {"grid": [np.inf, 2]}, "cannot convert float infinity to integer"),
        ("grouping", {"inner": {"features": 10**7, "dim": 2, "kernel": 3}}, "inner: expected the shape of its arrays"),
        ("grouping", {"inner": {"features": 4}}, "'dim' is missing"),
        ("grouping", {"grid": [2]}, "not enough values to unpack"),
        ("defect_texts", {"layers": ["x"]}, r"layers: expected a list of at most 256, each a whole number .*'x'"),
        ("defect_texts", {"layers": "x"}, "layers: expected a list"),
        ("defect_texts", {"layers": [None]}, "layers: expected a list"),
        ("defect_texts", {"layers": [0] * 100_000}, "layers: expected a list"),
        ("defect_texts", {"post_norm": "x"}, "post_norm: expected bool, got 'x'"),
        ("defect_texts", {"classes": ["<b>", "x"]}, "classes: expected normal, defective"),
        ("anomaly_adapters", {"classes": ["<b>", "x"]}, "classes: expected normal, defective"),
        ("anomaly_adapters", {"reads": "x"}, "reads: expected a mapping, got 'x'"),
        ("anomaly_adapters", {"reads": {"layers": ["x", 1]}}, "layers: expected a list"),
        ("anomaly_adapters", {"reads": {"layers": [np.inf, 1]}}, "layers: expected a list"),
        ("anomaly_adapters", {"reads": {"layers": [0.5, 1]}}, "layers: expected a list"),
        ("anomaly_adapters", {"reads": {"layers": [0, 1], "post_norm": "x"}}, "post_norm: expected bool, got 'x'"),
        ("anomaly_adapters", {"reads": {"layers": [0, 1], "image_size": "x"}}, "image_size: expected a whole number"),
        ("anomaly_adapters", {"adapters": {"layers": 10**9}}, r"layers: expected a whole number in \[1, 256\]"),
        ("word", {"classes": ["a", "b"]}, "too many values to unpack"),
        ("word", {"length": -1.0}, "length: expected"),
        ("word", {"scale": 10**400}, "scale: expected an integer of at most 63 bits"),
        ("word", {"text_side": 3}, "'text_side': expected a text, got 3"),
        ("word", {"init_word": None}, "'init_word': expected a text, got None"),
        ("word", {"word": "x"}, "multiple values for keyword argument 'word'"),
        ("word", {"direction": np.zeros((2, 2), np.float32)}, "'direction': expected rows of length 1"),
        ("word", {"direction": np.full((2, 2), np.nan, np.float32)}, "'direction': expected finite numbers"),
        ("word", {"text": np.ones((2, 2), np.float32)}, "expected rows"),
        ("linear", {"kind": ["linear"]}, r"unknown kind of head \['linear'\]"),
    ],
)
def test_a_forged_file_is_refused_by_its_name(tmp_path, kind, values, message):
    with pytest.raises(InputError, match=f"^{tmp_path / HEAD_FILE}: not the state of a head: .*{message}"):
        load_head(forged(tmp_path, kind, values))


@pytest.mark.parametrize(
    ("kind", "values", "largest"),
    [
        ("linear", {"weight": np.full((2, 2), 8e29, np.float32)}, "weight"),
        ("cache", {"keys": np.full((2, 2), 1e20, np.float32)}, "keys"),
        ("cache", {"keys": 2 * np.eye(2, dtype=np.float32), "beta": 10**18}, "beta"),
    ],
)
def test_logits_that_are_not_finite_are_refused(tmp_path, kind, values, largest):
    made = load_head(forged(tmp_path, kind, values))
    with pytest.raises(InputError, match=f"^{tmp_path / HEAD_FILE}: its logits are .* those of '{largest}'"):
        made.logits(torch.tensor([[3.0, 3.0]]))


def test_what_is_no_folder_of_a_head_is_named(head, tmp_path):
    made, model = head
    save(model, tmp_path / "model")
    made.save(tmp_path / "head")
    (tmp_path / "empty").mkdir()
    for name, said in {
        "model": "holds a model and no head",
        "head/head.safetensors": "is a file",
        "empty": "holds no head.safetensors",
        "nowhere": "no such folder",
    }.items():
        with pytest.raises(InputError, match=f"{tmp_path / name}: {said}; .* a model goes to --model"):
            load_head(tmp_path / name)
    for name in ("head", "head/head.safetensors"):
        with pytest.raises(InputError, match=f"{tmp_path / name}: a head of tether adapt and no model; .* as --head"):
            load(tmp_path / name)
