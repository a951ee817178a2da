"""Attention that is left out: which blocks, in which models, and what is refused."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import tether
from families import FAMILIES
from tether.compression.quantise import Octav
from tether.core.errors import InputError, UnsupportedModelError
from tether.methods.gate_norm import GateNorm, gate_norm, gate_norm_scores, prune_attention
from tether.models import create
from tether.models.encoders.causal_lm import small_causal_lm
from tether.models.features.lm_blocks import stack_of
from tether.models.towers.blocks.options import BlockConfig
from tether_lab.worlds.char_lm import CharModel


def test_the_score_is_the_norm_of_the_product_with_shared_keys_repeated() -> None:
    draw = torch.Generator().manual_seed(0)
    q, k = torch.randn(12, 8, generator=draw).double(), torch.randn(6, 8, generator=draw).double()
    whole = k.unflatten(0, (2, 3)).repeat_interleave(2, 0).flatten(0, 1)
    torch.testing.assert_close(gate_norm(q, k, heads=4), (q.T @ whole).norm())
    with pytest.raises(InputError, match="k: expected heads like those of q"):
        gate_norm(q, k[:5], heads=4)
    q[0, 0] = math.nan
    with pytest.raises(InputError, match="q, k: hold weights that are NaN"):
        gate_norm(q, k, heads=4)


def test_a_pruned_model_says_so_and_is_saved_and_loaded(tmp_path: Path) -> None:
    model = create("tiny", seed=1).eval()
    before = copy.deepcopy(model)
    scores = {"image.blocks.0": 2.0, "image.blocks.1": 1.0, "text.blocks.0": 1.0, "text.blocks.1": 2.0}
    assert prune_attention(model, n=1, scores=scores) == ["image.blocks.1", "text.blocks.0"]
    assert model.config.vision.without_attention == (1,)
    image, text = torch.rand(2, 3, 32, 32), model.tokenizer(["a red ball", "sun"])
    for block in (before.visual.blocks[1], before.text.blocks[0]):
        nn.init.zeros_(block.proj.weight)
        nn.init.zeros_(block.proj.bias)
    for side, batch in (("image", image), ("text", text)):
        ours, theirs = (getattr(one, f"encode_{side}")(batch).pooled for one in (model, before))
        torch.testing.assert_close(ours, theirs)
    assert not any(name.startswith("visual.blocks.1.qkv") for name in model.state_dict())
    opened = tether.load(tether.save(model, tmp_path / "pruned"))
    assert opened.config.text.without_attention == (0,)
    torch.testing.assert_close(opened.encode_image(image).pooled, model.encode_image(image).pooled)
    assert list(gate_norm_scores(opened)) == ["image.blocks.0", "text.blocks.1"]


@pytest.mark.parametrize("family", ["open_clip ViT", "transformers' CLIP", "composed ViT"])
def test_other_libraries_are_scored_and_not_pruned(family: str, tmp_path: Path) -> None:
    model = FAMILIES[family](tmp_path)
    scores = gate_norm_scores(model, towers=("image",), per_head=True, fold_norm=True)
    assert all(score > 0 for score in scores.values())
    with pytest.raises(UnsupportedModelError, match=r"gate_norm: .*cannot say that a block has no attention"):
        GateNorm().apply_(model)


@pytest.mark.parametrize("keys", [0, 1])
def test_language_models_and_stacks_lose_it_in_memory(keys: int) -> None:
    stack = CharModel(20, width=32, layers=3, heads=2, blocks=BlockConfig(kv_heads=keys, rope="half")).eval()
    reference = copy.deepcopy(stack)
    (name,) = prune_attention(stack, n=1)
    nn.init.zeros_(reference.stack[int(name[-1])].proj.weight)
    nn.init.zeros_(reference.stack[int(name[-1])].proj.bias)
    ids = torch.arange(10)[None]
    torch.testing.assert_close(stack(ids), reference(ids))
    assert "q" not in stack_of(stack)[int(name[-1])].linears
    lm = small_causal_lm(["a red ball"], width=32, layers=3)
    other = copy.deepcopy(lm)
    (name,) = prune_attention(lm, fraction=0.4)
    nn.init.zeros_(stack_of(other)[int(name[-1])].module.self_attn.o_proj.weight)
    rows = lm.embed(lm.tokens(["a red ball"]))
    torch.testing.assert_close(lm.logits(rows), other.logits(rows))
    assert len(gate_norm_scores(lm)) == 2


def test_the_weakest_go_in_order_and_the_first_is_named() -> None:
    model = create("tiny", seed=0)
    edit = GateNorm(towers=["text"])
    with torch.no_grad():
        model.text.blocks[0].qkv.weight[:128] *= 0.01
    edit.apply_(model)
    assert edit.removed == ["text.blocks.0"]
    assert any("is a first block" in line for line in edit.said)
    equal = CharModel(20, width=32, layers=4, heads=2)
    for block in equal.stack[1:]:
        block.load_state_dict(equal.stack[0].state_dict())
    assert prune_attention(equal, n=2) == ["blocks.0", "blocks.1"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 2}, "n, fraction: expected 1 to 1 of 2 blocks, got 2"),
        ({"fraction": 0.1}, r"expected 1 to 1 of 2 blocks, got 0 \(fraction 0.1 of them, rounded down"),
        ({}, "n, fraction: expected one of both"),
        ({"n": 1, "fraction": 0.5}, "n, fraction: expected one of both"),
        ({"n": 1, "scores": {"image.blocks.0": math.nan, "image.blocks.1": 1.0}}, "scores: image.blocks.0: .*NaN"),
        ({"n": 1, "scores": {"image.blocks.7": 1.0}}, "scores: no block 'image.blocks.7' with attention"),
    ],
)
def test_what_cannot_be_chosen_leaves_the_model(settings: dict, message: str) -> None:
    model = create("tiny", seed=0)
    with pytest.raises(InputError, match=message):
        prune_attention(model, **settings)
    assert model.config.vision.without_attention == ()


@pytest.mark.parametrize("kind", ["encoder", "stack", "language model"])
def test_what_was_kept_comes_back_and_the_rest_stays_as_it_is(kind: str) -> None:
    model: nn.Module = create("tiny", seed=1).eval()
    if kind != "encoder":
        lm = small_causal_lm(["a red ball"], width=32, layers=3)
        model = CharModel(30, width=32, layers=3, heads=2) if kind == "stack" else lm
    before = {name: value.clone() for name, value in model.state_dict().items()}
    edit = GateNorm(n=1, keep=True)
    edit.apply_(model)
    assert model.state_dict().keys() < before.keys()
    name = next(name for name, _ in model.named_parameters() if "mlp" in name or "up" in name)
    with torch.no_grad():
        model.get_parameter(name).add_(1)
    edit.restore(model)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert [one for one, value in after.items() if not torch.equal(value, before[one])] == [name]
    assert len(gate_norm_scores(model)) == len(gate_norm_scores(copy.deepcopy(model)))
    for wrong in (edit, GateNorm()):
        with pytest.raises(InputError, match="restore: nothing was kept"):
            wrong.restore(model)


def test_rounded_weights_come_after() -> None:
    model = Octav().apply_(create("tiny", seed=0))
    with pytest.raises(InputError, match="leave attention out first, and round then"):
        GateNorm().apply_(model)


def test_norms_of_queries_and_keys_are_refused(tmp_path: Path) -> None:
    for model in (
        FAMILIES["timm ViT"](tmp_path),
        create("tiny", block={"qkv_norm": "qk"}),
        CharModel(20, width=32, layers=2, heads=2, blocks=BlockConfig(qkv_norm="k")),
    ):
        with pytest.raises(UnsupportedModelError, match=r"blocks\.0: queries or keys are normed"):
            gate_norm_scores(model)
    with pytest.raises(UnsupportedModelError, match="no blocks that are known"):
        gate_norm_scores(nn.Sequential(nn.Linear(2, 2)))
