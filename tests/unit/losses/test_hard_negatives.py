"""Hard negatives beside plain arithmetic: the losses, what becomes of duplicates, and the step that encodes twins."""

from __future__ import annotations

import gc
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tether.losses.infonce as infonce
from tether.core.errors import InputError
from tether.core.gather import LOCAL, Gather
from tether.core.geometry import Geometry
from tether.core.types import Batch, Encoded, Features, Loss
from tether.losses import OBJECTIVES, EqualNegativesWarning, caption_labels, clip_loss, hard_info_nce
from tether.losses.hard_negatives import EqualNegatives
from tether.methods.clip_in import SymmetricHardNegativeLoss, symmetric_negative_loss
from tether.methods.tripletclip import NegClipLoss, TripletClipLoss, neg_clip_accuracy, neg_clip_loss, triplet_clip_loss
from tether.methods.tripletclip.neg_clip import neg_clip_terms
from tether.models import create
from tether.training.steps.module import StepModule, joined_texts
from tether.training.steps.presets import HardNegativeStep

WIDTH = 6
CLOSE = {"rtol": 1e-10, "atol": 1e-12}
LABELS = torch.tensor([5, 1, 5, 2, -7, 2, 2, 0])
OTHERS = torch.tensor([1, 5, 3, 9, 2, -7, 8, 0])


def rows(count: int, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, WIDTH, generator=generator, dtype=torch.float64), dim=1).requires_grad_()


def four(count: int = 8) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return rows(count, seed=0), rows(count, seed=1), rows(count, seed=2), rows(count, seed=3)


def agree(mine: Tensor, theirs: Tensor, leaves: tuple[Tensor, ...]) -> None:
    torch.testing.assert_close(mine, theirs, **CLOSE)
    for first, second in zip(
        torch.autograd.grad(mine.sum(), leaves), torch.autograd.grad(theirs.sum(), leaves), strict=True
    ):
        torch.testing.assert_close(first, second, rtol=1e-8, atol=1e-10)


def plainly(
    queries: Tensor, keys: Tensor, twins: Tensor | None, scale: Tensor, labels: tuple[Tensor, ...], duplicates: str
) -> Tensor:
    """Row by row, the definition."""
    own, theirs, of_twins = labels
    losses = []
    for i, query in enumerate(queries):
        logits = [scale * query @ key for key in keys] + ([] if twins is None else [scale * query @ twins[i]])
        names = [*theirs.tolist(), *([] if twins is None else [int(of_twins[i])])]
        if duplicates == "left_out":
            logits = [logit for j, logit in enumerate(logits) if j == i or names[j] != own[i]]
            target = scale * query @ keys[i]
        else:
            equal = [logit for logit, name in zip(logits, names, strict=True) if name == own[i]]
            target = torch.stack(equal).mean() if duplicates == "positives" else scale * query @ keys[i]
        losses.append(torch.stack(logits).logsumexp(0) - target)
    return torch.stack(losses)


@pytest.mark.parametrize("tiles", ["one", "many"])
@pytest.mark.parametrize("twinned", [False, True])
@pytest.mark.parametrize("duplicates", ["negatives", "positives", "left_out"])
def test_equals_the_definition(duplicates: str, twinned: bool, tiles: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if tiles == "many":
        monkeypatch.setattr(infonce, "LEAST_TILE_ROWS", 3)
        monkeypatch.setitem(infonce.TILE_BYTES, "cpu", 1)
    queries, texts, more, twins = four()
    keys, named = torch.cat([texts, more]), torch.cat([LABELS, OTHERS])
    scale = torch.tensor(20.0, dtype=torch.float64, requires_grad=True)
    of_twins = torch.tensor([5, 3, 4, 4, 0, 2, 1, 9])
    mine = hard_info_nce(
        queries,
        keys,
        scale=scale,
        twins=twins if twinned else None,
        query_labels=LABELS,
        key_labels=named,
        twin_labels=of_twins,
        duplicates=duplicates,  # pyrefly: ignore[bad-argument-type]
    )
    theirs = plainly(queries, keys, twins if twinned else None, scale, (LABELS, named, of_twins), duplicates)
    agree(mine, theirs, (queries, texts, more, scale, *([twins] if twinned else [])))


def test_no_table_of_labels_waits_for_the_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infonce, "LEAST_TILE_ROWS", 3)
    monkeypatch.setitem(infonce.TILE_BYTES, "cpu", 1)
    queries, keys, _, twins = four()
    common = {"query_labels": LABELS, "key_labels": LABELS, "twin_labels": LABELS}
    others = tables()
    losses = hard_info_nce(queries, keys, scale=20.0, twins=twins, duplicates="left_out", **common)
    assert losses.requires_grad
    assert {id(one) for one in tables()} <= {id(one) for one in others}


