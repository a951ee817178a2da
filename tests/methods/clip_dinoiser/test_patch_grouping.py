"""Pooling of patches that are alike, the head that says which are, and what is refused."""

from __future__ import annotations

import pytest
import torch

from encoders import ENCODERS
from tether.core.errors import InputError
from tether.losses import affinity_loss, dinoiser_loss, label_affinity
from tether.methods.clip_dinoiser.patch_affinity import patch_affinity, pool_alike, pool_map
from tether.methods.clip_dinoiser.segmenter import with_background
from tether.models import create
from tether.models.features.dense import DensePath, dense_from, dense_image
from tether.models.features.find import tower_of
from tether.models.features.patch_grouping import DinoiserHead, inner_and_tokens


def pixels(count: int = 2, *, size: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("name", list(ENCODERS))
def test_every_encoder_shows_both_in_one_pass(name: str, tmp_path) -> None:
    model = ENCODERS[name](tmp_path)
    found = inner_and_tokens(model, pixels())
    path = DensePath() if tower_of(model).blocks and tower_of(model).sealed is None else None
    torch.testing.assert_close(found.tokens, dense_image(model, pixels(), path=path).tokens)
    assert found.inner.shape[2] * found.inner.shape[3] == found.tokens.shape[1]


def test_a_patch_like_nothing_keeps_its_own() -> None:
    values, keys = torch.randn(1, 3, 2), torch.tensor([[[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]])
    found = pool_alike(values, keys, threshold=0.2)
    torch.testing.assert_close(found[:, 1], values[:, 1])
    torch.testing.assert_close(found[:, 0], values[:, [0, 2]].mean(dim=1), rtol=1e-5, atol=1e-5)
    nothing = torch.zeros(1, 3, 1, 3)
    torch.testing.assert_close(pool_map(values.mT[:, :, None], nothing), values.mT[:, :, None])
    assert pool_alike(torch.empty(1, 0, 2), torch.empty(1, 0, 2), threshold=0.2).shape == (1, 0, 2)


def test_thresholds_leave_a_gradient() -> None:
    keys = torch.randn(1, 5, 4, requires_grad=True)
    patch_affinity(keys, threshold=0.0).sum().backward()
    assert keys.grad is not None
    assert keys.grad.isfinite().all()
    with pytest.raises(InputError, match="threshold"):
        patch_affinity(keys, threshold=1.5)


def test_chunks_say_the_same() -> None:
    values, keys = torch.randn(2, 30, 4), torch.randn(2, 30, 6)
    whole = pool_alike(values, keys, threshold=0.1)
    torch.testing.assert_close(pool_alike(values, keys, threshold=0.1, at_once=1), whole)


def test_layers_and_streams_are_checked() -> None:
    model = create("tiny").eval()
    tower = tower_of(model)
    with pytest.raises(InputError, match="layer: expected -2 to 1, got 7"):
        inner_and_tokens(model, pixels(), layer=7)
    with pytest.raises(InputError, match="first: expected at most 0"):
        dense_from(tower, tower.embed(pixels()), first=1, layers=[0])


def test_bad_input() -> None:
    head = DinoiserHead(features=4, dim=3)
    with pytest.raises(InputError, match=r"inner: expected \(b, 4, r, c\)"):
        head.keys(torch.zeros(1, 5, 2, 2))
    with pytest.raises(InputError, match="kernel: expected an odd number"):
        DinoiserHead(features=4, kernel=2)
    with pytest.raises(InputError, match="affinity: expected 4 rows"):
        pool_map(torch.zeros(1, 2, 2, 2), torch.zeros(1, 3, 2, 2))
    with pytest.raises(InputError, match="affinity: expected"):
        pool_map(torch.zeros(2, 2, 2, 2), torch.zeros(1, 4, 2, 2))
    with pytest.raises(InputError, match="keys: expected"):
        pool_alike(torch.zeros(1, 3, 2), torch.zeros(1, 4, 2), threshold=0.0)
    with pytest.raises(InputError, match="patches: expected"):
        patch_affinity(torch.zeros(3, 2))
    with pytest.raises(InputError, match="teacher: expected"):
        dinoiser_loss(torch.zeros(1, 4, 4), torch.zeros(1, 3, 3))
    with pytest.raises(InputError, match="saliency: expected"):
        dinoiser_loss(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4), things=torch.zeros(1, 1, 2, 2))
    with pytest.raises(InputError, match="target: expected 0, 1 or 255, got 3"):
        affinity_loss(torch.zeros(1, 1, 1), torch.full((1, 1, 1), 3))
    with pytest.raises(InputError, match="labels: expected"):
        label_affinity(torch.zeros(2, 2, dtype=torch.long))
    with pytest.raises(InputError, match="things: expected"):
        with_background(torch.ones(1, 2, 3, 3), torch.ones(1, 1, 2, 3), delta=0.5)
    with pytest.raises(InputError, match="number: expected a class"):
        with_background(torch.ones(1, 2, 3, 3), torch.ones(1, 1, 3, 3), delta=0.5, number=2)


def test_the_head_is_drawn_from_its_generator_and_learns_from_a_teacher() -> None:
    first, second = (DinoiserHead(features=8, dim=4, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    inner = torch.randn(2, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(first.keys(inner), second.keys(inner))
    teacher = patch_affinity(torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(1)), threshold=0.2)
    optimizer, losses = torch.optim.Adam(first.parameters(), lr=0.05), []
    for _ in range(30):
        loss = dinoiser_loss(patch_affinity(first.keys(inner)), teacher, temperature=0.1).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
