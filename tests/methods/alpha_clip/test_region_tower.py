"""Alpha beside the image, on every family of encoder: an exact sum at the first layer, saved and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tether
from families import FAMILIES
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.model_digest import model_digest
from tether.methods.alpha_clip.convert import load_alpha_clip_
from tether.models import create
from tether.models.compose import compose
from tether.models.convert.open_clip import rules
from tether.models.convert.rules import give
from tether.models.encoders.region_tower import (
    AlphaVisionTower,
    alpha_from_mask,
    alpha_param_groups,
    encode_regions,
    region_scores,
)
from tether.models.export import export
from tether.models.save import save
from tether.models.towers.vision.alpha_stem import AlphaStem, add_alpha_, stem_of

REFUSED = {"MobileCLIP2"}
INSIDE = 0.5 / 0.26
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")]


def the_stem(model: Any) -> AlphaStem:
    found = stem_of(model)
    assert found is not None
    return found


def first_channel_(stem: AlphaStem) -> None:
    """Alpha weighs what the first channel does, so the tower sees the sum of the two."""
    weight = stem.layer.get_parameter("weight").detach()
    if weight.ndim == 4:
        kernel = weight[:, :1]
    elif stem.size is None:  # rows of (row, column, channel)
        kernel = weight.unflatten(1, (-1, 3))[..., 0]
    else:
        kernel = weight[:, : weight.shape[1] // 3]
    stem.alpha.data.copy_(kernel)


def masked_image(model: Any, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    size = model.image_spec.size
    return torch.randn(2, 3, *size, generator=generator), torch.rand(2, *size, generator=generator)


@pytest.mark.parametrize("kind", FAMILIES)
def test_adds_to_the_first_layer(kind: str, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = FAMILIES[kind](tmp_path).eval()
    if kind in REFUSED:
        with pytest.raises(UnsupportedModelError, match="begins with one convolution"):
            add_alpha_(model)
        return
    image, mask = masked_image(model)
    alpha = alpha_from_mask(mask, size=model.image_spec.size)
    with torch.no_grad():
        plain = model.encode_image(image).pooled
        shifted = [image.clone(), image.clone()]
        shifted[0][:, :1] += alpha
        shifted[1][:, :1] += INSIDE
        wanted = [model.encode_image(one).pooled for one in shifted]
        tower = AlphaVisionTower(model)
        torch.testing.assert_close(tower(image, alpha), plain, atol=1e-6, rtol=0)
        first_channel_(tower.stem)
        torch.testing.assert_close(tower(image, alpha), wanted[0], atol=1e-4, rtol=1e-4)
        for whole in (tower(image), tower(image, alpha_from_mask(torch.ones_like(mask), size=mask.shape[1:]))):
            torch.testing.assert_close(whole, wanted[1], atol=1e-4, rtol=1e-4)
        assert not torch.allclose(wanted[0], wanted[1], atol=1e-3)


@pytest.mark.parametrize("kind", ["Tether", "open_clip ViT", "RN50", "transformers' CLIP", "composed EfficientNet"])
def test_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    model = FAMILIES[kind](tmp_path / "base").eval()
    before = model_digest(model)
    stem = add_alpha_(model, mean=0.4, std=0.3)
    assert model_digest(model) != before
    torch.nn.init.normal_(stem.alpha, generator=torch.Generator().manual_seed(1))
    save(model, tmp_path / "saved")
    opened = tether.load(tmp_path / "saved")
    found = stem_of(opened)
    assert found is not None
    assert found.settings == {"mean": 0.4, "std": 0.3}
    assert model_digest(opened) == model_digest(model)
    image, mask = masked_image(model)
    alpha = alpha_from_mask(mask, size=model.image_spec.size, **found.settings)
    with torch.no_grad():
        assert torch.equal(encode_regions(opened, image, alpha=alpha), encode_regions(model, image, alpha=alpha))
    with pytest.raises(InputError, match=r"takes alpha|composed"):
        export(model, tmp_path / "other", format="transformers" if "transformers" in kind else "open_clip")


def test_resized_and_composed(tmp_path: Path) -> None:
    model = create("tiny").eval()
    stem = add_alpha_(model)
    torch.nn.init.normal_(stem.alpha, generator=torch.Generator().manual_seed(1))
    wide = model.resized(image_size=64, patch=16)
    found = stem_of(wide)
    assert found is not None
    assert found.alpha.shape == (64, 256)
    assert found.size == (64, 64)
    assert torch.equal(the_stem(model.resized(image_size=48)).alpha, stem.alpha)
    save(model, tmp_path / "alpha")
    save(compose(image=str(tmp_path / "alpha"), text=str(tmp_path / "alpha"), dim=16), tmp_path / "both")
    opened = tether.load(tmp_path / "both")
    assert sum(isinstance(part, AlphaStem) for part in opened.modules()) == 1
    assert torch.equal(the_stem(opened).alpha, stem.alpha)


def test_plain_weights_have_no_alpha() -> None:
    plain, model = create("tiny", seed=3), create("tiny")
    stem = add_alpha_(model)
    torch.nn.init.ones_(stem.alpha)
    model.load_state_dict(plain.state_dict())
    assert not stem.alpha.any()
    image, _ = masked_image(model)
    with torch.no_grad():
        assert torch.equal(model.eval().encode_image(image).pooled, plain.eval().encode_image(image).pooled)
    theirs = give(plain.state_dict(), rules(plain.config))
    for kernel in (torch.zeros(64, 3, 8, 8), torch.zeros(64, 1, 4, 4)):
        with pytest.raises(InputError, match=r"conv1_alpha|patch.alpha"):
            load_alpha_clip_(create("tiny"), theirs | {"visual.conv1_alpha.weight": kernel})


def test_regions() -> None:
    corner = alpha_from_mask(boxes=torch.tensor([[0.0, 0.0, 0.5, 0.25]]), size=(8, 8))
    assert (corner > 0).sum() == 8
    sliver = alpha_from_mask(boxes=torch.tensor([[0.51, 0.51, 0.52, 0.52]]), size=(8, 8))
    assert (sliver > 0).nonzero().tolist() == [[0, 0, 4, 4]]
    dot = alpha_from_mask(points=torch.tensor([[[0.99, 0.99], [0.3, 0.3]]]), size=(8, 8), radius=0.01)
    assert (dot > 0)[0, 0, 7, 7]
    assert 2 <= (dot > 0).sum() <= 8
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[..., :2, :] = True
    assert (alpha_from_mask(mask, size=(8, 8)).abs() <= INSIDE + 1e-6).all()
    assert torch.equal(alpha_from_mask(mask.byte(), size=(4, 4)), alpha_from_mask(mask.double().float(), size=(4, 4)))


def test_bad_regions() -> None:
    nan = torch.full((1, 4, 4), float("nan"))
    for mask, words in (
        (torch.zeros(1, 3, 4, 4), "one channel"),
        (torch.zeros(4, 4), "one channel"),
        (2 * torch.ones(1, 4, 4), "values in"),
        (255 * torch.ones(1, 4, 4, dtype=torch.uint8), "values in"),
        (nan, "values in"),
    ):
        with pytest.raises(InputError, match=words):
            alpha_from_mask(mask, size=(4, 4))
    with pytest.raises(InputError, match="x0 < x1"):
        alpha_from_mask(boxes=torch.tensor([[0.5, 0.0, 0.2, 1.0]]), size=(4, 4))
    with pytest.raises(InputError, match="one of the three"):
        alpha_from_mask(size=(4, 4))
    model = create("tiny").eval()
    image = torch.zeros(2, 3, 32, 32)
    with pytest.raises(InputError, match="takes no alpha"):
        encode_regions(model, image, alpha=None)
    add_alpha_(model)
    for alpha, words in (
        (torch.zeros(2, 1, 16, 16), "size"),
        (torch.zeros(2, 3, 32, 32), "expected normalised floats"),
        (torch.zeros(2, 1, 32, 32, dtype=torch.bool), "expected normalised floats"),
        (torch.full((2, 1, 32, 32), 3.0), "inside"),
        (torch.full((2, 1, 32, 32), float("nan")), "inside"),
        (torch.zeros(3, 1, 32, 32), "one for each of 2"),
    ):
        with pytest.raises(InputError, match=words):
            encode_regions(model, image, alpha=alpha)
    with pytest.raises(InputError, match=r"leave patches out"), the_stem(model).seeing(torch.zeros(2, 1, 32, 32)):
        model.encode_image(image, keep=torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(UnsupportedModelError, match=r"first layer|begins with"):
        add_alpha_(torch.nn.Linear(3, 4))
    with torch.no_grad():
        assert model.encode_image(image, keep=torch.zeros(2, 3, dtype=torch.int64)).pooled.shape == (2, 64)


def test_scores_and_groups() -> None:
    model = create("tiny").eval()
    stem = add_alpha_(model)
    torch.nn.init.normal_(stem.alpha, generator=torch.Generator().manual_seed(1))
    masks = torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[0, :16], masks[1, 16:], masks[2] = True, True, True
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    scores = region_scores(model, image, masks=masks, texts=["a cat", "a dog"])
    assert scores.shape == (3, 2)
    assert not torch.allclose(scores[0], scores[1])
    torch.testing.assert_close(
        scores[2], (model.embed([image.permute(1, 2, 0).numpy()]) @ model.embed(["a cat", "a dog"]).T)[0],
        atol=1e-5, rtol=0,
    )  # fmt: skip
    with pytest.raises(InputError, match="one image"):
        region_scores(model, torch.zeros(2, 3, 32, 32), masks=masks, texts=["a cat"])
    alpha, rest = alpha_param_groups(model, lr=1e-3, gamma=0.5)
    assert [name for name, _ in alpha["params"]] == ["visual.patch.alpha"]
    assert (alpha["lr"], rest["lr"], rest["weight_decay"]) == (1e-3, 5e-4, 0.01)
    assert len(rest["params"]) == len(list(model.visual.parameters())) - 1
    bare = AlphaVisionTower.from_clip(model.visual, start="normal")
    assert len(alpha_param_groups(bare, lr=1e-3)[1]["params"]) == len(rest["params"])
    assert bare.tower is not model.visual
