"""The small diffusion against diffusers' own schedulers, the way back, and what it refuses."""

from __future__ import annotations

import sys

import pytest
import torch

from tether.core.errors import InputError, MissingExtraError, NotFiniteError
from tether.generation import TextDiffusion, train_generator
from tether.generation.diffuse.ddim import ddim_levels, ddim_step
from tether.models import create
from tether.models.texts.text_state import text_tokens

diffusers = pytest.importorskip("diffusers", reason="needs tether-clip[generate]")

STEPS = 5


def diffusion(**settings: object) -> TextDiffusion:
    torch.manual_seed(0)
    return TextDiffusion(create("tiny").eval(), **{"size": 8, "channels": (8, 16), "timesteps": 20, **settings}).eval()


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("objective", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("betas", ["squaredcos_cap_v2", "scaled_linear"])
def test_sampling_is_that_of_diffusers_scheduler(objective: str, betas: str) -> None:
    made, x = diffusion(objective=objective, betas=betas), noise(2, 3, 8, 8)
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=20,
        beta_schedule=betas,
        prediction_type=objective,
        timestep_spacing="trailing",
        clip_sample=False,
    )
    scheduler.set_timesteps(STEPS)
    texts, theirs = made.read(["a cat", "a dog"]), x
    with torch.no_grad():
        for t in scheduler.timesteps:
            said = made.unet(theirs, t, encoder_hidden_states=texts.tokens, encoder_attention_mask=texts.mask).sample
            theirs = scheduler.step(said, t, theirs).prev_sample
    ours = made.denoise(x, texts, steps=STEPS, on_step=None)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("betas", ["squaredcos_cap_v2", "scaled_linear"])
def test_inversion_is_that_of_diffusers_inverse_scheduler(betas: str) -> None:
    made, x = diffusion(betas=betas), noise(2, 3, 8, 8).clamp(-1, 1)
    scheduler = diffusers.DDIMInverseScheduler(
        num_train_timesteps=20,
        beta_schedule=betas,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
    )
    scheduler.set_timesteps(STEPS)
    texts, theirs = made.read(["a cat", "a dog"]), x
    with torch.no_grad():
        for t in scheduler.timesteps:
            said = made.unet(theirs, t, encoder_hidden_states=texts.tokens, encoder_attention_mask=texts.mask).sample
            theirs = scheduler.step(said, t, theirs).prev_sample
    seen: list[int] = []
    ours = made.invert(x, ["a cat", "a dog"], steps=STEPS, on_step=lambda left, _: seen.append(left))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
    assert seen == [4, 3, 2, 1, 0]


def test_inversion_leads_back_where_the_steps_are_small() -> None:
    made, x = diffusion(betas="scaled_linear", timesteps=1000), noise(1, 3, 8, 8).clamp(-1, 1)
    errors = []
    for steps in (10, 200):
        back = made.generate(["a cat"], steps=steps, noise=made.invert(x, ["a cat"], steps=steps))
        errors.append(float((back - x).abs().mean()))
    assert errors[1] < 0.2 * errors[0]
    assert errors[1] < 0.02


def test_a_step_is_undone_by_the_step_back() -> None:
    x, eps = noise(2, 3, 4, 4).double(), noise(2, 3, 4, 4).double().flip(0)
    torch.testing.assert_close(ddim_step(ddim_step(x, eps, 0.3, 0.8), eps, 0.8, 0.3), x)
    for levels in ((0.0, 0.5), (0.5, 1.1), (1.2, 0.5)):
        with pytest.raises(InputError, match="abar"):
            ddim_step(x, eps, *levels)
    with pytest.raises(InputError, match="eps"):
        ddim_step(x, eps[:1], 0.3, 0.8)
    with pytest.raises(InputError, match="divides"):
        list(ddim_levels(torch.linspace(1, 0, 20), steps=3))


def test_padding_is_not_read_and_the_step_may_be_replaced() -> None:
    made, x = diffusion(), noise(2, 3, 8, 8)
    alone = made.generate(["a cat"], steps=STEPS, noise=x[:1])
    beside = made.generate(["a cat", "a very long text about a dog"], steps=STEPS, noise=x)
    torch.testing.assert_close(beside[:1], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(beside[1:], made.generate(["a cat"], steps=STEPS, noise=x[1:]), atol=1e-5)
    black = made.generate(["a cat"], steps=STEPS, noise=x[:1], on_step=lambda left, now: None if left else now * 0 - 1)
    assert bool((black == -1).all())


def test_a_reader_of_ones_own_gets_the_gradient() -> None:
    made, texts = diffusion(), ["a cat", "a dog"]
    shift = torch.zeros(1, requires_grad=True)

    def read(some: list[str]):
        from dataclasses import replace

        found = made.read(some)
        return replace(found, tokens=found.tokens + shift)

    loss = made.loss(torch.zeros(2, 3, 8, 8), texts, generator=torch.Generator().manual_seed(0), read=read)
    loss.backward()
    assert shift.grad is not None
    assert float(shift.grad) != 0


def test_tokens_of_texts_are_the_towers() -> None:
    model = create("tiny").eval()
    ids = model.tokenizer(["a cat", "a very black cat"])
    ours, theirs = text_tokens(model, ids), model.encode_text(ids, want="tokens")
    torch.testing.assert_close(ours.tokens[ours.mask], theirs.tokens[ours.mask])
    torch.testing.assert_close(ours.pooled, theirs.pooled)


def test_bad_settings_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for settings in ({"channels": (10, 16)}, {"size": 9}, {"plain": 3}):
        with pytest.raises(InputError, match="channels, size, plain"):
            diffusion(**settings)
    made = diffusion()
    with pytest.raises(InputError, match="generator: expected one"):
        made.generate(["a cat"], steps=5)
    with pytest.raises(InputError, match="noise: expected"):
        made.generate(["a cat"], steps=5, noise=torch.zeros(1, 3, 4, 4))
    with pytest.raises(InputError, match="divides"):
        made.generate(["a cat"], steps=7, noise=noise(1, 3, 8, 8))
    with pytest.raises(InputError, match="more than the"):
        made.read(["cat " * 500])
    monkeypatch.setattr(made, "loss", lambda *_, **__: torch.tensor(torch.nan, requires_grad=True))
    with pytest.raises(NotFiniteError, match="step 0"):
        train_generator(made, torch.zeros(1, 3, 8, 8, dtype=torch.uint8), [["a"]], steps=1)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtraError, match="generate"):
        diffusion()
