"""CLIPood beyond the released figures: exact identities, state, any encoder, bad input."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoders import ENCODERS
from tether.adaptation.finetune import image_parameters
from tether.core.errors import InputError
from tether.methods.clipood import BetaMovingAverage, MarginMetricSoftmax, beta_weights, class_texts, tune_images_
from tether.models import create

CLASSES = ["red_cat", "dog", "sun"]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def texts(count: int = 5, dim: int = 8) -> Tensor:
    return F.normalize(draw(count, dim, seed=9), dim=1)


def images(model: nn.Module, *, count: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (count, 3, *model.image_spec.size), dtype=torch.uint8, generator=generator)
    return pixels, torch.arange(count) % len(CLASSES)


class TestLoss:
    labels = torch.tensor([0, 4, 2, 2, 1, 3])

    def test_margin_zero_is_cross_entropy(self):
        features = draw(6, 8)
        got = MarginMetricSoftmax(texts(), margin=0.0, logit_scale=20.0)(features, labels=self.labels)
        plain = 20.0 * F.normalize(features, dim=1) @ texts().T
        torch.testing.assert_close(got.total, F.cross_entropy(plain, self.labels), rtol=1e-12, atol=0)
        assert got.terms["accuracy"] == got.terms["margin_accuracy"]

    @pytest.mark.parametrize("scale", [1.0, 20.0, 100.0])
    def test_never_falls_when_the_margin_grows(self, scale):
        for seed in range(5):
            features = draw(6, 8, seed=seed)
            each = [
                MarginMetricSoftmax(texts(), margin=margin, logit_scale=scale)(features, labels=self.labels)
                for margin in (0.0, 0.01, 0.1, 0.3, 1.0, 3.0)
            ]
            totals = [float(loss.total) for loss in each]
            assert totals == sorted(totals)
            assert len({float(loss.terms["accuracy"]) for loss in each}) == 1
            shifted = [float(loss.terms["margin_accuracy"]) for loss in each]
            assert shifted == sorted(shifted, reverse=True)

    def test_value_and_gradient_are_those_of_the_explicit_margins(self):
        features = draw(6, 8).requires_grad_()
        loss = MarginMetricSoftmax(texts(), margin=0.7, logit_scale=14.0)(features, labels=self.labels).total
        margins = 0.7 * (1 - texts() @ texts().T)[self.labels]
        explicit = F.cross_entropy(14.0 * (F.normalize(features, dim=1) @ texts().T + margins), self.labels)
        torch.testing.assert_close(loss, explicit, rtol=1e-12, atol=0)
        torch.testing.assert_close(*(torch.autograd.grad(one, features)[0] for one in (loss, explicit)))

    def test_gradcheck_and_no_gradient_to_the_texts(self):
        loss = MarginMetricSoftmax(texts().requires_grad_(), logit_scale=3.0)
        assert not loss.class_text.requires_grad
        torch.autograd.gradcheck(lambda f: loss(f, labels=self.labels).total, draw(6, 8).requires_grad_())

    def test_half_precision_is_widened(self):
        features = draw(6, 8).bfloat16()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = MarginMetricSoftmax(texts().float())(features, labels=self.labels).total
        wide = MarginMetricSoftmax(texts().float())(features.float(), labels=self.labels).total
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, wide, rtol=1e-6, atol=0)

    @pytest.mark.parametrize(
        ("class_text", "message"),
        [
            (texts(1), r"at least two classes, got \(1, 8\)"),
            (texts()[0], "at least two classes"),
            (texts() * 2, "row 0 has length 2, expected 1: normalise it first"),
            (texts() * torch.nan, "row 0 has length nan"),
        ],
    )
    def test_bad_classes(self, class_text, message):
        with pytest.raises(InputError, match=message):
            MarginMetricSoftmax(class_text)

    def test_bad_batches(self):
        loss = MarginMetricSoftmax(texts())
        with pytest.raises(InputError, match="labels: expected 0 to 4, got 0 to 5"):
            loss(draw(2, 8), labels=torch.tensor([0, 5]))
        with pytest.raises(InputError, match="labels: expected 0 to 4, got -1 to 0"):
            loss(draw(2, 8), labels=torch.tensor([0, -1]))
        with pytest.raises(InputError, match=r"features: expected \(b, 8\) with b >= 1, got \(2, 7\)"):
            loss(draw(2, 7), labels=torch.tensor([0, 1]))
        with pytest.raises(InputError, match="b >= 1"):
            loss(draw(0, 8), labels=torch.empty(0, dtype=torch.int64))
        with pytest.raises(InputError, match=r"labels: expected \(2,\) integers"):
            loss(draw(2, 8), labels=torch.tensor([0.0, 1.0]))


class TestAverage:
    def walk(self, *, beta: float = 0.5, steps: int = 9):
        model = nn.Linear(3, 2, bias=False).double()
        nn.init.zeros_(model.weight)
        average = BetaMovingAverage(model, total_steps=steps, beta=beta)
        path = [model.weight.detach().clone()]
        for seed in range(steps):
            model.weight.data.copy_(draw(2, 3, seed=seed))
            average.update_()
            path.append(model.weight.detach().clone())
            yield average, model, torch.stack(path)

    @pytest.mark.parametrize("beta", [0.1, 0.5, 1.0, 3.0])
    def test_is_the_weighted_mean_of_the_whole_way(self, beta):
        for average, _, path in self.walk(beta=beta):
            alpha = average.weights[: len(path), None, None]
            expected = (alpha * path).sum(0) / alpha.sum()
            torch.testing.assert_close(average.model.weight.detach(), expected, rtol=1e-12, atol=1e-14)

    def test_the_weights_are_a_symmetric_u_and_finite(self):
        weights = beta_weights(50)
        torch.testing.assert_close(weights, weights.flip(0), rtol=1e-10, atol=0)
        assert (weights[:25].diff() < 0).all()
        assert beta_weights(1).isfinite().all()
        torch.testing.assert_close(beta_weights(7, beta=1.0), torch.ones(8, dtype=torch.float64))
        # Density of Beta(1/2, 1/2) in the middle: 1 / (pi / 2) by the arcsine law.
        torch.testing.assert_close(beta_weights(2)[1], torch.tensor(2 / math.pi, dtype=torch.float64))

    def test_what_does_not_move_stays_bit_for_bit(self):
        model = create("tiny", seed=1)
        average = BetaMovingAverage(model, total_steps=20)
        for _ in range(20):
            average.update_()
        for name, value in model.state_dict().items():
            assert torch.equal(average.model.state_dict()[name], value), name

    def test_half_weights_are_averaged_in_float32(self):
        model = nn.Linear(1, 1, bias=False).half()
        nn.init.ones_(model.weight)
        average = BetaMovingAverage(model, total_steps=1000)
        model.weight.data.fill_(1 + 2**-10)  # the next number that half precision has
        for _ in range(1000):
            average.update_()
        assert average.model.weight.dtype == torch.float32
        share = 1 - float(average.weights[0] / average.weights.sum())
        assert math.isclose(float(average.model.weight) - 1, share * 2**-10, rel_tol=0.02)

    def test_resumes_bit_for_bit(self):
        states = [(average.state_dict(), average.model.weight.clone()) for average, _, _ in self.walk()]
        model = nn.Linear(3, 2, bias=False).double()
        other = BetaMovingAverage(model, total_steps=9)
        other.load_state_dict(states[3][0])
        assert torch.equal(other.model.weight, states[3][1])
        for seed in range(4, 9):
            model.weight.data.copy_(draw(2, 3, seed=seed))
            other.update_()
        assert torch.equal(other.model.weight, states[8][1])
        assert other.step == 9

    def test_a_step_too_many(self):
        *_, (average, _, _) = self.walk(steps=3)
        before = average.model.weight.clone()
        with pytest.raises(RuntimeError, match="step 4: this average was made for 3 steps"):
            average.update_()
        assert torch.equal(average.model.weight, before)

    def test_bad_input(self):
        model = nn.Linear(3, 2)
        for settings, message in (
            ({"total_steps": 3, "only": ["gain"]}, "no parameter 'gain'"),
            ({"total_steps": 3, "only": []}, "only"),
        ):
            with pytest.raises(InputError, match=message):
                BetaMovingAverage(model, **settings)
        average = BetaMovingAverage(model, total_steps=3)
        for other, message in (
            (BetaMovingAverage(model, total_steps=4), "total_steps: expected 3 .*, got 4"),
            (BetaMovingAverage(model, total_steps=3, beta=1.0), "beta"),
            (BetaMovingAverage(model, total_steps=3, only=["bias"]), "average: expected"),
            (BetaMovingAverage(nn.Linear(4, 2), total_steps=3), "same shapes"),
        ):
            with pytest.raises(InputError, match=message):
                average.load_state_dict(other.state_dict())


@pytest.mark.filterwarnings("ignore")  # those of other libraries
@pytest.mark.parametrize("kind", ENCODERS)
class TestTuning:
    def test_only_the_image_tower_moves(self, kind, tmp_path):
        model = ENCODERS[kind](tmp_path)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        moving, wanted = image_parameters(model), class_texts(model, CLASSES)
        batch = images(model)
        tuned = tune_images_(model, [batch] * 4, class_text=wanted, steps=4, learning_rate=1e-3)
        after = model.state_dict()
        changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
        assert changed
        assert changed <= set(moving)
        assert not any("logit" in name or ".text" in f".{name}" for name in changed)
        for each in (model, tuned.model):  # the weights are the same; a frozen tower may take another kernel
            torch.testing.assert_close(class_texts(each, CLASSES), wanted)
        weights = tuned.average.weights
        for name, value in tuned.model.named_parameters():
            if name in changed:  # between its start and its end, of which each weighs something
                assert not torch.equal(value, after[name])
                assert not torch.equal(value, before[name])
        assert weights.shape == (5,)
        assert not tuned.model.training

    def test_it_learns_its_classes(self, kind, tmp_path):
        model = ENCODERS[kind](tmp_path)
        batch = images(model)
        losses = []
        tune_images_(
            model,
            [batch] * 30,
            class_text=class_texts(model, CLASSES),
            steps=30,
            logit_scale=20.0,
            learning_rate=3e-3,
            on_step=lambda report: losses.append(float(report.loss)),
        )
        assert losses[-1] < 0.7 * losses[0]


def test_tuning_refuses_bad_input():
    model = create("tiny", seed=1)
    wanted, batch = class_texts(model, CLASSES), images(model)
    for batches, settings, message in (
        ([batch], {"steps": 2}, "batches: expected at least steps=2, got 1"),
        ([batch], {"steps": 1, "beta": -1.0}, "beta"),
        ([(batch[0], batch[1] + 1)], {"steps": 1}, "labels: expected 0 to 2, got 1 to 3"),
    ):
        with pytest.raises(InputError, match=message):
            tune_images_(model, batches, class_text=wanted, **settings)
    with pytest.raises(InputError, match="template"):
        class_texts(model, CLASSES, template="a photo")
    model.requires_grad_(False)
    with pytest.raises(InputError, match="no trainable parameter"):
        image_parameters(model)


def test_class_texts_are_unit_and_read_underscores_as_spaces():
    model = create("tiny", seed=1)
    rows = class_texts(model, ["red_cat", "red cat", "dog"])
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])
