"""Mixtures of experts in towers: sequences apart, padding without a slot, what is refused, and upcycling."""

from __future__ import annotations

import warnings

import pytest
import torch

import tether
from tether.core.errors import InputError, UnsupportedModelError
from tether.methods.clip_up.upcycle import expert_costs, upcycle
from tether.models import create
from tether.models.export import export
from tether.models.features.dense import dense_image, dense_text
from tether.models.features.find import anatomy_of
from tether.models.towers.blocks.moe import MoeConfig, MoEMlp, expert_losses
from tether.optim import parameter_groups

MOE = {"blocks": [0, 1], "experts": 4, "capacity_factor": 1.0}
WORDS = ["a cat", "a much longer caption of a dog on a red chair", "sun", "two birds above the sea"]


def pixels(count: int, *, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def mixed(**settings):
    """A model with busy experts: its routers are far from even."""
    model = create("tiny", vision={"moe": MOE | settings}, text={"moe": MOE | settings}).eval()
    for module in model.modules():
        if isinstance(module, MoEMlp):
            with torch.no_grad():
                module.router.mul_(50)
    return model


def mlp(**settings) -> MoEMlp:
    made = MoEMlp(6, 8, config=MoeConfig(**{"experts": 4, "capacity_factor": 1.0, **settings}))
    made.initialise_(up_std=0.5, down_std=0.5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        made.router.normal_(generator=torch.Generator().manual_seed(1))
    return made


def test_a_row_does_not_see_its_neighbours():
    model, text = mixed(), create("tiny").tokenizer(WORDS)
    images = pixels(4)
    for rows, encode in ((images, model.encode_image), (text, model.encode_text)):
        together = encode(rows).pooled
        for place in range(len(rows)):
            alone = encode(rows[place : place + 1]).pooled
            torch.testing.assert_close(alone[0], together[place], atol=1e-5, rtol=1e-5)
    assert expert_losses(model.encode_image(images).extra["experts"])["dropped"] > 0.05


def test_padded_and_packed_texts_are_routed_alike_and_all_paths_give_one_embedding():
    model = mixed()
    text = model.tokenizer(WORDS)
    packed = model.encode_text(text)
    wide = torch.nn.functional.pad(text, (0, model.tokenizer.context_length - text.shape[1]))
    for padded in (
        model.encode_text(text, want="tokens"),
        model.encode_text(wide, want="tokens"),
        dense_text(model, wide),
    ):
        torch.testing.assert_close(padded.pooled, packed.pooled, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(padded.extra["experts"], packed.extra["experts"], atol=1e-3, rtol=1e-4)
    images = pixels(3)
    for whole in (model.encode_image(images, want="tokens"), dense_image(model, images)):
        torch.testing.assert_close(whole.pooled, model.encode_image(images).pooled, atol=1e-5, rtol=1e-5)


def test_padding_takes_no_slot_unless_it_is_counted():
    moe, x = mlp(), torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(2))
    real = torch.arange(9) < torch.tensor([[9], [5]])
    found = moe(x, real=real)
    alone = moe(x[1:, :5])
    torch.testing.assert_close(found.rows[1, :5], alone.rows[0])
    assert not found.rows[1, 5:].any()
    changed = torch.where(real[..., None], x, 9 * x)
    torch.testing.assert_close(moe(changed, real=real).rows, found.rows)
    torch.testing.assert_close(found.tally, moe(x[:1]).tally + alone.tally)
    counting = mlp()
    counting.padding = "counted"
    assert torch.equal(counting(x, real=real).tally, moe(x).tally)
    packed = moe(torch.cat([x[0], x[1, :5]]), lengths=torch.tensor([9, 5]))
    torch.testing.assert_close(packed.rows, torch.cat([found.rows[0], found.rows[1, :5]]))
    torch.testing.assert_close(packed.tally, found.tally)
    weights = [moe.router]
    nothing = expert_losses(moe(x, real=torch.zeros_like(real)).tally)
    assert {name: value.item() for name, value in nothing.items()} == dict.fromkeys(nothing, 0.0)
    grads = torch.autograd.grad(nothing["load_balance"] + nothing["router_z"], weights)
    assert not grads[0].any()


def test_one_choice_by_probabilities_teaches_the_router_and_by_shares_warns():
    x = torch.randn(1, 5, 6, generator=torch.Generator().manual_seed(3))
    moe = mlp(top_k=1, gates="probabilities", capacity_factor=4.0)
    moe(x).rows.square().sum().backward()
    assert moe.router.grad.abs().max() > 1e-3
    with pytest.warns(UserWarning, match="the router learns nothing"):
        moe = mlp(top_k=1, capacity_factor=4.0)
    moe(x).rows.square().sum().backward()
    assert moe.router.grad.abs().max() < 1e-5


def test_the_router_is_wide_under_autocast_and_in_half_precision():
    x = 40 * torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(4))
    moe = mlp()
    plain = moe(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = moe(x)
    assert found.rows.dtype == torch.bfloat16
    assert torch.equal(found.tally, plain.tally)
    half = mlp().half()
    tally = half(x.half()).tally
    assert tally.dtype == torch.float32
    assert tally.isfinite().all()


def test_a_capacity_above_all_tokens_drops_none():
    x = torch.randn(2, 5, 6)
    outputs = [mlp(capacity_factor=factor)(x).rows for factor in (1e30, 4.0)]
    assert torch.equal(*outputs)


def test_evaluation_may_have_another_capacity():
    moe, x = mlp(capacity_factor=0.5, eval_capacity_factor=4.0), torch.randn(2, 8, 6)
    assert expert_losses(moe(x).tally)["dropped"] > 0
    assert expert_losses(moe.eval()(x).tally)["dropped"] == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"experts": 2, "top_k": 3}, "top_k: expected at most experts=2, got 3"),
        ({"capacity_factor": 0.0}, "capacity_factor: expected"),
        ({"capacity_factor": -1.0}, "capacity_factor: expected"),
        ({"eval_capacity_factor": 0.0}, "eval_capacity_factor: expected"),
        ({"blocks": [1, 0]}, "blocks: expected rising indices"),
        ({"blocks": [7]}, "moe: blocks: expected indices below layers=2"),
        ({"gates": "both"}, "gates: expected"),
        ({"expert": 3}, "unknown key 'expert'"),
    ],
)
def test_bad_settings_are_refused(settings, said):
    with pytest.raises(InputError, match=said):
        create("tiny", vision={"moe": {"blocks": [0], **settings}})


