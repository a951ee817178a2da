"""Gates over a tower's middle layers: the gate, its controller, towers that have one, and the training step."""

import copy

import pytest
import torch

import tether
from tether.core.errors import InputError
from tether.core.gather import LOCAL
from tether.core.protocols import Stateful
from tether.core.types import Batch
from tether.losses import ClipLoss
from tether.methods.skip_middle.gate_controller import GateController
from tether.methods.skip_middle.step import SkipMiddleStep
from tether.models import create
from tether.models.export import export
from tether.models.save import save
from tether.models.towers.blocks.block import BlockConfig, TransformerBlock
from tether.models.towers.blocks.grid import Grid
from tether.models.towers.blocks.mirror_gate import MirrorGate, moments, tally
from tether.models.towers.blocks.packed_sequences import Runs
from tether.training.steps.module import StepModule

CAPTIONS = ["a cat", "a small red cat sits on the long green mat", "sun", "a dog", "the old man and the sea"]
PERI = BlockConfig(attn_norm=("pre", "out"), ffn_norm=("pre", "out"), rope="interleaved")


def gated(*, seed=3, strength=2.0, layers=4, **more):
    """A tiny model whose gates do something."""
    tower = {"layers": layers, "gate": "mirror", "block": {"preset": "skip_middle"}}
    model = create("tiny", vision=tower, text=tower, seed=seed, **more)
    for gate in (model.visual.gate, model.text.gate):
        with torch.no_grad():
            gate.weight.mul_(strength)
            gate.bias.fill_(0.1)
    return model


@pytest.fixture(scope="module")
def model():
    return gated().double().eval()


@pytest.fixture
def batch():
    pixels = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    return Batch(pixels, create("tiny").tokenizer(CAPTIONS))


def test_gates_only_close_in_the_first_half_and_mirror():
    torch.manual_seed(0)
    gate = MirrorGate(8, depth=6)
    torch.nn.init.normal_(gate.weight, std=0.3)
    for _ in range(2):  # a second pass starts afresh
        streams = torch.randn(6, 3, 5, 8)
        gates = torch.stack([gate.step(layer, x) for layer, x in enumerate(streams)])
        assert gates.shape == (6, 3, 5)
        assert (gates >= 0).all()
        assert (gates <= 1).all()
        assert (gates[:3].diff(dim=0) <= 0).all()
        assert torch.equal(gates, gates.flip(0))
        own = torch.relu(streams[:3] @ gate.weight[:, None, :, None] + gate.bias.view(-1, 1, 1, 1))[..., 0]
        assert torch.allclose(gates[:3], 1 - own.cumsum(0).clamp(0, 1), atol=1e-6)
    copy.deepcopy(gate)  # nothing of the pass is left


def test_a_gate_out_of_turn_is_refused():
    gate = MirrorGate(4, depth=4)
    x = torch.zeros(1, 2, 4)
    gate.step(0, x)
    for layer in (2, 3, 4, -1):
        with pytest.raises(InputError, match="out of turn"):
            gate.step(layer, x)
    with pytest.raises(InputError, match="expected 4 channels, got 3"):
        gate.step(1, torch.zeros(1, 2, 3))


@pytest.mark.parametrize("make", [lambda n: MirrorGate(4, depth=n), GateController])
@pytest.mark.parametrize("depth", [3, 5])
def test_a_mirror_needs_an_even_number_of_layers(make, depth):
    with pytest.raises(InputError, match=f"an even number of layers, got {depth}"):
        make(depth)


def block(config=PERI):
    torch.manual_seed(0)
    made = TransformerBlock(16, heads=4, hidden=24, config=config)
    for value in made.parameters():
        torch.nn.init.normal_(value, std=0.3)
    return made.double()


@pytest.mark.parametrize("attention", ["softmax", "relu"])
def test_a_packed_gate_is_the_padded_one(attention):
    made = block(BlockConfig(attn_norm=("pre", "out"), ffn_norm=("pre", "out"), attention=attention))
    x, gate = torch.randn(6, 5, 16, dtype=torch.float64), torch.rand(6, 5, dtype=torch.float64)
    runs, cut = Runs((2, 1, 3), (2, 3, 5)), ((0, 2, 2), (2, 3, 3), (3, 6, 5))

    def packed(whole):
        return torch.cat([whole[low:high, :length].flatten(0, 1) for low, high, length in cut])

    whole = made(x, causal=True, gate=gate)
    assert torch.allclose(made(packed(x), causal=True, gate=packed(gate), runs=runs), packed(whole), atol=1e-10)
    ends = torch.cat([whole[low:high, length - 1] for low, high, length in cut])
    last = made(packed(x), causal=True, gate=packed(gate), runs=runs, pool="last")
    assert torch.allclose(last, ends, atol=1e-10)
    at = torch.tensor([1, 1, 2, 4, 4, 4])
    assert torch.allclose(made(x, causal=True, gate=gate, pool=at)[:, 0], ends, atol=1e-10)


