"""Another text tower for encoders of three libraries and a composed one: taught on texts, tuned on pairs, saved."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import tether
from encoders import ENCODERS, WORDS
from memory_rows import squares
from tether.adaptation.distill import distil_text
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.gather import LOCAL
from tether.core.model_digest import model_digest
from tether.core.protocols import Step, Taught
from tether.core.types import Batch
from tether.losses import clip_loss, closeness_loss, proclip_loss
from tether.methods.proclip import ProclipStep, swap_text
from tether.methods.proclip.embedder_tower import EmbedderTexts
from tether.models import create
from tether.models.compose import compose
from tether.models.composed.cached import side_digest
from tether.models.composed.embedder import EmbedderAdapter
from tether.models.embed import encode_texts
from tether.training.steps.module import StepModule

pytestmark = pytest.mark.slow

TEXTS = ["a small red cat", "the red dog", "a dog in the sun", "the cat sits", "red sun", "a cat"]


class Counts:
    """How often each word stands in a text: an embedder of three lines."""

    asked = 0

    def embed(self, texts: list[str]) -> np.ndarray:
        self.asked += len(texts)
        return np.array([[text.split().count(word) for word in WORDS] for text in texts], float)


@pytest.fixture(scope="module", params=[*ENCODERS, "composed"])
def old(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    if request.param != "composed":
        return ENCODERS[request.param](folder)
    tether.save(create("tiny", seed=2), folder)
    return compose(image=str(folder), text=str(folder), join={"image": "mlp", "text": "linear"}, dim=24).eval()


def batch_of(model):
    shape = (len(TEXTS), 3, *model.image_spec.size)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(pixels, model.tokenizer(TEXTS), {"texts": TEXTS})


def test_both_stages_and_a_model_that_is_saved(old, tmp_path):
    embedder = tether.save(create("tiny", seed=3), tmp_path / "embedder")
    before = model_digest(old)
    model = swap_text(old, str(embedder), expansion=2)
    pixels = batch_of(model).image
    images = old.encode_image(pixels).pooled
    torch.testing.assert_close(model.encode_image(pixels).pooled, images, rtol=0, atol=1e-6)
    torch.testing.assert_close(model.logit_scale, old.logit_scale, rtol=1e-6, atol=0)

    tower = model_digest(model.parts.text)
    taught = distil_text(
        model, teacher=old, texts=TEXTS, loss="proclip", long_text="cut", steps=40, generator=torch.Generator()
    )
    assert taught.after > max(0.9, taught.before)
    assert taught.losses[-1] < taught.losses[0]
    torch.testing.assert_close(model.encode_image(pixels).pooled, images, rtol=0, atol=1e-6)

    assert model_digest(model.parts.text) == tower
    assert model_digest(old) == before

    again = tether.load(tether.save(model, tmp_path / "saved"))
    ids = again.tokenizer(TEXTS)
    assert torch.equal(again.encode_text(ids).pooled, model.encode_text(ids).pooled)
    assert torch.equal(again.encode_image(pixels).pooled, model.encode_image(pixels).pooled)
    assert isinstance(again.parts.text_map, EmbedderAdapter)


def test_a_real_sentence_encoder(tmp_path):
    """all-MiniLM-L6-v2, from PyPI, in the place of a small text tower."""
    old = create("tiny", seed=1).eval()
    model = swap_text(old, "minilm", expansion=1)
    distil_text(model, teacher=old, texts=TEXTS, loss="proclip", steps=40, generator=torch.Generator())
    again = tether.load(tether.save(model, tmp_path))
    found, wanted = (torch.nn.functional.normalize(encode_texts(one, TEXTS), dim=1) for one in (again, old))
    assert (found * wanted).sum(dim=1).min() > 0.9
    assert torch.equal(encode_texts(again, TEXTS), encode_texts(model, TEXTS))


def test_an_object_that_embeds_is_asked_once_and_not_saved(tmp_path, monkeypatch):
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path / "cache"))
    old, embedder = create("tiny", seed=1).eval(), Counts()
    model = swap_text(old, embedder, expansion=2)
    asked = embedder.asked
    distil_text(model, teacher=old, texts=TEXTS, loss="proclip", steps=10, generator=torch.Generator())
    assert embedder.asked == asked + len(TEXTS)
    step, batch = ProclipStep(model, steps=1), batch_of(model)
    step(StepModule(model), batch, step=0, gather=LOCAL).total.backward()
    assert embedder.asked == asked + len(TEXTS)  # the same rows, from the cache
    assert model.parts.text_map.project.weight.grad.any()
    assert torch.allclose(model.embed(["a cat"]), model.embed(["a  cat"]))
    with pytest.raises(InputError, match="save: expected the tokenizer that the model came with"):
        tether.save(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_tower_of_an_object_is_known_by_its_rows():
    class Twice(Counts):
        def embed(self, texts):
            return 2 * super().embed(texts)

    old = create("tiny", seed=1)
    one, other, same = (swap_text(old, embedder, expansion=1) for embedder in (Counts(), Twice(), Counts()))
    assert side_digest(one, "text") == side_digest(same, "text") != side_digest(other, "text")
    words = ["größer", "", "日本", "a" * 5000]
    with pytest.warns(match="longer than 4096 tokens"):
        ids = EmbedderTexts(Counts()).tokenizer(words)
    seen: list[str] = []

    class Keeps(Counts):
        def embed(self, texts):
            seen.extend(texts)
            return super().embed(texts)

    tower = EmbedderTexts(Keeps())
    seen.clear()
    tower(ids)
    assert seen[:3] == words[:3]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (lambda texts: [[1.0]], r"expected \(3, e\), one row for each text, got \(1, 1\)"),
        (lambda texts: [1.0, 2.0, 3.0], r"got \(3,\)"),
        (lambda texts: [[float("nan")]] * 3, "its row of '' is not finite"),
        (lambda texts: "rows", "expected numbers"),
        (lambda texts: [[1.0], [1.0, 2.0], [3.0]], "expected numbers"),
    ],
)
def test_bad_embedders(given, says):
    class Bad:
        def embed(self, texts):
            return given(texts)

    with pytest.raises(InputError, match=says):
        swap_text(create("tiny"), Bad())


def test_the_losses_of_both_stages():
    old = create("tiny", seed=1).eval()
    model = swap_text(old, Counts(), expansion=1)
    step = ProclipStep(model, steps=2, first=1, old=old, weight=0.3)
    assert isinstance(step, Step)
    assert isinstance(step, Taught)
    batch = batch_of(model)
    image, text = model.encode_image(batch.image), model.encode_text(batch.text)
    before = image.pooled.detach()
    found = step(StepModule(model), batch, step=0, gather=LOCAL)
    taught = proclip_loss(text.pooled, old.encode_text(old.tokenizer(TEXTS)).pooled)
    torch.testing.assert_close(found.total, taught.total)
    with torch.no_grad():
        for weight in model.parts.image.parameters():
            weight.mul_(1.1)
    found, image = step(StepModule(model), batch, step=1, gather=LOCAL), model.encode_image(batch.image)
    held = proclip_loss(image.pooled, before).total
    torch.testing.assert_close(found.total, clip_loss(image.unit, text.unit, model.logit_scale) + 0.3 * held)
    twice = Batch(batch.image, batch.text[[0, 0, *range(2, len(TEXTS))]])
    text = model.encode_text(twice.text).unit
    contrast = clip_loss(image.unit, text, model.logit_scale, labels=torch.tensor([0, 0, 2, 3, 4, 5]))
    torch.testing.assert_close(
        step(StepModule(model), twice, step=1, gather=LOCAL).terms["contrastive"], contrast.detach()
    )


@pytest.mark.parametrize("ema", [None, 0.5])
def test_who_teaches(ema):
    model = swap_text(create("tiny", seed=1).eval(), Counts(), expansion=1)
    weight = next(model.parts.image.parameters())
    step, start = ProclipStep(model, steps=4, ema=ema), weight.detach().clone()
    teacher = next(step.teacher.parameters())
    with torch.no_grad():
        weight.add_(1.0)
    step.follow_(step=0)
    torch.testing.assert_close(teacher, start if ema is None else start + 0.5)
    kept = step.teacher_tensors()
    assert bool(kept) == (ema is not None)
    other = ProclipStep(model, steps=4, ema=ema)
    other.load_teacher_tensors(kept)
    for name, value in other.teacher_tensors().items():
        assert torch.equal(value, kept[name])


SETTINGS = {"name": "swap_text", "first": 4, "steps": 3, "batch_size": 9, "expansion": 1, "learning_rate": 1e-3}


def adapted(model, **settings):
    return tether.adapt(model, squares(), recipe=SETTINGS | settings, keep=squares(12, seed=5)).model


def test_the_recipe_moves_images_and_adapter_and_no_embedder(tmp_path):
    old = create("tiny", seed=1).eval()
    tower = model_digest(swap_text(old, "minilm", expansion=1).parts.text)
    done = adapted(old)
    assert model_digest(done.parts.text) == tower
    pixels = batch_of(old).image
    assert not torch.allclose(done.encode_image(pixels).pooled, old.encode_image(pixels).pooled, atol=1e-4)
    text = {"name": str(tether.save(create("tiny", seed=3), tmp_path)), "train": "locked"}
    assert adapted(old, embedder=text).parts.text.width == 64
    again = adapted(done, embedder=None, weight=100.0)
    assert model_digest(again.parts.text) == tower
    assert not torch.equal(again.parts.text_map.project.weight, done.parts.text_map.project.weight)


@pytest.mark.parametrize("ema", [None, 0.9])
def test_images_are_held_to_their_past(ema):
    old, settings = create("tiny", seed=1).eval(), {"steps": 12, "learning_rate": 3e-4, "ema": ema}
    pixels = batch_of(old).image
    held, free = (adapted(old, weight=weight, **settings).encode_image(pixels).pooled for weight in (10.0, 0.0))
    past = old.encode_image(pixels).pooled
    assert closeness_loss(held, past) < 0.5 * closeness_loss(free, past)


def test_low_rank_changes_are_merged():
    old = create("tiny", seed=1).eval()
    plain, low = swap_text(old, "minilm", expansion=1), adapted(old, rank=2)
    before, after = plain.parts.image.state_dict(), low.parts.image.state_dict()
    assert list(low.state_dict()) == list(plain.state_dict())
    moved = [name for name, value in after.items() if not torch.equal(value, before[name])]
    assert moved
    assert all(".blocks." in name and name.endswith("weight") for name in moved)


@pytest.mark.parametrize(
    ("change", "says"),
    [({"expansion": 10**6}, "expansion: expected a whole number"), ({"blocks": 0}, "blocks: expected a whole number"),
     ({"blocks": 2}, "weights of another architecture"), ({"more": 1}, "no model can be built")],
)  # fmt: skip
def test_folders_that_were_tampered_with(tmp_path, change, says):
    model = swap_text(create("tiny", seed=1), create("tiny", seed=2), expansion=1)
    path = tether.save(model, tmp_path) / "model.json"
    values = json.loads(path.read_text())
    values["text_map"] |= change
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match=says):
        tether.load(tmp_path)


def test_what_is_refused():
    model = create("tiny", seed=1)
    with pytest.raises(InputError, match="its two towers share their blocks"):
        swap_text(create("tiny", towers="shared"), Counts())
    with pytest.raises(InputError, match="compares by cosine"):
        swap_text(create("tiny", geometry="euclidean"), Counts())
    with pytest.raises(InputError, match="text:"):
        swap_text(model, "no/such/folder")
    with pytest.raises(InputError, match="blocks"):
        swap_text(model, Counts(), blocks=0)
    swapped = swap_text(model, Counts(), expansion=1)
    with pytest.raises(InputError, match="at least 2 rows"):
        distil_text(swapped, teacher=model, texts=["a cat", "a cat"], loss="proclip", generator=torch.Generator())
    with pytest.raises(InputError, match="one embedding size"):
        distil_text(swapped, teacher=create("tiny", dim=32), texts=TEXTS, generator=torch.Generator())
    with pytest.raises(InputError, match="a first stage needs an encoder with embeddings of 64, got one of 32"):
        ProclipStep(swapped, steps=2, first=1, old=create("tiny", dim=32))
    for other, settings, reason in (
        (create("tiny", towers="shared"), {}, "share parameters, among them visual"),
        (create("tiny", geometry="euclidean"), {}, "compares embeddings by cosine"),
        (model, {"embedder": None}, "fits the maps of a composed encoder"),
    ):
        with pytest.raises(UnsupportedModelError, match=f"--recipe swap_text: .*{reason}"):
            adapted(other, **settings)
    for base, name in ((model, "swap_text"), (swapped, "maps")):
        with pytest.raises(InputError, match=f"{name} gives a model of another architecture"):
            tether.adapt(base, squares(), recipe=name, interpolate=True)
