"""Soft targets, several positives, words beside parts: exact identities first, then what each must not do."""

import math

import pytest
import torch
import torch.nn.functional as F

from tether.core.errors import InputError
from tether.core.gather import LOCAL
from tether.core.types import Batch, Encoded, Features
from tether.losses import MultiPositive, clip_loss, multi_positive_loss
from tether.methods.medical_survey import (
    LocalAlignmentLoss,
    SoftTargetContrastive,
    finding_similarity,
    local_alignment_loss,
    local_similarity,
    soft_target_loss,
    soft_targets,
)

GENERATOR = torch.Generator().manual_seed(0)


def rows(count, width=8):
    return F.normalize(torch.randn(count, width, generator=GENERATOR, dtype=torch.float64))


def parts(count, many, width=8):
    return torch.randn(count, many, width, generator=GENERATOR, dtype=torch.float64)


def batch(count, **extra):
    return Batch(torch.zeros(count, 3, 1, 1), torch.arange(1, count + 1)[:, None], extra)


def out(image, text, scale=20.0):
    return Encoded(Features(image), Features(text), torch.tensor(scale, dtype=torch.float64))


# Soft targets


def test_distinct_findings_and_sharp_targets_are_clips_loss():
    image, text = rows(5), rows(5)
    targets = soft_targets(torch.eye(5), right=torch.eye(5), form="shares").double()
    assert torch.equal(targets, torch.eye(5).double())
    found = soft_target_loss(image, text, 20.0, targets=targets, text_targets=targets)
    torch.testing.assert_close(found, clip_loss(image, text, 20.0))
    sharp = soft_targets(torch.eye(5), right=torch.eye(5), temperature=0.01)
    torch.testing.assert_close(sharp, torch.eye(5))


def test_equal_findings_are_clips_loss_with_duplicates_as_positives():
    image, text = rows(6), rows(6)
    labels = torch.tensor([0, 1, 0, 2, 2, 0])
    vectors = F.one_hot(labels).double()
    found = SoftTargetContrastive(tau=0.05, form="shares")(out(image, text), batch(6, findings=vectors), gather=LOCAL)
    torch.testing.assert_close(found.total, clip_loss(image, text, 20.0, labels=labels))
    own = SoftTargetContrastive(tau=None, form="shares")(out(image, text), batch(6, findings=vectors), gather=LOCAL)
    torch.testing.assert_close(own.total, found.total)


def test_rows_without_findings_are_even_and_the_others_are_not():
    labels = torch.tensor([[0.0, 0], [1, 0], [1, 1]])
    for form in ("softmax", "shares"):
        targets = soft_targets(labels, right=labels, form=form)
        torch.testing.assert_close(targets[0], torch.full((3,), 1 / 3))
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(3))
        assert targets[1, 1] > targets[1, 2] > targets[1, 0]
    ratio = soft_targets(torch.eye(2), right=torch.eye(2))
    torch.testing.assert_close(ratio[0, 0] / ratio[0, 1], torch.tensor(math.e))


def test_uncertain_findings_are_left_out_and_not_taken_for_absent():
    left, right = torch.tensor([[1.0, -1, 1]]), torch.tensor([[1.0, 1, 0], [1, 0, 1], [0, 1, 0]])
    found = finding_similarity(left, right=right)
    torch.testing.assert_close(found, torch.tensor([[0.5**0.5, 1.0, 0.0]]))
    assert torch.equal(found, finding_similarity(torch.tensor([[1.0, torch.nan, 1]]), right=right))
    assert not torch.allclose(found, finding_similarity(torch.tensor([[1.0, 0, 1]]), right=right))
    assert torch.equal(finding_similarity(torch.tensor([[-1, -1, -1]]), right=right), torch.zeros(1, 3))


def test_pictures_and_texts_need_not_be_as_many():
    left, right = torch.eye(4)[[0, 1, 2]], torch.eye(4)[[2, 1, 0, 3, 3]]
    image, text = rows(3), rows(5)
    targets, back = soft_targets(left, right=right).double(), soft_targets(right, right=left).double()
    found = soft_target_loss(image, text, 7.0, targets=targets, text_targets=back)
    logits = 7 * image @ text.T
    wanted = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, back)) / 2
    torch.testing.assert_close(found, wanted)