@pytest.mark.parametrize("attention", ["softmax", "nala", "elu"])
@pytest.mark.parametrize("causal", [False, True])
def test_a_closed_token_passes_unchanged_and_is_hidden_from_the_others(attention, causal):
    made = block(BlockConfig(attn_norm=("pre", "out"), ffn_norm=("pre", "out"), attention=attention))
    x, gate = torch.randn(2, 5, 16, dtype=torch.float64), torch.ones(2, 5, dtype=torch.float64)
    gate[:, 1] = 0
    other = x.clone()
    other[:, 1] = torch.randn(2, 16, dtype=torch.float64)
    rest = [0, 2, 3, 4]
    before, after = (made(stream, causal=causal, gate=gate) for stream in (x, other))
    assert torch.equal(before[:, 1], x[:, 1])
    assert torch.equal(after[:, 1], other[:, 1])
    assert torch.allclose(before[:, rest], after[:, rest], rtol=0, atol=1e-4)
    assert not torch.allclose(made(x, causal=causal)[:, rest], made(other, causal=causal)[:, rest], rtol=0, atol=1e-2)


def test_a_seen_key_is_what_the_released_code_comes_to():
    made = block(BlockConfig(attn_norm=("pre", "out"), ffn_norm=("pre", "out"), gated_key="seen"))
    x, gate = torch.randn(1, 4, 16, dtype=torch.float64), torch.ones(1, 4, dtype=torch.float64)
    gate[0, 1] = 0
    out = made(x, causal=True, gate=gate)
    assert torch.equal(out[:, 1], x[:, 1])
    whole = made(x, causal=True)
    assert torch.allclose(out[:, [0, 2, 3]], whole[:, [0, 2, 3]], atol=1e-12)


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (torch.full((2, 3), 1.5), r"gate: expected values in \[0, 1\], got 1.5 to 1.5"),
        (torch.full((2, 3), -0.1), r"gate: expected values in \[0, 1\]"),
        (torch.full((2, 3), torch.nan), r"gate: expected values in \[0, 1\], got nan"),
        (torch.ones(2, 4), r"gate: expected \(2, 3\), one for each token, got \(2, 4\)"),
    ],
)
def test_gates_that_are_none(gate, message):
    with pytest.raises(InputError, match=message):
        block()(torch.zeros(2, 3, 16, dtype=torch.float64), causal=False, gate=gate.double())


@pytest.mark.parametrize(
    "options",
    [{"attn_norm": ["post"]}, {"residual_scale": True}, {"position_conv": 3}, {"lepe": 3}, {"ffn_conv": 3}],
)
def test_blocks_that_cannot_be_skipped(options):
    x, gate = torch.zeros(1, 2, 16).double(), torch.ones(1, 2).double()
    with pytest.raises(InputError, match="cannot be skipped"):
        block(BlockConfig(**options))(x, causal=False, gate=gate, grid=Grid(1, 2))
    with pytest.raises(InputError, match="cannot be skipped"):
        create("tiny", vision={"gate": "mirror", "block": options})


def test_towers_that_cannot_have_a_gate():
    with pytest.raises(InputError, match=r"model.text.*an even number of layers, got 3"):
        create("tiny", text={"gate": "mirror", "layers": 3})


def test_packed_and_padded_texts_have_the_same_gates(model):
    ids = model.tokenizer(CAPTIONS)
    packed, padded = model.encode_text(ids), model.encode_text(ids, want="tokens")
    assert torch.allclose(packed.pooled, padded.pooled, atol=1e-10)
    assert torch.allclose(packed.extra["gates"], padded.extra["gates"], atol=1e-9)
    alone = model.text._padded(ids, model.text.ends(ids), mask=None, want="pooled", trace=None)
    assert torch.allclose(packed.pooled, alone.pooled, atol=1e-10)
    mean, _ = moments(packed.extra["gates"])
    assert packed.extra["gates"][:, 0].tolist() == [int((ids != 0).sum())] * 4
    assert 0.05 < mean[1] < mean[0] < 0.99
    torch.testing.assert_close(mean, mean.flip(0))


