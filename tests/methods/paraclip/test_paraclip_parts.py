"""ParaCLIP's loss, and a text tower that learns while pictures stay bit for bit, on encoders of three libraries."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F

from encoders import ENCODERS
from tether.adaptation.finetune import freeze_image_tower, tower_parameters
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.types import Batch
from tether.losses import clip_loss, multi_text_loss
from tether.methods.paraclip import ParaphrasePairs, paraclip_loss, paraphrase_batches, tune_texts_
from tether.models import create

WORDS = ("a small red cat", "the red dog", "a small dog in the sun", "the cat sits in the sun", "a dog sits", "red sun")


def rows(count: int = 5, *, seed: int = 0, width: int = 6) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


FOUR = tuple(rows(seed=seed) for seed in range(4))


def test_the_terms_pair_what_they_should():
    image, text, first, second = (F.normalize(one, dim=1) for one in FOUR)
    found = paraclip_loss(*FOUR, 10.0)
    torch.testing.assert_close(found.l1, clip_loss(image, second, 10.0))
    torch.testing.assert_close(found.l2, clip_loss(text, first, 10.0))
    torch.testing.assert_close(found.l3, clip_loss(first, second, 10.0))
    torch.testing.assert_close(found.total, found.l1 + found.l2 + found.l3)  # a sum, not a mean
    weighed = paraclip_loss(*FOUR, 10.0, weights=(0.5, 0.0, 2.0))
    torch.testing.assert_close(weighed.total, 0.5 * found.l1 + 2 * found.l3)


def test_lengths_do_not_matter_and_pictures_get_no_gradient():
    given = [one.clone().requires_grad_() for one in FOUR]
    found = paraclip_loss(*given, 10.0)
    torch.testing.assert_close(paraclip_loss(*(3 * one for one in FOUR), 10.0).total, found.total.detach())
    found.total.backward()
    assert given[0].grad is None
    assert all(one.grad.abs().sum() > 0 for one in given[1:])
    alone = [one.clone().requires_grad_() for one in FOUR]
    paraclip_loss(*alone, 10.0, weights=(1, 0, 0)).total.backward()
    assert alone[1].grad is None or not alone[1].grad.any()


def test_gradcheck_and_half_precision():
    image = FOUR[0]
    given = [one.clone().requires_grad_() for one in FOUR[1:]]
    assert torch.autograd.gradcheck(lambda *texts: paraclip_loss(image, *texts, 5.0).total, given)
    half = paraclip_loss(*(one.bfloat16() for one in FOUR), 10.0)
    assert half.total.dtype == torch.float32
    wide = paraclip_loss(*(one.bfloat16().float() for one in FOUR), 10.0)
    torch.testing.assert_close(half.total, wide.total)


def test_equal_rows_are_positives_where_they_are_named():
    labels = torch.tensor([0, 0, 1, 2, 3])
    image, text, first, second = (F.normalize(one, dim=1) for one in FOUR)
    named = paraclip_loss(*FOUR, 10.0, labels=labels)
    for found, one, other in ((named.l1, image, second), (named.l2, text, first), (named.l3, first, second)):
        torch.testing.assert_close(found, clip_loss(one, other, 10.0, labels=labels))
    assert named.total != paraclip_loss(*FOUR, 10.0).total


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({0: rows(4)}, "four equal"),
        ({3: rows(5, width=7)}, "four equal"),
        ({index: rows(1) for index in range(4)}, "at least 2 rows"),
        ({index: rows(0) for index in range(4)}, "at least 2 rows"),
        ({2: rows(5)[0]}, "four equal"),
    ],
)
def test_refused_batches(change, says):
    given = [change.get(index, one) for index, one in enumerate(FOUR)]
    with pytest.raises(InputError, match=says):
        paraclip_loss(*given, 10.0)


@pytest.mark.parametrize("weights", [(1, 1), (1, -1, 1), (0, 0, 0), (1, float("nan"), 1), (1, float("inf"), 1)])
def test_refused_weights(weights):
    with pytest.raises(InputError, match="weights"):
        paraclip_loss(*FOUR, 10.0, weights=weights)


def test_several_texts_of_a_picture():
    image, *texts = (F.normalize(one, dim=1) for one in FOUR)
    stacked = torch.stack(texts)
    expected = sum(clip_loss(image, text, 7.0) for text in texts) / 3
    torch.testing.assert_close(multi_text_loss(image, stacked, 7.0), expected)
    torch.testing.assert_close(multi_text_loss(image, stacked[:1], 7.0), clip_loss(image, texts[0], 7.0))
    for wrong in (stacked[0], stacked[:0]):
        with pytest.raises(InputError, match="txt"):
            multi_text_loss(image, wrong, 7.0)


def pictures(model, count: int = len(WORDS)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, *model.image_spec.size), generator=generator, dtype=torch.uint8)


class Turned:
    """A paraphraser that turns the words round, and round and about."""

    settings = None

    def step1(self, caption, *, generator):
        return " ".join(reversed(caption.split()))

    def step2(self, paraphrase, *, avoid, generator):
        first, *rest = paraphrase.split()
        return " ".join([*rest, first])


def batches(model, *, image=None, size=3, **keywords):
    pairs = ParaphrasePairs(WORDS, paraphraser=Turned())
    assert len(pairs) == len(WORDS)
    image = pictures(model) if image is None else image
    generator = torch.Generator().manual_seed(1)
    return paraphrase_batches(model, pairs, image=image, batch_size=size, generator=generator, **keywords)


@pytest.fixture(params=ENCODERS)
def encoder(request, tmp_path):
    return ENCODERS[request.param](tmp_path)


def test_towers_are_told_apart(encoder):
    image, text, scale = (tower_parameters(encoder, side=side) for side in ("image", "text", "scale"))
    assert image
    assert text
    assert len(scale) == 1
    assert not set(image) & set(text)
    assert not (set(image) | set(text)) & set(scale)
    named = dict(encoder.named_parameters())
    assert all(named[name] is one for name, one in {**image, **text}.items())
    for parameter in encoder.parameters():
        parameter.requires_grad_(False)
    assert set(tower_parameters(encoder, side="text")) == set(text)  # frozen ones are found too
    assert not any(one.requires_grad for one in encoder.parameters())
    with pytest.raises(InputError, match="side"):
        tower_parameters(encoder, side="audio")


def test_inside_nothing_of_the_image_tower_moves_and_afterwards_all_is_as_it_was(encoder):
    encoder.train()
    next(iter(tower_parameters(encoder, side="image").values())).requires_grad_(False)
    before = [(one.requires_grad, name) for name, one in encoder.named_parameters()]
    modes = [part.training for part in encoder.modules()]
    image = tower_parameters(encoder, side="image")
    state = copy.deepcopy(encoder.state_dict())
    with freeze_image_tower(encoder):
        assert not any(one.requires_grad for one in image.values())
        assert any(one.requires_grad for one in tower_parameters(encoder, side="text").values())
        first = encoder.encode_image(pictures(encoder)).pooled
        second = encoder.encode_image(pictures(encoder)[:3]).pooled
        torch.testing.assert_close(first[:3], second, rtol=1e-4, atol=1e-5)  # no statistics of the batch
        assert not first.requires_grad
    assert [(one.requires_grad, name) for name, one in encoder.named_parameters()] == before
    assert [part.training for part in encoder.modules()] == modes
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("given", ["embeddings", "pixels"])
def test_only_the_text_tower_learns(encoder, given):
    seen = pictures(encoder)
    with torch.no_grad():
        rows = encoder.encode_image(seen).pooled
    before, modes = copy.deepcopy(encoder.state_dict()), [part.training for part in encoder.modules()]
    text = tower_parameters(encoder, side="text")
    heard = []
    done = tune_texts_(
        encoder,
        batches(encoder, image=rows if given == "embeddings" else seen),
        steps=12,
        learning_rate=3e-3,
        on_step=lambda report: heard.append(float(report.loss)),
    )
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name]) or name in text, name
    assert any(not torch.equal(encoder.state_dict()[name], before[name]) for name in text)
    with torch.no_grad():
        torch.testing.assert_close(encoder.encode_image(seen).pooled, rows)
    assert [part.training for part in encoder.modules()] == modes
    assert all(one.requires_grad for one in encoder.parameters())
    assert (done.steps, len(heard)) == (12, 12)
    assert sum(done.first[name] for name in ("l1", "l2", "l3")) > sum(done.last[name] for name in ("l1", "l2", "l3"))
    assert done.first["logit_scale"] == done.last["logit_scale"]


def test_embeddings_and_pixels_give_the_same(tmp_path):
    models = [create("tiny", seed=1).eval() for _ in range(2)]
    with torch.no_grad():
        rows = models[0].encode_image(pictures(models[0])).pooled
    for model, image in zip(models, (rows, pictures(models[0])), strict=True):
        tune_texts_(model, batches(model, image=image), steps=3, learning_rate=1e-3)
    with torch.no_grad():
        one, other = (model.encode_text(model.tokenizer(WORDS)).pooled for model in models)
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_the_temperature_learns_only_when_asked():
    model = create("tiny", seed=1)
    done = tune_texts_(model, batches(model), steps=4, learning_rate=1e-2, temperature="trained")
    assert done.first["logit_scale"] != done.last["logit_scale"]
    assert float(model.logit_scale.detach()) <= 100.001


def test_frozen_parameters_stay_frozen():
    model = create("tiny", seed=1)
    text = tower_parameters(model, side="text")
    name, one = next((name, one) for name, one in text.items() if one.ndim >= 2)
    one.requires_grad_(False)
    before = one.detach().clone()
    tune_texts_(model, batches(model), steps=2, learning_rate=1e-2)
    assert torch.equal(one, before), name
    assert not one.requires_grad
    for parameter in text.values():
        parameter.requires_grad_(False)
    with pytest.raises(InputError, match="no trainable"):
        tune_texts_(model, batches(model), steps=2)


def test_batches_are_rows_with_their_own_texts():
    model = create("tiny", seed=1)
    image = torch.arange(6.0)[:, None].expand(-1, 4)
    pairs = ParaphrasePairs(["red", *WORDS[:5]], paraphraser=Turned())  # the first caption is too short
    found = list(itertools.islice(_batches(model, pairs, image, size=2), 4))
    seen = sorted(int(value) for batch in found[:2] for value in batch.image[:, 0])
    assert len(seen) == len(set(seen)) == 4
    for batch in found:
        assert batch.image[:, 0].min() >= 1
        for at, place in enumerate(batch.image[:, 0].long().tolist()):
            one = next(pair for pair in pairs.rows if pair.row == place)
            for column, text in enumerate((one.caption, one.first, one.second)):
                ids = model.tokenizer([text])[0]
                assert torch.equal(batch.text[2 * column + at, : len(ids)], ids)


def _batches(model, pairs, image, *, size, **keywords):
    generator = torch.Generator().manual_seed(0)
    return paraphrase_batches(model, pairs, image=image, batch_size=size, generator=generator, **keywords)


def test_rows_that_share_a_text_share_a_label():
    model = create("tiny", seed=1)
    captions = ["a red cat", "The  red cat", "the red cat", "cat red a", "a dog sits"]
    pairs = ParaphrasePairs(captions, paraphraser=Turned())
    batch = next(_batches(model, pairs, torch.arange(5.0)[:, None], size=5))
    labels = batch.extra["labels"][torch.argsort(batch.image[:, 0])].tolist()
    assert labels[1] == labels[2]
    assert labels[0] == labels[3]
    assert len(set(labels)) == 3
    assert "labels" not in next(_batches(model, pairs, torch.zeros(5, 1), size=5, duplicates="negatives")).extra


def test_refused_runs():
    model = create("tiny", seed=1)
    for keywords, says in (({"steps": 1, "weights": (0, 0, 0)}, "weights"),):
        with pytest.raises(InputError, match=says):
            tune_texts_(model, batches(model), **keywords)
    with pytest.raises(InputError, match="expected at least steps=3, got 2"):
        tune_texts_(model, itertools.islice(batches(model), 2), steps=3)
    with pytest.raises(InputError, match="3 texts for each of 2"):
        tune_texts_(model, [Batch(torch.zeros(2, model.dim), model.tokenizer(["a"] * 5))], steps=1)
    pairs = ParaphrasePairs(WORDS, paraphraser=Turned())
    for image, keywords, says in (
        (torch.zeros(6, 4), {"size": 1}, "batch_size"),
        (torch.zeros(6, 4), {"size": 7}, "batch_size"),
        (torch.zeros(5, 4), {"size": 2}, "image"),
    ):
        with pytest.raises(InputError, match=says):
            _batches(model, pairs, image, **keywords)


def test_towers_that_share_parameters_and_other_geometries_are_refused():
    shared = create("tiny", seed=1, towers="shared")
    with pytest.raises(UnsupportedModelError, match="share"), freeze_image_tower(shared):
        pass
    with pytest.raises(UnsupportedModelError, match="share"):
        tune_texts_(shared, batches(shared), steps=1)
    curved = create("tiny", seed=1, geometry="elliptic")
    with pytest.raises(InputError, match="geometry"):
        tune_texts_(curved, batches(curved), steps=1)
