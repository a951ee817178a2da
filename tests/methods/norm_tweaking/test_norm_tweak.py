"""Norms that mend a rounded model: what they leave, what they go on from, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from families import FAMILIES
from tether.compression.quantise import FakeQuant, Octav
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.types import Batch
from tether.methods.norm_tweaking import NormTweak, NormTweaker, distribution_loss, own_texts
from tether.models import create
from tether.models.encoders.causal_lm import small_causal_lm
from tether_lab.worlds.char_lm import CharModel

TEXTS = ["a small red cat", "sun", "the dog in the sun", "a blue ball"]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stack(layers: int = 3) -> list[nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.Dropout(0.5)) for _ in range(layers)]


def to_two_bits(block: nn.Module) -> None:
    block[1].weight.copy_(FakeQuant(2, observer="max")(block[1].weight))


def sequences(count: int = 6) -> list[Tensor]:
    return [drawn(12 + place, 8, seed=place) for place in range(count)]


def test_the_loss_is_of_tokens_that_are_no_padding() -> None:
    f, q = drawn(5, 4), drawn(5, 4, seed=1)
    assert distribution_loss(f, f).item() == 0
    seen = torch.tensor([True, True, True, False, False])
    torch.testing.assert_close(distribution_loss(f, q, seen=seen), distribution_loss(f[:3], q[:3]))
    with pytest.raises(InputError, match="expected at least two tokens that are no padding, got 1"):
        distribution_loss(f[:1], q[:1])
    with pytest.raises(InputError, match=r"found: expected states like \(5, 4\), got \(4, 4\)"):
        distribution_loss(f, q[:4])


def test_only_norms_move_and_nothing_else_is_left_behind() -> None:
    blocks = stack()
    blocks[1].requires_grad_(False)
    blocks[2].train()
    blocks[0].eval()
    before = copy.deepcopy(blocks)
    found = NormTweaker(to_two_bits, lr=1e-2).fit(blocks, sequences())
    assert all(layer.after < layer.before for layer in found)
    assert [layer.learning_rate for layer in found] == pytest.approx([1e-2, 1e-2 * 4 / 3, 1e-2 * 5 / 3])
    for block, old in zip(blocks, before, strict=True):
        expected = copy.deepcopy(old)
        with torch.no_grad():
            to_two_bits(expected)
        assert torch.equal(block[1].weight, expected[1].weight)
        assert torch.equal(block[1].bias, old[1].bias)
        assert not torch.equal(block[0].weight, old[0].weight)
        assert [value.requires_grad for value in block.parameters()] == [v.requires_grad for v in old.parameters()]
        assert [part.training for part in block.modules()] == [part.training for part in old.modules()]
        assert all(value.grad is None for value in block.parameters())


def test_padding_changes_nothing() -> None:
    plain, padded = stack(), stack()
    given = sequences()
    NormTweaker(to_two_bits, lr=1e-2).fit(plain, given)
    filled = [torch.cat([x, 100 * torch.ones(3, 8)]) for x in given]
    masks = [torch.arange(len(x)) < len(x) - 3 for x in filled]
    NormTweaker(to_two_bits, lr=1e-2).fit(padded, filled, masks=masks)
    for one, other in zip(plain, padded, strict=True):
        torch.testing.assert_close(one[0].weight, other[0].weight)


def test_an_interrupted_call_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole, file = stack(), tmp_path / "tweak.safetensors"
    expected = NormTweaker(to_two_bits, lr=1e-2).fit(whole, sequences())

    def stops(block: nn.Module, x: Tensor, place: int) -> Tensor:
        if block is begun[2]:
            raise KeyboardInterrupt
        return block(x)

    begun = stack()
    with pytest.raises(KeyboardInterrupt):
        NormTweaker(to_two_bits, lr=1e-2).fit(begun, sequences(), call=stops, resume=file)
    again = stack()
    with pytest.raises(InputError, match="belongs to other blocks, sequences, masks or settings"):
        NormTweaker(to_two_bits, lr=2e-2).fit(stack(), sequences(), resume=file)
    masks = [torch.arange(len(x)) < 8 for x in sequences()]
    with pytest.raises(InputError, match="belongs to other"):
        NormTweaker(to_two_bits, lr=1e-2).fit(stack(), sequences(), masks=masks, resume=file)
    other = stack()
    with torch.no_grad():
        other[2][1].bias[0] += 1
    with pytest.raises(InputError, match="belongs to other"):
        NormTweaker(to_two_bits, lr=1e-2).fit(other, sequences(), resume=file)
    assert NormTweaker(to_two_bits, lr=1e-2).fit(again, sequences(), resume=file) == expected
    for one, other in zip(whole, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert not file.exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "calibration: expected at least one sequence, got none"),
        ([torch.zeros(1, 8)], "calibration, sequence 0: expected at least two tokens that are no padding, got 1"),
        ([torch.zeros(4)], r"calibration, sequence 0: expected \(t, w\) or \(1, t, w\), got \(4,\)"),
        ([torch.full((4, 8), torch.nan)], "calibration, sequence 0: holds states that are not finite"),
    ],
)
def test_calibration_that_says_nothing(given: list[Tensor], message: str) -> None:
    blocks = stack()
    before = copy.deepcopy(blocks[0][1].weight)
    with pytest.raises(InputError, match=message):
        NormTweaker(to_two_bits).fit(blocks, given)
    assert torch.equal(blocks[0][1].weight, before)


def test_a_block_without_a_norm_is_named_before_anything_is_rounded() -> None:
    blocks = [*stack(1), nn.Sequential(nn.Linear(8, 8))]
    before = copy.deepcopy(blocks[0][1].weight)
    with pytest.raises(InputError, match="block 1: Sequential has no norm with a weight to tweak"):
        NormTweaker(to_two_bits).fit(blocks, sequences())
    assert torch.equal(blocks[0][1].weight, before)


@pytest.mark.parametrize(
    "family",
    ["Tether", "open_clip ViT", "transformers' CLIP", "transformers' SigLIP", "roberta-ViT", "ViT and BERT"],
)
def test_both_towers_of_any_library(family: str, tmp_path: Path) -> None:
    model = FAMILIES[family](tmp_path).eval()
    height, width = model.image_spec.size
    image = torch.randint(0, 256, (4, 3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    batch = Batch(image, model.tokenizer(TEXTS))
    rounding, repair = Octav(bits=2, scale="max", share="tensor"), NormTweak(lr=1e-3)
    with pytest.raises(InputError, match="no weight is rounded; expected the edit octav before"):
        repair.apply_(model, [batch])
    rounding.apply_(model)
    with pytest.raises(InputError, match="calibration: expected images and texts, got none"):
        repair.apply_(model)
    plain = copy.deepcopy(model)
    repair.apply_(model, [batch])
    assert not any("left as it is" in line for line in repair.said)
    for side in ("image", "text"):
        layers = repair.layers[side]
        assert sum(layer.after for layer in layers) < sum(layer.before for layer in layers)
    rounding.merge_(repair.merge_(model))
    for name, value in rounding.merge_(plain).state_dict().items():
        assert torch.equal(value, model.state_dict()[name]) or value.ndim == 1, name


def test_a_tower_without_one_list_of_blocks_is_left_and_named(tmp_path: Path) -> None:
    model = FAMILIES["ConvNeXt"](tmp_path).eval()
    image = torch.zeros(2, 3, *model.image_spec.size, dtype=torch.uint8)
    repair = NormTweak()
    repair.apply_(Octav(bits=2).apply_(model), [Batch(image, model.tokenizer(TEXTS[:2]))])
    assert list(repair.layers) == ["text"]
    assert "the image tower is left as it is" in repair.said[0]


def test_language_models_write_their_own_calibration() -> None:
    draw = torch.Generator().manual_seed(0)
    for model in (CharModel(30, width=32, layers=2, heads=2), small_causal_lm(["a red ball"], width=32, layers=2)):
        logits = model if isinstance(model, CharModel) else lambda ids, lm=model: lm.logits(lm.embed(ids))
        texts = own_texts(logits, torch.tensor([3, 3, 5]), length=9, generator=draw)
        assert texts.shape == (3, 9)
        assert torch.equal(texts[0, :5], texts[1, :5]), "the first are the likeliest"
        Octav(bits=2).apply_(model)
        repair = NormTweak(lr=1e-3)
        repair.tweak_(model, list(texts))
        assert len(repair.layers["text"]) == 2
        assert all(layer.after < layer.before for layer in repair.layers["text"])
        with pytest.raises(InputError, match="sequence 0: expected at least two tokens"):
            repair.tweak_(model, [torch.tensor([3])])
        with pytest.raises(InputError, match="calibration: expected at least one sequence"):
            repair.tweak_(model, [])
    with pytest.raises(UnsupportedModelError, match="CharModel: expected an encoder"):
        NormTweak().apply_(CharModel(30, width=32, layers=1, heads=2))
    with pytest.raises(InputError, match="no weight is rounded"):
        NormTweak().tweak_(create("tiny"), [torch.tensor([3, 4])])
