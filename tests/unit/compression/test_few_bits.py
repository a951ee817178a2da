"""Clip values, grids of 2 to 8 bits and the edit that puts them in, beyond the paper's figures."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from families import FAMILIES
from tether.compression.quantise import FakeQuant, Octav, octav_clip, round_to_levels
from tether.compression.quantise.packed import FORMAT, load_packed_, pack_codes, save_packed, unpack_codes
from tether.core.errors import InputError, UnsupportedModelError
from tether.models import create
from tether.models.convert.saved_files import write_weights
from tether.models.encoders.causal_lm import small_causal_lm
from tether.models.features.lm_blocks import stack_of
from tether_lab.worlds.char_lm import CharModel


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_one_magnitude_is_its_own_clip_and_zeros_count_for_nothing() -> None:
    assert octav_clip(torch.tensor([0.3, -0.3, 0.3]), 4).item() == pytest.approx(0.3)
    assert octav_clip(torch.zeros(5), 4).item() == 1
    assert octav_clip(torch.tensor(2.0), 4).item() == 2
    x = drawn(100).double()
    padded = torch.cat([x, torch.zeros(50, dtype=torch.float64)])
    torch.testing.assert_close(octav_clip(padded, 4), octav_clip(x, 4))
    zeros = FakeQuant(4)(torch.zeros(3))
    assert torch.equal(zeros, torch.zeros(3))


@pytest.mark.parametrize(
    ("x", "settings", "message"),
    [
        (torch.tensor([1.0, torch.nan]), {"bits": 4}, "x: holds values that are NaN or infinite"),
        (torch.tensor([1.0, torch.inf]), {"bits": 4}, "x: holds values that are NaN or infinite"),
        (torch.tensor([-1.0, 1.0]), {"bits": 4, "signed": False}, "x: holds negative values"),
        (torch.empty(0), {"bits": 4}, r"x: expected at least one value, got shape \(0,\)"),
        (torch.ones(2), {"bits": 1}, "bits: expected .*2.*16.*got 1"),
    ],
)
def test_what_has_no_clip_value(x: Tensor, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        octav_clip(x, **settings)


def test_sums_do_not_drown_in_the_precision_of_the_values() -> None:
    x = drawn(4096)
    for dtype in (torch.bfloat16, torch.float16):
        torch.testing.assert_close(octav_clip(x.to(dtype), 4), octav_clip(x, 4), rtol=2e-2, atol=0)
        assert FakeQuant(4)(x.to(dtype)).dtype == dtype


def test_outliers_above_a_bulk_below_half_a_step_are_the_known_failure() -> None:
    x = drawn(1500).double()
    x[:15] = 20
    errors = [(round_to_levels(x, s, 4) - x).square().mean() for s in (octav_clip(x, 4), x.abs().max())]
    assert errors[0] > errors[1]


def test_gradients_inside_and_outside() -> None:
    x = torch.tensor([0.4, -3.0, 2.0], requires_grad=True)
    for grad, expected in (("ste", [1, 1, 1]), ("pwl", [1, 0, 0]), ("mad", [1, 1 / 3, 0.5])):
        x.grad = None
        round_to_levels(x, torch.tensor(1.0), 3, grad=grad).sum().backward()
        torch.testing.assert_close(x.grad, torch.tensor(expected, dtype=torch.float32))


def test_a_quantiser_keeps_its_clip_in_evaluation_and_in_files() -> None:
    quant = FakeQuant(4, dim=1)
    with pytest.raises(InputError, match="freeze: nothing was seen yet"):
        quant.freeze()
    rows = drawn(3, 50)
    quant(rows)
    seen = quant.s.clone()
    quant.eval()(rows * 5)
    assert torch.equal(quant.s, seen)
    quant.train().freeze()(rows * 5)
    assert torch.equal(quant.s, seen)
    other = FakeQuant(4, dim=1)
    other.load_state_dict(quant.state_dict())
    assert torch.equal(other.eval()(rows), quant(rows))
    running = FakeQuant(4, running=0.9, observer="max")
    running(torch.tensor([1.0]))
    running(torch.tensor([2.0]))
    assert running.s.item() == pytest.approx(1.1)


def test_a_spread_has_its_zero_and_both_ends() -> None:
    rows = drawn(4, 32).abs() - 0.1
    rounded = FakeQuant(3, dim=1, observer="spread")(rows)
    step = (rows.amax(1) - rows.amin(1)) / 7
    assert bool(((rounded - rows).abs() <= 0.75 * step[:, None]).all())
    assert all(len(row.unique()) <= 8 for row in rounded)
    assert torch.equal(FakeQuant(3, observer="spread")(torch.zeros(4)), torch.zeros(4))


@pytest.mark.parametrize(
    ("meant", "message"),
    [
        ("{", "places"),
        ("[5]", "damaged: expected places"),
        (
            '[{"place": "a", "tensor": "b", "start": 0, "shape": ["a"], "bits": 2, "low": 0}]',
            "damaged: expected places",
        ),
        (
            '[{"place": "a", "tensor": "b", "start": 0, "shape": [4], "bits": 10000000000, "low": 0}]',
            "damaged: expected",
        ),
        ('[{"place": "a", "tensor": "weight", "start": 0, "shape": [2, 4], "bits": 2, "low": 0}]', "damaged: KeyError"),
        ("[]", "weight: the file has nothing for it"),
    ],
)
def test_a_damaged_packed_file_leaves_the_model_as_it_was(meant: str, message: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, path = nn.Linear(4, 2), tmp_path / "packed.safetensors"
    before = copy.deepcopy(model.state_dict())
    given = {"plain/bias": torch.ones(2)}
    write_weights(path, given, metadata={"format": FORMAT, "places": meant})
    with pytest.raises(InputError, match=rf"packed\.safetensors: .*{message}|{message}"):
        load_packed_(model, path)
    write_weights(path, {"plain/bias": torch.tensor([1, torch.nan])}, metadata={"format": FORMAT, "places": "[]"})
    with pytest.raises(InputError, match="plain/bias: holds numbers that are NaN"):
        load_packed_(model, path)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("share", ["tensor", "channel", "group"])
@pytest.mark.parametrize("scale", ["octav", "max", "spread"])
def test_every_map_has_grids_of_its_own_and_a_packed_file_gives_them_back(
    share: str, scale: str, tmp_path: Path
) -> None:
    model = create("tiny", seed=1).eval()
    edit = Octav(bits=3, share=share, scale=scale, group=16)
    edit.apply_(model)
    path = save_packed(model, edit.applied, tmp_path / "packed.safetensors")
    edit.merge_(model)
    width = {"tensor": 64 * 64, "channel": 64, "group": 16}[share]
    q = model.visual.blocks[0].qkv.weight.detach()[:64]
    assert all(len(run.unique()) <= 8 for run in q.reshape(-1, width))
    assert len(model.visual.blocks[0].attn_pre.weight.unique()) == 1
    again = load_packed_(create("tiny", seed=2), path)
    for name, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    with pytest.raises(InputError, match=r"packed\.safetensors"):
        load_packed_(create("tiny", vision={"width": 128}), path)


def test_bits_survive_packing() -> None:
    for bits in range(2, 9):
        codes = torch.randint(0, 2**bits, (7, 5), generator=torch.Generator().manual_seed(bits))
        packed = pack_codes(codes, bits)
        assert len(packed) == -(-35 * bits // 8)
        assert torch.equal(unpack_codes(packed, bits, 35).view(7, 5), codes)


@pytest.mark.parametrize("family", ["open_clip ViT", "timm ViT", "transformers' CLIP"])
def test_other_libraries_blocks_and_their_norms(family: str, tmp_path: Path) -> None:
    model = FAMILIES[family](tmp_path)
    before = copy.deepcopy(model.state_dict())
    edit = Octav(bits=2, share="tensor", include=("q", "norm"), towers=("image",)).apply_(model)
    names = [place.name.rpartition(".")[2] for place in Octav(include=("q", "norm"), towers=("image",)).places(model)]
    assert {"q", "norm1", "norm2"} <= set(names)
    merged = Octav().merge_(edit).state_dict()
    changed = {name for name in merged if not torch.equal(merged[name], before[name])}
    assert changed
    assert all(len(merged[name].unique()) <= 4 for name in changed if merged[name].ndim == 1)


def test_language_models_and_stacks_of_blocks() -> None:
    for model in (small_causal_lm(["a red ball"], width=32, layers=2), CharModel(30, width=32, layers=2, heads=2)):
        edit = Octav(bits=2, share="channel", include=("k", "mlp", "norm"), layers=[-1])
        edit.merge_(edit.apply_(model))
        first, last = stack_of(model)
        rows = last.linears["k"].weight.read()
        assert all(len(row.unique()) <= 4 for row in rows)
        assert len(first.linears["k"].weight.read()[0].unique()) > 4


def test_weights_learn_beneath_their_grid() -> None:
    model = CharModel(30, width=32, layers=1, heads=2)
    Octav(bits=2).apply_(model)
    model(torch.zeros(2, 5, dtype=torch.int64)).square().sum().backward()
    missing = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert not missing
    assert all(value.requires_grad for value in model.parameters())


def test_what_the_edit_refuses(tmp_path: Path) -> None:
    for settings, message in (
        ({"bits": 1}, "bits"),
        ({"bits": 9}, "bits"),
        ({"share": "group", "group": 48}, r"image\.blocks\.0\.q: group: expected a divisor of its 64 columns, got 48"),
    ):
        with pytest.raises(InputError, match=message):
            Octav(**settings).apply_(create("tiny"))
    broken = create("tiny")
    with torch.no_grad():
        broken.text.blocks[1].down.weight[0, 0] = torch.nan
    with pytest.raises(InputError, match=r"text\.blocks\.1\.down: holds weights that are NaN"):
        Octav().apply_(broken)
    with pytest.raises(UnsupportedModelError, match="Sequential: has no blocks that are known"):
        Octav().apply_(nn.Sequential(nn.Linear(2, 2)))


def test_a_dimension_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"dim: expected dimensions of a tensor of 2, got 5"):
        octav_clip(torch.ones(3, 4), 4, dim=5)
