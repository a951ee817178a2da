"""Pipelines of diffusers behind an editor of clips: its sampling against theirs, what is kept, and what is refused."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tether.core.errors import InputError, UnsupportedModelError
from tether.methods.cut_and_paste import PipelineDiffusion, VideoEditor

diffusers = pytest.importorskip("diffusers", reason="needs tether-clip[generate]")


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A pipeline of Stable Diffusion's shape with random weights: latents of half the images' sides."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    words = ["a", "b", "c", "a</w>", "b</w>", "c</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    torch.manual_seed(0)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=50, hidden_size=12, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=8, bos_token_id=6, eos_token_id=7, pad_token_id=7,
        )
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=8, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, sample_size=16,
    )  # fmt: skip
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1, cross_attention_dim=12, attention_head_dim=4,
    )  # fmt: skip
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=40, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True
    )
    found = diffusers.StableDiffusionPipeline(
        vae=vae.eval(), text_encoder=text.eval(), unet=unet.eval(), scheduler=scheduler, safety_checker=None,
        tokenizer=CLIPTokenizer.from_pretrained(folder, model_max_length=8), feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    found.set_progress_bar_config(disable=True)
    return found


def clip(count: int = 3, side: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def test_it_samples_as_the_pipeline_does(pipe: Any) -> None:
    diffusion = PipelineDiffusion(pipe)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    said = diffusion.read(["a b"])
    theirs = pipe("a b", guidance_scale=1.0, num_inference_steps=5, height=16, width=16, output_type="latent",
                  latents=noise).images  # fmt: skip
    torch.testing.assert_close(diffusion.denoise(noise, said, steps=5), theirs, rtol=1e-4, atol=1e-5)
    assert diffusion.size == (16, 16)
    images = clip()
    latents = diffusion.to_samples(images)
    assert latents.shape == (3, 4, 8, 8)
    texts = diffusion.read(["a b"])
    again = diffusion.denoise(diffusion.inverted(noise, texts, steps=40), texts, steps=40)
    assert float((again - noise).abs().mean()) < 0.1 * float(noise.abs().mean())


@torch.no_grad()
def test_an_editor_edits_with_it_and_leaves_it_as_it_was(pipe: Any) -> None:
    diffusion, frames = PipelineDiffusion(pipe), clip()
    plain = pipe("a b", guidance_scale=1.0, num_inference_steps=2, height=16, width=16, output_type="latent",
                 latents=torch.ones(1, 4, 8, 8)).images  # fmt: skip
    editor = VideoEditor(diffusion, steps=4, half=True)
    found = editor.edit(frames, "a b", "a c", word="b")
    assert found.frames.shape == frames.shape
    assert found.masks.shape == (3, 16, 16)
    free = VideoEditor(diffusion, steps=4, blending=False).edit(frames, "a b", "a c", word="b")
    assert not torch.allclose(free.frames, found.frames, atol=1e-5)
    kept = VideoEditor(diffusion, steps=4, threshold=1.0).edit(frames, "a b", "a c", word="b")
    assert not bool(kept.masks.any())
    coded = diffusion.to_images(diffusion.to_samples(frames)).clamp(-1, 1)
    torch.testing.assert_close(kept.frames, coded)  # all is put back
    wide = VideoEditor(diffusion, steps=2).edit(torch.cat([frames, frames], dim=3), "a b", "a c", word="b")
    assert wide.frames.shape == (3, 3, 16, 32)
    tokens = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
    told = VideoEditor(diffusion, steps=4, blending=False).edit(frames, "a b", "a c", word="b", reference=tokens)
    assert not torch.allclose(told.frames, free.frames, atol=1e-5)
    same = pipe("a b", guidance_scale=1.0, num_inference_steps=2, height=16, width=16, output_type="latent",
                latents=torch.ones(1, 4, 8, 8)).images  # fmt: skip
    assert torch.equal(same, plain)


def test_other_pipelines_and_clips_are_told(pipe: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="SimpleNamespace has no unet"):
        PipelineDiffusion(SimpleNamespace())
    parts = {name: getattr(pipe, name) for name in ("unet", "vae", "tokenizer", "text_encoder")}
    with pytest.raises(UnsupportedModelError, match="alphas_cumprod"):
        PipelineDiffusion(SimpleNamespace(**parts, scheduler=SimpleNamespace()))
    other = SimpleNamespace(alphas_cumprod=torch.ones(4), config=SimpleNamespace(prediction_type="sample"))
    with pytest.raises(UnsupportedModelError, match="got 'sample'"):
        PipelineDiffusion(SimpleNamespace(**parts, scheduler=other))
    editor = VideoEditor(PipelineDiffusion(pipe), steps=2)
    for frames in (clip(side=15), clip()[0], (clip() * 100).to(torch.uint8)):
        with pytest.raises(InputError, match="images: expected"):
            editor.edit(frames, "a b", "a c", word="b")
    with pytest.raises(InputError, match="at most 8 tokens"):
        editor.edit(clip(), "a b a b a b a", "a c", word="b")
    with pytest.raises(InputError, match="alignment: expected one"):
        editor.edit(clip(), "a b", "a c c", word="b")
    with pytest.raises(InputError, match="word: expected one of the prompt"):
        editor.edit(clip(), "a b", "a c", word="c")