def test_texts_may_have_findings_of_their_own():
    image, text = rows(4), rows(4)
    one, two = torch.eye(4), torch.eye(4).flip(0)
    mixed = SoftTargetContrastive(form="shares")(
        out(image, text), batch(4, findings=one, text_findings=two), gather=LOCAL
    )
    paired = SoftTargetContrastive(form="shares")(out(image, text.flip(0)), batch(4, findings=one), gather=LOCAL)
    torch.testing.assert_close(mixed.total, paired.total)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: finding_similarity(torch.eye(2), right=torch.eye(3)), r"\(b, k\) and \(n, k\), got \(2, 2\) and"),
        (lambda: finding_similarity(torch.eye(2), right=-2 * torch.eye(2)), "at least 0, or -1 for uncertain, got -2"),
        (
            lambda: SoftTargetContrastive()(out(rows(3), rows(3)), batch(3), gather=LOCAL),
            r"batch.extra\['findings'\]: expected finding vectors \(3, k\), got NoneType",
        ),
        (
            lambda: SoftTargetContrastive()(out(rows(3), rows(3)), batch(3, findings=torch.eye(2)), gather=LOCAL),
            r"got torch.float32 \(2, 2\)",
        ),
        (
            lambda: soft_target_loss(rows(2), rows(2), 1.0, targets=torch.ones(2, 2), text_targets=torch.eye(2)),
            "targets: expected rows of at least 0 that add up to 1",
        ),
        (
            lambda: soft_target_loss(rows(2), rows(3), 1.0, targets=torch.eye(2), text_targets=torch.eye(2)),
            r"targets: expected \(2, 3\)",
        ),
        (
            lambda: soft_target_loss(2 * rows(2), rows(2), 1.0, targets=torch.eye(2), text_targets=torch.eye(2)),
            "image row 0 has length 2",
        ),
    ],
)
def test_bad_soft_targets_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


# Several positives


@pytest.mark.parametrize("credit", ["each", "any"])
def test_one_positive_a_row_is_clips_loss(credit):
    image, text = rows(5), rows(5)
    found = multi_positive_loss(image, text, 20.0, positive=torch.eye(5, dtype=torch.bool), credit=credit)
    torch.testing.assert_close(found, clip_loss(image, text, 20.0))
    objective = MultiPositive(credit=credit)(out(image, text), batch(5), gather=LOCAL)
    torch.testing.assert_close(objective.total, clip_loss(image, text, 20.0))


def test_pairs_of_one_study_are_positives_of_each_other():
    image, text = rows(6), rows(6)
    study = torch.tensor([4, 4, 9, 2, 9, 9])
    found = MultiPositive()(out(image, text), batch(6, study=study), gather=LOCAL)
    torch.testing.assert_close(found.total, clip_loss(image, text, 20.0, labels=study))
    assert found.terms["positives"] == pytest.approx((2 + 2 + 3 + 1 + 3 + 3) / 6)


def test_several_sentences_for_a_picture_and_one_is_enough():
    image, text = rows(2), rows(5)
    positive = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 1, 1]], dtype=torch.bool)
    logits = 9 * image @ text.T
    chance = logits.softmax(dim=1)
    left = -torch.stack([chance[0, :3].sum(), chance[1, 3:].sum()]).log().mean()
    back = logits.T.log_softmax(dim=1)
    right = -torch.stack([*back[:3, 0], *back[3:, 1]]).mean()
    found = multi_positive_loss(image, text, 9.0, positive=positive, credit="any")
    torch.testing.assert_close(found, (left + right) / 2)
    assert multi_positive_loss(image, text, 9.0, positive=positive, credit="each") > found


