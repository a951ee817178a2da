"""Singular values on every kind of encoder: identity, what learns, merge, files, choices, and where a training was."""

import copy

import pytest
import torch

import tether
from families import FAMILIES, SEALED
from tether.adaptation.finetune import Lora
from tether.core.errors import InputError, StoppedError, UnsupportedModelError
from tether.methods.clip_svd import Svd, rank_changes, singular_rank, singular_values
from tether.models import create
from tether.models.composed.cached import CachedEncoder
from tether.models.features.linear_maps import linear_maps
from tether.models.features.parametrization import linears, load_exchanged_, save_exchanged
from tether.training import load_config, train
from tether.workflows.edits import EDITS

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")]
TEXTS = ["a small red cat", "sun", "the dog in the sun"]


@pytest.fixture
def tiny():
    return create("tiny", seed=1).eval()


def encoded(model):
    image = torch.randn(3, 3, *model.image_spec.size, generator=torch.Generator().manual_seed(0))
    return [model.encode_image(image).pooled, model.encode_text(model.tokenizer(TEXTS)).pooled]


def learning(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def shake(model):
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert name.endswith(".s")
            parameter.mul_(1 + 0.3 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("name", FAMILIES)
def test_on_every_family(name, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = FAMILIES[name](tmp_path).eval()
    before, plain, kinds = encoded(model), learning(model), [type(module) for module in model.modules()]
    fresh = copy.deepcopy(model)
    edit = Svd(values=str(tmp_path / "values.safetensors"))
    edit.apply_(model)
    for now, then in zip(encoded(model), before, strict=True):
        torch.testing.assert_close(now, then, rtol=1e-5, atol=1e-6)  # torch's attention may take another kernel
    values = singular_values(model)
    sides = {place.partition(".")[0] for place in values}
    alone = {side for side in ("image", "text") if (name, side) not in SEALED}
    assert sides >= alone
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert count == sum(map(len, values.values()))
    sum(side.square().sum() for side in encoded(model)).backward()
    moved = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert sum(grad is not None and bool(grad.abs().sum() > 0) for grad in moved) > len(moved) / 2
    shake(model)
    shaken = [one.detach() for one in encoded(model)]
    assert any(not torch.allclose(now, then, atol=1e-3) for now, then in zip(shaken, before, strict=True))
    edit.merge_(model)
    for now, then in zip(encoded(model), shaken, strict=True):
        torch.testing.assert_close(now, then, rtol=1e-5, atol=1e-5)
    assert learning(model) == plain
    assert [type(module) for module in model.modules()] == kinds
    Svd().apply_(fresh)
    load_exchanged_(fresh, tmp_path / "values.safetensors")
    for now, then in zip(encoded(fresh), shaken, strict=True):
        assert torch.equal(now, then)


def test_a_file_of_the_values_alone_fits_its_base_alone(tiny, tmp_path):
    Svd().apply_(tiny)
    count = sum(map(len, singular_values(tiny).values()))
    file = save_exchanged(tiny, tmp_path / "values.safetensors")
    assert file.stat().st_size < 4 * count + 20_000
    assert file.stat().st_size < sum(one.numel() for one in create("tiny").parameters())
    other = Svd().apply_(create("tiny", seed=2))
    with pytest.raises(InputError, match="belongs to other plain weights"):
        load_exchanged_(other, file)
    with pytest.raises(InputError, match="the file has"):
        load_exchanged_(Svd(towers=("text",)).apply_(create("tiny", seed=1)), file)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"include": ("q",), "towers": ("image",)}, {f"image.blocks.{block}.q" for block in range(6)}),
        (
            {"include": ("q",), "layers": "bottom"},
            {f"{side}.blocks.{n}.q" for side in ("image", "text") for n in (0, 1)},
        ),
        ({"include": ("o",), "layers": "middle", "towers": ("text",)}, {"text.blocks.2.o", "text.blocks.3.o"}),
        ({"include": ("v",), "layers": "top", "towers": ("text",)}, {"text.blocks.4.v", "text.blocks.5.v"}),
        ({"include": ("k",), "layers": (-1, 0, 5), "towers": ("text",)}, {"text.blocks.0.k", "text.blocks.5.k"}),
    ],
)
def test_what_is_chosen(settings, expected):
    model = create("tiny", vision={"layers": 6}, text={"layers": 6})
    assert set(singular_values(Svd(**settings).apply_(model))) == expected
    assert len(learning(model)) == len(expected)


