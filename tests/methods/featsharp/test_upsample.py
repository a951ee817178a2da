"""Parts that make maps fine: local attention, tiles, downsamplers, and a sharpener around any encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from families import FAMILIES
from tether.adaptation.heads import load_head
from tether.core.errors import InputError
from tether.methods.featsharp import (
    AttentionDownsampler,
    BiasBuffer,
    FusionBlock,
    NotSquareWarning,
    Sharpener,
    SharpenerHead,
    SimpleDownsampler,
    create_tiles,
    head_slopes,
    local_attention,
    patch_maps,
)
from tether.models import create


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masked_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Over the whole map, all but the window hidden."""
    heads, size, rows, columns = q.shape[1:]
    y, x = (one.flatten() for one in torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"))
    down, across = ((one[:, None] - one[None]).abs() for one in (y, x))
    cost = torch.stack([(down if head % 2 == 0 else across) * 2.0 ** -((head + 2) // 2) for head in range(heads)])
    flat = [one.flatten(3).transpose(2, 3) for one in (q, k, v)]
    scores = flat[0] @ flat[1].transpose(2, 3) * size**-0.5 - cost
    scores = scores.masked_fill((down > window // 2) | (across > window // 2), -torch.inf)
    return (scores.softmax(dim=3) @ flat[2]).transpose(2, 3).unflatten(3, (rows, columns))


@pytest.mark.parametrize(("window", "most", "size"), [(7, 2**24, 1), (3, 1, 1), (1, 2000, 3), (7, 2**24, 3)])
def test_local_attention_is_masked_attention(
    window: int, most: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tether.methods.featsharp.fuse.MOST", most)
    q, k, v = drawn(3, 2, 4, size, 12, 19)  # the last case has all scores, the others unfold
    torch.testing.assert_close(local_attention(q, k, v, window=window), masked_attention(q, k, v, window))
    assert head_slopes(4).tolist() == [0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_the_block_starts_as_its_first_input(norm: str) -> None:
    low, tiles = drawn(1, 8, 3, 5).float(), drawn(1, 8, 6, 10, seed=1).float()
    for inputs, heads in ((("bilinear", "tiles"), 16), (("bilinear",), 8), (("tiles", "bilinear"), 4)):
        block = FusionBlock(8, factor=2, inputs=inputs, heads=heads, norm=norm)  # pyrefly: ignore
        up = F.interpolate(low, (6, 10), mode="bilinear") if inputs[0] == "bilinear" else tiles
        torch.testing.assert_close(block(low, tiles), up, atol=1e-4, rtol=0)
    with pytest.raises(InputError, match=r"tiles: expected \(1, 8, 6, 10\), got None"):
        FusionBlock(8, factor=2)(low)
    with pytest.raises(InputError, match="heads"):
        FusionBlock(8, factor=2, heads=3)
    for wrong in ((), ("tiles", "tiles")):
        with pytest.raises(InputError, match="inputs"):
            FusionBlock(8, factor=2, inputs=wrong)


def test_tiles() -> None:
    def encode(image: Tensor) -> Tensor:
        assert image.shape[1:] == (3, 8, 8)
        return F.avg_pool2d(image.float(), 4)

    image = torch.randint(0, 256, (2, 3, 24, 24), dtype=torch.uint8)
    low, tiles = create_tiles(image, encode, size=(8, 8), factor=3)
    torch.testing.assert_close(tiles, F.avg_pool2d(image.float(), 4))
    assert low.shape == (2, 3, 2, 2)
    same, again = create_tiles(image, encode, size=(8, 8), factor=1)
    assert same is again
    with pytest.warns(NotSquareWarning, match="24 x 12"):
        create_tiles(image[:, :, :12], encode, size=(8, 8), factor=2)
    for wrong in (image[0], image[:0]):
        with pytest.raises(InputError, match="images: expected"):
            create_tiles(wrong, encode, size=(8, 8), factor=2)
    with pytest.raises(InputError, match="encode: expected maps"):
        create_tiles(image, lambda one: one.float().mean((2, 3)), size=(8, 8), factor=2)


def test_downsamplers() -> None:
    maps = drawn(2, 4, 12, 8)
    simple = SimpleDownsampler(kernel=3).double()
    torch.testing.assert_close(simple(maps, size=(4, 8))[:, :, 1, 1], maps[:, :, 2:5, 0:3].mean((2, 3)))
    learnt = AttentionDownsampler(4, kernel=3, std=0.5).double()
    ones = torch.ones(2, 9, 6, 4, dtype=torch.float64)
    plain = learnt(maps, size=(6, 4))
    torch.testing.assert_close(plain, learnt(maps, size=(6, 4), uniform=ones))
    assert not torch.allclose(plain, learnt(maps, size=(6, 4), uniform=0 * ones))
    with pytest.raises(InputError, match="uniform"):
        learnt(maps, size=(6, 4), uniform=ones[:1])
    with pytest.raises(InputError, match="divisor of 12 x 8"):
        learnt(maps, size=(5, 4))
    with pytest.raises(InputError, match="odd"):
        SimpleDownsampler(kernel=4)
    buffer = BiasBuffer(4, grid=(3, 2))
    torch.nn.init.ones_(buffer.bias)
    torch.testing.assert_close(buffer(maps), maps + 1)


@pytest.mark.filterwarnings("ignore::tether.methods.featsharp.NotSquareWarning")
@pytest.mark.parametrize("kind", ["Tether", "open_clip ViT", "transformers' SigLIP", "RN50", "ConvNeXt"])
def test_any_encoder(kind: str, tmp_path: Path) -> None:
    model = FAMILIES[kind](tmp_path).eval()
    image = torch.randint(0, 256, (1, 3, 90, 70), dtype=torch.uint8)
    at_size = torch.randint(0, 256, (2, 3, *model.image_spec.size), dtype=torch.uint8)
    maps = patch_maps(model, at_size)
    sharpener = Sharpener(model.dim, grid=(maps.shape[2], maps.shape[3]), heads=8)
    low, high = sharpener(model, image)
    assert (low.shape, high.shape[2:]) == ((1, *maps.shape[1:]), (2 * maps.shape[2], 2 * maps.shape[3]))
    torch.testing.assert_close(sharpener(model, at_size)[0], maps, atol=1e-5, rtol=1e-4)
    torch.nn.init.normal_(sharpener.bias.bias)
    kept = load_head(SharpenerHead(sharpener).bind_(model).save(tmp_path / "head"), model=model)
    assert isinstance(kept, SharpenerHead)
    torch.testing.assert_close(kept.sharpener(model, image)[1], sharpener(model, image)[1])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"channels": 10**7}, "size mismatch"),
        ({"window": 10**6 + 1}, "window: expected"),
        ({"grid": [4]}, "grid"),
        ({"alpha": float("nan")}, "'alpha': expected finite numbers"),
    ],
)
def test_a_forged_file_is_refused(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    model = create("tiny").eval()
    sharpener, path = Sharpener(model.dim, grid=(4, 4)), tmp_path / "head"
    alpha = settings.pop("alpha", 1.0)
    sharpener.settings |= settings
    head = SharpenerHead(sharpener)
    sharpener.alpha.fill_(alpha)
    head.bind_(model).save(path)
    with pytest.raises(InputError, match=said):
        load_head(path, model=model)


def test_standardised_and_restored() -> None:
    sharpener = Sharpener(4, grid=(2, 2), heads=4).double()
    sharpener.rotation.copy_(torch.linalg.qr(drawn(4, 4)).Q)
    sharpener.mean.copy_(drawn(4))
    sharpener.alpha.fill_(3.0)
    maps = drawn(2, 4, 2, 2)
    torch.testing.assert_close(sharpener.restore(sharpener.standardise(maps)), maps)