@pytest.mark.parametrize("credit", ["each", "any"])
def test_rows_without_a_positive_count_nothing_and_give_no_nan(credit):
    image, text = rows(3).requires_grad_(), rows(4)
    positive = torch.tensor([[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]], dtype=torch.bool)
    found = multi_positive_loss(image, text, 9.0, positive=positive, credit=credit)
    logits = 9 * image @ text.T
    wanted = multi_positive_loss(image[:2], text, 9.0, positive=positive[:2], credit=credit)
    left = sum(
        (row.logsumexp(0) - (row[own].mean() if credit == "each" else row[own].logsumexp(0)))
        for row, own in zip(logits[:2], positive[:2], strict=True)
    )
    right = sum((logits[:, column].logsumexp(0) - logits[owner, column]) for column, owner in ((0, 0), (1, 1), (2, 1)))
    torch.testing.assert_close(found, (left / 2 + right / 3) / 2)
    assert not torch.isclose(found, wanted)  # the third picture is still a negative of the texts
    assert torch.autograd.grad(found, image)[0].isfinite().all()


def test_one_patient_is_no_negative_unless_asked_for():
    image, text = rows(4), rows(4)
    patient = torch.tensor([1, 1, 2, 3])
    found = MultiPositive()(out(image, text), batch(4, patient=patient), gather=LOCAL).total
    table = 20 * image @ text.T
    table[0, 1] = table[1, 0] = -torch.inf
    target = torch.arange(4)
    torch.testing.assert_close(found, (F.cross_entropy(table, target) + F.cross_entropy(table.T, target)) / 2)
    kept = MultiPositive(same_patient="negatives")(out(image, text), batch(4, patient=patient), gather=LOCAL).total
    torch.testing.assert_close(kept, clip_loss(image, text, 20.0))
    leaf = image.clone().requires_grad_()
    loss = MultiPositive()(out(leaf, text), batch(4, patient=torch.ones(4).long()), gather=LOCAL)
    assert loss.total == 0
    loss.total.backward()
    assert leaf.grad.isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: MultiPositive()(out(rows(3), rows(3)), batch(3, study=torch.ones(3)), gather=LOCAL),
            r"batch.extra\['study'\]: expected \(3,\) whole numbers, got torch.float32 \(3,\)",
        ),
        (
            lambda: multi_positive_loss(rows(2), rows(3), 1.0, positive=torch.eye(2).bool()),
            r"positive: expected bool \(2, 3\)",
        ),
        (
            lambda: multi_positive_loss(rows(2), rows(2), 1.0, positive=torch.zeros(2, 2).bool()),
            "at least one text that belongs to a picture",
        ),
        (lambda: multi_positive_loss(rows(2), rows(0), 1.0, positive=torch.zeros(2, 0).bool()), "expected embeddings"),
    ],
)
def test_bad_positives_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


# Words beside parts


def test_one_region_leaves_nothing_to_choose():
    regions, words = parts(3, 1), parts(4, 5)
    real = torch.arange(5) < torch.tensor([[5], [1], [3], [2]])
    found = local_similarity(regions, words=words, real=real, temp2=5.0)
    cosine = torch.einsum("bd,nwd->bnw", F.normalize(regions[:, 0], dim=1), F.normalize(words, dim=2))
    wanted = (5 * cosine).masked_fill(~real, -math.inf).logsumexp(dim=2)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("attention", ["cosine", "dot"])
@pytest.mark.parametrize("temp1", [0.5, 4.0, 100.0])
def test_it_is_the_formula_written_out(attention, temp1):
    regions, words, real = parts(2, 3), parts(3, 4), torch.arange(4) < torch.tensor([[4], [2], [1]])
    found = local_similarity(regions, words=words, real=real, temp1=temp1, temp2=2.0, attention=attention)
    for i in range(2):
        for j in range(3):
            own = words[j][real[j]]
            one, two = (own, regions[i]) if attention == "dot" else (F.normalize(own), F.normalize(regions[i]))
            weight = (temp1 * (one @ two.T).softmax(dim=0)).softmax(dim=1)
            cosine = F.cosine_similarity(weight @ regions[i], own)
            torch.testing.assert_close(found[i, j], (2 * cosine).logsumexp(0))


@pytest.mark.parametrize("block", [1, 2, 5])
def test_blocks_change_neither_values_nor_gradients(block):
    leaves = [parts(3, 4).requires_grad_(), parts(5, 6).requires_grad_()]
    real = torch.arange(6) < torch.tensor([[6], [1], [3], [2], [4]])
    whole, pieces = (local_similarity(leaves[0], words=leaves[1], real=real, block=size) for size in (None, block))
    torch.testing.assert_close(whole, pieces, rtol=1e-12, atol=1e-12)
    weight = torch.randn(3, 5, generator=GENERATOR, dtype=torch.float64)
    one, two = (torch.autograd.grad((table * weight).sum(), leaves) for table in (whole, pieces))
    for mine, theirs in zip(one, two, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-12)


