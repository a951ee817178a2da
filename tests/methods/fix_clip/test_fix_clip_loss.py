"""FIX-CLIP's loss and the groups of layers under it."""

import pytest
import torch
import torch.nn.functional as F

from tether.core.errors import InputError
from tether.core.gather import LOCAL
from tether.core.types import Batch, Encoded, Features
from tether.losses import clip_loss
from tether.methods.fix_clip import FixClipLoss, GroupHeads, fix_clip_loss, group_token_aggregate
from tether.methods.fix_clip.loss import group_weights


def rows(count: int, width: int, *, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def units(*seeds: int) -> list[torch.Tensor]:
    return [F.normalize(rows(5, 6, seed=seed), dim=1) for seed in seeds]


def test_weights_of_a_group():
    assert group_weights(1).tolist() == [1.0]
    assert group_weights(3, sigma=2.0, normalise=False)[-1] == 1
    one = group_token_aggregate(torch.ones(4, 2, 3), groups=2, normalise=False)
    torch.testing.assert_close(one, torch.full((2, 2, 3), 1 + float(torch.exp(torch.tensor(-0.5)))))


@pytest.mark.parametrize("groups", [4, 7])
def test_groups_of_unequal_size_are_refused(groups):
    with pytest.raises(InputError, match=f"divisor of the 6 layers, got {groups}"):
        group_token_aggregate(torch.zeros(6, 2, 3), groups=groups)


def test_only_the_later_groups_count():
    given = units(0, 1, 2, 3)
    groups = {"img_groups": rows(15, 4, seed=4).view(3, 5, 4), "txt_groups": rows(15, 4, seed=5).view(3, 5, 4)}
    plain = fix_clip_loss(*given, 10.0)
    assert plain.total == plain.long + plain.short
    assert len(plain.groups) == 0
    assert plain.short == clip_loss(given[1], given[3], 10.0)
    found = fix_clip_loss(*given, 10.0, **groups, first_group=3, omega=[5.0, 5.0, 0.2])
    torch.testing.assert_close(found.total, plain.total + 0.2 * found.groups[2])
    for wrong, match in (
        ({"first_group": 4}, "first_group: expected 1 to 3"),
        ({"omega": [0.1]}, "omega: expected a weight for each of 3"),
        ({"txt_groups": None}, "both or none"),
        ({"txt_groups": groups["txt_groups"][:2]}, "as many groups of texts"),
    ):
        with pytest.raises(InputError, match=match):
            fix_clip_loss(*given, 10.0, **(groups | wrong))


def test_the_objective_reads_the_batch():
    image, masked, text, short = units(0, 1, 2, 3)
    heads = [GroupHeads(width=6, dim=4, groups=2, generator=torch.Generator().manual_seed(s)).double() for s in (0, 1)]
    groups = [head(torch.stack([image, text, masked, short])) for head in heads]
    extra = {"masked_image": 3 * masked, "short_text": short}
    out = Encoded(Features(image), Features(text), torch.tensor(10.0, dtype=torch.float64))

    def loss(**more):
        return FixClipLoss(first_group=1)(out, Batch(image, text.long(), extra | more), gather=LOCAL)

    assert loss().total == fix_clip_loss(image, masked, text, short, out.logit_scale).total
    named = loss(image_groups=groups[0], text_groups=groups[1])
    assert set(named.terms) == {"long", "short", "logit_scale", "group_1", "group_2"}
    named.total.backward()
    assert all(parameter.grad is not None for head in heads for parameter in head.parameters())
    with pytest.raises(InputError, match=r"fix_clip: expected batch.extra\['masked_image'\]"):
        loss(masked_image=None)
