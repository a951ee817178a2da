"""Fewer tokens: ragged counts, the mean of the others, gradients, and what is refused."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.methods.trim import trim_tokens

trim = partial(trim_tokens, proj=nn.Identity(), post_norm=nn.Identity())


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def spiked(places: list[list[int]], n: int = 20) -> tuple[Tensor, Tensor]:
    """Tokens across a text but for some that lie along it."""
    h = torch.zeros(len(places), n, 4)
    h[..., 1:] = drawn(len(places), n, 3)
    h[..., 0] = 0.01 * drawn(len(places), n, seed=1)
    for row, some in enumerate(places):
        h[row, some] = torch.tensor([9.0, 0.0, 0.0, 0.1])
    return h, torch.tensor([[1.0, 0.0, 0.0, 0.0]] * len(places))


def test_each_image_keeps_its_own_outliers_in_order_and_the_mean_follows_them() -> None:
    h, text = spiked([[7, 2, 11], [4], []])
    found = trim(h, text, iqr=6.0)
    assert found.index.tolist() == [[2, 7, 11], [4, -1, -1], [-1, -1, -1]]
    assert found.mask.tolist() == [[True] * 4, [True, True, False, False], [True, False, False, False]]
    for row, some in enumerate([[2, 7, 11], [4], []]):
        others = [place for place in range(20) if place not in some]
        expected = torch.cat([h[row, some], h[row, others].mean(0, keepdim=True)])
        torch.testing.assert_close(found.tokens[row, : len(expected)], expected)
        assert bool((found.tokens[row, len(expected) :] == 0).all())
    alone = trim(h, text, iqr=6.0, aggregate=False)
    assert alone.mask.sum(1).tolist() == [3, 1, 1], "one is kept where no mean stands for the others"


def test_one_count_for_all_is_rounded_as_the_release_rounds_it() -> None:
    h, text = torch.zeros(1, 49, 3), torch.eye(3)[:1]
    h[..., 1] = 1.0
    h[0, 7] = text[0] * 100  # one outlier of 49: int(49 * (1 / 49)) is 0
    assert trim(h, text, per_image=True).mask.sum() == 2
    assert trim(h, text, per_image=False).mask.sum() == 1


def test_all_none_and_the_other_sign() -> None:
    h, text = drawn(2, 6, 3), drawn(2, 3, seed=1)
    whole = trim(h, text, ratio=1.0)
    assert torch.equal(whole.tokens[:, :6], h)
    assert whole.mask.sum(1).tolist() == [6, 6], "a mean of none is no token"
    none = trim(h, text, ratio=0.1)
    torch.testing.assert_close(none.tokens[:, 0], h.mean(1))
    like, unlike = (trim(h, text, ratio=0.5, sign=sign).index.tolist() for sign in (1, -1))
    assert all(sorted(a + b) == list(range(6)) for a, b in zip(like, unlike, strict=True))


def test_gradients_reach_every_token_and_half_precision_does_not_blur_quartiles() -> None:
    h = drawn(1, 8, 4).requires_grad_()
    trim(h, drawn(1, 4, seed=2), ratio=0.25).tokens.sum().backward()
    assert bool((h.grad != 0).all())
    given, text = spiked([[3, 4]])
    assert trim(given.half(), text.half(), iqr=6.0).index.tolist() == [[3, 4]]


def test_taken_apart_with_a_matrix_and_the_sign_that_a_probe_likes() -> None:
    h, text, rows = drawn(2, 6, 3), drawn(2, 4, seed=1), drawn(4, 3, seed=2)
    tokens, index, mask = trim_tokens(h, text, rows, nn.Identity(), ratio=0.5)
    expected = trim_tokens(h, text, lambda x: x @ rows.T, nn.Identity(), ratio=0.5)
    assert torch.equal(tokens, expected.tokens)
    assert torch.equal(index, expected.index)
    assert torch.equal(mask, expected.mask)
    like = (expected.scores - expected.scores.mean(1, keepdim=True)) > 0
    for shown, sign in ((like, 1), (~like, -1)):
        found = trim_tokens(h, text, rows, nn.Identity(), ratio=0.5, sign="auto", probe=(h, text, shown))
        assert torch.equal(found.index, trim_tokens(h, text, rows, nn.Identity(), ratio=0.5, sign=sign).index)
    with pytest.raises(InputError, match="probe: sign='auto' needs tokens"):
        trim(h, text[:, :3], sign="auto")
    with pytest.raises(InputError, match=r"probe: expected \(2, 6\) True and False"):
        trim(h, text[:, :3], sign="auto", probe=(h, text[:, :3], torch.ones(2, 6, dtype=torch.bool)))


@pytest.mark.parametrize(
    ("h", "text", "settings", "message"),
    [
        (drawn(2, 5, 3), drawn(1, 3), {}, "text: expected one for each of 2 images, got 1"),
        (drawn(2, 0, 3), drawn(2, 3), {}, "h: expected at least one token an image"),
        (torch.full((1, 5, 3), torch.nan), drawn(1, 3), {}, "scores that are not finite"),
        (drawn(1, 5, 3), drawn(1, 3), {"ratio": 0.0}, "ratio"),
        (drawn(1, 5, 3), drawn(1, 3), {"ratio": 1.5}, "ratio"),
        (drawn(1, 5, 3), drawn(1, 3), {"sign": 0}, "sign"),
    ],
)
def test_refused(h: Tensor, text: Tensor, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        trim(h, text, **settings)