def tables() -> list[Tensor]:
    """Tables of booleans that are alive, those of other tests too."""
    return [one for one in gc.get_objects() if type(one) is Tensor and one.dtype == torch.bool and one.ndim == 2]


@pytest.mark.parametrize("tiles", ["one", "many"])
@pytest.mark.parametrize("duplicates", ["negatives", "left_out"])
def test_accuracy_comes_from_the_pass_of_the_loss(duplicates: Any, tiles: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if tiles == "many":
        monkeypatch.setattr(infonce, "LEAST_TILE_ROWS", 3)
        monkeypatch.setitem(infonce.TILE_BYTES, "cpu", 1)
    img, txt, neg_img, neg_txt = (one.detach() for one in four(40))
    txt, neg_txt = F.normalize(img + 0.4 * txt, dim=1), F.normalize(img + 0.5 * neg_txt, dim=1)
    txt[7], img[9], neg_txt[30] = txt[3], img[2], txt[12]  # of equal candidates the first is found
    wanted = [neg_clip_accuracy(img, txt, neg_txt), neg_clip_accuracy(neg_img, neg_txt, txt)]
    monkeypatch.setattr("tether.methods.tripletclip.neg_clip.top_hits", None)
    leaves = (img.requires_grad_(), txt.requires_grad_(), neg_txt.requires_grad_())
    own, other = torch.arange(40), torch.arange(40, 80)
    found = neg_clip_terms(*leaves, 9.0, labels=(own, other), duplicates=duplicates, gather=LOCAL)
    assert 0.3 < found.accuracy < 0.9
    torch.testing.assert_close(found.accuracy, wanted[0])
    agree(found.total, clip_loss(img, txt, 9.0, extra_txt=neg_txt), leaves)
    both = triplet_clip_loss(
        img, txt, neg_img, neg_txt, 9.0, labels=own, neg_labels=other, duplicates=duplicates
    ).accuracy
    torch.testing.assert_close(both, (wanted[0] + wanted[1]) / 2)


def test_triplet_is_the_sum_of_both_roles_and_twice_clip_without_information() -> None:
    img, txt, neg_img, neg_txt = four()
    terms = triplet_clip_loss(img, txt, neg_img, neg_txt, 30.0)
    torch.testing.assert_close(terms.real, neg_clip_loss(img, txt, neg_txt, 30.0))
    torch.testing.assert_close(terms.negative, neg_clip_loss(neg_img, neg_txt, txt, 30.0))
    torch.testing.assert_close(terms.total, terms.real + terms.negative)
    swapped = triplet_clip_loss(neg_img, neg_txt, img, txt, 30.0)
    torch.testing.assert_close(swapped.total, terms.total, **CLOSE)
    assert 0 <= terms.accuracy <= 1


def test_negative_pictures_are_no_candidates_of_real_captions() -> None:
    img, txt, neg_img, neg_txt = four()
    (grad,) = torch.autograd.grad(triplet_clip_loss(img, txt, neg_img, neg_txt, 30.0).real, neg_img, allow_unused=True)
    assert grad is None


def test_scope_batch_is_clip_on_twice_the_pairs() -> None:
    leaves = four()
    img, txt, img_edit, txt_edit = leaves
    terms = symmetric_negative_loss(*leaves, 30.0, scope="batch")
    agree(terms.total, clip_loss(torch.cat([img, img_edit]), torch.cat([txt, txt_edit]), 30.0), leaves)


def test_one_quadruple_is_a_choice_between_twins_in_every_scope() -> None:
    leaves = four(1)
    for scope in ("own", "batch"):
        wanted = symmetric_negative_loss(*leaves, 30.0, scope="pair").total
        agree(symmetric_negative_loss(*leaves, 30.0, scope=scope).total, wanted, leaves)


def test_scope_pair_is_a_softmax_over_two_even_when_it_is_very_wrong() -> None:
    leaves = four()
    img, txt, img_edit, txt_edit = leaves
    losses = []
    for row in range(len(img)):
        pictures, texts = torch.stack([img[row], img_edit[row]]), torch.stack([txt[row], txt_edit[row]])
        logits = 100 * pictures @ texts.T
        losses += [F.cross_entropy(logits, torch.arange(2)), F.cross_entropy(logits.T, torch.arange(2))]
    assert max(losses) > 20
    agree(symmetric_negative_loss(*leaves, 100.0, scope="pair").total, torch.stack(losses).mean(), leaves)


def test_text_anchors_get_the_edited_picture_as_a_negative() -> None:
    img, txt, img_edit, txt_edit = four()
    terms = symmetric_negative_loss(img, txt, img_edit, txt_edit, 30.0)
    grad = torch.autograd.grad(terms.t2i, img_edit)[0]
    assert grad.abs().sum() > 0
    torch.testing.assert_close(
        terms.total, torch.stack([terms.i2t, terms.t2i, terms.i2t_edit, terms.t2i_edit]).mean(), **CLOSE
    )


@pytest.mark.parametrize("scope", ["own", "batch", "pair"])
def test_originals_and_edits_change_roles_freely(scope: Any) -> None:
    img, txt, img_edit, txt_edit = four()
    first = symmetric_negative_loss(img, txt, img_edit, txt_edit, 30.0, scope=scope)
    second = symmetric_negative_loss(img_edit, txt_edit, img, txt, 30.0, scope=scope)
    torch.testing.assert_close(first.total, second.total, **CLOSE)
    torch.testing.assert_close(first.i2t, second.i2t_edit, **CLOSE)


def test_distinct_labels_change_nothing() -> None:
    img, txt, neg_img, neg_txt = four()
    own, other = torch.arange(8), torch.arange(8, 16)
    for duplicates in ("positives", "left_out"):
        common: dict[str, Any] = {"duplicates": duplicates, "labels": own}
        found = triplet_clip_loss(img, txt, neg_img, neg_txt, 30.0, neg_labels=other, **common).total
        torch.testing.assert_close(found, triplet_clip_loss(img, txt, neg_img, neg_txt, 30.0).total, **CLOSE)
        found = symmetric_negative_loss(img, txt, neg_img, neg_txt, 30.0, edit_labels=other, **common).total
        torch.testing.assert_close(found, symmetric_negative_loss(img, txt, neg_img, neg_txt, 30.0).total, **CLOSE)


def test_a_negative_that_is_another_rows_caption_stops_pushing_it_away() -> None:
    img = torch.eye(WIDTH, dtype=torch.float64)[:3].requires_grad_()
    txt = img.detach().clone()
    neg_txt = txt.roll(1, 0)  # of row i the caption of row i - 1
    own = torch.arange(3)
    published = neg_clip_loss(img, txt, neg_txt, 100.0)
    cured = neg_clip_loss(img, txt, neg_txt, 100.0, labels=own, neg_labels=own.roll(1), duplicates="left_out")
    assert published > 0.3  # ln 2 / 2: two equal captions compete for each picture
    assert cured < 1e-9


class TestDoor:
    def test_names_what_is_missing_or_does_not_fit(self) -> None:
        img, txt, neg_img, neg_txt = four(4)
        with pytest.raises(InputError, match="negative_image: expected the hard negatives of 4 pairs, got none"):
            triplet_clip_loss(img, txt, None, neg_txt, 10.0)  # pyrefly: ignore
        with pytest.raises(InputError, match="txt_edit: expected the hard negatives"):
            symmetric_negative_loss(img, txt, neg_img, None, 10.0)  # pyrefly: ignore
        with pytest.raises(InputError, match=r"negative_text: expected \(4, 6\) like the pairs, got \(3, 6\)"):
            neg_clip_loss(img, txt, neg_txt[:3], 10.0)
        with pytest.raises(InputError, match="negative_text row 1 has length 2"):
            neg_clip_loss(img, txt, neg_txt * torch.tensor([[1.0], [2], [1], [1]]), 10.0)
        with pytest.raises(InputError, match="empty batch"):
            neg_clip_loss(img[:0], txt[:0], neg_txt[:0], 10.0)

    def test_labels_must_be_there_and_fit(self) -> None:
        img, txt, _, neg_txt = four(4)
        with pytest.raises(InputError, match="labels of queries, keys and twins"):
            neg_clip_loss(img, txt, neg_txt, 10.0, duplicates="left_out")
        with pytest.raises(InputError, match=r"expected \(4,\) and \(8,\)"):
            hard_info_nce(
                img,
                torch.cat([txt, neg_txt]),
                scale=1.0,
                query_labels=torch.arange(4),
                key_labels=torch.arange(4),
                duplicates="positives",
            )
        own = torch.arange(4)
        with pytest.raises(InputError, match=r"labels of twins: expected \(4,\), got \(3,\)"):
            hard_info_nce(
                img,
                txt,
                scale=1.0,
                twins=neg_txt,
                query_labels=own,
                key_labels=own,
                twin_labels=own[:3],
                duplicates="positives",
            )
        with pytest.raises(InputError, match="at least 2 \\+ 4 keys, got 4"):
            hard_info_nce(img, txt, scale=1.0, offset=2)
        with pytest.raises(InputError, match="twins"):
            hard_info_nce(img, txt, scale=1.0, twins=neg_txt[:2])

    @pytest.mark.parametrize("part", [NegClipLoss, TripletClipLoss, SymmetricHardNegativeLoss])
    def test_objectives_refuse_batches_without_negatives(self, part: type) -> None:
        out = Encoded(Features(rows(3, seed=0)), Features(rows(3, seed=1)), torch.tensor(10.0))
        batch = Batch(torch.zeros(3, 3, 1, 1), torch.arange(1, 4)[:, None])
        with pytest.raises(InputError, match="use the step hard_negatives"):
            part()(out, batch, gather=LOCAL)
        full = Encoded(out.image, out.text, out.logit_scale, None, Features(rows(3, seed=2)), Features(rows(3, seed=3)))
        with pytest.raises(InputError, match=r"batch\.extra"):
            part(duplicates="left_out")(full, batch, gather=LOCAL)
        curved = replace(full, geometry=Geometry("euclidean", None))
        with pytest.raises(InputError, match="compares by cosine"):
            part()(curved, batch, gather=LOCAL)
        lonely = Batch(batch.image, batch.text, {"labels": torch.arange(3)})
        with pytest.raises(InputError, match="together"):
            part(duplicates="left_out")(full, lonely, gather=LOCAL)


def test_equal_negatives_are_counted_and_warned_of_once() -> None:
    txt, neg_txt = rows(4, seed=0).detach(), rows(4, seed=1).detach()
    neg_txt[1:3] = txt[1:3]
    with pytest.warns(EqualNegativesWarning, match="2 of 4 captions"):
        neg_clip_loss(rows(4, seed=2), txt, neg_txt, 10.0)
    count = EqualNegatives()
    with pytest.warns(EqualNegativesWarning):
        count(txt, neg_txt, what="captions")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        count(txt, neg_txt, what="captions")
        count(txt, txt.flip(1), what="captions")
    assert count.seen == 4


class Spy:
    """Remembers what it was given."""

    def __call__(self, out: Encoded, batch: Batch, *, gather: object) -> Loss:
        self.out, self.batch = out, batch
        return Loss(out.image.pooled.sum(), {})


def quadruples(count: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    words = torch.randint(1, 1000, (2, count, 6), generator=generator)
    short, long = words[0, :, :3].clone(), words[1].clone()
    short[:, 2], long[:, 5] = 49_407, 49_407
    return Batch(pixels[0], short, {"negative_image": pixels[1], "negative_text": long})


@pytest.mark.parametrize("micro", [None, 2])
@pytest.mark.parametrize("pictures", ["with", "without"])
def test_the_step_encodes_twins_as_the_model_would_alone(micro: int | None, pictures: str) -> None:
    model, spy, batch = create("tiny").double().eval(), Spy(), quadruples()
    if pictures == "without":
        batch = Batch(batch.image, batch.text, {"negative_text": batch.extra["negative_text"]})
    HardNegativeStep(spy, steps=10, seed=0)(StepModule(model, micro_batch=micro), batch, step=0, gather=LOCAL)
    wanted = {
        "image": model.encode_image(batch.image),
        "text": model.encode_text(batch.text),
        "negative_text": model.encode_text(batch.extra["negative_text"]),  # pyrefly: ignore
    }
    if pictures == "with":
        wanted["negative_image"] = model.encode_image(batch.extra["negative_image"])  # pyrefly: ignore
    else:
        assert spy.out.negative_image is None
    for name, features in wanted.items():
        torch.testing.assert_close(getattr(spy.out, name).pooled, features.pooled, rtol=1e-9, atol=1e-11)


def test_a_twin_shows_the_patches_of_its_row_whatever_the_processes() -> None:
    model, spy, batch = create("tiny").double().eval(), Spy(), quadruples(4)
    step = HardNegativeStep(spy, steps=10, seed=0, keep_patches=0.5)
    step(StepModule(model), batch, step=0, gather=LOCAL)
    whole = spy.out
    seen = step.views["image"].rows(StepModule(model), batch, step=0, gather=LOCAL)
    assert seen is not None
    keep = seen.keep
    assert keep is not None
    twins = batch.extra["negative_image"]
    assert isinstance(twins, Tensor)
    assert whole.negative_image is not None
    torch.testing.assert_close(whole.image.pooled, model.encode_image(batch.image, keep=keep).pooled)
    torch.testing.assert_close(whole.negative_image.pooled, model.encode_image(twins, keep=keep).pooled)
    for rank in range(2):
        part = slice(2 * rank, 2 * rank + 2)
        half = Batch(batch.image[part], batch.text[part], {name: rows[part] for name, rows in batch.extra.items()})
        step(StepModule(model), half, step=0, gather=Gather(rank, 2))
        assert spy.out.negative_image is not None
        torch.testing.assert_close(spy.out.image.pooled, whole.image.pooled[part])
        torch.testing.assert_close(spy.out.negative_image.pooled, whole.negative_image.pooled[part])


def test_roles_in_turn_are_the_two_terms_of_triplet_clip() -> None:
    pair, batch = StepModule(create("tiny").double()), quadruples()
    for duplicates in ("negatives", "left_out"):
        turns = HardNegativeStep(NegClipLoss(duplicates=duplicates), steps=10, seed=0, roles="in_turn")
        whole = HardNegativeStep(TripletClipLoss(duplicates=duplicates), steps=10, seed=0)
        real, negative = (turns(pair, batch, step=step, gather=LOCAL).total for step in (4, 7))
        terms = whole(pair, batch, step=4, gather=LOCAL).terms
        torch.testing.assert_close(real.detach(), terms["real"], **CLOSE)
        torch.testing.assert_close(negative.detach(), terms["negative"], **CLOSE)


def test_labels_are_those_of_equal_tokens() -> None:
    pair, batch = StepModule(create("tiny").double()), quadruples()
    other = batch.extra["negative_text"]
    assert isinstance(other, Tensor)
    named = {**batch.extra, "labels": caption_labels(batch.text), "negative_labels": caption_labels(other)}
    for name in ("neg_clip", "triplet_clip", "symmetric_negatives"):
        step = HardNegativeStep(OBJECTIVES[name](duplicates="positives"), steps=10, seed=0)  # pyrefly: ignore
        first = step(pair, batch, step=0, gather=LOCAL).total
        assert torch.equal(first, step(pair, Batch(batch.image, batch.text, named), step=0, gather=LOCAL).total)


def test_the_step_says_what_is_missing() -> None:
    pair, batch = StepModule(create("tiny")), quadruples()
    step = HardNegativeStep(NegClipLoss(), steps=10, seed=0)
    with pytest.raises(InputError, match="expected 'negative_text', got nothing; every row of the source must have it"):
        step(pair, Batch(batch.image, batch.text), step=0, gather=LOCAL)
    short = {**batch.extra, "negative_text": batch.text[:2]}
    with pytest.raises(InputError, match=r"equally many hard negatives for each of 5 pairs.*'negative_text': 2"):
        step(pair, Batch(batch.image, batch.text, short), step=0, gather=LOCAL)
    with pytest.raises(InputError, match="roles: expected"):
        HardNegativeStep(NegClipLoss(), steps=10, seed=0, roles="both")  # pyrefly: ignore
    with pytest.raises(InputError, match="negative_image"):
        HardNegativeStep(NegClipLoss(), steps=10, seed=0, roles="in_turn")(
            pair, Batch(batch.image, batch.text, {"negative_text": batch.text}), step=1, gather=LOCAL
        )


def test_texts_of_different_lengths_are_joined() -> None:
    joined = joined_texts([torch.tensor([[5, 6]]), torch.tensor([[7, 8, 9]])])
    assert joined.tolist() == [[5, 6, 0], [7, 8, 9]]
