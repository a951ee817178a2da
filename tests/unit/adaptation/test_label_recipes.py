"""The recipes `classifier` and `image_search`: every way through them, what their results are, and what is refused."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

import tether
from memory_rows import squares
from tether.adaptation.heads import LinearHead, load_head
from tether.adaptation.recipes import RECIPES, play
from tether.core.component import build
from tether.core.errors import InputError, StoppedError, UnsupportedModelError
from tether.core.model_digest import model_digest
from tether.core.types import ClipReport
from tether.methods.ft_clip import ClipClassifier
from tether.methods.retrieval_align import ImageSearch
from tether.methods.retrieval_align.recipe import SENTENCES, _Resting
from tether.models import create
from tether.models.features.mean_patches import MeanPatches
from tether.training.loop import StepReport
from tether.training.tensor_batches import TensorBatches
from tether.workflows.adaptation.data import Asked, parts_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")]
KEEP = squares(12, seed=5)


def images(rows: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (rows, 3, 32, 32), dtype=torch.uint8, generator=generator)


def bend(name: str, model: Any = None, **settings: Any) -> Any:
    more = {key: settings.pop(key) for key in ("out", "should_stop", "seed") if key in settings}
    base = create("tiny", seed=1).eval() if model is None else model
    return tether.adapt(base, squares(), recipe={"name": name, "batch_size": 6, **settings}, keep=KEEP, **more)


@pytest.mark.parametrize("pool", ["mean_patch", "class_token"])
def test_its_head_is_the_classifier(pool: Any) -> None:
    model = create("tiny", seed=1).eval()
    classifier = ClipClassifier(model, classes=3, pool=pool, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in classifier.read.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        wanted = classifier(images())
        head = classifier.head(["a", "b", "c"])
        rows = head.reader(model).encode_image(images()).pooled
    torch.testing.assert_close(head.logits(rows), wanted, rtol=1e-5, atol=1e-5)


def test_the_result_names_images_from_its_folder(tmp_path: Any) -> None:
    done = bend("classifier", steps=60, learning_rate=3e-3, least_crop=0.5, rand_augment=None, out=tmp_path / "out")
    assert done.report.own[0].after.value > done.report.own[0].chance
    model = tether.load(tmp_path / "out")
    head = load_head(tmp_path / "out", model=model)
    assert head.classes == ("blue", "green", "red")
    with torch.no_grad():
        rows = head.reader(model).encode_image(torch.full((1, 3, 32, 32), 30, dtype=torch.uint8)).pooled
    assert head.logits(rows).shape == (1, 3)
    named = tether.classify(squares(9, seed=7), model=model, head=tmp_path / "out")
    with torch.no_grad():
        pixels = torch.stack([torch.from_numpy(row.image).permute(2, 0, 1) for row in squares(9, seed=7).rows])
        best = head.logits(head.reader(model).encode_image(pixels).pooled).argmax(dim=1)
    assert [one.label for one in named.labels] == [head.classes[number] for number in best.tolist()]
    with pytest.raises(InputError, match="was fitted on an image side with digest"):
        load_head(tmp_path / "out", model=create("tiny", seed=1))


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"mixup": 0.8, "cutmix": 1.0}, marks=pytest.mark.nightly),
        {"pool": "class_token", "patches": "frozen", "ema": 0.0},
        {"below": 0.1, "label_smoothing": 0.0, "warmup": 0.0, "epochs": 1},
    ],
)
def test_every_setting_of_the_classifier_resumes(settings: dict[str, Any], tmp_path: Any) -> None:
    whole = bend("classifier", steps=4, **settings)
    asked = iter([False, False, True])
    with pytest.raises(StoppedError):
        bend("classifier", steps=4, **settings, out=tmp_path / "out", should_stop=lambda: next(asked))
    again = bend("classifier", steps=4, **settings, out=tmp_path / "out")
    assert model_digest(again.model) == model_digest(whole.model)
    assert (again.head.weight == whole.head.weight).all()
    patch = [done.model.visual.patch.weight for done in (whole, again)]
    base = create("tiny", seed=1).visual.patch.weight
    assert torch.equal(patch[0], base) == (settings.get("patches") == "frozen")


def test_without_an_average_the_last_weights_are_given() -> None:
    """The head of `ema=0` is that of the last step; an average over few steps lies between it and the start."""
    base = create("tiny", seed=1).eval()
    last, mean = (bend("classifier", base, steps=6, ema=ema, learning_rate=1e-2) for ema in (0.0, 0.9998))
    start, ends = base.visual.norm_pre.weight, [one.model.visual.norm_pre.weight for one in (last, mean)]
    assert not torch.equal(ends[0], start)
    recipe = build({"name": "classifier", "ema": 0.0, "steps": 6}, RECIPES, where="test")
    assert recipe.momentum(steps=6) == 0.0


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"method": "2sft"}, marks=pytest.mark.nightly),
        {"method": "mcip", "pairs": "scenes:rows=8,size=64"},
        {"realign_steps": 0},
    ],
)
def test_every_way_of_image_search_resumes(settings: dict[str, Any], tmp_path: Any) -> None:
    given = {"steps": 2, "realign_steps": 2, "learning_rate": 1e-3, "realign_rate": 1e-3, **settings}
    whole = bend("image_search", **given)
    asked = iter([False, False, True])
    stop = functools.partial(next, asked, True)
    if given["realign_steps"]:
        with pytest.raises(StoppedError):
            bend("image_search", **given, out=tmp_path / "out", should_stop=stop)
    again = bend("image_search", **given, out=tmp_path / "out")
    assert model_digest(again.model) == model_digest(whole.model)
    base, names = create("tiny", seed=1).state_dict(), [figure.name for figure in whole.report.own]
    changed = {name for name, value in whole.model.state_dict().items() if not torch.equal(value, base[name])}
    assert any(name.startswith("visual.blocks") for name in changed)
    assert any(name.startswith("text.") for name in changed) == bool(given["realign_steps"])
    assert "log_logit_scale" not in changed
    assert "image to image, mean average precision" in names


def test_images_stand_still_while_texts_move() -> None:
    """After both phases the image side is what it was after the first one, bit for bit."""
    ends = []
    for realign in (0, 3):
        done = bend("image_search", steps=3, realign_steps=realign, learning_rate=1e-3, realign_rate=1e-3)
        ends.append({name: value for name, value in done.model.state_dict().items() if name.startswith("visual.")})
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def by_hand(model: Any, *, rows: dict[str, torch.Tensor] | None = None, **settings: Any) -> Any:
    """`fit_` on six images of three classes, two captions each, and pairs of them where texts move."""
    words = ["a red cat", "the cat", "a small dog", "the dog", "sun", "a red sun"]
    ids = model.tokenizer([text for word in words for text in (word, "a cat")])
    given = {"image": images(6), "label": torch.tensor([0, 0, 1, 1, 2, 2]), "captions": ids.unflatten(0, (6, 2))}
    recipe = ImageSearch(**{"steps": 2, "realign_steps": 0, "learning_rate": 1e-3, **settings})
    pairs = TensorBatches({"image": images(6), "text": model.tokenizer(words)}, batch_size=6, seed=0)
    batches = TensorBatches(given | (rows or {}), batch_size=6, seed=0)
    return recipe.fit_(model, batches, classes=3, pairs=pairs if recipe.realign_steps else None)


def test_the_first_phase_of_2sft_leaves_the_projection_to_the_second() -> None:
    ends = []
    for realign in (0, 2):
        model = create("tiny", seed=1).eval()
        moved = by_hand(model, method="2sft", realign_steps=realign, realign_rate=1e-3).moved
        ends.append(model.state_dict())
        assert ("visual.projection.weight" in moved) == bool(realign)
    for name, value in ends[0].items():
        if name.startswith("visual.") and "projection" not in name:
            assert torch.equal(value, ends[1][name]), name
    assert not torch.equal(ends[0]["visual.projection.weight"], ends[1]["visual.projection.weight"])


def test_captions_as_rows_are_captions_as_words() -> None:
    found = []
    for kind in ("words", "rows"):
        model = create("tiny", seed=1).eval()
        rows = None
        if kind == "rows":
            ids = model.tokenizer(["a red cat", "a cat"] * 6)
            rows = {"captions": model.encode_text(ids).pooled.detach().unflatten(0, (6, 2))}
        else:
            rows = {"captions": model.tokenizer(["a red cat", "a cat"] * 6).unflatten(0, (6, 2))}
        by_hand(model, rows=rows, classes_a_step=3)
        found.append(model.state_dict()["visual.projection.weight"])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-6)


def test_what_must_rest_is_looked_at() -> None:
    model = create("tiny", seed=1)
    rest = _Resting(model, ["visual.position"], [], at=2, steps=3)

    def step(number: int) -> None:
        nothing = torch.zeros(())
        rest.look(StepReport(number, nothing, {}, ClipReport(nothing, nothing, nothing, nothing), 0.0))

    with torch.no_grad():
        model.visual.position.add_(1)
        step(1)
        model.visual.position.add_(1)
    with pytest.raises(RuntimeError, match="what had to rest in phase 2 of 2 has changed"):
        step(2)


@pytest.mark.parametrize(
    ("rows", "settings", "said"),
    [
        ({"label": torch.tensor([0, 1, 2, 3, 0, 0])}, {}, "labels: expected 0 to 2, got 0 to 3"),
        ({"label": torch.full((6,), torch.nan)}, {}, "integers, got torch.float32"),
        ({"captions": torch.zeros(6, 0, 4).long()}, {}, r"captions: expected \(6, k, \.\.\.\)"),
        ({"captions": torch.zeros(6, 4)}, {}, r"captions: expected \(6, k, \.\.\.\)"),
        ({}, {"classes_a_step": 9}, "size: expected 1 to 3"),
    ],
)
def test_refuses_data(rows: dict[str, torch.Tensor], settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        by_hand(create("tiny", seed=1), rows=rows, **settings)


def test_refuses_pairs_without_steps_and_steps_without_pairs() -> None:
    rows = TensorBatches({"image": images(), "label": torch.arange(5)}, batch_size=5, seed=0)
    with pytest.raises(InputError, match="pairs: expected some for 3 realign_steps"):
        ImageSearch(steps=1, realign_steps=3).fit_(create("tiny"), rows, classes=5)
    with pytest.raises(InputError, match="expected 'captions', some of each image"):
        ImageSearch(steps=1, realign_steps=0).fit_(create("tiny"), rows, classes=5)


def test_sentences_of_a_class() -> None:
    model = create("tiny", seed=1).eval()
    parts = parts_of(squares(), "labels", Asked(), model=model, validation=False)
    rows = build({"name": "image_search", "captions": 4}, RECIPES, where="test")._sentences(model, parts.given)
    assert rows.shape == (3, 4, model.dim)
    assert len(SENTENCES) == len({*SENTENCES})
    assert rows.flatten(0, 1).unique(dim=0).shape[0] == 12


def test_played_by_hand() -> None:
    model = create("tiny", seed=1).eval()
    parts = parts_of(squares(), "labels", Asked(), model=model, validation=False)
    tuning = build({"name": "classifier", "steps": 2}, RECIPES, where="test").tuning(model, parts.given)
    rates = {group["name"]: group["lr_scale"] for group in tuning.groups}
    assert rates["rest decay"] == 1.0
    assert min(rates.values()) == pytest.approx(0.65**3)
    played = play(tuning, model)
    assert played.outcome.head is not None
    assert not any(name.startswith("text.") for name in played.moved)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("classifier", {"rand_augment": "strong"}, "rand: expected words"),
        ("image_search", {"margin": 1.6}, "margin"),
        ("image_search", {"pairs": "no/such/file.csv"}, "no/such/file.csv"),
    ],
)
def test_refuses_settings(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        bend(name, steps=2, **settings)


def test_refuses_models() -> None:
    with pytest.raises(UnsupportedModelError, match=r"--recipe image_search: .*geometry is euclidean"):
        bend("image_search", create("tiny", geometry="euclidean"))
    with pytest.raises(UnsupportedModelError, match="--recipe image_search: one side must rest"):
        bend("image_search", create("tiny", towers="shared"))


def test_refuses_heads() -> None:
    with pytest.raises(InputError, match="reads: expected 'embedding', 'mean_patch' or 'class_token', got 'words'"):
        LinearHead(torch.eye(2), classes=["a", "b"], reads="words")
    with pytest.raises(InputError, match="can be compared with no text"):
        MeanPatches(create("tiny")).encode_text(torch.ones(1, 3, dtype=torch.int64))
    with pytest.raises(InputError, match="head: is for embeddings of length 3, the model's have 64"):
        LinearHead(torch.ones(2, 3), classes=["a", "b"], reads="mean_patch").bind_(create("tiny"))
