"""Regional prompts and hidden patches: who sees whom, what stays as it was, and which towers have them."""

import pytest
import torch

from families import FAMILIES
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.model_digest import model_digest
from tether.methods.fix_clip.region_prompts import RegionPromptEncoder, regional_attention_mask, text_layer_states
from tether.models import create
from tether.models.towers.vision.masked_patches import hidden_patches, mask_patches_, unmask_patches_

WITH_CLASS = ["Tether", "open_clip ViT", "CLIPA", "timm ViT", "transformers' CLIP", "MetaCLIP 2"]
WITHOUT = ["transformers' SigLIP", "EVA02", "RN50"]
MASKABLE = [*WITH_CLASS, "transformers' SigLIP", "EVA02", "ViT and BERT"]


def family(name, folder):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FAMILIES[name](folder).double().eval()


def image_of(model, *, seed=0):
    shape = (2, 3, *model.image_spec.size)
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", WITH_CLASS)
def test_prompts_reach_the_embedding_through_the_class_token(name, tmp_path):
    model = family(name, tmp_path)
    reader = RegionPromptEncoder(model, count=2, std=1.0, generator=torch.Generator().manual_seed(1))
    image = image_of(model)
    before = reader._run(image)
    with torch.no_grad():
        reader.vectors.copy_(reader.vectors.roll(1, 2))
    after = reader._run(image)
    first = reader._tower().prefix
    torch.testing.assert_close(before[0].x[:, first:], after[0].x[:, first:])  # patches, within one layer
    assert not torch.allclose(before[0].x[:, 0], after[0].x[:, 0])
    assert not torch.allclose(before[-1].x[:, first:], after[-1].x[:, first:])
    layers = reader.layer_states(image)
    assert layers.shape == (len(before), 2, reader._tower().width)
    torch.testing.assert_close(layers[-1], after[-1].x[:, 0])
    reader.encode_image(image).pooled.square().sum().backward()
    assert reader.vectors.grad[0].abs().sum() > 0  # a tower that pools patches reads no class token after the last


def test_prompts_that_are_hidden_change_nothing():
    model = create("tiny").double().eval()
    reader, image = RegionPromptEncoder(model, count=3), image_of(model)
    reader.mask[:1, 1:4] = False
    torch.testing.assert_close(reader.encode_image(image).pooled, model.encode_image(image).pooled)
    ids = model.tokenizer(["a cat", "a red dog"])
    layers = text_layer_states(model, ids)
    torch.testing.assert_close(model.text.project(model.text.readout(layers[-1])), model.encode_text(ids).pooled)


@pytest.mark.parametrize("name", WITHOUT)
def test_other_towers_are_refused(name, tmp_path):
    with pytest.raises(UnsupportedModelError):
        RegionPromptEncoder(family(name, tmp_path))


def test_bad_input_and_files(tmp_path):
    model = create("tiny")
    with pytest.raises(InputError, match="at most the 16 patches, got 17"):
        RegionPromptEncoder(model, count=17)
    with pytest.raises(InputError, match="at most the 3 patches"):
        regional_attention_mask(3, n_prompts=4)
    reader = RegionPromptEncoder(model, count=2)
    with pytest.raises(InputError, match="mask"):
        reader.encode_image(image_of(model), mask=torch.ones(2, 16, dtype=torch.bool))
    reader.save(tmp_path / "prompts.safetensors")
    again = RegionPromptEncoder.load(tmp_path / "prompts.safetensors", model=model)
    assert torch.equal(again.vectors, reader.vectors)
    assert len({model_digest(one) for one in (model, reader, again)}) == 2
    with pytest.raises(InputError, match="an image tower"):
        RegionPromptEncoder.load(tmp_path / "prompts.safetensors", model=create("tiny", seed=5))


@pytest.mark.parametrize("name", MASKABLE)
def test_hidden_patches_are_not_seen(name, tmp_path):
    model = family(name, tmp_path)
    image = image_of(model)
    plain = model.encode_image(image).pooled
    masked, tokens = mask_patches_(model), []
    masked.layer.register_forward_hook(lambda *given: tokens.append(given[-1]))
    torch.testing.assert_close(model.encode_image(image).pooled, plain)
    hidden = torch.ones(2, tokens[0].numel() // masked.vector.numel() // 2, dtype=torch.bool)
    with masked.hiding(hidden):
        dark = model.encode_image(image).pooled
        torch.testing.assert_close(dark, model.encode_image(image_of(model, seed=1)).pooled)
        dark.sum().backward()
        assert masked.vector.grad.abs().sum() > 0
    with masked.hiding(~hidden):
        torch.testing.assert_close(model.encode_image(image).pooled, plain)
    with masked.hiding(hidden[:, :-1]), pytest.raises(InputError, match="hidden: expected bool"):
        model.encode_image(image)
    with pytest.raises(InputError, match="hides patches already"):
        mask_patches_(model)
    unmask_patches_(model)
    assert not any("vector" in key for key in model.state_dict())
    with pytest.raises(InputError, match="hides no patches"):
        unmask_patches_(model)


def test_equal_counts_are_hidden():
    hidden = hidden_patches(50, patches=10, ratio=0.75, generator=torch.Generator().manual_seed(0))
    assert hidden.sum(1).tolist() == [7] * 50
    assert len(hidden.unique(dim=0)) > 10
    with pytest.raises(InputError, match="ratio"):
        hidden_patches(2, patches=4, ratio=1.0)


def test_networks_without_patches(tmp_path):
    with pytest.raises(UnsupportedModelError, match="is no vision transformer"):
        mask_patches_(family("RN50", tmp_path))
