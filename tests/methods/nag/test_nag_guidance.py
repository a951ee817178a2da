"""Guidance by attention in tiny networks and pipelines of Stable Diffusion's and Flux's shapes, weights at random."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tether.core.errors import InputError, UnsupportedModelError
from tether.generation import CFG, NAG, NAGGuidance, TextDiffusion, nag
from tether.methods.nag import guided_pipeline, negative_states
from tether.models import create

diffusers = pytest.importorskip("diffusers", reason="needs tether-clip[generate]")

STRONG = NAG(scale=6.0, tau=2.0, alpha=0.5)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unet(**settings: object) -> nn.Module:
    torch.manual_seed(0)
    made = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        norm_num_groups=8,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=2,
        **settings,
    )
    return made.eval().requires_grad_(False)


def flux() -> nn.Module:
    torch.manual_seed(0)
    made = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=6,
        axes_dims_rope=(2, 2, 4),
    )
    return made.eval().requires_grad_(False)


def sd3() -> nn.Module:
    torch.manual_seed(0)
    made = diffusers.SD3Transformer2DModel(
        sample_size=4,
        patch_size=1,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        pooled_projection_dim=6,
        out_channels=4,
        pos_embed_max_size=4,
    )
    return made.eval().requires_grad_(False)


PROMPT, NEGATIVE = noise(2, 5, 12, seed=1), noise(1, 3, 12, seed=2)


def run(model: nn.Module, prompt: Tensor = PROMPT, step: float = 500.0, **given: object) -> Tensor:
    rows = len(prompt)
    if "Flux" in type(model).__name__:
        return model(
            hidden_states=noise(rows, 9, 4),
            encoder_hidden_states=prompt,
            pooled_projections=noise(rows, 6),
            timestep=torch.full((rows,), step / 1000),
            img_ids=torch.stack([torch.zeros(9), torch.arange(9) // 3, torch.arange(9) % 3], dim=1),
            txt_ids=torch.zeros(prompt.shape[1], 3),
        ).sample
    if "SD3" in type(model).__name__:
        return model(noise(rows, 4, 4, 4), prompt, noise(rows, 6), torch.full((rows,), step)).sample
    return model(noise(rows, 4, 8, 8), step, encoder_hidden_states=prompt, **given).sample


MODELS = {"unet": unet, "flux": flux, "sd3": sd3}
models = pytest.mark.parametrize("name", MODELS)


@models
@torch.no_grad()
def test_scale_1_and_a_level_not_reached_are_the_same_bit_for_bit(name: str) -> None:
    model = MODELS[name]()
    plain = run(model)
    with NAGGuidance(model, NEGATIVE, NAG(scale=1.0)):
        assert torch.equal(run(model), plain)
    with NAGGuidance(model, NEGATIVE, NAG(scale=6.0, until=600.0)):
        assert torch.equal(run(model), plain)
    with NAGGuidance(model, NEGATIVE, STRONG):
        assert not torch.allclose(run(model), plain, atol=1e-5)
    assert torch.equal(run(model), plain)


@models
@torch.no_grad()
def test_a_negative_that_is_the_prompt_changes_nothing_to_speak_of(name: str) -> None:
    model = MODELS[name]()
    plain = run(model)
    with NAGGuidance(model, PROMPT, STRONG):
        torch.testing.assert_close(run(model), plain, rtol=1e-4, atol=1e-5)


@models
@torch.no_grad()
def test_only_the_last_half_is_guided_beside_cfg(name: str) -> None:
    model, both = MODELS[name](), torch.cat([noise(2, 5, 12, seed=5), PROMPT])
    plain = run(model, both)
    with NAGGuidance(model, NEGATIVE, STRONG, rows="last half"):
        guided = run(model, both)
        torch.testing.assert_close(guided[:2], plain[:2], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(guided[2:], plain[2:], atol=1e-5)
        with pytest.raises(InputError, match="even"):
            run(model, both[:3])
    with NAGGuidance(model, NEGATIVE.expand(4, -1, -1), STRONG):
        torch.testing.assert_close(run(model, both)[2:], guided[2:], rtol=1e-4, atol=1e-5)


class Slow:
    """Cross-attention guided as the paper writes it, with every projection done anew."""

    def __init__(self, inner: object) -> None:
        self.inner = inner

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        if encoder_hidden_states is None:
            return self.inner(attn, hidden_states)
        outputs = []
        for context in (PROMPT, NEGATIVE.expand(len(hidden_states), -1, -1)):
            heads = [attn.head_to_batch_dim(one) for one in
                     (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))]  # fmt: skip
            weights = attn.get_attention_scores(heads[0], heads[1])
            outputs.append(attn.batch_to_head_dim(torch.bmm(weights, heads[2])))
        z = nag(*outputs, scale=STRONG.scale, tau=STRONG.tau, alpha=STRONG.alpha)
        return attn.to_out[0](z)


@torch.no_grad()
def test_the_unet_is_guided_as_the_paper_writes_it() -> None:
    model = unet()
    before = model.attn_processors
    model.set_attn_processor({name: Slow(one) for name, one in before.items()})
    wanted = run(model)
    model.set_attn_processor(before)
    with NAGGuidance(model, NEGATIVE, STRONG):
        torch.testing.assert_close(run(model), wanted, rtol=1e-4, atol=1e-5)
    model.set_attn_processor(diffusers.models.attention_processor.SlicedAttnProcessor(1))
    with NAGGuidance(model, NEGATIVE, STRONG):
        torch.testing.assert_close(run(model), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["flux", "sd3"])
@torch.no_grad()
def test_joint_layers_are_guided_as_with_a_batch_of_both_texts(name: str) -> None:
    """What the released code does: prompts and negatives as a batch, the image's guided tokens in both halves."""
    model = MODELS[name]()
    both = torch.cat([PROMPT, NEGATIVE.repeat(2, 2, 1)[:, :5]])

    def guided(tokens: Tensor) -> Tensor:
        z = nag(*tokens.chunk(2), scale=STRONG.scale, tau=STRONG.tau, alpha=STRONG.alpha)
        return torch.cat([z, z])

    hooks = []
    for one in model.attn_processors:
        attn = model.get_submodule(one.removesuffix(".processor"))
        if getattr(attn, "pre_only", False):  # single blocks end without a projection of their own
            hooks.append(
                attn.register_forward_hook(lambda *call: torch.cat([call[2][:, :5], guided(call[2][:, 5:])], 1))
            )
        else:
            hooks.append(attn.to_out[0].register_forward_pre_hook(lambda _, given: (guided(given[0]),)))
    torch.manual_seed(0)
    plain_noise = noise
    globals()["noise"] = lambda *shape, seed=0: plain_noise(shape[0] // 2, *shape[1:], seed=seed).repeat(
        2, *[1] * (len(shape) - 1)
    )
    try:
        wanted = run(model, both)[:2]
    finally:
        globals()["noise"] = plain_noise
        for hook in hooks:
            hook.remove()
    with NAGGuidance(model, NEGATIVE.repeat(1, 2, 1)[:, :5], STRONG):
        torch.testing.assert_close(run(model), wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_keys_of_the_negative_are_computed_once_and_padding_is_not_seen() -> None:
    model, seen = unet(), []
    attn = next(one for name, one in model.named_modules() if name.endswith("attn2"))
    hook = attn.to_k.register_forward_hook(lambda _, given, __: seen.append(given[0].shape[1]))
    with NAGGuidance(model, NEGATIVE, STRONG):
        first, *_ = (run(model, step=step) for step in (500.0, 400.0, 300.0))
    assert seen == [5, 3, 5, 5]
    hook.remove()
    padded = torch.cat([NEGATIVE, noise(1, 4, 12)], dim=1)
    mask = torch.arange(7)[None] < 3
    with NAGGuidance(model, padded, STRONG, mask=mask):
        torch.testing.assert_close(run(model), first, rtol=1e-4, atol=1e-5)
    shown = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    with NAGGuidance(model, NEGATIVE, STRONG):
        masked = run(model, encoder_attention_mask=shown)
    torch.testing.assert_close(masked[0], first[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(masked[1], first[1], atol=1e-5)


@torch.no_grad()
def test_layers_are_chosen_by_name() -> None:
    model = unet()
    with NAGGuidance(model, NEGATIVE, STRONG) as guidance:
        whole = run(model)
    assert len(guidance._chosen) == len(model.attn_processors)
    with NAGGuidance(model, NEGATIVE, STRONG, layers=["up_blocks"]):
        assert not torch.allclose(run(model), whole, atol=1e-5)
    with pytest.raises(InputError, match="layers: expected parts of"):
        NAGGuidance(model, NEGATIVE, layers=["no such"])


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("scale", [5.0, 20.0, 50.0])
def test_outputs_are_never_longer_than_the_cap(scale: float, p: int) -> None:
    z_pos, z_neg = noise(4, 9, 16), noise(4, 9, 16, seed=1)
    z_pos[0, 0] = 0
    norm = [torch.linalg.vector_norm(one, ord=p, dim=-1) for one in (z_pos, nag(z_pos, z_neg, scale=scale, p=p))]
    assert bool((norm[1] <= (0.25 * 2.5 + 0.75) * norm[0] * (1 + 1e-5) + 1e-5).all())
    free = nag(z_pos, z_neg, scale=scale, tau=1e9, alpha=1.0, p=p)
    assert float(torch.linalg.vector_norm(free, ord=p, dim=-1).mean()) > 0.5 * scale * float(norm[0].mean())
    low = nag(z_pos.bfloat16(), z_neg.bfloat16(), scale=scale, p=p)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), nag(z_pos, z_neg, scale=scale, p=p), rtol=0.1, atol=0.1)


def test_bad_input_of_guidance_is_told() -> None:
    for settings, said in (
        ({"scale": 0.5}, "scale"),
        ({"tau": 0.0}, "tau"),
        ({"alpha": 1.5}, "alpha"),
        ({"p": 3}, "p"),
    ):
        with pytest.raises(InputError, match=f"^{said}: expected"):
            NAG(**settings)
        with pytest.raises(InputError, match=f"^{said}: expected"):
            nag(PROMPT, PROMPT, **settings)
    with pytest.raises(InputError, match="z_neg: expected"):
        nag(PROMPT, PROMPT[:1])
    with pytest.raises(UnsupportedModelError, match=r"pipe\.unet"):
        NAGGuidance(nn.Linear(2, 2), NEGATIVE)
    with pytest.raises(InputError, match="negative: expected"):
        NAGGuidance(unet(), NEGATIVE[0])
    with pytest.raises(InputError, match="mask: expected"):
        NAGGuidance(unet(), NEGATIVE, mask=torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(InputError, match="mask, layers"):
        NAGGuidance(flux(), NEGATIVE, mask=torch.ones(1, 3, dtype=torch.bool))
    model = unet()
    with pytest.raises(InputError, match="negative: expected"), NAGGuidance(model, noise(1, 3, 8)):
        run(model)
    with NAGGuidance(model, NEGATIVE) as used, pytest.raises(InputError, match="in use"):
        used.__enter__()


def test_pipelines_of_diffusers_take_it(tmp_path: Path) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    words = ["a", "b", "c", "a</w>", "b</w>", "c</w>", "<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path, model_max_length=8)

    torch.manual_seed(0)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=50, hidden_size=12, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=8, bos_token_id=6, eos_token_id=7, pad_token_id=7,
        )
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8,), norm_num_groups=8, down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",), latent_channels=4, sample_size=8,
    )  # fmt: skip
    pipe = diffusers.StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet(), scheduler=diffusers.DDIMScheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)

    def made(scale: float = 1.0) -> Tensor:
        given = {"negative_prompt_embeds": noise(1, 5, 12, seed=4)} if scale > 1 else {}
        found = pipe(
            prompt_embeds=PROMPT[:1], guidance_scale=scale, num_inference_steps=2, height=8, width=8,
            output_type="latent", latents=noise(1, 4, 8, 8), **given,
        )  # fmt: skip
        return found.images

    for scale, rows in ((1.0, "all"), (3.0, "last half")):
        plain = made(scale)
        with NAGGuidance(pipe.unet, NEGATIVE, STRONG, rows=rows):
            assert not torch.allclose(made(scale), plain, atol=1e-5)
        assert torch.equal(made(scale), plain)
    with guided_pipeline(pipe, "b c", STRONG):
        worded = pipe(
            "a b", guidance_scale=1.0, num_inference_steps=2, height=8, width=8, output_type="latent",
            latents=noise(1, 4, 8, 8),
        ).images  # fmt: skip
    states = [negative_states(pipe, text) for text in ("a b", "b c")]
    assert states[0].shape == (1, 8, 12)
    with NAGGuidance(pipe.unet, states[1], STRONG):
        found = pipe(
            prompt_embeds=states[0], guidance_scale=1.0, num_inference_steps=2, height=8, width=8,
            output_type="latent", latents=noise(1, 4, 8, 8),
        )  # fmt: skip
    assert torch.equal(found.images, worded)
    with pytest.raises(InputError, match="negative: expected at least one text"):
        guided_pipeline(pipe, " ")
    for other in (nn.Linear(1, 1), "a pipeline"):
        with pytest.raises(UnsupportedModelError, match="pipe: expected"):
            guided_pipeline(other, "b")
    transformer = flux()
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8,), norm_num_groups=8, down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",), latent_channels=1, sample_size=8,
    )  # fmt: skip
    pipe = diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), vae=vae, text_encoder=None, tokenizer=None,
        text_encoder_2=None, tokenizer_2=None, transformer=transformer,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)

    def shown() -> Tensor:
        return pipe(
            prompt_embeds=PROMPT[:1], pooled_prompt_embeds=noise(1, 6), num_inference_steps=2, height=8, width=8,
            output_type="latent", latents=noise(1, 16, 4),
        ).images  # fmt: skip

    plain = shown()
    with NAGGuidance(pipe.transformer, NEGATIVE, STRONG):
        assert not torch.allclose(shown(), plain, atol=1e-5)
    assert torch.equal(shown(), plain)


def test_our_own_diffusion_takes_a_negative_text() -> None:
    torch.manual_seed(0)
    made = TextDiffusion(create("tiny").eval(), size=8, channels=(8, 16), timesteps=20).eval()
    texts, x = ["a cat", "a dog on a mat"], noise(2, 3, 8, 8)

    def images(**given: object) -> Tensor:
        return made.generate(texts, steps=2, noise=x, **given)

    plain = images()
    assert torch.equal(images(negative="a mat", guidance=NAG(scale=1.0)), plain)
    torch.testing.assert_close(images(negative="a mat", guidance=CFG(scale=1.0)), plain)
    for guidance in (NAG(scale=8.0), CFG(scale=3.0)):
        guided = images(negative="a mat", guidance=guidance)
        assert not torch.allclose(guided, plain, atol=1e-4)
        each = images(negative=["a mat", "a mat"], guidance=guidance)
        torch.testing.assert_close(each, guided)
    assert torch.equal(images(negative="a mat"), images(negative="a mat", guidance=NAG()))
    for wrong in (["a", "b", "c"], ""):
        with pytest.raises(InputError, match="negative: expected"):
            images(negative=wrong)
    assert "guidance" in inspect.signature(made.generate).parameters
