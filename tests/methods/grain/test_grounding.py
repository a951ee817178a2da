"""Boxes, their matching, and GRAIN's loss where the figures do not look."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.types import Grounding
from tether.losses import box_cost, box_loss, clip_loss, hungarian_match
from tether.losses.boxes import corners
from tether.methods.grain import description_loss, grain_loss

LOOSE = {"atol": 1e-6, "rtol": 1e-5}


def drawn(rows: int = 3, queries: int = 4, places: int = 3, *, seed: int = 0) -> tuple[Grounding, Tensor, Tensor]:
    """What a decoder may give, with boxes; the second image has none."""
    generator = torch.Generator().manual_seed(seed)
    pred = 0.2 + 0.3 * torch.rand(3, rows, queries, 4, generator=generator)
    first = 0.6 * torch.rand(rows, places, 2, generator=generator)
    boxes = torch.cat([first, first + 0.1 + 0.3 * torch.rand(rows, places, 2, generator=generator)], dim=2)
    valid = torch.rand(rows, places, generator=generator) < 0.8
    valid[1], valid[0] = False, True
    image, regions = torch.randn(rows, 8, generator=generator), torch.randn(rows, queries, 8, generator=generator)
    out = Grounding(image.requires_grad_(), regions.requires_grad_(), pred[-1].clone().requires_grad_(), pred[:-1])
    return out, boxes, valid


class TestBoxMatching:
    @pytest.mark.parametrize(("queries", "places"), [(4, 3), (2, 4), (1, 1)])
    def test_is_the_cheapest_of_all_assignments(self, queries: int, places: int) -> None:
        out, boxes, _ = drawn(queries=queries, places=places)
        cost = box_cost(out.boxes, boxes)
        match = hungarian_match(out.boxes, boxes)
        for table, found in zip(cost, match, strict=True):
            rows, columns = (range(count) for count in table.shape)
            pairs = [
                list(zip(some, others, strict=True))
                for some in itertools.permutations(rows, min(table.shape))
                for others in [columns if places <= queries else None]
                if others is not None
            ] or [list(zip(rows, others, strict=True)) for others in itertools.permutations(columns, queries)]
            cheapest = min(sum(float(table[pair]) for pair in one) for one in pairs)
            ours = sum(float(table[query, int(box)]) for query, box in enumerate(found) if box >= 0)
            assert ours == pytest.approx(cheapest, abs=1e-5)
            assert int((found >= 0).sum()) == min(queries, places)

    def test_half_precision_and_nan_do_not_break_it(self) -> None:
        out, boxes, valid = drawn()
        pred = out.boxes.detach()
        assert torch.equal(
            hungarian_match(pred.double(), boxes.double(), valid=valid), hungarian_match(pred, boxes, valid=valid)
        )
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert box_loss(pred.bfloat16(), boxes, valid=valid).total.dtype == torch.float32
        assert hungarian_match(torch.full_like(pred, torch.nan), boxes, valid=valid).max() >= 0

    def test_a_perfect_box_costs_nearly_nothing(self) -> None:
        out, _, _ = drawn()
        found = box_loss(out.boxes, corners(out.boxes.detach()), over="process")
        assert found.l1.item() == pytest.approx(0, abs=1e-6)
        assert found.iou.item() > 0.99

    @pytest.mark.parametrize(
        ("boxes", "why"),
        [
            (torch.tensor([[[0.5, 0.1, 0.4, 0.9]]]), "image 0, box 0: expected x0 <= x1"),
            (torch.full((1, 1, 4), torch.nan), "image 0, box 0"),
            (torch.zeros(1, 4), r"boxes \(b, t, 4\)"),
            (torch.zeros(2, 1, 4), r"pred \(b, q, 4\)"),
        ],
    )
    def test_refuses_boxes(self, boxes: Tensor, why: str) -> None:
        with pytest.raises(InputError, match=why):
            hungarian_match(torch.full((1, 2, 4), 0.5), boxes)

    def test_refuses_a_mask_and_a_match(self) -> None:
        out, boxes, valid = drawn()
        with pytest.raises(InputError, match="valid: expected bool"):
            box_cost(out.boxes, boxes, valid=valid.long())
        with pytest.raises(InputError, match="numbers below 3"):
            box_loss(out.boxes, boxes, match=torch.full((3, 4), 3))
        with pytest.raises(InputError, match="valid boxes only"):
            description_loss(
                out.regions,
                descriptions=torch.zeros(0, 8),
                match=torch.zeros(3, 4).long(),
                valid=valid & False,
                logit_scale=1.0,
            )


class TestGrainLoss:
    def test_is_the_sum_of_its_parts(self) -> None:
        out, boxes, valid = drawn()
        captions, said = torch.randn(3, 8), torch.randn(int(valid.sum()), 8)
        found = grain_loss(out, captions, boxes, valid, said, 10.0, weights=(2.0, 3.0, 0.5, 4.0), factor=1.0)
        unit = torch.nn.functional.normalize
        assert torch.allclose(found.clip, clip_loss(unit(out.image), unit(captions), 10.0))
        assert torch.allclose(found.total, 2 * found.clip + 3 * found.l1 + 0.5 * found.giou + 4 * found.desc)
        match = hungarian_match(out.boxes, boxes, valid=valid)
        rows = [(i, q, int(match[i, q])) for i in range(3) for q in range(4) if match[i, q] >= 0]
        places = [tuple(one) for one in valid.nonzero().tolist()]
        losses = [
            torch.nn.functional.cross_entropy(
                10 * unit(out.regions[i, q], dim=0) @ unit(said).T, torch.tensor(places.index((i, t)))
            )
            for i, q, t in rows
        ]
        assert torch.allclose(found.desc, torch.stack(losses).mean(), **LOOSE)

    @pytest.mark.parametrize("aux", [False, True])
    def test_without_boxes_all_parameters_have_a_gradient_of_zero(self, aux: bool) -> None:
        out, boxes, valid = drawn()
        captions = torch.randn(3, 8)
        found = grain_loss(out, captions, boxes, valid & False, torch.zeros(0, 8), 10.0, aux=aux)
        assert torch.equal(found.total, found.clip)
        found.total.backward()
        assert out.image.grad is not None
        for part in (out.boxes, out.regions):
            assert part.grad is not None
            assert not part.grad.any()

    def test_boxes_of_earlier_layers_count_where_asked(self) -> None:
        out, boxes, valid = drawn()
        captions, said = torch.randn(3, 8), torch.randn(int(valid.sum()), 8)
        plain, deep = (grain_loss(out, captions, boxes, valid, said, 10.0, aux=aux) for aux in (False, True))
        assert out.earlier is not None
        more = sum(box_loss(pred, boxes, valid=valid).total for pred in out.earlier)
        assert torch.allclose(deep.total, plain.total + more, **LOOSE)
        with pytest.raises(InputError, match="earlier layers"):
            grain_loss(Grounding(out.image, out.regions, out.boxes), captions, boxes, valid, said, 10.0, aux=True)

    def test_boxes_without_an_area_are_padding(self) -> None:
        out, boxes, valid = drawn()
        boxes = boxes * valid[..., None]
        captions, said = torch.randn(3, 8), torch.randn(int(valid.sum()), 8)
        found = [grain_loss(out, captions, boxes, some, said, 10.0).total for some in (valid, None)]
        assert torch.equal(*found)

    def test_more_boxes_than_queries(self) -> None:
        out, boxes, valid = drawn(queries=1)
        said = torch.randn(int(valid.sum()), 8)
        found = grain_loss(out, torch.randn(3, 8), boxes, valid, said, 10.0)
        assert found.total.isfinite()
        assert int((hungarian_match(out.boxes, boxes, valid=valid) >= 0).sum()) == 2


class TestDuplicates:
    def given(self) -> tuple[dict, Tensor]:
        out, boxes, _ = drawn()
        valid = torch.ones(3, 3, dtype=torch.bool)
        ids = torch.tensor([[5, 6, 5], [7, 5, 8], [9, 6, 10]])
        rows = torch.randn(11, 8, generator=torch.Generator().manual_seed(1))
        match = hungarian_match(out.boxes, boxes)
        return {"descriptions": rows[ids.flatten()], "match": match, "valid": valid, "logit_scale": 4.0}, ids

    def test_once_is_a_softmax_over_what_is_different(self) -> None:
        given, ids = self.given()
        regions = drawn()[0].regions
        found, _ = description_loss(regions, ids=ids, duplicates="once", **given)
        names = list(dict.fromkeys(ids.flatten().tolist()))
        rows = torch.stack([given["descriptions"][ids.flatten().tolist().index(name)] for name in names])
        image, query = (given["match"] >= 0).nonzero(as_tuple=True)
        wanted = torch.tensor(
            [names.index(int(ids[i, given["match"][i, q]])) for i, q in zip(image, query, strict=True)]
        )
        unit = torch.nn.functional.normalize
        logits = 4 * unit(regions[image, query]) @ unit(rows).T
        assert torch.allclose(found, torch.nn.functional.cross_entropy(logits, wanted), **LOOSE)

    def test_positives_share_the_target(self) -> None:
        given, ids = self.given()
        regions = drawn()[0].regions
        found, share = description_loss(regions, ids=ids, duplicates="positives", **given)
        image, query = (given["match"] >= 0).nonzero(as_tuple=True)
        own = torch.stack([ids[i, given["match"][i, q]] for i, q in zip(image, query, strict=True)])
        target = (own[:, None] == ids.flatten()).float()
        unit = torch.nn.functional.normalize
        logits = 4 * unit(regions[image, query]) @ unit(given["descriptions"]).T
        wanted = torch.nn.functional.cross_entropy(logits, target / target.sum(dim=1, keepdim=True))
        assert torch.allclose(found, wanted, **LOOSE)
        assert 0 <= float(share) <= 1

    def test_a_box_of_which_nothing_is_said_takes_no_part(self) -> None:
        given, ids = self.given()
        regions = drawn()[0].regions
        silent = ids.clone()
        silent[0] = -1
        found, _ = description_loss(regions, ids=silent, **given)
        kept = {"descriptions": given["descriptions"][3:], "match": given["match"][1:], "valid": given["valid"][1:]}
        rest, _ = description_loss(regions[1:], **{**given, **kept})
        assert torch.allclose(found, rest, **LOOSE)

    def test_refuses(self) -> None:
        given, _ = self.given()
        regions = drawn()[0].regions
        with pytest.raises(InputError, match="needs ids"):
            description_loss(regions, duplicates="once", **given)
        with pytest.raises(InputError, match="a row for each valid box"):
            description_loss(regions, **{**given, "descriptions": torch.zeros(4, 8)})
        with pytest.raises(InputError, match="ids: expected"):
            description_loss(regions, ids=torch.zeros(3, 2).long(), **given)


class Two(Gather):
    """What a process sees of another that holds ``other`` of each thing gathered, in order."""

    def __init__(self, other: list[Tensor]) -> None:
        super().__init__(0, 2)
        object.__setattr__(self, "left", list(other))

    __slots__ = ("left",)

    def __call__(self, rows: Tensor) -> Tensor:
        return torch.cat([rows, self.left.pop(0).to(rows.dtype)])


def test_boxes_are_counted_over_all_processes() -> None:
    out, boxes, valid = drawn()
    alone = box_loss(out.boxes, boxes, valid=valid)
    found = box_loss(out.boxes, boxes, valid=valid, gather=Two([torch.tensor([1])]))
    assert torch.allclose(found.total, alone.total * 2 * valid.sum() / (valid.sum() + 1), **LOOSE)
    own = box_loss(out.boxes, boxes, valid=valid, gather=Two([torch.tensor([1])]), over="process")
    assert torch.equal(own.total, alone.total)