def test_padding_and_the_length_of_words_do_not_count():
    regions, words, real = parts(3, 4), parts(3, 5), torch.arange(5) < torch.tensor([[2], [5], [3]])
    found = local_alignment_loss(regions, words=words, real=real)
    other = torch.where(real[..., None], 3 * words, 1e6)
    torch.testing.assert_close(local_alignment_loss(regions, words=other, real=real), found)
    wider = F.pad(words, (0, 0, 0, 4))
    torch.testing.assert_close(local_alignment_loss(regions, words=wider, real=F.pad(real, (0, 4))), found)
    leaf = words.clone().requires_grad_()
    local_alignment_loss(regions, words=leaf, real=real).backward()
    assert (leaf.grad[~real] == 0).all()


def test_the_mean_of_both_directions_and_each_alone():
    regions, words, real = parts(4, 3), parts(4, 2), torch.ones(4, 2, dtype=torch.bool)
    ways = ("image_to_text", "text_to_image", "sum", "mean")
    one, two, both, mean = (local_alignment_loss(regions, words=words, real=real, directions=way) for way in ways)
    torch.testing.assert_close(one + two, both)
    torch.testing.assert_close(both / 2, mean)
    table = 10 * local_similarity(regions, words=words, real=real)
    torch.testing.assert_close(one, F.cross_entropy(table, torch.arange(4)))
    torch.testing.assert_close(two, F.cross_entropy(table.T, torch.arange(4)))


def test_the_objective_adds_the_weighted_local_loss():
    image, text = rows(4), rows(4)
    regions, words, real = parts(4, 3), parts(4, 2), torch.tensor([[True, True], [True, False]] * 2)
    given = Encoded(Features(image, regions), Features(text, words, real), torch.tensor(20.0, dtype=torch.float64))
    local = local_alignment_loss(regions, words=words, real=real)
    found = LocalAlignmentLoss(weight=0.3)(given, batch(4), gather=LOCAL)
    torch.testing.assert_close(found.total, clip_loss(image, text, 20.0) + 0.3 * local)
    torch.testing.assert_close(found.terms["local"], local)
    both = LocalAlignmentLoss(inner=SoftTargetContrastive())(given, batch(4, findings=torch.eye(4)), gather=LOCAL)
    soft = SoftTargetContrastive()(given, batch(4, findings=torch.eye(4)), gather=LOCAL)
    torch.testing.assert_close(both.total, soft.total + local)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"real": torch.ones(3, 2)}, r"real: expected bool \(3, 2\)"),
        ({"real": torch.tensor([[True, False], [False, False], [True, True]])}, "report 1: expected at least one real"),
        ({"words": torch.ones(3, 2, 5)}, "expected regions"),
        ({"words": torch.ones(2, 2, 8), "real": torch.ones(2, 2, dtype=torch.bool)}, "one report for each picture"),
    ],
)
def test_bad_local_input_is_refused(change, message):
    given = {"words": parts(3, 2), "real": torch.ones(3, 2, dtype=torch.bool)} | change
    with pytest.raises(InputError, match=message):
        local_alignment_loss(parts(3, 4), **given)
    with pytest.raises(InputError, match="unknown part 'none'"):
        LocalAlignmentLoss(inner="none")


@pytest.mark.parametrize("count", [1, 3])
def test_regions_that_cancel_under_even_attention_stay_bounded(count):
    torch.manual_seed(0)
    half = torch.randn(2, 8, 16)
    regions = torch.cat([half, -half * (1 + 1e-7)], dim=1).requires_grad_()
    words = torch.randn(2, 1, 16).expand(2, count, 16).clone().requires_grad_()
    found = local_similarity(regions, words=words, real=torch.ones(2, count, dtype=torch.bool))
    assert (found.abs() <= 5 + math.log(count) + 1e-5).all()
    found.sum().backward()
    for grad in (regions.grad, words.grad):
        assert grad.isfinite().all()
        assert grad.abs().max() < 1e6
