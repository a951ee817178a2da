"""What the exchange of weights keeps on every family: rows that are the block's own, identity, merge, files."""

import copy
from dataclasses import replace as changed

import pytest
import torch
import torch.nn.functional as F

import tether
from families import FAMILIES, SEALED
from tether.core.errors import InputError, UnsupportedModelError
from tether.models.features.find import anatomy_of
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
from tether.models.features.parts import by_head
from tether.models.refusals import EXCEPTIONS
from tether.models.towers.clip import Clip

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")]
TEXTS = ["a small red cat", "sun", "the dog in the sun"]
SIDES = ("image", "text")
LOADED = ("Tether", "open_clip ViT", "transformers' CLIP", "composed ViT")
"""Those of the families that a library builds from a description."""
OPEN = [(name, side) for name in FAMILIES for side in SIDES if (name, side) not in SEALED]


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                made[name] = FAMILIES[name](tmp_path_factory.mktemp("family")).eval()
        return copy.deepcopy(made[name])

    return get


def batch_of(model, side):
    if side == "text":
        return model.tokenizer(TEXTS)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 3, *model.image_spec.size, generator=generator).to(model.logit_scale.dtype)


def encoded(model, side):
    return (model.encode_image if side == "image" else model.encode_text)(batch_of(model, side)).pooled


def everything(model, side):
    """A zero added to all weights and biases of all maps and norms."""
    places = [*linears(model, side=side), *norms(model, side=side)]
    return [
        *replace(places, AddedRows),
        *replace([place for place in places if place.bias is not None], AddedRows, of="bias"),
    ]


def shake(made):
    generator = torch.Generator().manual_seed(1)
    for one in made:
        one.delta.data.copy_(0.05 * torch.randn(one.delta.shape, generator=generator))


@pytest.mark.parametrize(("name", "side"), OPEN)
@torch.no_grad()
def test_the_rows_are_the_blocks_own(name, side, families):
    model = families(name).double()
    tower = anatomy_of(model, side)
    found = {place.name: place for place in linears(model, side=side)}
    known = dict(model.state_dict(keep_vars=True))
    assert all(place.weight.data_ptr() >= known[place.tensor].data_ptr() for place in found.values())
    stream = tower.embed(batch_of(model, side))
    for index, block in enumerate(tower.blocks):
        of = {part: found.get(f"{side}.blocks.{index}.{part}") for part in ("q", "k", "v", "o", "gate", "up", "down")}
        layout = tower.layout_at(stream.layout, index)
        layout = layout if isinstance(model, Clip) else changed(layout, turn=None)
        normed = block.norm1(stream.x)
        for part, rows in zip("qkv", block.qkv(normed, layout), strict=True):
            place = of[part]
            expected = by_head(F.linear(normed, place.weight, place.bias), heads=place.heads)
            attention = getattr(block.block, "attn", None)
            norm = getattr(attention, f"{part}_norm", getattr(attention, f"ln_{part}", None))
            torch.testing.assert_close(expected if norm is None else norm(expected), rows, rtol=0, atol=1e-9)
            assert place.by_head().shape == (place.heads, rows.shape[-1], tower.width)
        heads = block.attend(*block.qkv(normed, layout), layout.bias).transpose(1, 2).flatten(2)
        torch.testing.assert_close(F.linear(heads, of["o"].weight, of["o"].bias), block.out.linear(heads))
        before = block.feed_forward(stream.x, layout)
        assert not torch.allclose(before[:, 0], before[:, 1], atol=1e-6)
        for part in ("gate", "up", "down"):  # without any of them no token is told from another
            place = of[part]
            if place is None:
                continue
            kept = [one.clone() for one in (place.weight, place.bias)]
            place.weight.zero_()
            place.bias.zero_()
            after = block.feed_forward(stream.x, layout)
            torch.testing.assert_close(after, after[:1, :1].expand_as(after), rtol=0, atol=1e-9)
            place.weight.copy_(kept[0])
            place.bias.copy_(kept[1])
        assert torch.equal(block.feed_forward(stream.x, layout), before)
        stream = tower.step(stream, index)


@pytest.mark.parametrize(("name", "side"), OPEN)
def test_identity_then_merged_as_unmerged_then_plain(name, side, families, tmp_path):
    model, plain = families(name), families(name)
    for one in (model, plain):
        next(one.parameters()).requires_grad_(False)
    before, kinds = encoded(model, side), [type(module) for module in model.modules()]
    made = everything(model, side)
    assert torch.equal(encoded(model, side), before)
    encoded(model, side).square().sum().backward()
    touched = {place.tensor for place in (*linears(model, side=side), *norms(model, side=side))}
    assert all(one.delta.grad is not None for one in made)
    originals = [value for key, value in model.named_parameters() if key.endswith(".original")]
    assert len(originals) >= len(touched)
    assert all(value.grad is None and not value.requires_grad for value in originals)
    shake(made)
    moved = encoded(model, side)
    with torch.no_grad():  # torch's attention may take another kernel
        torch.testing.assert_close(encoded(model, side), moved, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(moved, before, atol=1e-3)
    tower = anatomy_of(model, side)
    seen = tower.read_out(tower.run(tower.embed(batch_of(model, side))))
    torch.testing.assert_close(seen, moved, rtol=0, atol=1e-4)

    file = save_exchanged(model, tmp_path / "rows.safetensors")
    again = families(name)
    everything(again, side)
    load_exchanged_(again, file)
    assert torch.equal(encoded(again, side), moved)
    take_back_(again)
    assert torch.equal(encoded(again, side), before)

    with pytest.raises(InputError, match="merge_ or take_back_"):
        tether.save(model, tmp_path / "saved")
    other = copy.deepcopy(model)
    for merged in (merge_(other), merge_(model)):  # a copy's end leaves the original as it was
        torch.testing.assert_close(encoded(merged, side), moved, rtol=1e-6, atol=1e-6)
    assert [type(module) for module in model.modules()] == kinds
    assert not exchanged(model)
    learning = [(key, value.requires_grad) for key, value in model.named_parameters()]
    assert learning == [(key, value.requires_grad) for key, value in plain.named_parameters()]
    if name in LOADED:
        loaded = tether.load(tether.save(model, tmp_path / "saved"))
        torch.testing.assert_close(encoded(loaded, side), moved, rtol=1e-6, atol=1e-6)
        assert [place.name for place in linears(loaded, side=side)] == [
            place.name for place in linears(model, side=side)
        ]


@pytest.mark.parametrize(("name", "side"), list(SEALED))
def test_what_cannot_be_reached_is_refused_by_the_table(name, side, families):
    for find in (linears, norms):
        with pytest.raises(UnsupportedModelError) as caught:
            find(families(name), side=side)
        assert EXCEPTIONS[SEALED[name, side]] in str(caught.value)
