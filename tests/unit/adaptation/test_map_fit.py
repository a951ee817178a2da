"""Maps of a composed encoder from its own pairs: what they find, and what they keep."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tether
from tether.adaptation.finetune import MapFit
from tether.core.errors import InputError
from tether.models import create
from tether.models.compose import compose


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tether.save(create("tiny", seed=1), tmp_path_factory.mktemp("own"))
    return compose(image=str(folder), text=str(folder), join="linear").eval()


def pairs(count, *, seed, noise=0.5, each=2):
    """Rows of both towers that share eight directions; each image has two texts."""
    generator = torch.Generator().manual_seed(seed)
    ways = torch.Generator().manual_seed(99)
    meaning = torch.randn(count, 8, generator=generator)
    images = meaning @ torch.randn(8, 64, generator=ways) + noise * torch.randn(count, 64, generator=generator)
    owners = torch.arange(count).repeat_interleave(each)
    texts = meaning[owners] @ torch.randn(8, 64, generator=ways)
    return images, texts + noise * torch.randn(len(owners), 64, generator=generator), owners


def recall(model, images, texts, owners):
    with torch.no_grad():
        eyes = F.normalize(model.parts.image_map(images), dim=1)
        words = F.normalize(model.parts.text_map(texts), dim=1)
    return float(((words @ eyes.T).argmax(1) == owners).double().mean())


def test_new_pairs_are_found(model):
    images, texts, owners = pairs(200, seed=0)
    found = MapFit().fit(model, images, texts, owners=owners)
    held = pairs(50, seed=1)
    assert recall(model, *held) < 0.1
    assert recall(found.model, *held) > 0.8
    assert found.keep == 0
    assert found.recall[0] > 0.8 > 0.2 > found.before[0]
    assert found.pool == 40


def test_good_maps_are_kept(model):
    """Maps that know the truth outweigh what twenty noisy pairs say."""
    images, texts, owners = pairs(20, seed=2, noise=3.0, each=1)
    known = MapFit(keep=0.0).fit(model, *pairs(2000, seed=3)[:2], owners=pairs(2000, seed=3)[2]).model
    held = pairs(50, seed=4, noise=3.0)
    found = MapFit().fit(known, images, texts, owners=owners)
    assert found.keep >= 1
    alone = MapFit(keep=0.0).fit(known, images, texts, owners=owners)
    assert recall(found.model, *held) > recall(alone.model, *held)


def test_cosines_are_the_mean_of_both_parts(model):
    images, texts, owners = pairs(40, seed=5)
    new = MapFit(keep=0.0).fit(model, images, texts, owners=owners).model
    both = MapFit(keep=2.0).fit(model, images, texts, owners=owners).model

    def cosines(which):
        with torch.no_grad():
            eyes, words = which.parts.image_map(images), which.parts.text_map(texts)
        return F.normalize(words, dim=1) @ F.normalize(eyes, dim=1).T

    assert torch.allclose(cosines(both), (cosines(new) + 4 * cosines(model)) / 5, atol=1e-5)


def test_the_same_twice_saved_and_loaded(model, tmp_path):
    images, texts, owners = pairs(40, seed=6)
    first, second = (MapFit().fit(model, images, texts, owners=owners).model for _ in range(2))
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    again = tether.load(tether.save(first, tmp_path))
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(again.encode_image(pixels).pooled, first.encode_image(pixels).pooled)
    before = model.before_maps()
    assert torch.equal(first.parts.image_map(before.encode_image(pixels).pooled), first.encode_image(pixels).pooled)


def test_sorted_data_are_held_out_evenly(model):
    """Photographs of five events that alternate: a fold of one event alone would be harder than any that comes."""
    images, texts, owners = pairs(200, seed=10)
    event = 6 * torch.randn(5, 64, generator=torch.Generator().manual_seed(11))
    images, texts = images + event.repeat(40, 1), texts + event.repeat(40, 1)[owners]
    alternating = MapFit().fit(model, images, texts, owners=owners)
    drawn = torch.randperm(200, generator=torch.Generator().manual_seed(12))
    mixed = MapFit().fit(model, images[drawn], texts, owners=drawn.argsort()[owners])
    assert abs(alternating.recall[0] - mixed.recall[0]) < 0.05


def test_ties_count_against_the_query(model):
    collapsed = copy.deepcopy(model)
    with torch.no_grad():
        collapsed.parts.image_map.weight.zero_()
        collapsed.parts.image_map.bias.copy_(torch.eye(model.dim)[0])
    images, texts, owners = pairs(60, seed=13)
    assert MapFit().fit(collapsed, images, texts, owners=owners).before == (0, 0, 0)


def test_held_out_texts_set_the_scale(model):
    clear, vague = (
        MapFit().fit(model, *pairs(100, seed=7, noise=noise)[:2], owners=pairs(100, seed=7)[2]).model
        for noise in (0.1, 3.0)
    )
    assert clear.logit_scale > vague.logit_scale


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda i, t, o: (i[:, :5], t, o), r"images: expected rows of the tower, \(n, 64\), got \(40, 5\)"),
        (lambda i, t, o: (i, t[:, :5], o), r"texts: expected rows of the tower, \(n, 64\)"),
        (lambda i, t, o: (i[:10], t[:20], o[:20]), "images: expected at least 20 for 5 folds, got 10"),
        (lambda i, t, o: (i, t, o.clamp(max=38)), "owners: expected the image of each of 80 texts"),
    ],
)
def test_wrong_rows_are_named(model, change, said):
    images, texts, owners = change(*pairs(40, seed=8))
    with pytest.raises(InputError, match=said):
        MapFit().fit(model, images, texts, owners=owners)


def test_the_new_part_is_linear(model):
    images, texts, owners = pairs(40, seed=9)
    found = MapFit(dim=4, keep=1.0).fit(model, images, texts, owners=owners).model
    assert isinstance(found.parts.image_map.maps[0], nn.Linear)
    assert found.dim == 4 + model.dim
