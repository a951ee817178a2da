"""What every recipe of ``tether adapt`` promises, on six kinds of encoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tether
from families import FAMILIES, hugging_face
from memory_rows import boxed, captions, damaged, masked, squares, without_words
from tether.adaptation.heads import load_head
from tether.adaptation.recipes import RECIPES, Recipe, TuneRecipe
from tether.core.component import build
from tether.core.errors import InputError, StoppedError, UnsupportedModelError
from tether.core.model_digest import model_digest
from tether.evaluate.adaptation import MEASURES
from tiers import covering

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]
KINDS: dict[str, Callable[[Path], Any]] = {
    **{name: FAMILIES[name] for name in ("Tether", "open_clip ViT", "ConvNeXt", "transformers' CLIP")},
    "transformers' SigLIP": lambda folder: hugging_face(folder, "siglip"),
    "composed": FAMILIES["composed EfficientNet"],
}
SHORT = {"steps": 4, "batch_size": 6}
SETTINGS: dict[str, dict[str, Any]] = {
    "anomaly_adapters": {"epochs": 1, "batch_size": 6, "length": 4, "hidden": 8, "templates": ["a {}"]},
    "anomaly_prompts": {"epochs": 1, "batch_size": 6, "words": ["good", "bad"], "length": 4, "deep_length": 2},
    "binding": {"steps": 30, "batch_size": 6},
    "dense": SHORT | {"max_split": 2, "most": 4, "boxes": "boxes", "phrases": "phrases"},
    "local_global": SHORT
    | {"crops": 1, "boxes": "boxes", "phrases": "phrases", "regions": 1.0, "most": 2, "teacher": "ema"},
    "debias": {"attribute": "size", "n_features": 60, "n_code_features": 60, "gamma": [0.01, 0.01]},
    "clipood": SHORT,
    "close_the_gap": SHORT | {"learning_rate": 1e-4},
    "coop": {"context": 2, "epochs": 2, "batch_size": 6},
    "classifier": SHORT,
    "federated": {"clients": 2, "rounds": 2, "batch_size": 2, "kappa": 50.0, "count_std": 2.0, "noise_seed": 0},
    "full": SHORT,
    "gda": {"views": 2},
    "grouping": SHORT | {"dim": 8},
    "relation": SHORT | {"dim": 8, "hidden": 8, "depth": 1, "rounds": 1},
    "image_search": {"steps": 2, "realign_steps": 2, "batch_size": 6},
    "long_text": SHORT | {"keep": 3, "learning_rate": 1e-4},
    "lora": SHORT | {"rank": 2},
    "masked_crops": SHORT | {"moves": "image"},
    "new_word": {"word": "<it>", "init_word": "cat", "others": "scenes:rows=8,size=64", "steps": 4, "batch_size": 6},
    "norms": SHORT,
    "order": {"column": "amount", "text": "a large square", "steps": 3, "group": 6, "n_rank_tokens": 2},
    "pairs": SHORT,
    "paraphrases": SHORT,
    "svd": SHORT,
    "tip_adapter": {"views": 2, "keys": "tuned"},
    "region_teacher": SHORT | {"boxes": None, "teacher_steps": 3},
    "regions": SHORT,
    "swap_text": {"first": 2, "steps": 3, "batch_size": 6, "expansion": 1},
    "detail": {
        "denoiser_steps": 3,
        "size": 8,
        "width": 8,
        "batch_size": 6,
        "steps": 3,
        "every": 2,
        "learning_rate": 1e-4,
        "least_gain": -1,
    },
    "quality": {"steps": 3, "batch_size": 2, "kinds": ["gaublur", "whitenoise", "motionblur"], "learning_rate": 1e-4},
    "sharpen": SHORT | {"views": 1, "kernel": 3, "window": 3, "statistics": 6},
    "mask_text": SHORT
    | {"masks": "masks", "context": 2, "prompts": 2, "dim": 16, "queries": 4, "layers": 1, "doublings": 1},
    "mask_aware": SHORT | {"dim": 16, "queries": 4, "layers": 1, "doublings": 1},
    "typo_proof": {"steps": 4, "batch_size": 6, "rho": 3, "learning_rate": 1e-3},
}
"""So that a recipe takes seconds; what is not named has its defaults."""
REFUSALS: dict[tuple[str, str], str] = {
    **{("maps", kind): "fits the maps of a composed encoder" for kind in KINDS if kind != "composed"},
    ("long_text", "transformers' SigLIP"): "this text tower reads the padding behind them",
    ("coop", "composed"): "this text tower cannot be looked into: the tower is of class BertModel",
    **{("relation", kind): "its convolutions give a map of places" for kind in ("ConvNeXt", "composed")},
    **{
        (name, kind): reason
        for name in ("anomaly_prompts", "anomaly_adapters")
        for kind, reason in (
            ("ConvNeXt", "its convolutions give a map of places"),
            ("composed", "this text tower cannot be looked into: the tower is of class BertModel"),
        )
    },
    ("new_word", "composed"): "this text tower cannot be looked into: the tower is of class BertModel",
    ("mask_text", "composed"): "this text tower cannot be looked into: the tower is of class BertModel",
}
"""(recipe, kind of encoder) -> words of the reason for which it is refused."""
DATA = {
    "labels": squares,
    "pairs": squares,
    "texts": captions,
    "images": lambda: without_words(squares()),
    "regions": boxed,
    "dense": boxed,
    "local_global": boxed,
    "masked_crops": boxed,
    "mask_text": masked,
    "mask_aware": masked,
    "relation": boxed,
    "anomaly_prompts": damaged,
    "anomaly_adapters": damaged,
}
"""By the kind of data, or by the recipe that needs data of its own."""
PLAYED = [name for name, kind in RECIPES.items() if issubclass(kind, TuneRecipe)]
KEEP = squares(12, seed=5)

every_recipe = pytest.mark.parametrize("name", RECIPES)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """One model of each kind, which no recipe may change."""
    made: dict[str, Any] = {}

    def get(kind: str) -> Any:
        if kind not in made:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                made[kind] = KINDS[kind](tmp_path_factory.mktemp("model")).eval()
        return made[kind]

    return get


def make(name: str) -> Recipe:
    return build({"name": name, **SETTINGS.get(name, {})}, RECIPES, where="test")


def bend(model: Any, name: str, **more: Any) -> Any:
    spec = {"name": name, **SETTINGS.get(name, {})}
    return tether.adapt(model, DATA.get(name, DATA[RECIPES[name].takes])(), recipe=spec, keep=KEEP, **more)


@every_recipe
def test_says_what_it_takes_and_gives(name: str) -> None:
    recipe = make(name)
    assert recipe.takes in DATA
    assert recipe.gives in ("head", "model", "both")
    assert recipe.cost > 0
    assert set(recipe.aims) <= set(MEASURES)


@pytest.mark.parametrize(("name", "kind"), covering(RECIPES, KINDS, cheap=lambda *pair: pair in REFUSALS))
def test_gives_what_it_says_and_leaves_the_base(
    name: str, kind: str, base: Callable[[str], Any], tmp_path: Path
) -> None:
    model = base(kind)
    digest = model_digest(model)
    if reason := REFUSALS.get((name, kind)):
        with pytest.raises(UnsupportedModelError, match=reason):
            bend(model, name)
        return
    done = bend(model, name, out=tmp_path / "out")
    assert model_digest(model) == digest == done.report.digest
    gives = RECIPES[name].gives
    assert (done.model is not None, done.head is not None) == (gives != "head", gives != "model")
    assert not done.report.frozen.changed
    assert done.report.own or (RECIPES[name].takes in ("texts", "images") and not RECIPES[name].aims)
    assert done.report.costs.moved > 0
    if done.model is not None:
        opened = tether.load(tmp_path / "out")
        assert model_digest(opened) == model_digest(done.model) != digest
        assert not any(parameter.isnan().any() for parameter in opened.parameters())
        assert done.report.keep
    if done.head is not None:
        head = load_head(tmp_path / "out", model=done.model or model)
        rows = torch.randn(5, head.dim, generator=torch.Generator().manual_seed(0))
        assert torch.equal(head.logits(rows), done.head.logits(rows))
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    assert told["digest"] == digest
    assert "<html" in (tmp_path / "out" / "report.html").read_text()
    assert not (tmp_path / "out" / "unfinished").exists()


# Resumed runs of recipes that train are compared with a second run below.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.nightly] if name in PLAYED else []) for name in RECIPES]
)
def test_is_the_same_every_time(name: str, base: Callable[[str], Any]) -> None:
    kind = next(kind for kind in KINDS if (name, kind) not in REFUSALS)
    first, second = (bend(base(kind), name) for _ in range(2))
    if first.model is not None:
        assert model_digest(first.model) == model_digest(second.model)
    if first.head is not None:
        for one, other in zip(first.head.arrays().values(), second.head.arrays().values(), strict=True):
            assert (one == other).all()


@pytest.mark.parametrize(("name", "kind"), covering(PLAYED, KINDS, turn=3, cheap=lambda *pair: pair in REFUSALS))
def test_interrupted_and_resumed_is_the_same(name: str, kind: str, base: Callable[[str], Any], tmp_path: Path) -> None:
    if (name, kind) in REFUSALS:
        return
    model = base(kind)
    whole = bend(model, name)
    asked = iter([False, True])
    with pytest.raises(StoppedError):
        bend(model, name, out=tmp_path / "out", should_stop=lambda: next(asked))
    resumed = bend(model, name, out=tmp_path / "out")
    if whole.model is not None:
        assert model_digest(resumed.model) == model_digest(whole.model)
    if whole.head is not None:
        for one, other in zip(whole.head.arrays().values(), resumed.head.arrays().values(), strict=True):
            assert (one == other).all()


@every_recipe
def test_other_data_are_refused(name: str, base: Callable[[str], Any]) -> None:
    other = "labels" if RECIPES[name].takes == "texts" else "texts"
    with pytest.raises(InputError, match=f"--recipe {name}: takes"):
        tether.adapt(base("Tether"), DATA[other](), recipe={"name": name, **SETTINGS.get(name, {})})
