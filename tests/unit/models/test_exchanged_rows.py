"""Exchanged weights: what is chosen and refused, order of fused halves, shared heads, an edit made of them in a run."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tether
from families import eva_tower
from tether.adaptation.finetune import Lora
from tether.core.errors import InputError, StoppedError, UnsupportedModelError
from tether.methods.stable_spam import FourBits
from tether.models import create
from tether.models.features.parametrization import (
    AddedRows,
    exchanged,
    linears,
    load_exchanged_,
    merge_,
    norms,
    replace,
    save_exchanged,
    take_back_,
)
from tether.training import load_config, train

pytestmark = pytest.mark.slow


def images(count=3, size=32):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


class SingularValues(nn.Module):
    """A weight by its singular vectors, of which the values learn."""

    def __init__(self, place):
        super().__init__()
        left, values, right = torch.linalg.svd(place.weight.detach(), full_matrices=False)
        self.values = nn.Parameter(values)
        self.register_buffer("left", left, persistent=False)
        self.register_buffer("right", right, persistent=False)

    def forward(self, rows):
        return (self.left * self.values) @ self.right


class Svd:
    """An edit of a run."""

    def apply_(self, model, calibration=()):
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.numel() == 1)
        for side in ("image", "text"):
            replace(linears(model, side=side), SingularValues)
        return model

    def merge_(self, model):
        return merge_(model)


def test_what_is_chosen():
    model = create("tiny")
    names = [place.name for place in linears(model, side="text", blocks=[-1, 0], parts=("v", "up"))]
    assert names == [f"text.blocks.{index}.{part}" for index in (0, 1) for part in ("v", "up")]
    whole = linears(model)
    assert [place.part for place in whole if place.block == 0] == ["q", "k", "v", "o", "up", "down"]
    rows = {place.part: place.weight for place in whole if place.block == 0}
    assert torch.equal(torch.cat([rows["q"], rows["k"], rows["v"]]), model.visual.blocks[0].qkv.weight)
    assert torch.equal(rows["down"], model.visual.blocks[0].down.weight)
    with torch.no_grad():
        rows["k"].zero_()  # a view
    assert not model.visual.blocks[0].qkv.weight[64:128].any()
    assert model.visual.blocks[0].qkv.weight[128:].any()
    assert {place.tensor for place in norms(model, blocks=[1])} == {
        "visual.blocks.1.attn_pre.weight",
        "visual.blocks.1.ffn_pre.weight",
    }


def test_heads_that_share_their_keys_and_a_number_that_does_not_divide():
    block = {"kv_heads": 1, "bias": False, "preset": "normformer"}
    q, k, o = linears(create("tiny", vision={"block": block}), blocks=[0], parts=("q", "k", "o"))
    width = q.by_head().shape[1]
    assert [place.by_head().shape for place in (q, k, o)] == [(2, width, 64), (1, width, 64), (2, width, 64)]
    assert torch.equal(o.by_head()[1], o.weight[:, width:].T)
    assert q.by_head(4).shape == (4, width // 2, 64)
    assert q.bias is None
    for heads in (0, 3):
        with pytest.raises(InputError, match=r"heads: expected a divisor of 64, .*image.blocks.0.q, got"):
            q.by_head(heads)
    with pytest.raises(InputError, match=r"image\.blocks\.0\.q: has no bias"):
        replace([q], AddedRows, of="bias")
    (down,) = linears(create("tiny"), blocks=[0], parts=("down",))
    with pytest.raises(InputError, match="has no heads"):
        down.by_head()


@pytest.mark.parametrize("kind", ["own", "timm"])
@torch.no_grad()
def test_the_gate_is_told_from_the_way_up(kind, tmp_path):
    if kind == "own":
        model = create("tiny", vision={"block": {"activation": "swiglu"}})
        block = model.visual.blocks[0]

        def net(x):
            return block.down(block.activation(block.up(x)))

    else:
        model = eva_tower(tmp_path, swiglu_mlp=True, global_pool="avg")
        net = model.model.visual.trunk.blocks[0].mlp
    gate, up, down = linears(model, blocks=[0], parts=("gate", "up", "down"))
    x = torch.randn(5, up.weight.shape[1])
    expected = F.silu(F.linear(x, gate.weight, gate.bias)) * F.linear(x, up.weight, up.bias)
    torch.testing.assert_close(F.linear(expected, down.weight, down.bias), net(x))


def test_blocks_of_other_kinds_are_reached_too():
    model = create("tiny", vision={"block": {"preset": "nalaformer"}}, text={"block": {"preset": "postnorm"}}).eval()
    assert "out_gate" in {place.part for place in linears(model)}
    text = model.tokenizer(["a cat", "the sun"])
    before = model.encode_text(text).pooled
    replace(linears(model, side="text"), AddedRows)
    assert torch.equal(model.encode_text(text).pooled, before)
    assert {place.part for place in norms(model, side="text")} >= {"attn_post", "ffn_post"}


def test_some_rows_learn_and_nothing_else():
    model = create("tiny").eval()
    model.visual.blocks[1].qkv.bias.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    (made,) = replace(linears(model, blocks=[1], parts=("k",)), AddedRows)
    model.encode_image(images()).pooled.square().sum().backward()
    assert made.delta.grad.any()
    assert model.visual.blocks[1].qkv.parametrizations.weight.original.grad is None
    made.delta.data.fill_(0.1)
    assert list(exchanged(model)) == ["image.blocks.1.k.weight"]
    (also,) = replace(linears(model, blocks=[1], parts=("q",)), AddedRows)  # into the same matrix
    also.delta.data.fill_(-0.1)
    merge_(model)
    change = (model.visual.blocks[1].qkv.weight - before["visual.blocks.1.qkv.weight"]).detach()
    expected = torch.cat([-torch.ones(64, 64), torch.ones(64, 64), torch.zeros(64, 64)]) / 10
    torch.testing.assert_close(change, expected)
    assert model.visual.blocks[1].qkv.weight.requires_grad
    assert not model.visual.blocks[1].qkv.bias.requires_grad
    assert list(model.state_dict()) == list(before)


def test_a_copy_goes_its_own_way():
    model = create("tiny").eval()
    replace(linears(model, parts=("q",)), AddedRows)[0].delta.data.fill_(0.1)
    moved, other = model.encode_image(images()).pooled, copy.deepcopy(model)
    replace(linears(other, parts=("q",)), AddedRows, of="bias")
    take_back_(other)
    assert torch.equal(model.encode_image(images()).pooled, moved)
    assert len(exchanged(model)) == 2
    assert not exchanged(other)


def test_in_half_precision_and_under_autocast():
    model = create("tiny").eval()
    replace(linears(model, parts=("q", "o")), SingularValues)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weight = linears(model, parts=("o",))[0].weight
        assert weight.dtype == torch.float32
        plain = model.visual.blocks[0].proj.parametrizations.weight.original
        torch.testing.assert_close(weight, plain, rtol=0, atol=1e-6)  # no product in bfloat16
        assert model.encode_image(images()).pooled.isfinite().all()
    half = create("tiny").bfloat16().eval()
    before = half.encode_image(images()).pooled
    replace(linears(half), AddedRows)
    assert torch.equal(half.encode_image(images()).pooled, before)


class Wider(AddedRows):
    def forward(self, rows):
        return rows.repeat(2, 1)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda model: linears(model, parts=("qq",)), r"parts: no part 'qq'; did you mean 'q'\? known: down, gate"),
        (lambda model: linears(model, parts=("gat",)), "did you mean 'gate'"),
        (lambda model: linears(model, parts=("gate",)), "parts: no block chosen has any of gate"),
        (lambda model: linears(model, blocks=()), "no block chosen"),
        (lambda model: linears(model, blocks=[2]), "layer: expected -2 to 1, got 2"),
        (lambda model: norms(model, blocks=[-3]), "layer: expected -2 to 1, got -3"),
        (lambda model: linears(model, side="both"), "side: expected image or text, got 'both'"),
        (lambda model: linears(torch.compile(model)), "is compiled, which hides its parts"),
        (lambda model: replace((), AddedRows), "places: expected at least one"),
        (lambda model: replace(linears(model), AddedRows, of="rows"), "of: expected weight or bias, got 'rows'"),
        (
            lambda model: replace(linears(model), lambda place: 1),
            r"blocks\.0\.q: weight: make: expected a module",
        ),
        (lambda model: replace(linears(model), Wider), r"expected a module that gives \(\(64, 64\).*got \(\(128, 64\)"),
        (lambda model: replace(linears(model) * 2, AddedRows), r"image\.blocks\.0\.q: its weight is exchanged already"),
        (merge_, "Clip has nothing exchanged"),
        (take_back_, "Clip has nothing exchanged"),
        (lambda model: save_exchanged(model, "nowhere"), "Clip has nothing exchanged"),
    ],
)
def test_what_is_refused_leaves_the_model_as_it_was(act, message):
    model = create("tiny", seed=1)
    with pytest.raises(InputError, match=message):
        act(model)
    assert str(model) == str(create("tiny", seed=1))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_other_edits_and_a_shared_tower():
    model = create("tiny")
    replace(linears(model, blocks=[0], parts=("q",)), AddedRows)
    with pytest.raises(InputError, match=r"visual\.blocks\.0\.qkv: its weights are exchanged already"):
        Lora().apply_(model)
    with pytest.raises(UnsupportedModelError, match=r"q, k, v are of class Linear: expected linear layers; an edit"):
        linears(Lora(targets="qkv").apply_(create("tiny")))
    quantise = FourBits(group=16)
    rounded = quantise.apply_(create("tiny").eval())
    before = rounded.encode_image(images()).pooled
    replace(linears(rounded, blocks=[0]), AddedRows)
    assert torch.equal(rounded.encode_image(images()).pooled, before)
    with pytest.raises(InputError, match=r"visual\.blocks\.0\.qkv: its weights are exchanged on top"):
        quantise.merge_(rounded)
    quantise.merge_(merge_(rounded))
    shared = create("tiny", towers="shared")
    replace(linears(shared, parts=("q",)), AddedRows)
    with pytest.raises(InputError, match=r"text\.blocks\.0\.q: its weight is exchanged already"):
        replace(linears(shared, side="text", parts=("q",)), AddedRows)


def test_files_that_do_not_fit(tmp_path):
    model = create("tiny", seed=1)
    replace(linears(model, parts=("q",)), AddedRows)
    file = save_exchanged(model, tmp_path / "rows.safetensors")
    other, more, plain = create("tiny", seed=2), create("tiny", seed=1), create("tiny", seed=1)
    replace(linears(other, parts=("q",)), AddedRows)
    replace(linears(more, parts=("q", "v")), AddedRows)
    tether.save(create("tiny"), tmp_path / "model")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(file.read_bytes()[:-9])
    for into, path, message in (
        (other, file, r"rows\.safetensors: belongs to other plain weights than this model's"),
        (more, file, r"image\.blocks\.0\.v\.weight\.delta: the file has nothing, the model \(64, 64\)"),
        (plain, file, "Clip has nothing exchanged"),
        (model, tmp_path / "model" / "model.safetensors", "expected what save_exchanged wrote"),
        (model, cut, "truncated or not a safetensors file"),
        (model, tmp_path / "none", "no such file"),
    ):
        with pytest.raises(InputError, match=message):
            load_exchanged_(into, path)


def test_an_edit_made_of_it_in_a_run(tmp_path):
    start = tether.save(create("tiny", seed=1), tmp_path / "start")
    settings = {
        "model": f"{{load: {start}}}", "data": "{name: emoji, split: validation, size: 32}", "batch_size": 8,
        "steps": 4, "precision": "fp32", "schedule": "{name: constant}", "threads": 1, "save_every": 1,
        "optimizer": "{name: adamw, lr: 0.01, weight_decay: 0}", "edits": "[{name: svd}]",
        "evaluate": "{source: emoji, every: 1, best: score}",
    }  # fmt: skip
    config = load_config(overrides=[f"{key}={value}" for key, value in settings.items()])
    asked = []

    def evaluate(encoder):
        return {"score": float(len(asked))}

    def stop():
        asked.append(0)
        return len(asked) == 2

    train(config, folder=tmp_path / "whole", evaluate=evaluate, edits={"svd": Svd})
    with pytest.raises(StoppedError):
        train(config, folder=tmp_path / "run", evaluate=evaluate, edits={"svd": Svd}, should_stop=stop)
    train(config, folder=tmp_path / "run", evaluate=evaluate, edits={"svd": Svd}, resume=True)
    whole, parts, plain = (tether.load(tmp_path / name).state_dict() for name in ("whole", "run", "start"))
    assert list(whole) == list(plain)
    name = "visual.blocks.0.qkv.weight"
    assert not torch.allclose(whole[name], plain[name], atol=1e-3)
    changed = {key for key in plain if not torch.equal(whole[key], plain[key])}
    assert {key for key in changed if plain[key].numel() > 1} == {
        place.tensor for side in ("image", "text") for place in linears(create("tiny"), side=side)
    }
    assert torch.equal(whole[name], parts[name])
