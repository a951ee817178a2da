"""Which patches a tower sees."""

from __future__ import annotations

import pytest
import torch

from tether.core.errors import InputError
from tether.models import create
from tether.models.features.patch_attention import attended, map_scores, patch_attention
from tether.models.towers.patch_selection import (
    TOKEN_CHOICES,
    AttentiveTokens,
    BlockTokens,
    GridTokens,
    RandomTokens,
    best_tokens,
    kept_count,
    removed_tokens,
    take_tokens,
)


@pytest.mark.parametrize("name", TOKEN_CHOICES)
@pytest.mark.parametrize("grid", [(2, 2), (4, 6), (8, 8)])
def test_every_choice_keeps_as_many_distinct_patches_of_each_image_as_it_says(name, grid):
    choice = TOKEN_CHOICES[name]()
    keep = choice(torch.rand(5, grid[0] * grid[1]), grid=grid)
    assert keep.shape == (5, choice.count(grid))
    assert (keep.diff(dim=1) > 0).all()
    assert keep.min() >= 0
    assert keep.max() < grid[0] * grid[1]


@pytest.mark.parametrize("name", TOKEN_CHOICES)
def test_chances_are_equal_but_for_the_borders_of_a_block(name):
    keep = TOKEN_CHOICES[name]()(torch.rand(4000, 16, generator=torch.Generator().manual_seed(0)), grid=(4, 4))
    share = (~removed_tokens(keep, tokens=16)).float().mean(dim=0)
    if name == "block":
        expected = torch.tensor([1.0, 2, 2, 1])
        torch.testing.assert_close(share.view(4, 4), expected[:, None] * expected / 9, atol=0.03, rtol=0)
    else:
        torch.testing.assert_close(share, torch.full((16,), keep.shape[1] / 16), atol=0.03, rtol=0)


def test_counting_rules():
    assert [kept_count(10, keep=0.25, rule=rule) for rule in ("round", "truncate", "truncate_plus_one")] == [2, 2, 3]
    assert kept_count(7, keep=0.5) == 4
    assert kept_count(1, keep=0.5, rule="truncate") == 1
    assert kept_count(1, keep=0.5, rule="truncate", least=0) == 0
    assert kept_count(49, keep=1.0, rule="truncate_plus_one") == 49


@pytest.mark.parametrize("keep", [0, -0.1, 1.1, float("nan")])
def test_shares_out_of_range_are_refused(keep):
    for refused in (lambda: kept_count(4, keep=keep), lambda: RandomTokens(keep=keep), lambda: BlockTokens(keep=keep)):
        with pytest.raises(InputError, match="keep"):
            refused()


@pytest.mark.parametrize(
    ("choice", "grid", "says"),
    [
        (GridTokens(), (3, 4), "window: expected a grid whose sides are multiples of 2, got 3 x 4"),
        (AttentiveTokens(), (4, 3), "pool: expected a grid whose sides are multiples of 2, got 4 x 3"),
        (BlockTokens(size=(5, 1)), (4, 4), r"size: expected at most 4 x 4 patches, got \(5, 1\)"),
        (RandomTokens(), (4, 5), "scores: expected 4 x 5 for each image, got"),
    ],
)
def test_grids_that_do_not_fit_are_refused(choice, grid, says):
    with pytest.raises(InputError, match=says):
        choice(torch.rand(2, 16 if grid == (4, 5) else grid[0] * grid[1]), grid=grid)


def test_more_than_there_is_is_refused():
    with pytest.raises(InputError, match="each: expected at most 4, the patches of a window, got 5"):
        GridTokens(each=5)
    with pytest.raises(InputError, match="count: expected 0 to 3, the tokens of a row, got 4"):
        best_tokens(torch.rand(1, 3), count=4)


def test_of_equal_scores_the_first_are_best():
    for end in ("largest", "smallest"):
        assert best_tokens(torch.zeros(1, 50), count=3, end=end).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("block", [{}, {"rope": "2d"}])
def test_the_order_of_the_kept_patches_changes_no_embedding(block):
    model = create("tiny", vision={"block": block}).eval()
    image, scores = torch.rand(3, 3, 32, 32), torch.rand(3, 16)
    found = [
        model.encode_image(image, keep=RandomTokens(keep=0.4, order=order)(scores, grid=(4, 4))).pooled
        for order in ("place", "score")
    ]
    torch.testing.assert_close(*found)


def test_taking_patches_after_their_positions_is_never_making_the_others():
    model, image = create("tiny").eval(), torch.rand(3, 3, 32, 32)
    keep = AttentiveTokens()(patch_attention(model, image), grid=(4, 4))
    expected = take_tokens(model.visual.embed(image), keep)
    torch.testing.assert_close(model.visual.embed(image, keep=keep), expected)


def test_attention_is_a_share_of_the_class_tokens_and_fits_another_grid():
    model, image = create("tiny").eval(), torch.rand(3, 3, 32, 32)
    scores = patch_attention(model, image)
    assert scores.shape == (3, 16)
    assert not scores.requires_grad
    assert (scores.sum(dim=1) < 1).all()
    torch.testing.assert_close(
        patch_attention(model, image, grid=(2, 2)), scores.view(3, 2, 2, 2, 2).mean((2, 4)).flatten(1)
    )
    assert patch_attention(model, image[:1]).shape == (1, 16)
    exact = attended(model.double(), image.double()).scores
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact.float(), scores)


def test_what_lies_outside_the_reference_has_no_score_and_is_warned_of():
    inside, outside = torch.tensor([[0, 0, 4, 8]]), torch.tensor([[-4, 0, 8, 8]])
    scores = torch.ones(1, 16)
    torch.testing.assert_close(
        map_scores(scores, view=inside, reference=torch.tensor([[0, 0, 8, 8]]), grid=(4, 4)), scores
    )
    with pytest.warns(UserWarning, match="row 0: .* lies partly outside"):
        found = map_scores(scores, view=outside, reference=torch.tensor([[0, 0, 8, 8]]), grid=(4, 4))
    assert found.view(4, 4)[0].eq(0).all()
    assert found.view(4, 4)[3].eq(1).all()
    for apart in ([40, 40, 4, 4], [-9, 0, 4, 8], [0, 8, 8, 8]):
        with pytest.warns(UserWarning, match="row 0: .* lies partly outside"):
            found = map_scores(scores, view=torch.tensor([apart]), reference=torch.tensor([[0, 0, 8, 8]]), grid=(4, 4))
        assert torch.equal(found, torch.zeros(1, 16))
    with pytest.raises(InputError, match="at least one pixel"):
        map_scores(scores, view=torch.tensor([[0, 0, 0, 8]]), reference=inside, grid=(4, 4))