def test_experts_do_not_go_with_gates_and_norms_inside():
    with pytest.raises(InputError, match="expected gate"):
        create("tiny", vision={"gate": "mirror", "moe": MOE})
    with pytest.raises(InputError, match="ffn_mid_norm"):
        create("tiny", vision={"block": {"preset": "normformer"}, "moe": MOE})


@pytest.mark.parametrize("model", [{}, {"towers": "shared"}, {"block": {"activation": "swiglu", "bias": False}}])
@pytest.mark.parametrize("blocks", ["every_other", "all", [0]])
def test_an_upcycled_model_begins_as_the_dense_one(model, blocks, tmp_path):
    dense = create("tiny", seed=3, **model).eval()
    sparse = upcycle(dense, experts=4, capacity_factor=4.0, blocks=blocks)
    assert not sparse.training
    text = dense.tokenizer(WORDS)
    for mine, theirs in (
        (sparse.encode_image(pixels(3)), dense.encode_image(pixels(3))),
        (sparse.encode_text(text), dense.encode_text(text)),
        (sparse.encode_text(text, want="tokens"), dense.encode_text(text)),
    ):
        torch.testing.assert_close(mine.pooled, theirs.pooled, atol=1e-5, rtol=0)
    tether.save(sparse, tmp_path)
    again = tether.load(tmp_path)
    assert again.config == sparse.config
    assert torch.equal(again.encode_text(text).pooled, sparse.encode_text(text).pooled)


def test_which_blocks_and_towers():
    dense = create("tiny", vision={"layers": 5})
    sparse = upcycle(dense, experts=2, towers=["visual"])
    assert sparse.config.vision.moe.blocks == (0, 2, 4)
    assert sparse.config.text.moe.blocks == ()
    other = upcycle(dense, experts=2, seed=1, towers=["visual"])
    assert not torch.equal(sparse.visual.blocks[0].experts.router, other.visual.blocks[0].experts.router)
    costs = expert_costs(upcycle(dense, experts=4, top_k=2, capacity_factor=1.5, blocks="all"))
    assert costs.feed_forward == 1.5
    assert costs.active < costs.parameters
    plain = expert_costs(dense)
    assert plain.active == plain.parameters
    assert plain.feed_forward == 1


def test_what_cannot_be_upcycled(tmp_path):
    dense = create("tiny")
    with pytest.raises(InputError, match="has experts already"):
        upcycle(upcycle(dense))
    with pytest.raises(InputError, match="own make, got Linear"):
        upcycle(torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match="expected at least one index"):
        upcycle(dense, blocks=[])
    with pytest.raises(InputError, match="top_k: expected at most experts=2"):
        upcycle(dense, experts=2, top_k=3)
    with pytest.raises(InputError, match="capacity_factor"):
        upcycle(dense, capacity_factor=0.0)


def test_dense_weights_do_not_become_experts_unasked(tmp_path):
    sparse = upcycle(create("tiny"), experts=2)
    tether.save(create("tiny"), tmp_path / "dense")
    tether.save(sparse, tmp_path / "sparse")
    (tmp_path / "dense" / "model.json").write_bytes((tmp_path / "sparse" / "model.json").read_bytes())
    with pytest.raises(InputError, match=r"missing visual.blocks.1.experts.router"):
        tether.load(tmp_path / "dense")


def test_other_libraries_have_no_such_experts(tmp_path):
    sparse = upcycle(create("tiny"), experts=2)
    for format in ("open_clip", "transformers"):
        with pytest.raises(InputError, match="no experts"):
            export(sparse, tmp_path, format=format)
    blocks = anatomy_of(sparse, "image").blocks
    assert set(blocks[1].linears()) == {"q", "k", "v", "o"}
    with pytest.raises(UnsupportedModelError, match="experts"):
        blocks[1].norm1(torch.zeros(1, 1, 64))


def test_routers_and_biases_have_no_weight_decay():
    groups = parameter_groups(upcycle(create("tiny"), experts=2), weight_decay=0.1)
    plain = {name for group in groups if group["name"] == "no_decay" for name, _ in group["params"]}
    own = {name.rpartition(".")[2] for name in plain if ".experts." in name}
    assert own == {"router", "up_bias", "down_bias"}
    decayed = {name for group in groups if group["name"] == "decay" for name, _ in group["params"]}
    assert {"visual.blocks.1.experts.up", "visual.blocks.1.experts.down"} <= decayed


def test_warnings_name_the_place():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        MoeConfig(top_k=1)
    assert len(caught) == 1
