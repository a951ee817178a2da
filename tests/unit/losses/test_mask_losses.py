"""Losses of masks, their matching, and masks against texts where the figures do not look."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tether.core.errors import InputError
from tether.core.types import MaskPrediction
from tether.losses import (
    affinity_loss,
    dice_loss,
    focal_loss,
    mask_cost,
    mask_loss,
    mask_text_loss,
    match_masks,
    mta_loss,
)
from tether.losses.mask_text import best_prompts, mask_text_similarity
from tether.losses.masks import masks_at
from tether.losses.matching import cheapest_pairs

CLASSES, QUERIES, PLACES, SIDE = 3, 4, 2, 6


def drawn(seed: int = 0) -> dict[str, Tensor]:
    """Predictions and masks of two images; the second has one mask."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(2, PLACES, SIDE, SIDE, generator=generator) < 0.4
    masks[1, 1] = False
    return {
        "logits": torch.randn(2, QUERIES, SIDE, SIDE, generator=generator).requires_grad_(),
        "masks": masks,
        "class_logits": torch.randn(2, QUERIES, CLASSES + 1, generator=generator).requires_grad_(),
        "labels": torch.randint(CLASSES, (2, PLACES), generator=generator),
    }


class TestParts:
    def test_focal_of_even_odds_and_of_certainty(self) -> None:
        target = torch.tensor([[0, 1]])
        half = focal_loss(torch.full((1, 2, 2), 0.5), target, smooth=0.0)
        assert half.item() == pytest.approx(0.25 * torch.tensor(2.0).log().item())
        sure = F.one_hot(target, 2).movedim(-1, 1).float()
        assert focal_loss(sure, target).item() < 1e-6
        assert focal_loss(sure.requires_grad_(), target, gamma=0.5).isfinite()

    def test_dice_of_equal_and_of_empty_masks(self) -> None:
        mask = torch.zeros(2, 3, 3)
        mask[0, 0] = 1.0
        assert dice_loss(mask, mask > 0).tolist() == [0.0, 0.0]
        assert dice_loss(1 - mask, mask)[1].item() == pytest.approx(0.9)

    def test_affinity_counts_each_kind_apart_and_ignores(self) -> None:
        target = torch.tensor([[1, 0], [0, 255]])
        found = affinity_loss(torch.tensor([[0.6, 0.2], [0.4, 0.9]]), target)
        assert found.item() == pytest.approx((0.4 / 2 + 0.6 / 3) / 2)
        assert affinity_loss(torch.rand(2, 2), torch.full((2, 2), 255)).item() == 0

    def test_what_does_not_fit_is_refused(self) -> None:
        with pytest.raises(InputError, match=r"classes 0 to 1, got 2"):
            focal_loss(torch.rand(1, 2, 3), torch.tensor([[0, 2, 1]]))
        with pytest.raises(InputError, match="2 classes or more"):
            focal_loss(torch.rand(1, 1, 3), torch.zeros(1, 3, dtype=torch.long))
        with pytest.raises(InputError, match="a target of this shape"):
            dice_loss(torch.rand(2, 3), torch.rand(2, 4))
        with pytest.raises(InputError, match="0, 1 or 255, got 7"):
            affinity_loss(torch.rand(2), torch.tensor([1, 7]))
        with pytest.raises(InputError, match=r"expected \(2,\)"):
            affinity_loss(torch.rand(2), torch.tensor([1]))


class TestMatching:
    def test_is_the_cheapest_and_skips_empty_masks(self) -> None:
        given = drawn()
        cost = mask_cost(**given)
        match = match_masks(**given)
        best = min(
            float(cost[0, first, 0] + cost[0, second, 1]) for first, second in itertools.permutations(range(QUERIES), 2)
        )
        ours = sum(float(cost[0, query, int(place)]) for query, place in enumerate(match[0]) if place >= 0)
        assert ours == pytest.approx(best, abs=1e-5)
        assert match[1].sort().values.tolist() == [-1, -1, -1, 0]

    def test_cost_is_that_of_the_losses(self) -> None:
        given = drawn()
        cost = mask_cost(**given, label=0.0)
        logits, goal = given["logits"][0, 1].detach(), given["masks"][0, 1].float()
        pixels = F.binary_cross_entropy_with_logits(logits, goal)
        apart = dice_loss(logits.sigmoid()[None], goal[None])[0]
        assert cost[0, 1, 1].item() == pytest.approx(float(5 * pixels + 5 * apart), rel=1e-5)

    def test_equal_costs_take_the_first_and_nan_breaks_nothing(self) -> None:
        valid = torch.ones(1, 2, dtype=torch.bool)
        assert cheapest_pairs(torch.zeros(1, 3, 2), valid=valid).tolist() == [[0, 1, -1]]
        given = drawn()
        given["logits"] = torch.full_like(given["logits"], torch.nan)
        assert match_masks(**given).max() >= 0


