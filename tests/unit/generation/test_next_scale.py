"""The next-scale transformer: who sees whom, cached as all at once, hidden texts, the sampler and what it draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tether.core.errors import InputError
from tether.generation.autoregress.sampling import draw, kept, sample
from tether.generation.autoregress.transformer import LevelTransformer, ScaleTransformer
from tether.models.latent.quantizer import MultiScaleQuantizer

SCALES = (2, 3, 4)
COND = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))


def transformer(**settings) -> ScaleTransformer:
    torch.manual_seed(1)
    common = {"cond_dim": 8, "width": 16, "depth": 2, "heads": 4, "scales": SCALES, "vocab": 16, "channels": 4}
    made = ScaleTransformer(**{**common, **settings})
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.3)
    return made.eval()


def quantizer(**settings) -> MultiScaleQuantizer:
    torch.manual_seed(2)
    made = MultiScaleQuantizer(**{"vocab": 16, "channels": 4, "scales": SCALES, **settings})
    with torch.no_grad():
        made.codewords.normal_()
    return made.eval()


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("znorm", [True, False])
def test_one_scale_after_the_other_gives_the_logits_of_all_at_once(unit: bool, znorm: bool) -> None:
    model, table = transformer(unit=unit), quantizer(znorm=znorm)
    ids = table.encode(torch.randn(3, 4, 4, 4))
    told = table.teacher_input(ids)
    whole = model(told, COND).split(model.lengths, dim=1)
    about, memory = model.about(COND), []
    for level, wanted in enumerate(whole):
        some = told.split(model.lengths[1:], dim=1)[level - 1] if level else None
        np.testing.assert_allclose(
            model.step(about, some, level=level, memory=memory).detach(), wanted.detach(), rtol=1e-4, atol=1e-5
        )


def test_a_place_sees_its_own_scale_and_coarser_ones() -> None:
    model = transformer()
    told = torch.randn(1, 25, 4, requires_grad=True)
    logits = model(told, COND[:1])
    (of_first,) = torch.autograd.grad(logits[0, :4].sum(), told, retain_graph=True)
    (of_second,) = torch.autograd.grad(logits[0, 4].sum(), told, retain_graph=True)
    (of_last,) = torch.autograd.grad(logits[0, -1].sum(), told)
    seen = [gradient[0].abs().sum(dim=1) > 0 for gradient in (of_first, of_second, of_last)]
    assert [int(one.sum()) for one in seen] == [0, 9, 25]
    assert bool(seen[1][:9].all())


def test_what_greedy_sampling_draws_is_what_the_teacher_would() -> None:
    """Codewords that greedy sampling without guidance takes are the likeliest under the teacher that is told them."""
    model, table = transformer(), quantizer()
    made = sample(model, table, COND, cfg=0.0, top_k=1)
    ids, told = list[torch.Tensor](), torch.zeros(3, 0, 4)
    for scale in range(len(SCALES)):
        padded = torch.cat([told, torch.zeros(3, 25 - told.shape[1], 4)], dim=1)
        ids.append(model(padded, COND).split(model.lengths, dim=1)[scale].argmax(dim=2))
        if scale < 2:
            told = torch.cat([told, table.told(table.partial(ids)[-1], scale=scale + 1)], dim=1)
    np.testing.assert_allclose(made, table.decode(ids).detach(), rtol=1e-4, atol=1e-5)


def test_texts_are_hidden_in_training_alone_and_never_in_the_callers_tensor() -> None:
    model, cond = transformer(null=0.5), torch.randn(200, 8)
    before, null = cond.clone(), model.cond(model.null)
    assert torch.equal(model.about(cond)[0], model.cond(cond))
    model.train()
    gone = (model.about(cond, draws=torch.Generator().manual_seed(0))[0] - null).abs().amax(dim=1) < 1e-6
    assert 70 < int(gone.sum()) < 130
    assert torch.equal(cond, before)
    counted = transformer(null=0.1, nulls="count").train()
    gone = (counted.about(cond[:29])[0] - counted.cond(counted.null)).abs().amax(dim=1) < 1e-6
    assert int(gone.sum()) == 2  # 2.9 whole rows
    assert int(((counted.about(cond[:9])[0] - counted.cond(counted.null)).abs().amax(dim=1) < 1e-6).sum()) == 0


def test_unit_queries_have_a_bounded_scale() -> None:
    model = transformer()
    with torch.no_grad():
        for block in model.blocks:
            block.scale.fill_(50.0)
    large = model(torch.ones(3, 25, 4), COND)
    with torch.no_grad():
        for block in model.blocks:
            block.scale.fill_(math.log(100))
    assert torch.allclose(large, model(torch.ones(3, 25, 4), COND))


def test_guidance_pushes_away_from_what_there_is_without_a_text() -> None:
    model, table = transformer(), quantizer()
    found = {}
    for cfg in (0.0, 3.0):
        made = sample(model, table, COND, cfg=cfg, rng=torch.Generator().manual_seed(0))
        found[cfg] = made
        again = sample(model, table, COND, cfg=cfg, rng=torch.Generator().manual_seed(0))
        assert torch.equal(made, again)
    assert not torch.equal(found[0.0], found[3.0])
    coarse = sample(model, table, COND, cfg=3.0, steps=1, rng=torch.Generator().manual_seed(0))
    assert coarse.shape == (3, 4, 4, 4)
    smooth = sample(model, table, COND, smooth=True, rng=torch.Generator().manual_seed(0))
    assert bool(smooth.isfinite().all())


def test_draws_follow_the_probabilities_of_what_is_kept() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(1, 4000, 4)
    found = draw(logits, top_k=3, top_p=0.8, rng=torch.Generator().manual_seed(0))
    shares = torch.bincount(found.flatten(), minlength=4) / 4000
    assert shares.tolist() == pytest.approx([0.625, 0.375, 0.0, 0.0], abs=0.03)
    assert bool(kept(logits).all())
    assert bool(kept(logits, top_k=9).all())
    assert kept(logits[0, 0], top_p=1e-9).tolist() == [True, False, False, False]


def test_levels_of_one_place_each_are_raster_order() -> None:
    model = LevelTransformer(cond_dim=8, width=16, depth=1, heads=2, lengths=(1,) * 6, vocab=8, told=4).eval()
    assert torch.equal(model.mask, torch.ones(6, 6).tril().bool())
    assert model(torch.randn(2, 5, 4), torch.randn(2, 8)).shape == (2, 6, 8)


def test_official_weights_need_all_names() -> None:
    with pytest.raises(InputError, match=r"state: strange is unknown"):
        transformer().load_official_({"strange": torch.zeros(1), **_official(transformer())})
    state = _official(transformer())
    state["pos_start"] = torch.zeros(1, 3, 16)
    with pytest.raises(InputError, match=r"state: start: expected \(4, 16\), got \(3, 16\)"):
        transformer().load_official_(state)
    other = transformer()
    other.load_official_(_official(model := transformer()))
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
    del state["head.weight"]
    with pytest.raises(InputError, match=r"state: out.weight is missing"):
        transformer().load_official_(state)


def _official(model: ScaleTransformer) -> dict[str, torch.Tensor]:
    own = model.state_dict()
    names = {
        "start": "pos_start", "positions": "pos_1LC", "levels": "lvl_embed.weight", "null": "noise.weight",
        "told.": "word_embed.", "cond.": "cond_proj.", "out_norm.": "head_nm.ada_lin.1.", "out.": "head.",
    }  # fmt: skip
    inner = {
        "qkv.": "attn.mat_qkv.", "q_bias": "attn.q_bias", "v_bias": "attn.v_bias", "scale": "attn.scale_mul_1H11",
        "out.": "attn.proj.", "up.": "ffn.fc1.", "back.": "ffn.fc2.", "about.": "ada_lin.1.",
    }  # fmt: skip
    found = {}
    for name, value in own.items():
        table, start = (inner, name.split(".", 2)[2]) if name.startswith("blocks.") else (names, name)
        ours = next(key for key in table if start.startswith(key))
        theirs = name[: len(name) - len(start)] + table[ours] + start[len(ours) :]
        value = value[None] if theirs in ("pos_start", "pos_1LC", "noise.weight") else value
        found[theirs] = value[None, :, None, None] if theirs.endswith("1H11") else value
    return found


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: transformer(width=18), "width: expected a multiple of heads=4, got 18"),
        (lambda: transformer()(torch.zeros(3, 25, 4), COND[:, :5]), r"cond: expected \(b, 8\) .* got \(3, 5\)"),
        (lambda: transformer()(torch.zeros(3, 24, 4), COND), r"told: expected \(3, 25, 4\), got \(3, 24, 4\)"),
        (lambda: sample(transformer(), quantizer(), COND[:, :5]), r"cond: expected \(b, 8\)"),
        (lambda: sample(transformer(), quantizer(), COND, steps=4), "steps: expected at most 3, one a scale, got 4"),
        (lambda: sample(transformer(), quantizer(), COND, top_p=1.5), "top_p: expected a number in .0, 1., got 1.5"),
        (lambda: sample(transformer(), quantizer(vocab=8), COND), "the transformer expects codewords 16, got 8"),
        (lambda: sample(transformer(), quantizer(scales=(1, 4)), COND), r"expects scales \(2, 3, 4\), got \(1, 4\)"),
    ],
)
def test_what_does_not_fit_is_refused(make, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()
