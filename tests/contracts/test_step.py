"""What every step promises: a finite scalar with gradient to both towers, the same for the same arguments."""

from __future__ import annotations

import copy

import pytest
import torch

from tether.core.gather import LOCAL
from tether.core.protocols import Objective, Owning, Step, Taught
from tether.core.types import Batch, Loss
from tether.losses import ClipLoss
from tether.models import create
from tether.models.encoders.tower_parts import SIDES
from tether.training.steps import STEPS, ComposedStep
from tether.training.steps.module import StepModule

STEPS_TOTAL = 10
MODELS = {"skip_middle": {"vision": {"gate": "mirror"}, "text": {"gate": "mirror"}}}
"""Settings of the model where a step is for models that have something: here gates, which it holds to a target."""


TAUGHT = {
    "views": {"image": {}, "text": {}, **{f"teacher_{side}": {"of": side, "encoder": "teacher"} for side in SIDES}},
    "terms": ["objective", "similarity"],
}
TEACHERS = {"composed, taught by its start": "start", "composed, taught by its average": {"ema": {"momentum": 0.9}}}


@pytest.fixture(params=[*STEPS, *TEACHERS])
def name(request) -> str:
    return request.param


def made(name: str, objective: Objective, model: StepModule) -> Step:
    """The step as a run has it before its first step."""
    if name in TEACHERS:
        step = ComposedStep(objective, steps=STEPS_TOTAL, seed=1, teacher=TEACHERS[name], **TAUGHT)
    else:
        step = STEPS[name](objective, steps=STEPS_TOTAL, seed=1)
    if isinstance(step, Taught):
        step.see_start(model.model)
    if isinstance(step, Owning):
        step.new_heads(model.model)
    return step


@pytest.fixture
def step(name, model) -> Step:
    return made(name, ClipLoss(), model)


@pytest.fixture
def model(name) -> StepModule:
    return StepModule(create("tiny", seed=0, **MODELS.get(name, {})))


@pytest.fixture
def batch(model) -> Batch:
    pixels = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    names = ["heart", "cat", "dog face", "red apple", "sun", "flag of Chile"]
    tokens = model.model.tokenizer(names)
    texts = [f"{name} on sand, with a {name} above it" for name in names]
    twins = {"negative_image": pixels.flip(3), "negative_text": tokens.roll(1, 0)}
    long = {"long_image": pixels[:4].flip(2), "long_text": tokens[:4]}
    return Batch(pixels, tokens, {"texts": texts, **twins, **long})


def test_is_a_step(step):
    assert isinstance(step, Step)


def test_gives_a_finite_scalar_and_detached_terms(step, model, batch):
    loss = step(model, batch, step=0, gather=LOCAL)
    assert isinstance(loss, Loss)
    assert loss.total.shape == ()
    assert loss.total.isfinite()
    assert not any(term.requires_grad for term in loss.terms.values())


def test_gradient_reaches_both_towers_and_the_scale(step, model, batch):
    step(model, batch, step=0, gather=LOCAL).total.backward()
    reached = {name.split(".")[1] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"visual", "text", "log_logit_scale"} <= reached


def test_same_arguments_same_loss_and_nothing_is_changed(step, model, batch):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = [step(model, batch, step=3, gather=LOCAL).total for _ in range(2)]
    assert torch.equal(*losses)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Recorded(ClipLoss):
    """A scheduled loss that notes at which share of the run it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float] = []

    def at(self, share: float) -> ClipLoss:
        self.asked.append(share)
        return ClipLoss()


def test_a_scheduled_objective_is_asked_for_the_share_of_the_run(name, model, batch):
    objective = Recorded()
    made(name, objective, model)(model, batch, step=3, gather=LOCAL)
    assert set(objective.asked) == {3 / (STEPS_TOTAL - 1)}


def test_finite_in_bfloat16(step, model, batch):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert step(model, batch, step=0, gather=LOCAL).total.isfinite()


def test_a_state_goes_on_bit_for_bit(step, name, model, batch):
    losses = [step(model, batch, step=at, gather=LOCAL).total for at in range(3)]
    first, second = (made(name, ClipLoss(), model) for _ in range(2))
    first(model, batch, step=0, gather=LOCAL)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert [second(model, batch, step=at, gather=LOCAL).total for at in (1, 2)] == losses[1:]
