"""The loop of tunings, batches in memory, what moves, and CoOp's equation."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from memory_rows import squares
from tether.adaptation.recipes import CoOp, Given, Outcome, Tuning, play
from tether.adaptation.recipes.moving import move_, prefixes, rest_
from tether.adaptation.recipes.norms import norm_parameters
from tether.adaptation.weights import interpolate
from tether.core.errors import InputError, NotFiniteError, StoppedError, UnsupportedModelError
from tether.core.gather import LOCAL
from tether.core.types import Batch, Loss
from tether.data.labelled import read_labels
from tether.methods.clipood import BetaMovingAverage
from tether.models import create
from tether.training.steps.module import StepModule
from tether.training.tensor_batches import ReplayedBatches, TensorBatches

STEPS = 5


class NoisyStep:
    """Counts its calls, and draws from torch's own generator, as dropout does."""

    def __init__(self):
        self.calls = 0

    def __call__(self, model, batch, *, step, gather):
        self.calls += 1
        target = batch.image + torch.randn(batch.image.shape) * self.calls
        return Loss(F.mse_loss(model.heads["line"](batch.image), target))

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


def described(seed=0):
    model = create("tiny", seed=1).eval()
    rest_(model)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        line = nn.Linear(20, 20)
    average = BetaMovingAverage(line, total_steps=STEPS)
    tuning = Tuning(
        step=NoisyStep(),
        batches=TensorBatches({"image": torch.eye(20)}, batch_size=8, seed=seed),
        steps=STEPS,
        optimizer={"name": "adamw", "lr": 0.1},
        modules={"line": line},
        kept={"average": average},
        after_step=lambda report: average.update_(),
        finish=lambda: Outcome(),
    )
    return tuning, model, line, average.model


def weights(*modules):
    return [value.clone() for module in modules for value in module.state_dict().values()]


@pytest.mark.parametrize("stop", [1, 3])
def test_all_parts_of_a_tuning_go_on_where_it_stopped(tmp_path, stop):
    tuning, model, line, average = described()
    play(tuning, model)
    whole = weights(line, average)
    tuning, model, *_ = described()
    with pytest.raises(StoppedError, match=f"stopped after step {stop} of 5"):
        play(tuning, model, folder=tmp_path, should_stop=lambda: tuning.step.calls == stop)
    tuning, model, line, average = described()
    seen = []
    played = play(tuning, model, folder=tmp_path, on_step=lambda report: seen.append(report.step))
    assert seen == list(range(stop, STEPS))
    assert all(map(torch.equal, whole, weights(line, average)))
    assert played.moved == ("heads.line.weight", "heads.line.bias")
    assert (played.parameters, played.free) == (420, frozenset())


def test_the_generator_outside_is_not_touched():
    tuning, model, *_ = described()
    torch.manual_seed(3)
    play(tuning, model, seed=1)
    found = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(found, torch.rand(1))


def test_a_checkpoint_of_another_tuning_is_refused(tmp_path):
    tuning, model, *_ = described()
    with pytest.raises(StoppedError):
        play(tuning, model, folder=tmp_path, should_stop=lambda: True)
    tuning, model, *_ = described(seed=1)
    with pytest.raises(InputError, match="does not fit this tuning: seed: the position is of 0"):
        play(tuning, model, folder=tmp_path)


def test_nothing_that_moves_is_refused():
    tuning, model, line, _ = described()
    line.requires_grad_(False)
    with pytest.raises(InputError, match="nothing to do: 0 parameters would move"):
        play(tuning, model)


def test_each_pass_has_every_row_once_in_a_new_order():
    batches = TensorBatches({"label": torch.arange(6)}, batch_size=3, seed=0)
    seen = [next(batches).extra["label"].tolist() for _ in range(6)]
    passes = [seen[2 * number] + seen[2 * number + 1] for number in range(3)]
    assert [sorted(one) for one in passes] == [list(range(6))] * 3
    assert len({tuple(one) for one in passes}) == 3
    other = TensorBatches({"label": torch.arange(6)}, batch_size=3, seed=0)
    other.load_state_dict({**batches.state_dict(), "done": 4})
    assert next(other).extra["label"].tolist() == seen[4]
    for rows, size in (({}, 1), ({"a": torch.zeros(2), "b": torch.zeros(3)}, 1), ({"a": torch.zeros(2)}, 0)):
        with pytest.raises(InputError, match="batches: expected tensors of one length"):
            TensorBatches(rows, batch_size=size, seed=0)


def test_replayed_batches_go_on_where_they_stood():
    def make():
        return (Batch(torch.tensor([number]), torch.empty(1, 0)) for number in range(100))

    batches = ReplayedBatches(make)
    seen = [int(next(batches).image) for _ in range(5)]
    other = ReplayedBatches(make)
    other.load_state_dict({"done": 3})
    assert [int(next(other).image) for _ in range(2)] == seen[3:]
    assert other.state_dict() == batches.state_dict() == {"done": 5}


