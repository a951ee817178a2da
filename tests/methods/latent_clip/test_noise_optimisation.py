"""Noise moved toward rewards: its length, its bound, what is kept, and what each reward looks at."""

from __future__ import annotations

import math

import pytest
import torch

from tether.core.errors import InputError
from tether.methods.latent_clip import NormRegularizer, PromptReward, optimize_noise
from tether.models import create
from tether.models.latent.codec import ConvCodec

Z0 = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))


class Near:
    """The squared distance of each image to a number."""

    def __init__(self, target: float = 1.0, weight: float = 1.0) -> None:
        self.target, self.weight, self.calls = target, weight, 0

    def __call__(self, made: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return (made - self.target).square().flatten(1).mean(1)


@pytest.fixture(scope="module")
def model():
    return create("tiny", vision={"tower": "latent"}).eval()


def test_the_regulariser_is_least_at_the_length_of_normal_noise() -> None:
    term = NormRegularizer(weight=1.0)
    z = torch.ones(1, 50) * (math.sqrt(49 / 50))
    z.requires_grad_()
    term(z).sum().backward()
    assert z.grad.abs().max() < 1e-6
    large = torch.full((1, 65536), 1.0, dtype=torch.bfloat16)
    assert term(large).dtype == torch.float32
    assert term(large).item() == pytest.approx(0.5 * 65536 - 65535 * math.log(256), rel=1e-6)
    with pytest.raises(InputError, match="length above 0, got 0 in image 1"):
        term(torch.stack([torch.ones(3), torch.zeros(3)]))


def test_images_apart_are_as_alone() -> None:
    both = optimize_noise(torch.tanh, rewards=[Near()], z0=Z0, steps=6)
    for row in range(2):
        alone = optimize_noise(torch.tanh, rewards=[Near()], z0=Z0[row : row + 1], steps=6)
        assert torch.allclose(both.z[row], alone.z[0], atol=1e-6)
        assert torch.allclose(both.made[row], alone.made[0], atol=1e-6)
        assert both.step[row] == alone.step[0]
    one = optimize_noise(torch.tanh, rewards=[Near()], z0=Z0, steps=6, images="together")
    assert one.history[0].loss.shape == (1,)
    assert one.history[0].loss[0] == pytest.approx(both.history[0].loss.mean().item())
    first, second = (step.z for step in one.history[:2])
    bound = 5.0 * 1.9 * 0.1  # rate, Nesterov's first step, bound
    assert torch.linalg.vector_norm(second - first).item() == pytest.approx(bound, rel=1e-3)


def test_no_step_after_the_last_and_the_best_is_kept() -> None:
    reward, calls = Near(), []
    before = Z0.clone()
    found = optimize_noise(
        lambda z: calls.append(0) or torch.tanh(z),
        rewards=[reward],
        z0=Z0,
        steps=7,
        optimizer={"name": "sgd", "lr": 500.0, "momentum": 0.9},
        grad_clip=math.inf,
        regularizer=None,
        on_step=lambda step: None,
    )
    assert (len(calls), reward.calls, len(found.history)) == (7, 7, 7)
    assert torch.equal(Z0, before)
    losses = torch.stack([step.loss for step in found.history])
    assert torch.equal(found.loss, losses.min(0).values)
    assert torch.equal(found.step, losses.argmin(0))
    assert torch.equal(torch.tanh(found.z), found.made)
    assert torch.equal(optimize_noise(torch.tanh, rewards=[reward], z0=Z0, steps=1).z, Z0)


def test_restarts_are_further_draws() -> None:
    def draws() -> torch.Generator:
        return torch.Generator().manual_seed(3)

    found = optimize_noise(torch.tanh, rewards=[Near()], z0=Z0, steps=1, restarts=5, draws=draws())
    assert [(step.start, step.step) for step in found.history] == [(start, 0) for start in range(6)]
    losses = torch.stack([step.loss for step in found.history])
    assert torch.equal(found.loss, losses.min(0).values)
    assert torch.equal(found.start, losses.argmin(0))
    fresh = torch.randn(Z0.shape, generator=draws())
    assert torch.equal(found.history[1].z, fresh)


def test_several_rewards_and_half_precision() -> None:
    found = optimize_noise(
        lambda z: torch.tanh(z.bfloat16()), rewards=[Near(weight=2.0), Near(0.0, weight=0.5)], z0=Z0.bfloat16(), steps=3
    )
    assert found.z.dtype == torch.float32
    step = found.history[0]
    assert torch.allclose(step.loss, 2 * step.rewards[0] + 0.5 * step.rewards[1])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"steps": 0}, "steps: expected"),
        ({"rewards": []}, "rewards: expected"),
        ({"z0": torch.zeros(2, 3)}, "z: expected noise of a length above 0"),
        ({"z0": torch.zeros(2, 3, dtype=torch.int64)}, r"z0: expected floats \(b, ...\), got \(2, 3\)"),
        ({"z0": torch.full((2, 3), math.nan)}, "z0: expected finite"),
        ({"restarts": 2}, "draws: expected a generator"),
        ({"rewards": [Near(math.inf)]}, "step 0: expected finite losses"),
        ({"optimizer": "sgdd"}, "optimizer"),
        ({"generator": lambda z: z.detach()}, "rewards: expected losses that follow the noise"),
        ({"generator": lambda z: z[:1]}, r"rewards\[0\]: expected \(2,\) losses, one an image, got \(1,\)"),
    ],
)
def test_bad_input_is_named(given: dict, said: str) -> None:
    settings = {"generator": torch.tanh, "rewards": [Near()], "z0": Z0} | given
    with pytest.raises(InputError, match=said):
        optimize_noise(settings.pop("generator"), **settings)


