import pytest
import torch
import torch.nn.functional as F

from tether.core.errors import InputError
from tether.core.gather import LOCAL
from tether.core.types import Batch, Encoded, Features
from tether.losses import clip_loss
from tether.losses.positive_override import replaced_cross_entropy
from tether.methods.alignclip import AlignClipLoss, align_clip_loss

GENERATOR = torch.Generator().manual_seed(0)


def rows(count, width=8):
    return F.normalize(torch.randn(count, width, generator=GENERATOR, dtype=torch.float64))


def test_a_replaced_entry_is_the_only_one_that_counts_at_its_place():
    table, own = torch.randn(4, 6, generator=GENERATOR), torch.randn(4, generator=GENERATOR)
    plain = table.clone()
    plain[torch.arange(4), torch.arange(2, 6)] = own
    found = replaced_cross_entropy(table, own, offset=2)
    torch.testing.assert_close(found, F.cross_entropy(plain, torch.arange(2, 6), reduction="none"))
    table[torch.arange(4), torch.arange(2, 6)] = 1e9
    assert torch.equal(replaced_cross_entropy(table, own, offset=2), found)


def test_without_separation_it_is_the_sum_of_both_directions():
    image, text = rows(9), rows(9)
    found = align_clip_loss(image, text, 20.0, sem=rows(9), beta=0.0, alpha=0.7)
    torch.testing.assert_close(found.total, 0.7 * clip_loss(image, text, 20.0, directions="sum"))
    assert found.intra == 0


def test_captions_of_one_meaning_get_the_logit_zero_and_no_push():
    image, text = rows(5).requires_grad_(), rows(5)
    same = torch.ones(5, 3, dtype=torch.float64)
    found = align_clip_loss(image, text, 20.0, sem=same, alpha=0.0, beta=1.0, sides="image")
    own = 20.0 * (image * text).sum(dim=1)
    torch.testing.assert_close(found.total, (torch.logaddexp(own, torch.tensor(4.0).double().log()) - own).mean())
    grad = torch.autograd.grad(found.total, image)[0]
    assert (F.cosine_similarity(grad, text).abs() > 1 - 1e-9).all()  # along the paired text and nothing else


def test_the_length_of_meanings_does_not_matter_and_they_get_no_gradient():
    image, text = rows(6).requires_grad_(), rows(6)
    sem = torch.randn(6, 4, generator=GENERATOR, dtype=torch.float64).requires_grad_()
    first = align_clip_loss(image, text, 10.0, sem=sem).total
    torch.testing.assert_close(first, align_clip_loss(image, text, 10.0, sem=7 * sem).total)
    first.backward()
    assert sem.grad is None
    assert image.grad is not None


def test_each_side_is_separated_alone_and_both_add_up():
    given = (rows(7), rows(7), 15.0)
    sem = rows(7)
    one = {side: align_clip_loss(*given, sem=sem, sides=side).intra for side in ("image", "text", "both")}
    torch.testing.assert_close(one["both"], one["image"] + one["text"])
    assert not torch.isclose(one["image"], one["text"])


def test_equal_captions_are_not_pushed_apart_where_they_are_positives():
    image, text = rows(4), rows(4)
    labels = torch.tensor([1, 1, 2, 3])
    without = align_clip_loss(image, text, 30.0, labels=labels).intra
    table = image @ image.T
    for one, other in ((0, 1), (1, 0)):
        table[one, other] = -torch.inf
    expected = F.cross_entropy(30.0 * table, torch.arange(4))
    table = text @ text.T
    for one, other in ((0, 1), (1, 0)):
        table[one, other] = -torch.inf
    expected = expected + F.cross_entropy(30.0 * table, torch.arange(4))
    torch.testing.assert_close(without, 0.5 * expected)
    assert align_clip_loss(image, text, 30.0).intra > without


def test_one_pair_costs_nothing():
    assert align_clip_loss(rows(1), rows(1), 100.0, sem=rows(1)).total == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"sem": torch.ones(3, 2)},
            r"sem: expected floats \(4, e\), one row for each pair, got torch.float32 \(3, 2\)",
        ),
        ({"sem": torch.ones(4, 2, dtype=torch.int64)}, "sem: expected floats"),
        ({"sem": torch.tensor([[1.0], [1.0], [0.0], [1.0]])}, "sem row 2 has length 0"),
    ],
)
def test_bad_input_is_refused(change, message):
    given = {"sem": rows(4)} | change
    with pytest.raises(InputError, match=message):
        align_clip_loss(rows(4), rows(4), 10.0, **given)


def test_the_objective_asks_for_meanings_by_the_name_of_the_step_that_brings_them():
    out = Encoded(Features(rows(3)), Features(rows(3)), torch.tensor(10.0, dtype=torch.float64))
    batch = Batch(torch.zeros(3, 3, 1, 1), torch.arange(1, 4)[:, None])
    with pytest.raises(InputError, match=r"batch.extra\['semantic'\] \(b, e\), got none; use the step 'semantic'"):
        AlignClipLoss()(out, batch, gather=LOCAL)
    assert AlignClipLoss(weighting="none")(out, batch, gather=LOCAL).total.isfinite()