def test_what_moves_is_a_side_without_the_scale():
    model = create("tiny", seed=1)
    for side, begins in (("image", ("visual.",)), ("text", ("text.",)), ("both", ("visual.", "text."))):
        found = move_(model, side)
        moving = {name for name, one in model.named_parameters() if one.requires_grad}
        assert moving == set(found)
        assert moving == {name for name, _ in model.named_parameters() if name.startswith(begins)}
        assert prefixes(model, side) == tuple(one.removesuffix(".") for one in begins)
    found = move_(model, "image", where=norm_parameters(model).__contains__)
    assert found
    assert all(one.ndim == 1 and name.startswith("visual.") for name, one in found.items())


def test_shared_towers_and_nothing_to_move_are_refused():
    shared = create("tiny", towers="shared")
    with pytest.raises(UnsupportedModelError, match="the towers share parameters, among them"):
        move_(shared, "image")
    assert move_(shared, "both")
    with pytest.raises(UnsupportedModelError, match="none of the parameters of the image side"):
        move_(create("tiny"), "image", where=lambda name: False)


def test_interpolated_weights_are_the_ends_at_the_ends():
    base, tuned = (create("tiny", seed=seed) for seed in (1, 2))
    for share, end in ((0.0, base), (1.0, tuned)):
        found = interpolate(base, tuned, share=share)
        assert all(map(torch.equal, found.state_dict().values(), end.state_dict().values()))
    middle = interpolate(base, tuned, share=0.25).state_dict()
    for name, value in middle.items():
        expected = 0.75 * base.state_dict()[name] + 0.25 * tuned.state_dict()[name]
        torch.testing.assert_close(value, expected)
    with pytest.raises(InputError, match="two models of one architecture"):
        interpolate(base, create("tiny", dim=32), share=0.5)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_weights_that_are_equal_stay_so_bit_for_bit(share):
    base, tuned = nn.Linear(5, 1), nn.Linear(5, 1)
    with torch.no_grad():
        base.weight.copy_(torch.tensor([[-0.0, 0.1, -0.0, 1e-30, 1.0]]))
        tuned.weight.copy_(torch.tensor([[-0.0, 0.1, 3.0, 1e-30, 1e9]]))
    found, first, last = (one.weight.detach().view(torch.int32)[0] for one in
                          (interpolate(base, tuned, share=share), base, tuned))  # fmt: skip
    assert torch.equal(found[first == last], first[first == last])
    assert share != 0 or torch.equal(found, first)
    assert share != 1 or torch.equal(found, last)


def test_coop_is_the_softmax_of_its_equation():
    """Equation 3 of arXiv 2109.01134: the classes' learnt texts against the image, over the temperature."""
    model = create("tiny", seed=1).eval()
    rows = read_labels(squares(12))
    part = rows.part(range(12), prompts=[(name,) for name in rows.classes], name="train")
    given = Given("labels", part, 12, classes=rows.classes, prompts=tuple((name,) for name in rows.classes))
    tuning = CoOp(context=3, batch_size=12).tuning(copy.deepcopy(model), given)
    prompts, batch = tuning.modules["prompts"], next(iter(tuning.batches))
    assert prompts.vectors.shape == (1, 1, 3, 64)
    assert float(prompts.vectors.detach().std()) < 0.05
    text, scale = prompts().pooled.detach(), float(model.logit_scale.detach())
    exponentials = torch.stack(
        [scale * F.cosine_similarity(batch.image, text[number : number + 1]) for number in range(3)], dim=1
    ).exp()
    probability = exponentials / exponentials.sum(dim=1, keepdim=True)
    expected = -probability[torch.arange(12), batch.extra["label"]].log().mean()

    alone = StepModule(model, heads={"prompts": prompts})
    found = tuning.step(alone, batch, step=0, gather=LOCAL).total.detach()
    torch.testing.assert_close(found, expected)
    head = tuning.finish().head
    torch.testing.assert_close(F.softmax(head.logits(batch.image), dim=1), probability)


def test_a_tuning_without_a_finite_gradient_is_given_up_and_leaves_no_checkpoint(tmp_path):
    tuning, model, *_ = described()
    lost = TensorBatches({"image": torch.full((20, 20), float("nan"))}, batch_size=8, seed=0)
    tuning = dataclasses.replace(tuning, batches=lost, steps=100, kept={}, after_step=None)
    with pytest.raises(NotFiniteError, match="after step 10 of 100: gradients were not finite for 10 steps in a row"):
        play(tuning, model, folder=tmp_path, should_stop=lambda: tuning.step.calls == 10)
    assert not list(tmp_path.iterdir())