class TestMaskLoss:
    def test_without_masks_only_no_object_is_asked(self) -> None:
        given = drawn()
        given["masks"] = torch.zeros_like(given["masks"])
        found = mask_loss(**given)
        none = torch.full((2 * QUERIES,), CLASSES)
        expected = F.cross_entropy(given["class_logits"].flatten(0, 1), none)
        assert found.total.item() == pytest.approx(2 * expected.item(), rel=1e-5)
        found.total.backward()
        assert given["logits"].grad is None or not given["logits"].grad.any()
        some = given | {"masks": given["masks"][:, :0], "labels": given["labels"][:, :0]}
        assert mask_loss(**some).total.item() == pytest.approx(found.total.item())

    def test_of_perfect_masks(self) -> None:
        given = drawn()
        given["logits"] = torch.full((2, QUERIES, SIDE, SIDE), -50.0)
        given["logits"][:, :PLACES] = 100.0 * given["masks"] - 50.0
        given["class_logits"] = torch.zeros(2, QUERIES, CLASSES + 1)
        found = mask_loss(**given)
        assert (found.bce.item(), found.dice.item(), found.iou.item()) == (pytest.approx(0, abs=1e-6),) * 2 + (1.0,)

    def test_half_precision_is_widened(self) -> None:
        given = drawn()
        given = {name: value.bfloat16() if value.is_floating_point() else value for name, value in given.items()}
        assert mask_loss(**given).total.dtype == torch.float32

    def test_what_does_not_fit_is_refused(self) -> None:
        given = drawn()
        with pytest.raises(InputError, match=f"classes 0 to {CLASSES - 1}, got {CLASSES}"):
            mask_loss(**given | {"labels": torch.full_like(given["labels"], CLASSES)})
        with pytest.raises(InputError, match="expected logits"):
            mask_loss(**given | {"masks": given["masks"][..., :3]})
        with pytest.raises(InputError, match="match: expected"):
            mask_loss(**given, match=torch.zeros(2, 1, dtype=torch.long))

    def test_masks_at_another_size_are_shares(self) -> None:
        masks = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
        masks[..., :1] = True
        assert masks_at(masks, (2, 2)).tolist() == [[[[0.5, 0.0], [0.5, 0.0]]]]
        assert masks_at(masks, (4, 4)) is masks


class TestMaskText:
    def texts(self, prompts: int) -> Tensor:
        return F.normalize(torch.randn(CLASSES, prompts, 8, generator=torch.Generator().manual_seed(1)), dim=2)

    def rows(self) -> Tensor:
        rows = F.normalize(torch.randn(2, QUERIES, 8, generator=torch.Generator().manual_seed(2)), dim=2)
        return rows.requires_grad_()

    def test_one_prompt_makes_both_kinds_the_same(self) -> None:
        labels, masks, texts = torch.tensor([[0, 2, -1, 1]] * 2), self.rows(), self.texts(1)
        both = [mask_text_loss(masks, texts, labels, negatives=kind).item() for kind in ("separate", "mix")]
        assert both[0] == pytest.approx(both[1])

    def test_nothing_matched_is_zero_with_a_gradient(self) -> None:
        masks = self.rows()
        loss = mask_text_loss(masks, self.texts(2), torch.full((2, QUERIES), -1), negatives="mix")
        loss.backward()
        assert loss.item() == 0
        assert masks.grad is not None
        assert not masks.grad.any()

    def test_ties_take_the_first_prompt(self) -> None:
        texts = self.texts(1).expand(-1, 3, -1)
        similarity = mask_text_similarity(self.rows(), texts, temperature=1.0)
        assert best_prompts(similarity, torch.tensor([[0, 1, 2, -1]] * 2)).tolist() == [[0, 0, 0, -1]] * 2

    def test_what_does_not_fit_is_refused(self) -> None:
        labels = torch.zeros(2, QUERIES, dtype=torch.long)
        with pytest.raises(InputError, match="at least one of each"):
            mask_text_loss(self.rows(), self.texts(1)[:, :0], labels)
        with pytest.raises(InputError, match=f"0 to {CLASSES - 1}, or -1 for none, got {CLASSES}"):
            mask_text_loss(self.rows(), self.texts(1), labels + CLASSES)
        with pytest.raises(InputError, match="labels: expected"):
            mask_text_loss(self.rows(), self.texts(1), labels[:, :2])
        with pytest.raises(InputError, match="normalise first"):
            mask_text_loss(2 * self.rows(), self.texts(1), labels)

    def test_the_whole_loss_counts_every_layer_and_the_contrast_once(self) -> None:
        given, texts = drawn(), self.texts(2)
        found = MaskPrediction(
            torch.stack([self.rows()] * 2),
            torch.stack([given["logits"]] * 2),
            torch.stack([given["class_logits"]] * 2),
        )
        terms = mta_loss(found, texts, given["masks"], given["labels"], similarity=0.5)
        one = mask_loss(**given, over="process").total
        assert terms.total.item() == pytest.approx(2 * one.item() + 0.5 * terms.similarity.item(), rel=1e-5)
        match = match_masks(**given)
        own = torch.where(match >= 0, given["labels"].gather(1, match.clamp(min=0)), -1)
        assert terms.similarity.item() == pytest.approx(mask_text_loss(self.rows(), texts, own).item(), rel=1e-5)
        with pytest.raises(InputError, match="logits of 2 classes and of no object"):
            mta_loss(found, texts[:2], given["masks"], given["labels"])
        nothing = mta_loss(found, texts, given["masks"][:, :0], given["labels"][:, :0])
        assert nothing.similarity.item() == 0
