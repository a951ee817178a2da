"""Another text tower for encoders of three libraries and a composed one: taught on texts, tuned on pairs, saved."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import tether
from encoders import ENCODERS, WORDS
from tether.adapt.distill import ProclipStep, distil_text, swap_text, tune_swapped_
from tether.adapt.finetune import Lora
from tether.core.errors import InputError
from tether.core.gather import LOCAL
from tether.core.model_digest import model_digest
from tether.core.protocols import Step, Taught
from tether.core.types import Batch
from tether.losses import clip_loss, proclip_loss
from tether.models import create
from tether.models.cached import side_digest
from tether.models.composed.compose import compose
from tether.models.composed.embedder_tower import EmbedderTexts
from tether.models.embed import encode_texts
from tether.models.text.embedder import EmbedderAdapter

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


def pairs(model, *, steps: int = 3, seed: int = 0):
    chance = torch.Generator().manual_seed(seed)
    shape = (len(TEXTS), 3, *model.image_spec.size)
    return [
        Batch(torch.randint(0, 256, shape, dtype=torch.uint8, generator=chance), model.tokenizer(TEXTS))
        for _ in range(steps)
    ]


def pixels_of(model):
    return pairs(model, steps=1)[0].image


def test_both_stages_and_a_model_that_is_saved(old, tmp_path):
    embedder = tether.save(create("tiny", seed=3), tmp_path / "embedder")
    before = model_digest(old)
    model = swap_text(old, str(embedder), expansion=2)
    pixels = pixels_of(model)
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

    start = copy.deepcopy(model)
    tuned = tune_swapped_(model, pairs(model), steps=3, learning_rate=1e-3)
    assert tuned.steps == 3
    assert set(tuned.first) == {"contrastive", "instance", "structure", "logit_scale"}
    assert tuned.first["instance"] < 1e-9 < tuned.last["instance"]  # the teacher begins as the student
    assert 0 < tuned.kept < 0.999999
    assert not torch.equal(model.encode_image(pixels).pooled, start.encode_image(pixels).pooled)
    assert not torch.equal(model.parts.text_map.project.weight, start.parts.text_map.project.weight)
    assert model_digest(model.parts.text) == tower
    assert model_digest(old) == before

    again = tether.load(tether.save(model, tmp_path / "saved"))
    ids = again.tokenizer(TEXTS)
    assert torch.equal(again.encode_text(ids).pooled, model.encode_text(ids).pooled)
    assert torch.equal(again.encode_image(pixels).pooled, model.encode_image(pixels).pooled)
    assert isinstance(again.parts.text_map, EmbedderAdapter)


def test_a_real_sentence_encoder(tmp_path):
    """all-MiniLM-L6-v2, as ``starter`` has it, in the place of a small text tower."""
    old = create("tiny", seed=1).eval()
    model = swap_text(old, "starter", expansion=1)
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
    tune_swapped_(model, pairs(model), steps=3)
    assert embedder.asked == asked + len(TEXTS)  # the same rows, from the cache
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


def test_the_loss_of_the_second_stage():
    model = swap_text(create("tiny", seed=1).eval(), Counts(), expansion=1)
    step, batch = ProclipStep(model, steps=1, weight=0.3, reduction="sum"), pairs(model, steps=1)[0]
    assert isinstance(step, Step)
    assert isinstance(step, Taught)
    before = model.encode_image(batch.image).pooled.detach()
    with torch.no_grad():
        for weight in model.parts.image.parameters():
            weight.mul_(1.1)
    found = step(model, batch, step=0, gather=LOCAL)
    image, text = model.encode_image(batch.image), model.encode_text(batch.text)
    held = proclip_loss(image.pooled, before, reduction="sum").total
    torch.testing.assert_close(found.total, clip_loss(image.unit, text.unit, model.logit_scale) + 0.3 * held)


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


def test_low_rank_changes_of_the_image_tower_alone_are_merged():
    model = swap_text(create("tiny", seed=1).eval(), create("tiny", seed=3), expansion=1)
    text, names = model_digest(model.parts.text), list(model.state_dict())
    edit = Lora(rank=2, alpha=2, targets=r"^model\.image\..*qkv")
    before = copy.deepcopy(model.parts.image.state_dict())
    tune_swapped_(model, pairs(model), steps=3, edit=edit, learning_rate=1e-2)
    assert list(model.state_dict()) == names
    moved = [name for name, value in model.parts.image.state_dict().items() if not torch.equal(value, before[name])]
    assert moved
    assert all("qkv" in name for name in moved)
    assert model_digest(model.parts.text) == text
    with pytest.raises(InputError, match="at least steps=9"):
        tune_swapped_(model, pairs(model), steps=9, edit=edit)
    assert list(model.state_dict()) == names


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
    swapped.requires_grad_(False)
    with pytest.raises(InputError, match="all of its parameters rest"):
        tune_swapped_(swapped, pairs(swapped), steps=1)