def test_pictures_with_gates(model, batch):
    images = batch.image.double() / 255
    alone, whole = model.encode_image(images), model.encode_image(images, want="tokens")
    assert torch.allclose(alone.pooled, whole.pooled, atol=1e-10)
    torch.testing.assert_close(alone.extra["gates"], whole.extra["gates"])
    keep = torch.tensor([[0, 3, 7]] * 5)
    mask = torch.zeros(5, 16, dtype=torch.bool).scatter_(1, keep, True)
    masked, kept = model.encode_image(images, mask=mask), model.encode_image(images, keep=keep)
    assert torch.allclose(masked.pooled, kept.pooled, atol=1e-10)
    assert torch.allclose(masked.extra["gates"], kept.extra["gates"], atol=1e-9)


def test_a_model_without_gates_says_nothing(batch):
    plain = create("tiny")
    assert plain.encode_image(batch.image).extra == {}
    assert plain.encode_text(batch.text).extra == {}


def test_a_gated_model_is_saved_whole(tmp_path, model, batch):
    again = tether.load(save(gated(), tmp_path / "gated"))
    assert again.config.text.gate == "mirror"
    assert torch.equal(again.encode_text(batch.text).pooled, gated().eval().encode_text(batch.text).pooled)
    plain_blocks = create("tiny", vision={"gate": "mirror"})
    with pytest.raises(InputError, match="open_clip has no gate"):
        export(plain_blocks, tmp_path / "other", format="open_clip")


def test_tallies_add_up_to_mean_and_variance():
    gates = [torch.rand(3, 7, dtype=torch.float64) for _ in range(4)]
    real = torch.rand(3, 7) > 0.3
    mean, variance = moments(
        tally([g[:1] for g in gates], real=real[:1]) + tally([g[1:] for g in gates], real=real[1:])
    )
    for layer, gate in enumerate(gates):
        assert mean[layer] == pytest.approx(gate[real].mean().item())
        assert variance[layer] == pytest.approx(gate[real].var().item())


def test_each_layer_meets_its_own_weight():
    controller = GateController(4, start=0.9, end=0.4, gain=0.5)
    controller.update(torch.tensor([0.5, 0.6, 0.3, 0.9]), torch.tensor([0.1, 0.2, 0.3, 0.05]))
    mean_weight = 0.5 * torch.tensor([-0.4, 0.2, -0.1, 0.0])
    variance_weight = 0.5 * torch.tensor([0.1 - 0.09, 0.2 - 0.24, 0.3 - 0.24, 0.05 - 0.09])
    variance_weight[0] = 0  # a distance of 0.01 lies in the dead zone
    assert torch.allclose(controller.mean_weight, mean_weight, atol=1e-6)
    assert torch.allclose(controller.variance_weight, variance_weight, atol=1e-6)
    gates = torch.rand(4, 2, 5, requires_grad=True)
    expected = (mean_weight * gates.mean((1, 2)) + variance_weight * gates.var((1, 2))).mean()
    penalty = controller.penalty(gates)
    assert torch.allclose(penalty, expected, atol=1e-6)
    assert torch.allclose(*torch.autograd.grad(penalty, gates), *torch.autograd.grad(expected, gates), atol=1e-6)


@pytest.mark.parametrize("rule", ["proportional", "adaptive", "proportional_derivative"])
def test_a_controller_goes_on_bit_for_bit(rule):
    seen = torch.rand(8, 2, 4, generator=torch.Generator().manual_seed(1))
    whole, first, second = (GateController(4, rule=rule, gain=0.1) for _ in range(3))
    for step, (mean, variance) in enumerate(seen):
        whole.update(mean, variance)
        (first if step < 4 else second).update(mean, variance)
        if step == 3:
            second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert torch.equal(whole.mean_weight, second.mean_weight)
    assert torch.equal(whole.variance_weight, second.variance_weight)
    assert whole.mean_weight.any()


