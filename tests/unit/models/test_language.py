"""The character model: what it returns, that a seed decides it, and what a callback may see and do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tether.core.errors import InputError
from tether.models.towers.blocks.options import BlockConfig
from tether.models.towers.blocks.presets import BlockPreset, block_preset
from tether.optim import SGD
from tether.optim.clip import GlobalNorm
from tether_lab.worlds.char_lm import CharModel, alphabet_size, train

SMALL = {"width": 16, "layers": 2, "heads": 2, "context": 12}


def small(**settings):
    return CharModel(alphabet_size(), **{**SMALL, **settings})


class HalfGate(nn.Module):
    """Closes half of layer 1."""

    def __init__(self):
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(0.5))

    def step(self, layer, hidden):
        return self.strength.expand(hidden.shape[:2]) if layer == 1 else None


def test_a_reading_holds_the_stream_before_and_after_every_layer():
    model = small()
    ids = torch.arange(24).view(2, 12)
    reading = model.read(ids)
    assert reading.logits.shape == (2, 12, alphabet_size())
    assert [state.shape for state in reading.states] == [(2, 12, 16)] * 3
    assert reading.gates == ()
    assert torch.equal(reading.states[0], model.characters(ids) + model.places.weight)
    assert torch.equal(model.head(model.final_norm(reading.states[-1])), model(ids))


def test_a_character_sees_nothing_to_its_right():
    model = small()
    ids = torch.arange(12)[None]
    other = ids.clone()
    other[0, 7:] = 3
    assert torch.allclose(model(ids)[:, :7], model(other)[:, :7], atol=1e-6)
    assert not torch.allclose(model(ids)[:, 7:], model(other)[:, 7:], atol=1e-3)


def test_equal_seeds_train_alike_and_others_do_not():
    runs = [train(small(seed=seed), seed=seed, steps=3, batch=4, validation=1) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_blocks_are_one_for_all_one_for_each_or_by_place():
    each = [block_preset("hybridnorm*", layer=layer, layers=2) for layer in range(2)]
    models = [small(blocks=blocks) for blocks in (BlockPreset("hybridnorm*"), each, lambda layer: each[layer])]
    ids = torch.arange(12)[None]
    assert torch.equal(models[0](ids), models[1](ids))
    assert torch.equal(models[0](ids), models[2](ids))
    assert not torch.equal(models[0](ids), small(blocks=each[1])(ids))
    with pytest.raises(InputError, match="blocks: expected one for each of 2 layers, got 3"):
        small(blocks=[BlockConfig()] * 3)


def test_embeddings_have_the_size_that_was_asked_for():
    assert float(small(embedding_std=1.0, width=64).characters.weight.detach().std()) == pytest.approx(1.0, rel=0.1)
    assert small(places="none", blocks=BlockConfig(rope="half")).places is None


def test_a_gate_is_heard_trained_and_shown():
    ids = torch.arange(12)[None]
    open_model, half = small(), small(gate=HalfGate())
    reading = half.read(ids)
    assert len(reading.gates) == 1
    assert torch.equal(reading.states[1], open_model.read(ids).states[1])
    assert not torch.allclose(reading.states[2], open_model.read(ids).states[2], atol=1e-3)
    train(half, seed=0, steps=2, batch=4, validation=1, penalty=lambda reading: reading.gates[0].mean())
    assert half.gate.strength.item() != 0.5
    with pytest.raises(InputError, match=r"gate: expected a module with step\(layer, hidden\), got function"):
        small(gate=lambda layer, hidden: None)


def test_a_callback_sees_clipped_gradients_before_the_step():
    model = small()
    norms, bias, slope = [], [], []

    def look(report):
        gradients = [value.grad for value in report.model.parameters()]
        norms.append(float(torch.nn.utils.get_total_norm(gradients)))
        bias.append(report.model.head.bias.detach().clone())
        slope.append(report.model.head.bias.grad.clone())
        assert report.reading.logits.shape[0] == 4
        assert report.step == len(norms) - 1

    result = train(
        model, seed=0, steps=3, batch=4, validation=1, clipper=GlobalNorm(0.01), on_step=look, learning_rate=0.1,
        optimizer=lambda groups: SGD(groups, lr=9.0, momentum=0.0), warmup=2,
    )  # fmt: skip
    assert norms == pytest.approx([0.01] * 3, rel=1e-4)
    assert len(result.losses) == 3
    assert torch.allclose(bias[1] - bias[0], -0.05 * slope[0], atol=1e-7)
    assert torch.allclose(bias[2] - bias[1], -0.1 * slope[1], atol=1e-7)
    assert slope[0].abs().max() > 1e-4


def test_it_learns():
    losses = train(small(width=32), seed=0, steps=40, batch=16, validation=1, warmup=10).losses
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
