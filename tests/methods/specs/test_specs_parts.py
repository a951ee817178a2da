"""SPECS: hinges and their margin, captions in pieces, the score, the rates, and the step that trains for them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import LOCAL
from tether.core.types import Batch
from tether.data.segments import draw_triplet, growing, split_caption
from tether.losses import ClipLoss, clip_loss
from tether.methods.specs import SpecsLoss
from tether.methods.specs.evaluation import SpecsIncrements, SpecsScore, increment_rates, specs_score
from tether.methods.specs.step import SpecsStep
from tether.models import create
from tether.training.steps.module import StepModule

NAMES = ("caption", "base", "detail", "neg")
LONG = "There are two things: a red star and a blue ring. Everything is on sand. The red star is large."


def rows(count: int, *, seed: int = 0) -> Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sides(count: int = 6) -> dict[str, Tensor]:
    return {name: rows(count, seed=seed) for seed, name in enumerate(NAMES, start=1)}


class TestLoss:
    def test_the_contrast_is_text_to_image(self) -> None:
        texts = sides()
        terms = SpecsLoss(lambda_detail=0.0, lambda_neg=0.0)(rows(6), **texts, logit_scale=9.0)
        unit = [F.normalize(side, dim=1) for side in (rows(6), texts["caption"])]
        wanted = clip_loss(*unit, torch.tensor(9.0, dtype=torch.float64), directions="text_to_image")
        torch.testing.assert_close(terms.total, wanted)
        assert terms.detail == terms.negative == 0

    def test_lengths_do_not_matter(self) -> None:
        first = SpecsLoss()(rows(6), **sides(), logit_scale=9.0)
        second = SpecsLoss()(3 * rows(6), **{name: 7 * side for name, side in sides().items()}, logit_scale=9.0)
        torch.testing.assert_close(first.total, second.total)

    def test_hinges_are_silent_when_every_order_is_right_by_the_margin(self) -> None:
        image = torch.eye(5, dtype=torch.float64)
        near = {name: image + off * image.roll(1, 1) for name, off in (("detail", 0.0), ("base", 0.5), ("neg", 2.0))}
        terms = SpecsLoss(margin=1.0)(image, caption=image, **near, logit_scale=20.0)
        assert terms.detail == terms.negative == 0
        swapped = {"detail": near["base"], "base": near["detail"], "neg": near["neg"]}
        assert SpecsLoss(margin=0.0)(image, caption=image, **swapped, logit_scale=20.0).detail > 0

    def test_the_margin_is_in_logits(self) -> None:
        equal = sides() | {"detail": sides()["base"], "neg": sides()["base"]}
        for scale in (1.0, 100.0):
            terms = SpecsLoss(lambda_detail=1.0, lambda_neg=1.0, margin=0.7)(rows(6), **equal, logit_scale=scale)
            assert terms.detail.item() == terms.negative.item() == pytest.approx(0.7)

    def test_an_adaptive_margin_follows_and_stops(self) -> None:
        loss, image = SpecsLoss(), torch.eye(5, dtype=torch.float64)
        far = {"caption": image, "detail": image, "base": image.roll(1, 1), "neg": -image}
        terms = loss(image, **far, logit_scale=100.0)
        assert terms.margin == loss.margin == 1.5
        worse = {"caption": image, "detail": -image, "base": image.roll(1, 1), "neg": image}
        assert loss(image, **worse, logit_scale=100.0).margin == 0
        loss.margin.fill_(0.3)
        loss.eval()
        assert loss(image, **far, logit_scale=100.0).margin == 0.3

    def test_a_given_margin_stays_even_at_zero(self) -> None:
        for margin in (0.0, 0.4):
            loss = SpecsLoss(margin=margin)
            loss(rows(6), **sides(), logit_scale=100.0)
            assert loss.margin == margin

    def test_state_goes_on(self) -> None:
        first = SpecsLoss()
        first(rows(6), **sides(), logit_scale=5.0)
        second = SpecsLoss()
        second.load_state_dict(first.state_dict())
        again = [loss(rows(6, seed=9), **sides(), logit_scale=5.0).total for loss in (first, second)]
        assert torch.equal(*again)
        assert first.margin != 0

    def test_rows_left_out_count_in_the_contrast_alone(self) -> None:
        valid = torch.tensor([True, False, True, False, True, True])
        texts = sides()
        some = SpecsLoss(margin=0.2)(rows(6), **texts, logit_scale=5.0, valid=valid)
        few = SpecsLoss(margin=0.2)(
            rows(6)[valid], **{name: side[valid] for name, side in texts.items()}, logit_scale=5.0
        )
        torch.testing.assert_close(some.detail, few.detail)
        torch.testing.assert_close(some.negative, few.negative)
        whole = SpecsLoss(margin=0.2)(rows(6), **texts, logit_scale=5.0)
        torch.testing.assert_close(some.contrast, whole.contrast)
        adaptive = SpecsLoss()
        adaptive.margin.fill_(0.9)
        none = adaptive(rows(6), **texts, logit_scale=5.0, valid=torch.zeros(6, dtype=torch.bool))
        assert none.detail == none.negative == 0
        assert none.margin == 0.9

    def test_a_contrast_without_weight_is_not_computed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = SpecsLoss(margin=0.2)(rows(6), **sides(), logit_scale=5.0)
        monkeypatch.setattr("tether.methods.specs.loss.info_nce", None)
        none = SpecsLoss(lambda_contrast=0.0, margin=0.2)(rows(6), **sides(), logit_scale=5.0)
        assert none.contrast == 0
        torch.testing.assert_close(none.total, whole.detail + whole.negative)

    def test_gradcheck(self) -> None:
        leaves = [rows(4).requires_grad_(), *(side.requires_grad_() for side in sides(4).values())]
        scale = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)

        def total(image: Tensor, *rest: Tensor) -> Tensor:
            *texts, multiplier = rest
            return SpecsLoss(margin=0.3)(image, **dict(zip(NAMES, texts, strict=True)), logit_scale=multiplier).total

        assert torch.autograd.gradcheck(total, (*leaves, scale))

    def test_half_precision_is_widened_and_nan_is_handed_on(self) -> None:
        texts = {name: side.to(torch.bfloat16) for name, side in sides().items()}
        assert SpecsLoss()(rows(6).to(torch.bfloat16), **texts, logit_scale=100.0).total.dtype == torch.float32
        broken = rows(6)
        broken[2, 1] = torch.nan
        assert SpecsLoss()(broken, **sides(), logit_scale=2.0).total.isnan()

    @pytest.mark.parametrize("name", ["lambda_contrast", "lambda_detail", "lambda_neg", "margin"])
    @pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
    def test_settings(self, name: str, value: float) -> None:
        with pytest.raises(InputError, match=f"{name}: expected a finite number of at least 0"):
            SpecsLoss(**{name: value})

    def test_shapes(self) -> None:
        with pytest.raises(InputError, match=r"five equal .*base \(5, 5\)"):
            SpecsLoss()(rows(6), **(sides() | {"base": rows(5)}), logit_scale=1.0)
        with pytest.raises(InputError, match="empty batch"):
            SpecsLoss()(rows(0), **sides(0), logit_scale=1.0)
        with pytest.raises(InputError, match="valid: expected bool"):
            SpecsLoss()(rows(6), **sides(), logit_scale=1.0, valid=torch.ones(6))


class TestPieces:
    def test_pieces_join_to_the_caption(self) -> None:
        for text in (
            LONG,
            "  spaces   everywhere , and more ",
            "one",
            "",
            "a cat, red, big; with a hat and without shame!",
        ):
            assert " ".join(split_caption(text)) == " ".join(text.split())

    def test_where_a_caption_is_cut(self) -> None:
        assert split_caption(LONG) == (
            "There are two things:",
            "a red star",
            "and a blue ring.",
            "Everything is on sand.",
            "The red star is large.",
        )
        assert split_caption("a brandy with ice") == ("a brandy", "with ice")  # a word that only begins like one
        assert split_caption("alone") == ("alone",)

    def test_growing(self) -> None:
        assert growing(("a cat,", "big", "and red")) == ("a cat,", "a cat, big", "a cat, big and red")
        assert growing(()) == ()

    @pytest.mark.parametrize("words", ["kept", "shuffled"])
    def test_triplets(self, words: str) -> None:
        captions = [("a cat", "on sand", "and a dog here"), ("a cat", "in the snow"), ("alone",)]
        rng = np.random.default_rng(0)
        for _ in range(50):
            found = draw_triplet(captions, 0, rng=rng, words=words)
            count = len(found.base.split()) // 2
            assert found.base == " ".join(captions[0][:count])
            assert found.detail == " ".join(captions[0][: count + 1])
            wrong = found.negative.removeprefix(found.base).strip()
            assert sorted(wrong.split()) in (["alone"], ["in", "snow", "the"])  # never what both captions hold
            assert words == "shuffled" or wrong in ("alone", "in the snow")
        assert draw_triplet(captions, 2, rng=rng) is None
        assert draw_triplet([("a", "b"), ("b", "a")], 0, rng=rng) is None

    def test_a_draw_does_not_grow_with_the_batch_and_finds_every_other_caption(self) -> None:
        class Places(np.random.Generator):
            def permutation(self, *args, **kwargs):
                raise AssertionError("a permutation of the batch for one row")

        rng = Places(np.random.PCG64(0))
        captions = [("a cat", "on sand"), ("a cat",), *[(f"thing {number}",) for number in range(6)]]
        found = {draw_triplet(captions, 0, rng=rng).negative for _ in range(200)}
        assert found == {f"a cat thing {number}" for number in range(6)}

    def test_bad_input(self) -> None:
        with pytest.raises(InputError, match="words: expected"):
            draw_triplet([("a", "b")], 0, rng=np.random.default_rng(0), words="some")
        with pytest.raises(InputError, match="row: expected 0 to 0, got 1"):
            draw_triplet([("a", "b")], 1, rng=np.random.default_rng(0))


class TestMeasures:
    def test_score_is_between_0_and_1_and_a_map_of_the_cosine(self) -> None:
        image = rows(5)
        assert torch.allclose(specs_score(image, 2 * image), torch.ones(5, dtype=torch.float64))
        assert torch.allclose(specs_score(image, -image), torch.zeros(5, dtype=torch.float64), atol=1e-12)
        torch.testing.assert_close(specs_score(image, image, pairs="all").diagonal(), specs_score(image, image))
        assert specs_score(image, rows(7, seed=1), pairs="all").shape == (5, 7)

    @pytest.mark.filterwarnings("ignore:The ``compute`` method")  # torchmetrics warns before we refuse
    def test_metric_of_batches_is_the_mean_of_all(self) -> None:
        image, text = rows(9), rows(9, seed=1)
        metric = SpecsScore()
        for part in (slice(0, 4), slice(4, 9)):
            metric.update(image[part], text[part])
        torch.testing.assert_close(metric.compute(), specs_score(image, text).mean())
        metric.reset()
        with pytest.raises(InputError, match="no batch"):
            metric.compute()

    def test_rates_by_hand(self) -> None:
        sim = torch.tensor([[0.1, 0.2, 0.15, 9.0], [-0.3, -0.2, -0.1, 0.0], [0.5, 0.6, 7.0, 7.0]])
        wrong = torch.tensor([[0.0, 0.3, 9.9, 9.9], [-0.4, -0.4, -0.4, 9.9], [0.0, 0.0, 0.0, 0.0]])
        mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]]).bool()
        found = increment_rates(sim, neg_sim=wrong, mask=mask)
        assert found.images.tolist() == [0, 1]  # one step alone is not counted
        assert found.each_positive.tolist() == [0.5, 1.0]  # negative scores count like any
        assert found.each_negative.tolist() == [0.5, 1.0]
        assert (found.positive, found.negative) == (0.75, 0.75)

    def test_ties_are_no_increments(self) -> None:
        same = torch.ones(2, 4)
        found = increment_rates(same, neg_sim=same, mask=same.bool())
        assert found.positive == found.negative == 0

    def test_what_lies_outside_the_mask_does_not_matter(self) -> None:
        sim, wrong = rows(4), rows(4, seed=1)
        mask = torch.arange(5) < torch.tensor([5, 3, 4, 1])[:, None]
        noisy = [torch.where(mask, side, torch.nan) for side in (sim, wrong)]
        assert increment_rates(noisy[0], neg_sim=noisy[1], mask=mask).positive == (
            increment_rates(sim, neg_sim=wrong, mask=mask).positive
        )

    def test_nothing_to_count_is_nan_with_a_warning(self) -> None:
        with pytest.warns(UserWarning, match="no image has three captions"):
            found = increment_rates(torch.ones(2, 2), neg_sim=torch.ones(2, 2), mask=torch.ones(2, 2).bool())
        assert math.isnan(found.positive)
        assert math.isnan(found.negative)

    def test_increments_over_batches_of_unequal_length(self) -> None:
        whole = [rows(6), rows(6, seed=1)]
        mask = torch.arange(5) < torch.tensor([3, 3, 2, 5, 4, 5])[:, None]
        wanted = increment_rates(whole[0], neg_sim=whole[1], mask=mask)
        metric = SpecsIncrements()
        metric.update(whole[0][:3, :3], whole[1][:3, :3], mask[:3, :3])
        metric.update(whole[0][3:], whole[1][3:], mask[3:])
        assert metric.compute() == pytest.approx({"positive": wanted.positive, "negative": wanted.negative})

    @pytest.mark.parametrize(
        ("call", "says"),
        [
            (lambda: specs_score(rows(3), rows(4)), "SPECS needs pairs"),
            (lambda: specs_score(rows(3) * math.nan, rows(3)), "NaN or infinity"),
            (lambda: specs_score(rows(3), rows(3), pairs="some"), "pairs: expected"),
            (lambda: increment_rates(rows(3), neg_sim=rows(4), mask=rows(3) > 0), "three"),
            (lambda: increment_rates(rows(3), neg_sim=rows(3), mask=rows(3)), "booleans"),
            (
                lambda: increment_rates(rows(1), neg_sim=rows(1), mask=torch.tensor([[True, False, True, True, True]])),
                "row 0 has a hole",
            ),
            (
                lambda: increment_rates(rows(2) * math.inf, neg_sim=rows(2), mask=torch.ones(2, 5).bool()),
                "sim: 2 of 2 rows hold NaN",
            ),
        ],
    )
    def test_bad_input(self, call, says: str) -> None:
        with pytest.raises(InputError, match=says):
            call()


class TestStep:
    def model(self, context: int = 48) -> StepModule:
        return StepModule(create("tiny", context=context))

    def batch(self, model: StepModule, texts: list[str]) -> Batch:
        pixels = torch.randint(0, 256, (len(texts), 3, 32, 32), dtype=torch.uint8)
        return Batch(pixels, model.model.tokenizer(texts), {"texts": texts})

    def test_hinges_add_to_the_runs_objective(self) -> None:
        model = self.model()
        batch = self.batch(model, [LONG, "a cat on snow, with a hat", "two dogs here and a ball"])
        objective = ClipLoss(directions="text_to_image")
        alone = objective(model.model(batch.image, batch.text), batch, gather=LOCAL).total
        none = SpecsStep(objective, steps=5, seed=0, lambda_detail=0.0, lambda_neg=0.0)
        torch.testing.assert_close(none(model, batch, step=0, gather=LOCAL).total, alone)
        both = SpecsStep(objective, steps=5, seed=0, margin=1.0)(model, batch, step=0, gather=LOCAL)
        torch.testing.assert_close(both.total, alone + both.terms["detail"] + both.terms["negative"])
        assert both.terms["with_detail"] == 1

    @pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")
    def test_details_that_were_cut_off_are_left_out(self) -> None:
        model = self.model(context=4)
        batch = self.batch(model, ["a very long beginning, with a tail"] * 2 + ["a cat, red one"])
        loss = SpecsStep(ClipLoss(), steps=5, seed=0, margin=1.0)(model, batch, step=0, gather=LOCAL)
        assert loss.terms["with_detail"] == 0
        assert loss.terms["detail"] == loss.terms["negative"] == 0

    def test_a_batch_without_words_is_refused(self) -> None:
        model = self.model()
        batch = self.batch(model, ["a cat", "a dog"])
        with pytest.raises(InputError, match="captions as words"):
            SpecsStep(ClipLoss(), steps=5, seed=0)(model, Batch(batch.image, batch.text), step=0, gather=LOCAL)

    @pytest.mark.parametrize("settings", [{"shuffled_first": 1.5}, {"lambda_contrast": -1.0}, {"margin": -1.0}])
    def test_settings(self, settings) -> None:
        with pytest.raises(InputError, match=next(iter(settings))):
            SpecsStep(ClipLoss(), steps=5, seed=0, **settings)

    def test_one_batch_of_a_run_trains(self, tmp_path) -> None:
        from tether.training import RunConfig, train

        config = {
            "size": "tiny",
            "data": "scenes:rows=16,captions=long,things=[1,2]",
            "steps": 2,
            "batch_size": 8,
            "precision": "fp32",
            "step": {"name": "specs", "lambda_detail": 2.0},
            "model": {"image_size": 64, "context": 100},
        }
        assert math.isfinite(train(RunConfig.model_validate(config), folder=tmp_path / "run").loss)
