"""Positions and kernels at other sizes: equal to the libraries' own, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from tether.core.errors import InputError
from tether.models.towers.positions import (
    GRIDS,
    LINES,
    CutPositions,
    StretchedPositions,
    resize_grid,
    resize_kernel,
    resize_line,
    sincos_grid,
    stretch,
)

CLOSE = {"rtol": 0, "atol": 1e-6}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(("prefix", "old", "new"), [(1, (4, 4), (7, 3)), (0, (6, 3), (2, 5)), (5, (7, 7), (3, 3))])
def test_grids_are_timms(mode, antialias, prefix, old, new) -> None:
    from timm.layers import resample_abs_pos_embed

    table = normal(1, prefix + old[0] * old[1], 8)
    found = resize_grid(table, old=old, new=new, mode=mode, antialias=antialias)
    sizes = {"old_size": list(old), "new_size": list(new), "num_prefix_tokens": prefix}
    expected = resample_abs_pos_embed(table, **sizes, interpolation=mode, antialias=antialias)
    torch.testing.assert_close(found, expected, **CLOSE)
    assert torch.equal(found[:, :prefix], table[:, :prefix])


@pytest.mark.parametrize("new", [(3, 3), (8, 8), (5, 2)])
def test_tables_are_open_clips(new) -> None:
    from open_clip.model import resize_pos_embed, resize_text_pos_embed

    table, words = normal(17, 8), normal(16, 8)
    for length in (7, 40):
        state = {"visual.positional_embedding": table, "positional_embedding": words}
        model = SimpleNamespace(visual=SimpleNamespace(grid_size=new), positional_embedding=torch.empty(length, 8))
        resize_pos_embed(state, model)
        resize_text_pos_embed(state, model)
        ours = resize_grid(table, old=(4, 4), new=new)
        torch.testing.assert_close(ours, state["visual.positional_embedding"], **CLOSE)
        torch.testing.assert_close(resize_line(words, length=length), state["positional_embedding"], **CLOSE)


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_grids_without_antialias_are_transformers(kind) -> None:
    import transformers

    config = getattr(transformers, f"{kind}VisionConfig")(
        hidden_size=8, num_attention_heads=2, image_size=32, patch_size=8
    )
    module = getattr(transformers.models, kind.lower())
    embeddings = getattr(getattr(module, f"modeling_{kind.lower()}"), f"{kind}VisionEmbeddings")(config)
    prefix = 1 if kind == "CLIP" else 0
    expected = embeddings.interpolate_pos_encoding(torch.empty(1, prefix + 24, 8), 48, 32)
    found = resize_grid(embeddings.position_embedding.weight, old=(4, 4), new=(6, 4), antialias=False)
    torch.testing.assert_close(found, expected[0], **CLOSE)


@pytest.mark.parametrize(("old", "new"), [((8, 8), (4, 4)), ((4, 4), (9, 6))])
def test_kernels_are_timms(old, new) -> None:
    from timm.layers.patch_embed import resample_patch_embed

    weight = normal(5, 3, *old)
    expected = resample_patch_embed(weight, list(new))
    torch.testing.assert_close(resize_kernel(weight, new=new), expected, rtol=1e-5, atol=1e-5)
    plain = F.interpolate(weight, new, mode="bicubic", antialias=True)
    torch.testing.assert_close(resize_kernel(weight, new=new, kernel="plain"), plain)


def test_a_larger_patch_with_its_kernel_gives_the_same_token() -> None:
    weight, patch = normal(5, 3, 4, 4).double(), normal(1, 3, 4, 4, seed=1).double()
    large = F.interpolate(patch, (8, 8), mode="bicubic", antialias=True)
    found = F.conv2d(large, resize_kernel(weight, new=(8, 8)))
    torch.testing.assert_close(found, F.conv2d(patch, weight), rtol=1e-9, atol=1e-9)


def test_the_same_size_is_the_same_tensor() -> None:
    table, weight = normal(17, 8), normal(5, 3, 4, 4)
    assert resize_grid(table, old=(4, 4), new=(4, 4)) is table
    assert resize_line(table, length=17) is table
    assert resize_kernel(weight, new=(4, 4)) is weight


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_precision_is_kept(dtype) -> None:
    table, weight = normal(17, 8).to(dtype), normal(5, 3, 4, 4).to(dtype)
    found = (
        resize_grid(table, old=(4, 4), new=(5, 5)),
        resize_line(table, length=20),
        stretch(table, keep=3, ratio=2),
        resize_kernel(weight, new=(6, 6)),
    )
    assert {one.dtype for one in found} == {dtype}
    exact = resize_grid(table.float(), old=(4, 4), new=(5, 5))
    torch.testing.assert_close(found[0].float(), exact, rtol=0, atol=0.02)


def test_stretching() -> None:
    table = normal(77, 4)
    assert stretch(table).shape == (248, 4)
    torch.testing.assert_close(stretch(table)[:21], table[:21])
    torch.testing.assert_close(stretch(table)[20::4], table[20:])
    torch.testing.assert_close(stretch(table, ratio=1), table)
    for length, ratio in ((78, 2), (134, 2), (135, 3), (248, 4)):
        torch.testing.assert_close(
            StretchedPositions().line(table, length=length), stretch(table, ratio=ratio)[:length]
        )
    torch.testing.assert_close(StretchedPositions().line(table, length=50), table[:50])
    torch.testing.assert_close(StretchedPositions(keep=5).line(table, length=90)[:6], table[:6])


def test_fixed_tables_take_any_grid() -> None:
    found = sincos_grid((2, 3), width=8)
    assert found.shape == (6, 8)
    assert torch.equal(found[0, :2], torch.zeros(2, dtype=torch.float64))  # column 0
    assert torch.equal(found[4], torch.cat([found[1, :4], found[3, 4:]]))  # row 1, column 1
    assert sincos_grid((2, 2), width=8, order="jax")[3, 1] == pytest.approx(torch.tensor(1e-4).sin().item())


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: resize_grid(normal(3, 8), old=(2, 2), new=(3, 3)), "3 vectors are no grid"),
        (lambda: resize_grid(normal(4, 8), old=(2, 2), new=(0, 3)), "no grid"),
        (lambda: stretch(normal(5, 4), keep=4), "keep: expected at most 3 of 5"),
        (lambda: stretch(normal(5, 4), keep=-1), "keep"),
        (lambda: stretch(normal(50, 4), ratio=0), "ratio"),
        (lambda: sincos_grid((2, 2), width=6), "multiple of 4"),
        (lambda: sincos_grid((2, 2), width=4, order="jax"), "at least 8"),
        (lambda: CutPositions().line(normal(5, 4), length=6), "at most the 5 positions"),
        (
            lambda: StretchedPositions(ratio=2, keep=2).line(normal(5, 4), length=9),
            "ratio 2 makes 8 positions of 5, got 9",
        ),
        (lambda: StretchedPositions(keep=9).line(normal(5, 4), length=9), "keep: expected at most 3"),
        (lambda: StretchedPositions(keep=-1), "keep"),
        (lambda: GRIDS["bicubic"](kernel="flexi"), "kernel"),
        (lambda: LINES["rotary"](base=0.0), "base"),
    ],
)
def test_bad_input_is_named(call, reason) -> None:
    with pytest.raises(InputError, match=reason):
        call()


@pytest.mark.parametrize("ratio", [3, 5, 7])
def test_float64_is_stretched_in_float64(ratio: int) -> None:
    found = stretch(torch.arange(3, dtype=torch.float64)[:, None], keep=0, ratio=ratio)
    expected = torch.arange(3 * ratio, dtype=torch.float64)[:, None] / ratio
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
