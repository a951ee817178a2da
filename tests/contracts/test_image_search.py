"""What tuning for image search must keep on encoders of every library: what rests, and what the phases move."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from families import FAMILIES
from tether.adapt.finetune import fit_2sft_, fit_mcip_, tower_parameters
from tether.adapt.finetune.image_search import resting
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.types import Batch
from tether.losses import caption_labels
from tether.models import create

KINDS = ("Tether", "open_clip ViT", "ConvNeXt", "transformers' CLIP", "transformers' SigLIP", "composed EfficientNet")
WORDS = ("a red cat", "the cat", "a small dog", "the dog sits", "sun", "a red sun")
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


@pytest.fixture(params=KINDS)
def model(request, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = FAMILIES[request.param](tmp_path).eval()
    if request.param.startswith("composed"):
        made.parts.image.lock_("locked")
        made.parts.text.lock_("locked")
    return made


def images_of(model: Any, rows: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (rows, 3, *model.image_spec.fixed().size), dtype=torch.uint8, generator=generator)


def pairs_of(model: Any) -> Batch:
    return Batch(images_of(model), model.tokenizer(list(WORDS)))


def captions_of(model: Any) -> Tensor:
    ids = model.tokenizer([text for word in WORDS for text in (word, "a cat")])
    return ids.unflatten(0, (len(WORDS), 2))


def rows(model: Any) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return model.encode_image(images_of(model)).pooled, model.encode_text(pairs_of(model).text).pooled


def changed(before: dict[str, Tensor], model: nn.Module) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}


def test_two_stages(model):
    images, seen = images_of(model), []
    asked = [(one, one.requires_grad) for one in model.parameters()]
    start = {name: value.clone() for name, value in model.state_dict().items()}
    first_rows = rows(model)
    done = fit_2sft_(
        model,
        [(images, LABELS)] * 3,
        [pairs_of(model)] * 2,
        classes=3,
        steps=3,
        realign_steps=2,
        learning_rate=1e-3,
        realign_rate=1e-3,
        on_step=lambda report: seen.append(report.step),
    )
    first, second = done.phases
    assert (first.name, second.name, seen) == ("classes", "realign", [0, 1, 2, 0, 1])
    image = tower_parameters(model, side="image")
    assert not changed(start, model) - {*first.moved, *second.moved}
    assert changed(start, model) & {*first.moved}
    assert changed(start, model) & {*second.moved}
    assert not {*first.moved} & {*second.moved}
    assert first.rested == len(start) - len(first.moved)
    assert first.first["class_margin"] != first.last["class_margin"]
    assert all(one.requires_grad == wanted for one, wanted in asked)
    projector = {*second.moved} & {*image}
    assert bool(projector) == (set(image) != set(first.moved))
    for old, new in zip(first_rows, rows(model), strict=True):
        assert not torch.equal(old, new)


def test_classes_and_captions(model):
    images = images_of(model)
    alone = fit_mcip_(model, [(images, LABELS, captions_of(model))] * 2, classes=3, steps=2, learning_rate=1e-3)
    (phase,) = alone.phases
    assert phase.moved
    assert {"class_margin", "caption_margin", "accuracy"} <= phase.last.keys()


def test_images_stay_bit_for_bit_while_texts_are_brought_back(model):
    other, data = copy.deepcopy(model), [(images_of(model), LABELS, captions_of(model))]
    fit_mcip_(other, data, classes=3, steps=1)
    fit_mcip_(model, data, classes=3, steps=1, pair_data=[pairs_of(model)] * 3, realign_steps=3, realign_rate=1e-3)
    (image, text), (same, moved) = rows(other), rows(model)
    assert torch.equal(image, same)
    assert not torch.equal(text, moved)


def test_captions_as_embeddings_are_captions_as_words():
    found = []
    for given in ("words", "rows"):
        model = create("tiny", seed=1).eval()
        captions = captions_of(model)
        assert caption_labels(captions.flatten(0, 1)).unique().numel() == 7
        if given == "rows":
            captions = model.encode_text(captions.flatten(0, 1)).pooled.detach().unflatten(0, (6, 2))
        fit_mcip_(model, [(images_of(model), LABELS, captions)] * 2, classes=3, steps=2, learning_rate=1e-3)
        found.append(rows(model)[0])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-6)


def test_some_classes_a_step_and_embeddings_alone():
    model = create("tiny", seed=1).eval()
    data = [(images_of(model), LABELS)] * 2
    done = fit_2sft_(model, data, None, classes=40, steps=2, reads="embedding", classes_a_step=5)
    assert len(done.phases) == 1
    assert "visual.projection.weight" in done.phases[0].moved
    assert done.head.weight.shape == (40, model.dim)


def test_what_must_rest_is_looked_at():
    model = create("tiny", seed=1)

    def cheat() -> None:
        with resting(model, moving=["visual.position"]), torch.no_grad():
            model.visual.position.add_(1)
            model.text.token.weight.add_(1)

    with pytest.raises(RuntimeError, match=r"1 tensors had to rest and have changed, among them text\.token\.weight"):
        cheat()


def data_of(model: Any, **other: Any) -> dict[str, Any]:
    return {"images": images_of(model), "labels": LABELS, "captions": captions_of(model)} | other


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"labels": LABELS + 1}, "labels: expected 0 to 2, got 1 to 3"),
        ({"labels": LABELS[:4]}, "labels: expected"),
        ({"labels": torch.full((6,), torch.nan)}, "integers, got torch.float32"),
        ({"captions": torch.zeros(6, 0, 4).long()}, "captions: expected .6, k, ...."),
        ({"captions": torch.zeros(5, 2, 4).long()}, "captions: expected .6, k, ...."),
        ({"steps": 3}, "expected at least steps=3, got 2"),
        ({"classes": 1}, "classes: expected at least 2"),
        ({"margin": 1.6}, "margin"),
        ({"classes_a_step": 9}, "size: expected 1 to 3"),
    ],
)
def test_refuses(other: dict[str, Any], said: str):
    model = create("tiny", seed=1)
    given = data_of(model) | other
    settings = {"classes": 3, "steps": 2} | {key: value for key, value in other.items() if key not in data_of(model)}
    with pytest.raises(InputError, match=said):
        fit_mcip_(model, [(given["images"], given["labels"], given["captions"])] * 2, **settings)


def test_refuses_models():
    shared = create("tiny", towers="shared")
    with pytest.raises(UnsupportedModelError, match="but they share"):
        fit_2sft_(shared, [], None, classes=2, steps=1)
    bent = create("tiny", geometry="hyperbolic")
    with pytest.raises(InputError, match="expected the cosine"):
        fit_2sft_(bent, [], None, classes=2, steps=1)
    model = create("tiny")
    one = [(images_of(model, 1), torch.tensor([0]), captions_of(model)[:1])]
    with pytest.raises(InputError, match="at least two images"):
        fit_mcip_(model, one, classes=2, steps=1)
