"""Clips edited by words: what stays, whose maps are used, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tether.core.errors import InputError, UnsupportedModelError
from tether.generation import TextDiffusion
from tether.methods.cut_and_paste import VideoEditor
from tether.methods.cut_and_paste.attention_maps import blend, fuse_frames, inject, token_map, token_mask
from tether.methods.cut_and_paste.attention_store import AttentionStore, besides
from tether.models import create

diffusers = pytest.importorskip("diffusers", reason="needs tether-clip[generate]")

SOURCE, EDIT = "a red circle", "a red star"


@pytest.fixture(scope="module")
def diffusion() -> TextDiffusion:
    torch.manual_seed(0)
    model = create("tiny").eval()
    return TextDiffusion(model, size=8, channels=(8, 16), plain=0, timesteps=40, betas="scaled_linear").eval()


def clip(frames: int = 3) -> torch.Tensor:
    return torch.rand(frames, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_recording_changes_nothing_and_maps_sum_to_1(diffusion: TextDiffusion) -> None:
    given = {"steps": 4, "noise": torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))}
    plain = diffusion.generate([SOURCE, "a cat"], **given)
    with AttentionStore(diffusion.unet) as store:
        torch.testing.assert_close(diffusion.generate([SOURCE, "a cat"], **given), plain, rtol=1e-4, atol=1e-5)
    assert store.calls == 4
    assert len(store.maps) == 4 * len(store.layers())
    for found in store.maps.values():
        torch.testing.assert_close(found.sum(-1), torch.ones(found.shape[:3]))
        assert float(found[1, ..., 4:].max()) == 0  # padding of the shorter text
    with AttentionStore(diffusion.unet, record=False, replace=lambda call, layer, _: store.maps[call, layer]):
        same = diffusion.generate([SOURCE, "a cat"], **given)
    torch.testing.assert_close(same, plain, rtol=1e-4, atol=1e-5)
    with AttentionStore(diffusion.unet, replace=lambda _, __, found: found.flip(-1), half=True) as store:
        assert not torch.allclose(diffusion.generate([SOURCE] * 2, **given), plain, atol=1e-4)
    assert next(iter(store.maps.values())).dtype == torch.float16
    assert torch.equal(diffusion.generate([SOURCE, "a cat"], **given), plain)


def test_frames_look_at_the_first_and_the_one_before(diffusion: TextDiffusion) -> None:
    rows = torch.randn(4, 2, 3, 5)
    found = besides(rows, ("previous",))
    assert torch.equal(found[2, :, 3:], rows[1])
    assert torch.equal(found[0, :, 3:], rows[0])
    noise = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    made = []
    for other in (noise, torch.cat([noise[:1], noise[1:2] + 1, noise[2:]])):
        with AttentionStore(diffusion.unet, beside=("first",)):
            made.append(diffusion.generate([SOURCE] * 3, steps=2, noise=other))
    torch.testing.assert_close(made[0][2], made[1][2], rtol=1e-4, atol=1e-5)  # it does not see the second
    assert not torch.allclose(made[0][1], made[1][1], atol=1e-4)
    with AttentionStore(diffusion.unet, beside=("previous",)):
        before = diffusion.generate([SOURCE] * 3, steps=2, noise=noise)
    with AttentionStore(diffusion.unet, beside=("previous",)):
        after = diffusion.generate([SOURCE] * 3, steps=2, noise=torch.cat([noise[:1], noise[1:2] + 1, noise[2:]]))
    assert not torch.allclose(before[2], after[2], atol=1e-5)
    torch.testing.assert_close(before[0], after[0], rtol=1e-4, atol=1e-5)


def test_an_edit_that_changes_nothing_gives_the_clip_back(diffusion: TextDiffusion) -> None:
    frames = clip()
    for blending in (False, True):
        editor = VideoEditor(diffusion, steps=40, fuse=0.0, inject_share=1.0, blending=blending)
        made = editor.edit(frames, SOURCE, SOURCE, word="circle")
        assert float((made.frames - frames).abs().mean()) < 0.05
        assert made.masks.shape == (3, 8, 8)
        assert 0 < int(made.masks.sum()) < made.masks.numel()


def test_outside_the_mask_the_clip_is_kept_and_inside_it_changes(diffusion: TextDiffusion) -> None:
    frames = clip()
    made = VideoEditor(diffusion, steps=4).edit(frames, SOURCE, EDIT, word="circle")
    outside = ~made.masks[:, None].expand_as(frames)
    torch.testing.assert_close(made.frames[outside], frames[outside])
    assert not torch.allclose(made.frames, frames, atol=1e-3)
    free = VideoEditor(diffusion, steps=4, blending=False).edit(frames, SOURCE, EDIT, word="circle")
    assert not torch.allclose(free.frames[outside], frames[outside], atol=1e-3)
    others = [
        VideoEditor(diffusion, steps=4, blending=False, **given).edit(frames, SOURCE, EDIT, word="circle").frames
        for given in ({"inject_share": 0.0}, {"fuse": 0.0}, {"beside": ()})
    ]
    assert all(not torch.allclose(other, free.frames, atol=1e-5) for other in others)


def test_prompts_of_unequal_length_and_reference_tokens(diffusion: TextDiffusion) -> None:
    frames, editor = clip(), VideoEditor(diffusion, steps=2, blending=False)
    longer = "a red and black star"
    with pytest.raises(InputError, match="alignment: expected one"):
        editor.edit(frames, SOURCE, longer, word="circle")
    keep = {0: 0, 1: 1, 2: 2}
    made = editor.edit(frames, SOURCE, longer, word="circle", alignment=keep).frames
    plain = editor.edit(frames, SOURCE, EDIT, word="circle").frames
    assert not torch.allclose(made, plain, atol=1e-5)
    tokens = torch.randn(4, 64, generator=torch.Generator().manual_seed(2))
    told = editor.edit(frames, SOURCE, EDIT, word="circle", reference=tokens).frames
    assert not torch.allclose(told, plain, atol=1e-5)
    with pytest.raises(InputError, match=r"reference: expected \(r, 64\)"):
        editor.edit(frames, SOURCE, EDIT, word="circle", reference=tokens[:, :3])
    with pytest.raises(InputError, match="keep: expected places"):
        editor.edit(frames, SOURCE, longer, word="circle", alignment={0: 99})


def test_bad_clips_and_words_are_told(diffusion: TextDiffusion) -> None:
    editor = VideoEditor(diffusion, steps=2)
    with pytest.raises(InputError, match="word: expected one of the prompt"):
        editor.edit(clip(), SOURCE, EDIT, word="bicycle")
    with pytest.raises(InputError, match="word: expected"):
        editor.edit(clip(), SOURCE, EDIT, word="")
    with pytest.raises(InputError, match="frames: expected at least 2"):
        editor.edit(clip(1), SOURCE, EDIT, word="circle")
    with pytest.raises(InputError, match="images: expected"):
        editor.edit(clip()[:, :, :4], SOURCE, EDIT, word="circle")
    for settings in ({"fuse": 1.5}, {"inject_share": -0.1}, {"threshold": 2.0}):
        with pytest.raises(InputError, match=f"^{next(iter(settings))}: expected"):
            VideoEditor(diffusion, **settings)
    with pytest.raises(UnsupportedModelError, match="processors"):
        AttentionStore(nn.Linear(2, 2))
    store = AttentionStore(diffusion.unet)
    with store, pytest.raises(InputError, match="in use"):
        store.__enter__()


def test_maps_by_hand() -> None:
    flat = torch.full((2, 1, 4, 2), 0.5)
    assert float(token_map(flat, 0).abs().max()) == 0  # a flat map divides by no range
    maps = torch.rand(3, 2, 9, 4).softmax(-1)
    assert torch.equal(fuse_frames(maps, w=0.0), maps)
    torch.testing.assert_close(fuse_frames(maps, w=1.0)[2], maps[1])
    torch.testing.assert_close(fuse_frames(maps)[2], (maps[2] + maps[1]) / 2)
    assert torch.equal(fuse_frames(maps[:1], w=0.0), maps[:1])
    torch.testing.assert_close(inject(maps, maps.flip(0), []), maps)
    torch.testing.assert_close(inject(maps, maps.flip(0), range(4)), maps.flip(0))
    one = torch.zeros(1, 1, 9, 1)
    one[0, 0, 4] = 1
    assert int(token_mask(one, 0).sum()) == 1
    assert int(token_mask(one, 0, grow=1).sum()) == 9
    for call, said in (
        (lambda: fuse_frames(maps[:1]), "at least 2"),
        (lambda: fuse_frames(maps, w=1.5), "w: expected"),
        (lambda: fuse_frames(maps[0]), "maps: expected"),
        (lambda: inject(maps, maps[..., :3], [0]), "keep: expected a mapping"),
        (lambda: inject(maps, maps[:2], [0]), "source: expected"),
        (lambda: inject(maps, maps, [4]), "keep: expected places"),
        (lambda: token_map(maps, 4), "token: expected"),
        (lambda: token_mask(maps[:, :, :8], 0, grow=1), "square"),
        (lambda: blend(maps[:, 0], maps[:, 0], torch.ones(3, 5, dtype=torch.bool)), "mask"),
    ):
        with pytest.raises(InputError, match=said):
            call()
