"""Whole EVA-CLIPs from outside: both towers give the embeddings of timm's and open_clip's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import CustomTextCLIP
from open_clip.transformer import TextTransformer
from safetensors.torch import save_file
from timm.models.eva import Eva
from torch import Tensor

from tether.core.errors import InputError
from tether.methods.eva_clip_18b.eva_clip import load_clip_
from tether.models import Clip, create
from tether.models.presets import configure

RELEASED = {
    "attn.q_proj.bias": "attn.q_bias",
    "attn.v_proj.bias": "attn.v_bias",
    "attn.norm.": "attn.inner_attn_ln.",
    "mlp.fc1_g.": "mlp.w1.",
    "mlp.fc1_x.": "mlp.w2.",
    "mlp.norm.": "mlp.ffn_ln.",
    "mlp.fc2.": "mlp.w3.",
}
"""timm's names to those of the released code."""
SHAPE: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 64,
    "depth": 2,
    "num_heads": 2,
    "num_classes": 64,
}
INSIDE: dict[str, Any] = {"mlp_ratio": 170 / 64, "swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True}
TURNED: dict[str, Any] = {"use_rot_pos_emb": True, "ref_feat_shape": (4, 4), "qkv_fused": False}


@pytest.fixture(scope="module")
def theirs() -> tuple[Eva, TextTransformer, dict[str, Tensor]]:
    """Towers of the two libraries, and the weights in the names of a released file."""
    torch.manual_seed(0)
    image = Eva(**SHAPE, **INSIDE, **TURNED, global_pool="token").eval()
    text = TextTransformer(context_length=24, width=64, heads=2, layers=2, output_dim=64).eval()
    with torch.no_grad():
        for tower in (image, text):
            for weight in tower.parameters():
                weight.add_(torch.randn(weight.shape) * 0.1)
    state = {f"text.{name}": value for name, value in text.state_dict().items()}
    for name, value in image.state_dict().items():
        for old, new in RELEASED.items():
            name = name.replace(old, new)
        state[f"visual.{name}"] = value
    angles = {f"visual.{at}rope.freqs_cos": torch.zeros(16, 32) for at in ("", "blocks.0.attn.", "blocks.1.attn.")}
    state = {name: value.detach().clone() for name, value in {**state, **angles}.items() if "attn_mask" not in name}
    return image, text, {**state, "logit_scale": torch.tensor(4.0)}


def test_both_towers_give_the_same_embeddings(theirs, tmp_path: Path) -> None:
    image, text, state = theirs
    save_file(state, tmp_path / "whole.safetensors")
    model = create("eva02-tiny").eval()
    report = load_clip_(model, tmp_path / "whole.safetensors")
    assert (report.missing, report.unexpected, report.skipped, report.resized) == ((), (), (), ())
    assert load_clip_(create("eva02-tiny"), {"epoch": 3, "state_dict": state}).unexpected == ()
    assert set(report.loaded) == set(model.state_dict())
    pixels, words = torch.randn(3, 3, 32, 32), model.tokenizer(["a red circle", "a cat", "two dogs on a long beach"])
    wide = torch.nn.functional.pad(words, (0, 24 - words.shape[1]))
    with torch.no_grad():
        torch.testing.assert_close(model.encode_image(pixels).pooled, image(pixels), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model.encode_text(words).pooled, text(wide), rtol=1e-5, atol=1e-5)
        assert model.logit_scale.item() == pytest.approx(torch.tensor(4.0).exp().item())


@pytest.mark.parametrize(
    "name",
    ["EVA01-g-14", "EVA01-g-14-plus", "EVA02-B-16", "EVA02-L-14", "EVA02-L-14-336", "EVA02-E-14", "EVA02-E-14-plus"],
)
def test_every_published_size_takes_the_weights_of_open_clips(name: str) -> None:
    described = Path(open_clip.__file__).parent / "model_configs" / f"{name}.json"
    cfg = {key: value for key, value in json.loads(described.read_text()).items() if key != "custom_text"}
    with torch.device("meta"):  # names and shapes alone
        theirs, ours = CustomTextCLIP(**cfg), Clip(configure(name.lower()))
    report = load_clip_(ours, theirs.state_dict())
    assert (report.missing, report.unexpected, report.resized) == ((), (), ())
    assert sum(weight.numel() for weight in ours.parameters()) == sum(weight.numel() for weight in theirs.parameters())


def test_the_report_names_what_is_missing_unexpected_and_resized(theirs) -> None:
    model, state = create("eva02-tiny", image_size=48), dict(theirs[2])
    del state["visual.head.bias"]
    state |= {"text.extra": torch.zeros(1), "visual.extra": torch.zeros(1)}
    report = load_clip_(model, {f"module.{name}": value for name, value in state.items()})
    assert report.missing == ("visual.projection.bias",)
    assert report.unexpected == ("visual.extra", "extra")
    assert report.resized == ("visual.position",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"text.ln_final.weight": None}, "missing ln_final.weight"),
        ({"text.positional_embedding": torch.zeros(77, 64)}, r"text.position is \(77, 64\), expected \(24, 64\)"),
        ({"visual.head.weight": torch.zeros(3, 64)}, r"projection.weight is \(3, 64\), expected \(64, 64\)"),
        ("visual.", r"expected a whole CLIP, names that begin with visual\."),
    ],
)
def test_other_files_are_refused_and_nothing_is_changed(theirs, change: Any, said: str) -> None:
    model = create("eva02-tiny")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    if isinstance(change, str):
        state = {name: value for name, value in theirs[2].items() if not name.startswith(change)}
    else:
        state = {name: value for name, value in {**theirs[2], **change}.items() if value is not None}
    with pytest.raises(InputError, match=said):
        load_clip_(model, state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_with_another_image_tower_is_refused(theirs) -> None:
    with pytest.raises(InputError, match=r"vision: \{tower: eva\}, got VisionTower"):
        load_clip_(create("tiny"), theirs[2])
