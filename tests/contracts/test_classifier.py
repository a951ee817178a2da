"""What a classifier on patches must keep on every family's image tower, or the reason why it is refused."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F

from families import CLOSED, FAMILIES, SEALED, open_clip_tower
from tether.adaptation.finetune import tower_parameters
from tether.core.errors import InputError, UnsupportedModelError
from tether.methods.ft_clip import ClipClassifier
from tether.models.features.find import anatomy_of
from tether.models.refusals import EXCEPTIONS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=list(FAMILIES))
def named(request, tmp_path_factory):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return request.param, FAMILIES[request.param](tmp_path_factory.mktemp("family")).eval()


def images_of(model) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 3, *model.image_spec.fixed().size), dtype=torch.uint8, generator=generator)


def test_logits_and_what_moves(named):
    name, model = named
    if (name, "image") in CLOSED:
        with pytest.raises(UnsupportedModelError, match=EXCEPTIONS["map"][:40]):
            ClipClassifier(model, classes=4)
        return
    classifier = ClipClassifier(model, classes=4, generator=torch.Generator().manual_seed(0))
    images = images_of(model)
    tokens = classifier.tokens(images)
    if (name, "image") not in SEALED:
        rows, columns = anatomy_of(model).grid(images)
        assert tokens.shape[1] == rows * columns
    logits = classifier(images)
    assert logits.shape == (3, 4)
    assert logits.softmax(1).sub(0.25).abs().max() < 0.01  # it starts undecided
    torch.testing.assert_close(classifier(images[1:2]), logits[1:2], rtol=0, atol=1e-6)

    F.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
    moving = {key: one for key, one in model.named_parameters() if one.requires_grad}
    known = tower_parameters(model, side="image")
    assert moving.keys() <= known.keys()
    assert all(key.startswith(model.image_weights) for key in moving)
    assert all(one.grad is not None for one in moving.values())
    assert sum(bool(one.grad.any()) for one in moving.values()) > len(moving) / 2
    assert not any(one.requires_grad for key, one in model.named_parameters() if key not in moving)

    with warnings.catch_warnings():
        if (name, "image") in SEALED:
            warnings.simplefilter("ignore", UserWarning)
        groups = classifier.groups(layer_decay=0.5, weight_decay=0.1, below=0.5)
    scales = {key: group["lr_scale"] for group in groups for key, _ in group["params"]}
    assert scales.keys() == {f"encoder.{key}" for key in moving} | {
        f"read.{key}" for key in classifier.read.state_dict()
    }
    assert {scales[f"read.{key}"] for key in classifier.read.state_dict()} == {1.0}
    if (name, "image") not in SEALED:
        depth = len(anatomy_of(model).blocks)
        below = {scale for key, scale in scales.items() if not key.startswith("read.")}
        assert below == {0.5 * 0.5 ** (depth + 1 - layer) for layer in range(depth + 1)}


def test_the_layer_that_makes_patches_rests(named):
    name, model = named
    if (name, "image") in CLOSED:
        return
    classifier = ClipClassifier(model, classes=2)
    before = {key for key, one in model.named_parameters() if one.requires_grad}
    classifier.freeze_patches_()
    rest = before - {key for key, one in model.named_parameters() if one.requires_grad}
    assert rest
    kinds = {key.rpartition(".")[2] for key in rest}
    assert kinds <= {"weight", "bias", "layer_scale"}
    assert len(rest) < len(before) / 2


def test_it_is_the_release_formula(tmp_path):
    model = open_clip_tower(tmp_path, {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16})
    wrapped = model.double()
    classifier = ClipClassifier(wrapped, classes=3).double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    stream = anatomy_of(wrapped).run(anatomy_of(wrapped).embed(images)).x
    tokens = classifier.read.fc_norm(stream[:, 1:])
    expected = classifier.read.head(tokens.mean(1))
    torch.testing.assert_close(classifier(images), expected, rtol=0, atol=1e-12)
    first = ClipClassifier(wrapped, classes=3, pool="class_token").double()
    torch.testing.assert_close(first(images), first.read.head(first.read.fc_norm(stream[:, 0])), rtol=0, atol=1e-12)


def test_refuses(tmp_path):
    with pytest.raises(InputError, match="classes: expected at least 2"):
        ClipClassifier(FAMILIES["Tether"](tmp_path), classes=1)
    with pytest.raises(UnsupportedModelError, match="has no class token"):
        ClipClassifier(FAMILIES["transformers' SigLIP"](tmp_path), classes=2, pool="class_token")
    frozen = ClipClassifier(FAMILIES["Tether"](tmp_path), classes=2)
    frozen.encoder.requires_grad_(False)
    with pytest.raises(InputError, match="no trainable parameter"):
        frozen.groups()
