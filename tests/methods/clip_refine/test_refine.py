"""CLIP-Refine beyond the released figures: identities, what the release gets wrong, any encoder, bad input."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from encoders import ENCODERS
from tether.core.errors import InputError
from tether.core.gather import LOCAL
from tether.core.protocols import Stateful, Step
from tether.core.types import Batch, Encoded, Features
from tether.methods.clip_refine import ClipRefineLoss, RefineStep, refine_
from tether.models import create
from tether.models.towers.frozen_copy import frozen_copy
from tether.training.steps.module import StepModule

DIM = 6
TEXTS = ["a small red cat", "the dog", "the sun", "a cat sits in the sun"]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pairs(image: Tensor, text: Tensor, *, scale: float = 10.0) -> Encoded:
    return Encoded(Features(image), Features(text), torch.tensor(scale, dtype=torch.float64))


def batch_for(model: torch.nn.Module, *, seed: int = 0) -> Batch:
    size = model.image_spec.size
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (len(TEXTS), 3, *size), dtype=torch.uint8, generator=generator)
    return Batch(pixels, model.tokenizer(TEXTS))


@dataclass(frozen=True)
class Half:
    """What the ``gather`` of one of two processes would give, from the whole batch."""

    rank: int
    wholes: list[Tensor] = field(default_factory=list)
    world: int = 2

    def __call__(self, rows: Tensor) -> Tensor:
        mine = slice(self.rank * len(rows), (self.rank + 1) * len(rows))
        return next(whole for whole in self.wholes if torch.equal(whole[mine], rows))


class TestLoss:
    def test_the_random_term_pulls_toward_the_reference_and_divides_by_the_dimension(self):
        image, text, z = draw(5, DIM), draw(5, DIM, seed=1), draw(5, DIM, seed=2)
        leaf = image.clone().requires_grad_()
        loss = ClipRefineLoss(lambda_kd=0.0)(pairs(leaf, text), z=z)
        loss.total.backward()
        torch.testing.assert_close(leaf.grad, 2 * (image - z) / (5 * DIM))
        per_pair = (image - z).square().sum(dim=1).mean() + (text - z).square().sum(dim=1).mean()
        torch.testing.assert_close(loss.total.detach() * DIM, per_pair)

    def test_in_expectation_the_random_term_is_a_pull_toward_mu(self):
        image, text = draw(4, DIM), draw(4, DIM, seed=1)
        mu, sigma = 0.5, 2.0
        loss = ClipRefineLoss(lambda_kd=0.0, mu=mu, sigma=sigma, generator=torch.Generator().manual_seed(0))
        drawn = torch.stack([loss(pairs(image, text)).total for _ in range(4000)]).mean()
        expected = (image - mu).square().mean() + (text - mu).square().mean() + 2 * sigma**2
        torch.testing.assert_close(drawn, expected, rtol=0.01, atol=0)

    def test_a_model_equal_to_its_teacher_feels_nothing_when_nothing_is_blended(self):
        for settings in ({"alpha": 0.0}, {"distiller": "logits"}, {"distiller": "features"}):
            image, text = draw(5, DIM).requires_grad_(), draw(5, DIM, seed=1).requires_grad_()
            out = pairs(image, text)
            loss = ClipRefineLoss(lambda_rand=0.0, **settings)(out, teacher=out, z=draw(5, DIM))
            assert abs(float(loss.total.detach())) < 1e-12
            for grad in torch.autograd.grad(loss.total, (image, text)):
                assert grad.abs().max() < 1e-12

    def test_full_blend_is_the_contrastive_loss_of_raw_products(self):
        image, text, old = draw(5, DIM), draw(5, DIM, seed=1), pairs(draw(5, DIM, seed=3), draw(5, DIM, seed=4))
        terms = ClipRefineLoss(alpha=1.0)(pairs(image, text, scale=1.0), teacher=old, z=draw(5, DIM)).terms
        torch.testing.assert_close(terms["distillation"], terms["contrastive"], rtol=1e-10, atol=0)

    def test_normalised_features_ignore_length_and_have_a_scale_of_100(self):
        image, text, old = draw(5, DIM), draw(5, DIM, seed=1), pairs(draw(5, DIM, seed=3), draw(5, DIM, seed=4))
        longer = pairs(3 * image, text / 7), pairs(5 * old.image.pooled, old.text.pooled / 2)
        z = draw(5, DIM, seed=5)
        normalised = ClipRefineLoss(feature_scale="normalised")
        first = normalised(pairs(image, text), teacher=old, z=z).terms
        second = normalised(longer[0], teacher=longer[1], z=z).terms
        for name in ("distillation", "contrastive"):
            torch.testing.assert_close(first[name], second[name], rtol=1e-10, atol=0)
        tens = [10 * side.unit for side in (Features(image), Features(text), old.image, old.text)]
        raw = ClipRefineLoss()(pairs(*tens[:2]), teacher=pairs(*tens[2:]), z=z).terms
        torch.testing.assert_close(first["distillation"], raw["distillation"], rtol=1e-10, atol=0)
        assert not torch.isclose(first["random_features"], second["random_features"])

    def test_raw_products_of_unit_features_distil_almost_nothing(self):
        image, text = Features(draw(32, DIM)).unit, Features(draw(32, DIM, seed=1)).unit
        other = pairs(Features(draw(32, DIM, seed=3)).unit, Features(draw(32, DIM, seed=4)).unit)
        raw, normalised = (
            ClipRefineLoss(alpha=0.0, feature_scale=scale)(pairs(image, text), teacher=other, z=draw(32, DIM))
            for scale in ("raw", "normalised")
        )
        assert raw.terms["distillation"] < 0.01 * normalised.terms["distillation"]

    @pytest.mark.parametrize("settings", [{}, {"share": "side"}, {"distiller": "logits"}, {"alpha": 1.0}])
    def test_one_pair(self, settings):
        image, text = draw(1, DIM).requires_grad_(), draw(1, DIM, seed=1).requires_grad_()
        old = pairs(draw(1, DIM, seed=2), draw(1, DIM, seed=3))
        loss = ClipRefineLoss(generator=torch.Generator().manual_seed(0), **settings)(pairs(image, text), teacher=old)
        if "distiller" not in settings:
            assert loss.terms["distillation"] == 0
        for grad in torch.autograd.grad(loss.total, (image, text)):
            assert grad.shape == (1, DIM)
            assert grad.isfinite().all()

    def test_sides_may_have_vectors_of_their_own(self):
        image = draw(5, DIM)
        loss = ClipRefineLoss(lambda_kd=0.0, share="side", generator=torch.Generator().manual_seed(0))
        leaves = image.clone().requires_grad_(), image.clone().requires_grad_()
        first, second = torch.autograd.grad(loss(pairs(*leaves)).total, leaves)
        assert not torch.allclose(first, second)
        z = draw(2, 5, DIM, seed=7)
        given = loss(pairs(image, image), z=z).total
        torch.testing.assert_close(given, (image - z[0]).square().mean() + (image - z[1]).square().mean())
        shared = ClipRefineLoss(lambda_kd=0.0, generator=torch.Generator().manual_seed(0))
        first, second = torch.autograd.grad(shared(pairs(*leaves)).total, leaves)
        assert torch.equal(first, second)

    def test_other_references(self):
        image = torch.zeros(4000, DIM, dtype=torch.float64)
        wide = ClipRefineLoss(lambda_kd=0.0, mu=1.0, sigma=3.0, reference="uniform", generator=torch.Generator())
        torch.testing.assert_close(
            wide(pairs(image, image)).total, torch.tensor(2 * (4 + 4 / 12)).double(), rtol=0.02, atol=0
        )
        mean = draw(DIM, seed=9)
        fixed = ClipRefineLoss(lambda_kd=0.0, mu=mean, sigma=torch.zeros(DIM))
        assert fixed(pairs(mean.expand(3, DIM), mean.expand(3, DIM))).total == 0

    def test_the_state_is_the_generators(self):
        loss = ClipRefineLoss(lambda_kd=0.0, generator=torch.Generator().manual_seed(3))
        out = pairs(draw(5, DIM), draw(5, DIM, seed=1))
        loss(out)
        state = loss.state_dict()
        first = loss(out).total
        other = ClipRefineLoss(lambda_kd=0.0, generator=torch.Generator())
        other.load_state_dict(state)
        assert torch.equal(other(out).total, first)
        assert not torch.equal(other(out).total, first)
        with pytest.raises(InputError, match="generator"):
            ClipRefineLoss().load_state_dict(state)

    def test_gradcheck(self):
        old, z = pairs(draw(4, DIM, seed=3), draw(4, DIM, seed=4)), draw(4, DIM, seed=5)
        for settings in (
            {"alpha": 0.3, "temperature": 1.7, "lambda_cont": 0.4},
            {"feature_scale": "normalised", "temperature": 20.0},
            {"distiller": "logits"},
            {"distiller": "features", "feature_scale": "normalised"},
        ):
            loss = ClipRefineLoss(**settings)
            leaves = draw(4, DIM).requires_grad_(), draw(4, DIM, seed=1).requires_grad_()
            torch.autograd.gradcheck(
                lambda i, t, part=loss: part(pairs(i, t, scale=2.0), teacher=old, z=z).total, leaves
            )

    def test_two_processes_are_one(self):
        sides = [draw(8, DIM, seed=seed) for seed in range(4)]
        settings = {"alpha": 0.3, "lambda_cont": 0.5}

        def loss_of(part: slice, gather):
            image, text, old_image, old_text = (side[part] for side in sides)
            loss = ClipRefineLoss(generator=torch.Generator().manual_seed(1), **settings)
            return loss(pairs(image, text), teacher=pairs(old_image, old_text), gather=gather)

        whole = loss_of(slice(None), LOCAL)
        halves = [loss_of(slice(4 * rank, 4 * rank + 4), Half(rank, sides)) for rank in (0, 1)]
        torch.testing.assert_close((halves[0].total + halves[1].total) / 2, whole.total, rtol=1e-12, atol=0)
        torch.testing.assert_close(halves[0].terms["modality_gap"], whole.terms["modality_gap"])

    def test_half_precision_is_widened(self):
        image, text = draw(5, DIM).float(), draw(5, DIM, seed=1).float()
        out = pairs(image.bfloat16(), text.bfloat16())
        old = pairs(draw(5, DIM, seed=2).float(), draw(5, DIM, seed=3).float())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = ClipRefineLoss()(out, teacher=old, z=draw(5, DIM, seed=4))
        wide = ClipRefineLoss()(
            pairs(image.bfloat16().float(), text.bfloat16().float()), teacher=old, z=draw(5, DIM, seed=4)
        )
        assert loss.total.dtype == torch.float32
        torch.testing.assert_close(loss.total, wide.total, rtol=1e-6, atol=0)

    def test_nan_is_handed_on(self):
        image = draw(3, DIM)
        image[1, 1] = torch.nan
        assert ClipRefineLoss(lambda_kd=0.0)(pairs(image, draw(3, DIM)), z=draw(3, DIM)).total.isnan()

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"sigma": -1.0}, "sigma"),
            ({"reference": "uniform", "mu": 1.0, "sigma": 0.5}, "sigma: expected at least mu"),
        ],
    )
    def test_bad_settings(self, settings, message):
        with pytest.raises(InputError, match=message):
            ClipRefineLoss(**settings)

    def test_bad_batches(self):
        out, loss = pairs(draw(3, DIM), draw(3, DIM)), ClipRefineLoss()
        with pytest.raises(InputError, match=r"teacher: lambda_kd=1\.0 needs"):
            loss(out)
        with pytest.raises(InputError, match=r"student: .* image \(3, 6\) and text \(4, 6\)"):
            loss(pairs(draw(3, DIM), draw(4, DIM)), teacher=out)
        with pytest.raises(InputError, match=r"teacher: expected \(3, 6\)"):
            loss(out, teacher=pairs(draw(2, DIM), draw(2, DIM)))
        with pytest.raises(InputError, match="b >= 1"):
            loss(pairs(draw(0, DIM), draw(0, DIM)), teacher=out)
        with pytest.raises(InputError, match=r"z: expected \(3, 6\) or \(2, 3, 6\), got \(6,\)"):
            loss(out, teacher=out, z=draw(DIM))
        with pytest.raises(InputError, match=r"mu: expected one number or \(6,\), got \(4,\)"):
            ClipRefineLoss(mu=torch.zeros(4))(out, teacher=out)


class TestRefine:
    @pytest.mark.filterwarnings("ignore")  # those of other libraries
    @pytest.mark.parametrize("kind", ENCODERS)
    def test_any_encoder(self, kind, tmp_path):
        model = ENCODERS[kind](tmp_path)
        batch = batch_for(model)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        idle = ClipRefineLoss(lambda_rand=0.0, lambda_kd=0.0)
        assert refine_(model, [batch] * 3, loss=idle, learning_rate=1e-2).steps == 0
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        terms = []
        loss = ClipRefineLoss(generator=torch.Generator().manual_seed(0))
        done = refine_(
            model, [batch] * 3, loss=loss, learning_rate=1e-3, on_step=lambda report: terms.append(report.terms)
        )
        assert (done.steps, done.ended) == (3, "done")
        assert terms[0]["distillation"] >= 0
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert any("visual" in name or "vision" in name for name in changed)
        assert any("text" in name or "token" in name for name in changed)
        assert not any("logit" in name for name in changed)
        assert not model.training

    def test_the_old_model_agrees_with_itself(self):
        model = create("tiny", seed=1).eval()
        loss = ClipRefineLoss(lambda_rand=0.0, alpha=0.0, feature_scale="normalised")
        step = RefineStep(loss, teacher=frozen_copy(model))
        assert abs(float(step(StepModule(model), batch_for(model), step=0, gather=LOCAL).total.detach())) < 1e-6

    def test_random_features_alone_shrink_the_embeddings_until_it_stops(self):
        model = create("tiny", seed=1).eval()
        batch, loss = batch_for(model), ClipRefineLoss(lambda_kd=0.0, mu=0.0, sigma=0.0)
        done = refine_(model, (batch for _ in range(500)), loss=loss, learning_rate=1e-3)
        assert done.ended == "shrunk"
        assert done.steps < 500
        assert done.last_length < 0.5 * done.first_length

    def test_steps_cap_endless_batches_and_a_small_micro_batch_changes_nothing(self):
        results = []
        for micro_batch in (None, 2):
            model = create("tiny", seed=1)
            batch = batch_for(model)
            loss = ClipRefineLoss(generator=torch.Generator().manual_seed(0))
            done = refine_(
                model, iter(lambda b=batch: b, None), loss=loss, steps=4, learning_rate=1e-3, micro_batch=micro_batch
            )
            assert done.steps == 4
            assert model.training
            results.append(model.encode_image(batch.image).pooled.detach())
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)

    def test_linear_decay_ends_at_zero(self):
        model = create("tiny", seed=1)
        batch, loss = batch_for(model), ClipRefineLoss(lambda_kd=0.0, generator=torch.Generator().manual_seed(0))
        step = RefineStep(loss, teacher=None, steps=4, decay="linear")
        assert isinstance(step, Step)
        assert isinstance(step, Stateful)
        totals = [
            float(step(StepModule(model), batch, step=number, gather=LOCAL).total.detach()) for number in range(4)
        ]
        assert totals[3] == 0
        assert totals[0] > totals[1] > totals[2] > 0

    def test_bad_input(self):
        model = create("tiny", seed=1)
        for settings, message in (
            ({"decay": "linear"}, "a linear decay needs at least 1, got None"),
            ({}, "batches: expected at least one"),
        ):
            with pytest.raises(InputError, match=message):
                refine_(model, [], **settings)

    def test_a_frozen_copy_is_wide_and_apart(self):
        model = create("tiny", seed=1).half()
        copy = frozen_copy(model)
        assert {parameter.dtype for parameter in copy.parameters()} == {torch.float32}
        assert not any(parameter.requires_grad for parameter in copy.parameters())
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
        assert model.training
        assert not copy.training
        with torch.no_grad():
            assert copy.encode_image(batch_for(model).image).pooled.dtype == torch.float32
