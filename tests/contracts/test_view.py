"""What every view of ``VIEWS`` promises, seen through the ``ComposedStep`` that encodes it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import LOCAL
from tether.core.types import Batch
from tether.losses import ClipLoss
from tether.models import create
from tether.training.steps import ComposedStep, StepModule
from tether.training.steps.views import VIEWS

views = pytest.mark.parametrize("name", VIEWS)


def step_of(name: str, **settings: object) -> ComposedStep:
    given: dict[str, dict[str, object]] = {"image": {}, "text": {}, VIEWS[name].side: {"name": name, **settings}}
    return ComposedStep(ClipLoss(), steps=4, seed=1, views=given)


def loss_of(name: str) -> Tensor:
    model = create("tiny", seed=2)
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    texts = ["a cat", "a dog", "the sun", "a red heart"]
    batch = Batch(pixels, model.tokenizer(texts), {"texts": texts})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)  # of dropout
        return step_of(name)(StepModule(model), batch, step=0, gather=LOCAL).total


@views
def test_its_name_in_the_settings_finds_it(name: str) -> None:
    assert type(step_of(name).views[VIEWS[name].side]) is VIEWS[name]


@views
def test_a_step_learns_from_it_and_gives_the_same_again(name: str) -> None:
    loss = loss_of(name)
    assert loss.isfinite()
    assert loss.requires_grad
    assert torch.equal(loss, loss_of(name))


@views
def test_an_unknown_setting_or_a_source_of_the_other_side_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="unknown key 'no_such'"):
        step_of(name, no_such=1)
    other = "text" if VIEWS[name].side == "image" else "image"
    with pytest.raises(InputError, match=f"source: expected names that end in '{VIEWS[name].side}', got '{other}'"):
        step_of(name, source=other)