def test_thirds_of_twelve_layers_are_the_released_ones():
    model = create("tiny", text={"layers": 12})
    for layers, blocks in (("bottom", [0, 1, 2, 3]), ("middle", [4, 5, 6, 7]), ("top", [8, 9, 10, 11])):
        places = linear_maps(model, towers=("text",), include=("q",), layers=layers)
        assert [place.block for place in places] == blocks


def test_layers_of_a_tower_that_is_not_known_from_inside(tmp_path):
    model = FAMILIES["ConvNeXt"](tmp_path)
    places = linear_maps(model, towers=("image",), include=("other",), layers="all")
    assert places
    some = linear_maps(model, towers=("image",), include=("other",), layers=[places[-1].block])
    assert {place.block for place in some} == {places[-1].block}
    assert len(some) < len(places)
    with pytest.raises(InputError, match=r"is one of q, k in layers 'all'"):
        Svd(include=("q", "k"), towers=("image",)).apply_(model)


def test_the_maps_of_a_composed_encoder_and_its_locked_towers(tmp_path):
    model = FAMILIES["composed EfficientNet"](tmp_path)
    assert model.parts.text.locked
    Svd(include=("map",)).apply_(model)
    assert set(singular_values(model)) == {"image.model.image_map", "text.model.text_map"}
    assert model.parts.text.locked
    again = FAMILIES["composed EfficientNet"](tmp_path)
    Svd(include=("other", "map"), towers=("text",)).apply_(again)
    assert not again.parts.text.locked
    assert again.parts.image.locked


def test_fewer_values(tiny):
    before = encoded(tiny)
    kept = Svd(rank_ratio=0.5).apply_(copy.deepcopy(tiny))
    for now, then in zip(encoded(kept), before, strict=True):
        assert torch.equal(now, then)
    assert {len(s) for s in singular_values(kept).values()} == {32}
    dropped = Svd(rank_ratio=0.5, rest="dropped", include=("q",), towers=("image",)).apply_(copy.deepcopy(tiny))
    place, old = linears(dropped, parts=("q",))[0].weight, linears(tiny, parts=("q",))[0].weight
    u, s, vh = torch.linalg.svd(old)
    torch.testing.assert_close(place, (u[:, :32] * s[:32]) @ vh[:32], rtol=1e-4, atol=1e-5)
    assert [singular_rank(full, ratio=0.3) for full in (1, 5, 40)] == [1, 1, 12]


def test_half_precision_keeps_wide_values(tiny):
    half = tiny.to(torch.bfloat16)
    before = linears(half)[0].weight.clone()
    Svd().apply_(half)
    assert {s.dtype for s in singular_values(half).values()} == {torch.float32}
    assert linears(half)[0].weight.dtype == torch.bfloat16
    assert torch.equal(linears(half)[0].weight, before)


def test_bad_input(tiny):
    with pytest.raises(InputError, match=r"layers: expected -2 to 1, got 2"):
        Svd(layers=(2,)).apply_(tiny)
    with pytest.raises(InputError, match="layers 'top'"):
        Svd(layers="top").apply_(create("tiny", vision={"layers": 1}, text={"layers": 1}))
    with pytest.raises(InputError, match="no linear map in image, text is one of map"):
        Svd(include=("map",)).apply_(tiny)
    assert learning(tiny) == learning(create("tiny"))
    with pytest.raises(UnsupportedModelError, match="expected a model of"):
        Svd().apply_(CachedEncoder(tiny))
    Lora(rank=2).apply_(tiny)
    with pytest.raises(InputError, match="adapters"):
        Svd().apply_(tiny)