@pytest.mark.parametrize("rule", ["proportional", "adaptive", "proportional_derivative"])
@pytest.mark.parametrize("before", [0, 2])
def test_what_is_not_finite_changes_nothing(rule, before):
    controller = GateController(2, rule=rule)
    for step in range(before):
        controller.update(torch.full((2,), 0.1 * step), torch.full((2,), 0.1))
    state = copy.deepcopy(controller.state_dict())
    controller.update(torch.tensor([0.2, torch.nan]), torch.tensor([0.1, 0.1]))
    controller.update(torch.tensor([0.2, 0.2]), torch.tensor([0.1, torch.inf]))
    after = controller.state_dict()
    assert all(torch.equal(state["mean"][name], after["mean"][name]) for name in state["mean"])
    assert all(torch.equal(state["variance"][name], after["variance"][name]) for name in state["variance"])
    assert torch.equal(state["updates"], after["updates"])


def test_values_that_do_not_fit_a_controller():
    controller = GateController(4)
    with pytest.raises(InputError, match=r"gates: expected \(4, b, n\)"):
        controller.penalty(torch.rand(2, 3, 3))
    with pytest.raises(InputError, match=r"gates: expected values in \[0, 1\]"):
        controller.penalty(torch.full((4, 1, 2), 2.0))
    with pytest.raises(InputError, match="mean: expected one for each of 4 layers"):
        controller.update(torch.rand(2), torch.rand(4))
    with pytest.raises(InputError, match=r"state.mean.weight: expected one value for each of 4 layers"):
        controller.load_state_dict(GateController(2).state_dict())
    with pytest.raises(InputError, match="state: expected mean, variance and updates"):
        controller.load_state_dict({})


def held(step: SkipMiddleStep) -> torch.Tensor:
    return step.terms["gates"][0].controllers["image"].mean_weight


def test_the_penalty_joins_the_loss_and_moves_once_a_step(batch):
    pair = StepModule(gated())
    plain = SkipMiddleStep(ClipLoss(), steps=10, seed=0, gain=5.0)
    assert isinstance(plain, Stateful)
    first = [plain(pair, batch, step=0, gather=LOCAL) for _ in range(3)]  # as if three batches were accumulated
    assert first[0].terms["image_gate_penalty"] == 0
    assert len({loss.total.item() for loss in first}) == 1
    once = SkipMiddleStep(ClipLoss(), steps=10, seed=0, gain=5.0)
    once(pair, batch, step=0, gather=LOCAL)
    second = [part(pair, batch, step=1, gather=LOCAL) for part in (plain, once)]
    terms = second[0].terms
    assert terms["text_gate_penalty"] != 0
    assert second[0].total.item() == pytest.approx(
        first[0].total.item() + terms["text_gate_penalty"].item() + terms["image_gate_penalty"].item()
    )
    assert torch.allclose(held(plain), held(once), atol=1e-6)
    second[0].total.backward()
    for gate in (pair.model.visual.gate, pair.model.text.gate):
        assert gate.weight.grad is not None
        assert gate.weight.grad.any()


def test_a_step_goes_on_bit_for_bit(batch):
    pair = StepModule(gated())
    whole, first, second = (SkipMiddleStep(ClipLoss(), steps=10, seed=0, gain=5.0) for _ in range(3))
    totals = [whole(pair, batch, step=step, gather=LOCAL).total for step in range(4)]
    for step in range(2):
        first(pair, batch, step=step, gather=LOCAL)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert torch.equal(second(pair, batch, step=2, gather=LOCAL).total, totals[2])
    assert torch.equal(second(pair, batch, step=3, gather=LOCAL).total, totals[3])
    assert len({total.item() for total in totals}) == 4


def test_slices_of_a_batch_have_the_gradients_of_the_whole(batch):
    gradients, doubles = [], Batch(batch.image.double() / 255, batch.text)
    for size in (None, 2):
        pair = StepModule(gated().double(), micro_batch=size)
        step = SkipMiddleStep(ClipLoss(), steps=10, seed=0, gain=5.0)
        step(pair, doubles, step=0, gather=LOCAL)
        step(pair, doubles, step=1, gather=LOCAL).total.backward()
        gradients.append({name: parameter.grad for name, parameter in pair.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-8, atol=1e-10), name


def test_a_model_without_a_gate_is_refused(batch):
    step = SkipMiddleStep(ClipLoss(), steps=10, seed=0)
    with pytest.raises(InputError, match="gates: no tower has a gate"):
        step(StepModule(create("tiny")), batch, step=0, gather=LOCAL)