def test_clip_reward_leads_to_the_text_and_leaves_the_model_alone(model) -> None:
    reward = PromptReward(model, "a red circle")
    cosines = 100 - reward(Z0)
    text, image = model.embed("a red circle"), model.encode_image(Z0).unit
    assert torch.allclose(cosines, model.logit_scale * (image @ text.T.to(image))[:, 0], atol=1e-3)
    found = optimize_noise(torch.tanh, rewards=[reward], z0=Z0, steps=10)
    assert (found.loss < found.history[0].loss).all()
    assert all(value.grad is None for value in model.parameters())
    away = PromptReward(model, "a red circle", direction="away")
    assert torch.allclose(reward(Z0) + away(Z0), torch.full((2,), 200.0))


def test_negative_and_other_texts(model) -> None:
    wanted, not_wanted = (100 - PromptReward(model, text)(Z0) for text in ("a cat", "a dog"))
    both = PromptReward(model, "a cat", negative="a dog", negative_weight=0.5)(Z0)
    assert torch.allclose(both, 100 - wanted + 0.5 * not_wanted, atol=1e-4)
    told = PromptReward(model, "a cat", others=["a dog"])(Z0)
    chances = torch.stack([wanted, not_wanted], dim=1).softmax(1)
    assert torch.allclose(told, -chances[:, 0].log(), atol=1e-4)
    away = PromptReward(model, "a cat", others=["a dog"], direction="away")(Z0)
    assert torch.allclose(away, -chances[:, 1].log(), atol=1e-4)
    each = PromptReward(model, ["a cat", "a dog"])(Z0)
    assert torch.allclose(each, torch.stack([100 - wanted[0], 100 - not_wanted[1]]), atol=1e-4)


def test_a_model_on_pixels_judges_through_the_codec() -> None:
    pixels, codec = create("tiny", image_size=48, seed=3).eval(), ConvCodec(width=8).eval()
    z = Z0.clone().requires_grad_()
    judge = PromptReward(pixels, "a cat", through=codec)
    judge(z).sum().backward()
    assert z.grad.abs().sum() > 0
    shown = codec.decode(Z0).detach()
    assert torch.allclose(PromptReward(pixels, "a cat")(shown), judge(Z0), atol=1e-4)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda model: PromptReward(model, []), "text: expected at least one"),
        (lambda model: PromptReward(model, ["a", " "]), "text: expected at least one text, got one without words"),
        (lambda model: PromptReward("runs/vit", "a"), "model: expected an encoder, got str"),
        (lambda model: PromptReward(model, torch.zeros(1, 3)), r"text: expected \(k, 64\) embeddings, got \(1, 3\)"),
        (lambda model: PromptReward(model, "a", negative="b", others=["c"]), "others: expected none with a negative"),
        (
            lambda model: PromptReward(model, ["a", "b", "c"])(Z0),
            "expected one for all or one each of 2 images, got 3",
        ),
        (lambda model: PromptReward(model, "a")(Z0[:, :3]), r"latents, got \(2, 3, 4, 4\)"),
        (lambda model: PromptReward(create("tiny").eval(), "a")(Z0), r"expected \(b, 3, h, w\) images"),
    ],
)
def test_bad_rewards_are_named(model, make, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make(model)
