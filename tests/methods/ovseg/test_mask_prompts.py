"""Mask prompts on every family of encoder: exact without a mask, saved, loaded and resized."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tether
from families import FAMILIES
from tether.core.errors import InputError, UnsupportedModelError
from tether.methods.ovseg.mask_prompts import MaskPromptTower, add_mask_prompts_, encode_masked
from tether.models import create
from tether.models.compose import compose
from tether.models.export import export
from tether.models.save import save
from tether.models.towers.positions import resize_grid
from tether.models.towers.vision.mask_prompt_stem import MaskPromptStem, prompts_of

REFUSED = {"MobileCLIP2", "ConvNeXt", "RN50", "ALIGN", "composed EfficientNet"}
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")]


def the_stem(model: Any) -> MaskPromptStem:
    found = prompts_of(model)
    assert found is not None
    return found


def masked_image(model: Any, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images, and masks of which the right half is empty."""
    size = model.image_spec.size
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(2, *size, dtype=torch.bool)
    mask[:, size[0] // 4, : size[1] // 2] = True
    return image, mask


@pytest.mark.parametrize("kind", FAMILIES)
def test_only_kept_patches_count(kind: str, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = FAMILIES[kind](tmp_path).eval()
    if kind in REFUSED:
        with pytest.raises(UnsupportedModelError):
            add_mask_prompts_(model, depth=1)
        return
    image, mask = masked_image(model)
    with torch.no_grad():
        plain = model.encode_image(image).pooled
        tower = MaskPromptTower.from_clip(model, depth=2, std=0.5, generator=torch.Generator().manual_seed(1))
        assert torch.equal(tower(image), plain)
        torch.testing.assert_close(tower(image, torch.ones_like(mask)), plain, atol=1e-5, rtol=1e-4)
        found = tower(image, mask)
        assert not torch.allclose(found, plain, atol=1e-4)
        other = image.clone()
        other[..., image.shape[3] // 2 :] += 1  # no pixel of the mask is in these patches
        torch.testing.assert_close(tower(other, mask), found, atol=1e-6, rtol=1e-5)
        tower.prompts[1] *= -1
        assert not torch.allclose(tower(image, mask), found, atol=1e-4)
        assert torch.equal(tower(image), plain)
    assert prompts_of(model) is None


@pytest.mark.parametrize("kind", ["Tether", "open_clip ViT", "transformers' CLIP", "composed ViT"])
def test_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    model = FAMILIES[kind](tmp_path / "base").eval()
    stem = add_mask_prompts_(model, depth=1, generator=torch.Generator().manual_seed(1))
    save(model, tmp_path / "saved")
    opened = tether.load(tmp_path / "saved")
    assert torch.equal(the_stem(opened).prompts, stem.prompts)
    image, mask = masked_image(model)
    with torch.no_grad():
        assert torch.equal(
            encode_masked(opened, image, mask=mask).pooled, encode_masked(model, image, mask=mask).pooled
        )
    with pytest.raises(InputError, match=r"mask prompts|composed"):
        export(model, tmp_path / "other", format="transformers" if "transformers" in kind else "open_clip")


def test_resized_and_composed(tmp_path: Path) -> None:
    model = create("tiny").eval()
    stem = add_mask_prompts_(model, depth=2, generator=torch.Generator().manual_seed(1))
    wide = model.resized(image_size=(32, 64))
    expected = resize_grid(stem.prompts.detach(), old=(4, 4), new=(4, 8))
    torch.testing.assert_close(the_stem(wide).prompts.detach(), expected)
    image, mask = masked_image(wide)
    assert encode_masked(wide, image, mask=mask).pooled.shape == (2, 64)
    with pytest.raises(InputError, match=r"got \(2, 3, 32, 64\)"):
        encode_masked(model, torch.zeros(2, 3, 32, 64), mask=mask)
    save(model, tmp_path / "one")
    save(compose(image=str(tmp_path / "one"), text=str(tmp_path / "one"), dim=16), tmp_path / "both")
    assert torch.equal(the_stem(tether.load(tmp_path / "both")).prompts, stem.prompts)


def test_plain_weights_leave_the_prompts() -> None:
    plain, model = create("tiny", seed=3).eval(), create("tiny").eval()
    drawn = add_mask_prompts_(model, depth=1).prompts.detach().clone()
    model.load_state_dict(plain.state_dict())
    assert torch.equal(the_stem(model).prompts, drawn)
    image, _ = masked_image(model)
    with torch.no_grad():
        assert torch.equal(model.encode_image(image).pooled, plain.encode_image(image).pooled)


def test_training_prompts_leaves_the_unmasked_embedding() -> None:
    model = create("tiny").eval()
    image, mask = masked_image(model)
    model.requires_grad_(False)  # torch takes another way through linear layers that learn, which rounds otherwise
    with torch.no_grad():
        before = model.encode_image(image).pooled
    stem = add_mask_prompts_(model, depth=2, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW([stem.prompts], lr=0.05, weight_decay=0.0)
    for _ in range(2):
        optimizer.zero_grad()
        encode_masked(model, image, mask=mask).pooled.square().sum().backward()
        optimizer.step()
    with torch.no_grad():
        assert torch.equal(model.encode_image(image).pooled, before)


def test_bad_input() -> None:
    model = create("tiny").eval()
    image, mask = masked_image(model)
    with pytest.raises(InputError, match="has no mask prompts"):
        encode_masked(model, image, mask=mask)
    with pytest.raises(InputError, match="has no mask prompts"):
        MaskPromptTower(model)
    with pytest.raises(InputError, match=r"depth: expected at most 2"):
        add_mask_prompts_(model, depth=3)
    add_mask_prompts_(model, depth=2)
    with pytest.raises(InputError, match="already"):
        add_mask_prompts_(model, depth=2)
    for wrong in (mask.float(), mask[:, :16], mask[:1], mask[:, None].expand(-1, 3, -1, -1)):
        with pytest.raises(InputError, match="mask: expected bool"):
            encode_masked(model, image, mask=wrong)
    assert torch.equal(
        encode_masked(model, image, mask=mask[:, None]).pooled, encode_masked(model, image, mask=mask).pooled
    )
    with pytest.raises(UnsupportedModelError, match=r"tether\.load"):
        add_mask_prompts_(torch.nn.Linear(3, 4))