def test_changes_are_found_where_they_were_made(tiny):
    heads = linears(tiny, parts=("v",))[0].heads
    after = copy.deepcopy(tiny)
    with torch.no_grad():
        linears(after, parts=("v",))[1].by_head()[1].mul_(1.5)
        linears(after, parts=("o",))[1].by_head()[0].mul_(0.9)
    found = rank_changes(tiny, after, by="head")
    assert [(change.block, change.index) for change in found[:2]] == [(1, 1), (1, 0)]
    assert found[0].value > 0 == pytest.approx(found[0].output, abs=1e-9)
    assert found[1].output < 0
    assert found[0].score == pytest.approx(found[0].value)
    assert len(found) == 2 * heads
    assert all(change.score == pytest.approx(0, abs=1e-9) for change in found[2:])
    edited = copy.deepcopy(tiny)
    Svd().apply_(edited)
    place = singular_values(edited)["image.blocks.0.v"]
    with torch.no_grad():
        edited.visual.blocks[0].qkv.parametrizations.weight[0].made["v"].s[-1] += 2.0
    bands = rank_changes(tiny, edited)
    assert (bands[0].block, bands[0].index) == (0, heads - 1)
    assert bands[0].value == pytest.approx(2.0, rel=1e-5)
    assert bands[1].score < 1e-4
    assert len(place) % heads == 0
    with pytest.raises(InputError, match="the same tower twice"):
        rank_changes(tiny, create("tiny", vision={"layers": 3}))


def test_saved_after_a_training_and_loaded(tiny, tmp_path):
    edit = Svd(layers="top")
    edit.apply_(tiny)
    with pytest.raises(InputError, match="merge_ or take_back_"):
        tether.save(tiny, tmp_path / "saved")
    shake(tiny)
    moved = [one.detach() for one in encoded(tiny)]
    again = tether.load(tether.save(edit.merge_(tiny), tmp_path / "saved"))
    for now, then in zip(encoded(again), moved, strict=True):
        torch.testing.assert_close(now, then, rtol=1e-5, atol=1e-5)
    assert rank_changes(create("tiny", seed=1), again)[0].block == 1


def test_a_stopped_run_goes_on_to_the_same_bits_and_opens_only_then(tmp_path):
    start = tether.save(create("tiny", seed=1), tmp_path / "start")
    settings = ["data=scenes:rows=64,size=64", f"model={{load: {start}}}", "steps=8", "batch_size=8", "threads=1"]
    settings += ["precision=fp32", f"edits=[{{name: svd, layers: top, values: {tmp_path / 'values.safetensors'}}}]"]
    settings += ["optimizer={name: adamw, lr: 0.01}"]
    config, asked = load_config(overrides=settings), []
    train(config, folder=tmp_path / "whole", edits=EDITS)
    with pytest.raises(StoppedError):
        train(config, folder=tmp_path / "run", edits=EDITS, should_stop=lambda: asked.append(0) or len(asked) == 4)
    with pytest.raises(InputError, match="unfinished run"):
        tether.load(tmp_path / "run")
    train(config, folder=tmp_path / "run", edits=EDITS, resume=True)
    whole, parts, plain = (tether.load(tmp_path / name) for name in ("whole", "run", "start"))
    assert all(torch.equal(value, parts.state_dict()[name]) for name, value in whole.state_dict().items())
    before, after = plain.state_dict(), whole.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == {place.tensor for side in ("image", "text") for place in linears(plain, side=side, blocks=[-1])}
    again = load_exchanged_(Svd(layers="top").apply_(plain), tmp_path / "values.safetensors")
    for now, then in zip(encoded(again), encoded(whole), strict=True):
        torch.testing.assert_close(now, then, rtol=1e-5, atol=1e-5)
