"""Parts of detectors of defects: windows of tokens, memories, texts; and what a grid is too small for."""

import pytest
import torch

from tether.core.errors import InputError, UnsupportedModelError
from tether.methods.winclip import WinclipDetector
from tether.methods.winclip.token_windows import window_embeddings, window_masks
from tether.models import create
from tether.models.features.find import anatomy_of
from tether.models.features.kept_patches import encode_patches
from tether.tasks.anomaly import PatchesDetector
from tether.tasks.anomaly.memory import association, core_set, memory_of
from tether.tasks.anomaly.states import DEFECTIVE, NORMAL, TEMPLATES, prompt_ensemble


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"vision": {"block": {"rope": "2d"}}},
        {"vision": {"block": {"attention": "nala"}}},
        {"vision": {"block": {"ffn_conv": 3, "layer_scale": 0.3, "kv_heads": 1, "qkv_norm": "qk"}}},
        {"vision": {"block": {"position_conv": 3}}},  # a block without pieces
        {"vision": {"layers": 1}},
        {"vision": {"gate": "mirror"}},
    ],
)
def test_a_window_sees_itself_alone(settings):
    model = create("tiny", seed=2, **settings).eval()
    image = torch.rand(3, 3, 32, 32)
    masks, tower = window_masks((4, 4), side=2), anatomy_of(model)
    with torch.no_grad():
        found = window_embeddings(tower, tower.embed(image), masks=masks, batch_size=7)
        for window in (0, 5):
            keep = masks[:, window].expand(3, -1)
            expected = encode_patches(model, image, keep=keep).pooled
            torch.testing.assert_close(found[:, window], expected, rtol=1e-5, atol=1e-5)
        changed = image.clone()
        changed[:, :, 16:, 16:] = 0  # the first window has none of it
        other = window_embeddings(tower, tower.embed(changed), masks=masks)
    torch.testing.assert_close(found[:, 0], other[:, 0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found[:, -1], other[:, -1], atol=1e-4)


def test_a_grid_smaller_than_a_window():
    with pytest.raises(InputError, match="windows: expected a grid of 5 x 5 patches at least, got 4 x 4"):
        WinclipDetector(scales=(2, 5)).prepare(create("tiny").eval(), "tile")


def test_a_name_that_is_none():
    for name in ("", "  ", "a\0b"):
        with pytest.raises(InputError, match="object: expected the name of what the images show"):
            WinclipDetector().prepare(create("tiny").eval(), name)


def test_every_state_in_every_sentence():
    normal, defective = prompt_ensemble("bottle")
    assert len(set(normal)) == len(NORMAL) * len(TEMPLATES) == 154
    assert len(set(defective)) == len(DEFECTIVE) * len(TEMPLATES) == 88
    assert "a photo of the bottle without flaw for anomaly detection." in normal
    assert prompt_ensemble("bottle", templates=["{}"])[1][0] == "damaged bottle"


def test_association_in_pieces(monkeypatch):
    rows, memory = torch.randn(50, 8), torch.randn(30, 8)
    whole = association(rows, memory)
    expected = (1 - torch.nn.functional.cosine_similarity(rows[:, None], memory[None], dim=2)).amin(dim=1) / 2
    torch.testing.assert_close(whole, expected)
    monkeypatch.setattr("tether.models.heads.defect_adapters._MOST", 60)
    torch.testing.assert_close(association(rows, memory), whole)
    with pytest.raises(InputError, match=r"memory: expected \(m, 8\) with m > 0, got \(0, 8\)"):
        association(rows, memory[:0])


@pytest.mark.parametrize("width", [3, 200])
def test_a_core_set_covers_better_than_chance(width):
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(20, width, generator=generator)
    weights = torch.tensor([500.0] * 2 + [1.0] * 18)  # most rows are of two kinds
    kinds = torch.cat([torch.arange(20), weights.multinomial(800, replacement=True, generator=generator)])
    rows = centres[kinds] + 0.01 * torch.randn(820, width, generator=generator)
    chosen = core_set(rows, size=20)
    assert sorted(kinds[chosen].tolist()) == list(range(20))
    drawn = rows[torch.randperm(820, generator=generator)[:20]]
    assert association(rows, rows[chosen]).max() < association(rows, drawn).max()
    kept = memory_of(rows.split(25), size=20)  # never more than 40 of them at once
    assert kept.shape == (20, width)
    assert association(rows, kept).max() < 0.05
    assert core_set(rows, size=900).tolist() == list(range(820))
    assert len(core_set(torch.ones(9, width), size=4).unique()) == 4


def test_no_good_image():
    with pytest.raises(InputError, match="good images: expected one at least, got none"):
        memory_of([], size=3)


def test_patches_of_larger_looks_and_other_blocks():
    model = create("tiny", seed=1).eval()
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    fine = PatchesDetector(size=64, around=1, block=0).prepare(model, "tile")
    (look,) = fine.look([image])
    assert look.grid == (8, 12)
    assert fine.remember([look]).judge(look).score < 1e-6
    assert not torch.allclose(look.rows[0], PatchesDetector(size=64).prepare(model, "tile").look([image])[0].rows[0])
    with pytest.raises(InputError, match="layer: expected -2 to 1, got 9"):
        PatchesDetector(block=9).prepare(model, "tile")


def test_convolutions_have_no_windows(tmp_path):
    from encoders import ENCODERS

    model = ENCODERS["open_clip"](tmp_path)
    with pytest.raises(UnsupportedModelError, match="never attend to one another"):
        WinclipDetector().prepare(model, "tile")
    found = PatchesDetector(size=64).prepare(model, "tile")
    looks = found.look([torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)])
    assert found.remember(looks).judge(looks[0]).score < 1e-6
