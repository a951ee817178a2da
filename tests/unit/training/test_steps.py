import inspect

import pytest
import torch

from tether.core.component import build
from tether.core.errors import InputError
from tether.core.gather import LOCAL, Gather
from tether.core.ranges import NonNegative
from tether.core.types import Batch, Loss
from tether.losses import ClipLoss
from tether.models import create
from tether.training.steps.module import StepModule
from tether.training.steps.presets import ContrastiveStep, PresetStep


class Spy:
    """An objective that keeps what it was given."""

    def __call__(self, out, batch, *, gather):
        self.out = out
        return Loss(out.image.pooled.sum())


def batch(rows: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (rows, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return Batch(pixels, create("tiny").tokenizer(["a red heart"] * rows))


def choose(step: int, *, gather: Gather = LOCAL, rows: int = 4, **settings):
    part = ContrastiveStep(Spy(), steps=10, seed=3, **settings)
    seen = part.views["image"].rows(StepModule(create("tiny")), batch(rows), step=step, gather=gather)
    assert seen is not None
    return seen.keep


def test_all_patches_are_seen_unless_asked_otherwise():
    assert choose(0) is None


def test_half_the_patches_are_distinct_sorted_and_new_every_step():
    first, second = choose(0, keep_patches=0.5), choose(1, keep_patches=0.5)
    assert first.shape == (4, 8)
    assert (first.diff(dim=1) > 0).all()
    assert not torch.equal(first, second)
    assert torch.equal(first, choose(0, keep_patches=0.5))


def test_the_last_stretch_sees_everything():
    assert choose(7, keep_patches=0.5, full_last=0.2) is not None
    assert choose(8, keep_patches=0.5, full_last=0.2) is None


def test_two_processes_share_the_choice_of_one():
    whole = choose(2, keep_patches=0.25, rows=4)
    halves = [choose(2, keep_patches=0.25, rows=2, gather=Gather(rank, 2)) for rank in range(2)]
    assert torch.equal(torch.cat(halves), whole)


@pytest.mark.parametrize("settings", [{"keep_patches": 0}, {"keep_patches": 1.5}, {"full_last": -0.1}])
def test_shares_out_of_range_are_refused(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        ContrastiveStep(Spy(), steps=10, seed=0, **settings)


def test_a_micro_batch_of_none_is_refused():
    with pytest.raises(InputError, match="micro_batch"):
        StepModule(create("tiny"), micro_batch=0)


def test_micro_batches_give_the_gradients_of_the_whole_batch():
    gradients = []
    for size in (None, 3):
        model = create("tiny").double()
        pair = StepModule(model, micro_batch=size)
        rows = Batch(batch(7).image.double() / 255, batch(7).text)
        ContrastiveStep(ClipLoss(), steps=2, seed=0)(pair, rows, step=0, gather=LOCAL).total.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-10, atol=1e-12), name


class TwiceStep(PresetStep):
    """The objective twice, for the tests below."""

    @staticmethod
    def recipe(image, *, weight: NonNegative = 2.0):
        return {"views": {"image": image, "text": {}}, "terms": ["objective", {"name": "objective", "weight": weight}]}


class Renamed(TwiceStep):
    """A subclass without a recipe of its own."""


@pytest.mark.parametrize("part", [TwiceStep, Renamed])
def test_a_preset_is_its_recipe_behind_a_constructor_that_is_checked(part):
    names = ["self", "objective", "steps", "seed", "weight", "keep_patches", "patches", "full_last"]
    assert list(inspect.signature(part.__init__).parameters) == names
    made = build({"name": "twice", "weight": 3}, {"twice": part}, where="step", objective=Spy(), steps=10, seed=0)
    assert [weight for _, weight in made.terms.values()] == [1.0, 3]
    assert list(made.views) == ["image", "text"]
    with pytest.raises(InputError, match=r"step \(twice\): weight: expected a finite number of at least 0, got -1"):
        build({"name": "twice", "weight": -1}, {"twice": part}, where="step", objective=Spy(), steps=10, seed=0)
    with pytest.raises(InputError, match="unknown key 'wait'; did you mean 'weight'"):
        build({"name": "twice", "wait": 1}, {"twice": part}, where="step", objective=Spy(), steps=10, seed=0)
    with pytest.raises(InputError, match="keep_patches"):
        part(Spy(), steps=10, seed=0, keep_patches=0)
