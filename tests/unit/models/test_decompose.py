"""Embeddings taken apart: the sum is exact for every tower, and each part is what ablating it in the tower shows."""

import numpy as np
import pytest
import torch

from families import FAMILIES, PLAIN, coca, filled, open_clip_tower, siglip, timm_tower
from tether.core.decomposition import Decomposition
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.model_digest import model_digest
from tether.models import Trace, create
from tether.models.features.decompose import decompose, mean_parts
from tether.models.features.dense import dense_image

pytestmark = pytest.mark.slow


def own(**vision):
    return filled(create("tiny", seed=3, vision=vision)).eval()


def two_norms(folder):
    model = timm_tower(folder, global_pool="avg", fc_norm=False)
    model.model.visual.trunk.fc_norm = torch.nn.LayerNorm(32)
    return filled(model).eval()


TOWERS = {
    "own": lambda folder: own(),
    "own, four heads in three layers": lambda folder: own(heads=4, layers=3),
    "normformer": lambda folder: own(block={"preset": "normformer"}),
    "factors after the projection": lambda folder: own(
        block={"preset": "normformer", "head_scale": "after_proj", "layer_scale": 0.5}
    ),
    "rms, rope, grouped keys, no bias": lambda folder: own(block={"preset": "skip_middle", "kv_heads": 1}),
    "normed queries, scaled layers": lambda folder: own(block={"qkv_norm": "qkv", "layer_scale": 0.4, "rope": "2d"}),
    "linear attention": lambda folder: own(block={"attention": "relu"}),
    "open_clip, mean of normed patches": lambda folder: open_clip_tower(folder, {**PLAIN, "pool_type": "avg"}),
    "open_clip, norm after the mean": lambda folder: open_clip_tower(
        folder, {**PLAIN, "pool_type": "avg", "final_ln_after_pool": True}
    ),
    "open_clip, scaled layers": lambda folder: open_clip_tower(folder, {**PLAIN, "ls_init_value": 0.3}),
    "timm, class token": lambda folder: timm_tower(folder, init_values=0.3, qk_norm=True),
    "timm, mean": lambda folder: timm_tower(folder, global_pool="avg", fc_norm=True, reg_tokens=2),
    "timm, pooling attention": lambda folder: timm_tower(folder, global_pool="map", class_token=False),
    "timm, pooling attention alone": lambda folder: timm_tower(
        folder, global_pool="map", num_classes=24, projection=False
    ),
    "siglip": siglip,
    "timm, no final norm": lambda folder: timm_tower(folder, global_pool="avg", final_norm=False),
    "timm, norms before and after the mean": two_norms,
    "CoCa with a narrower pooling": lambda folder: coca(folder, width=48, head_width=24),
    "hyperbolic": lambda folder: filled(create("tiny", seed=3, geometry="hyperbolic")).eval(),
    **{
        name: FAMILIES[name]
        for name in (
            "CoCa",
            "PE-Core",
            "PE-Core without a class token",
            "EVA02",
            "EVA02 tiny",
            "SigLIP 2",
            "transformers' CLIP",
            "open_clip NormFormer",
            "CLIPSeg",
            "MetaCLIP 2",
            "AltCLIP",
            "Chinese-CLIP",
            "composed ViT",
        )
    },
}


@pytest.fixture(scope="module", params=list(TOWERS))
def model(request, tmp_path_factory):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TOWERS[request.param](tmp_path_factory.mktemp("tower")).double()


def noise(size=(32, 32)):
    return torch.randn(3, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def images(model):
    return noise(model.image_spec.size)


def test_the_parts_add_up_to_the_unit_embedding(model, images):
    parts = decompose(model, images)
    unit = model.encode_image(images).unit
    exact = 1e-6 if "relu" in str(getattr(model, "config", "")) else 1e-12
    torch.testing.assert_close(parts.total(), unit.detach(), rtol=0, atol=exact)
    torch.testing.assert_close(parts.representation, model.encode_image(images).pooled.detach())
    assert parts.attention.shape[-1] == parts.mlp.shape[-1] == model.dim


@pytest.mark.parametrize("reduce", ["tokens", "heads"])
def test_summing_while_it_is_made_is_summing_afterwards(model, images, reduce):
    whole, summed = decompose(model, images), decompose(model, images, reduce=reduce)
    torch.testing.assert_close(summed.attention, whole.attention.sum(2 if reduce == "tokens" else 3))
    torch.testing.assert_close(summed.mlp, whole.mlp)
    torch.testing.assert_close(summed.heads if reduce == "tokens" else summed.tokens, summed.attention)


def test_the_model_is_as_before(model, images):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    first = model.encode_image(images).pooled
    decompose(model, images)
    assert torch.equal(first, model.encode_image(images).pooled)
    for name, value in model.state_dict().items():  # open_clip leaves parts of CoCa's decoder as memory was
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)
    assert hooks == [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]


def test_two_heads_differ_by_what_silencing_them_differs_in():
    """Silence one head of the last block or the other: the stream after attention differs by their outputs."""
    images = noise()
    model = own().double()
    tower, parts = model.visual, decompose(model, images)
    kept = Trace(keep=["blocks.1.input"])
    model.encode_image(images, trace=kept)
    without = [attended(tower.blocks[1], kept.values["blocks.1.input"], silent=head) for head in (0, 1)]
    written = without[1] - without[0]  # by head 0 beyond what head 1 writes
    final = received(tower.norm_post, lambda: model.encode_image(images))
    deviation = (final.var(-1, unbiased=False, keepdim=True) + tower.norm_post.eps).sqrt()
    expected = tower.project(tower.norm_post.weight * written / deviation)[:, 0]
    expected = expected / parts.representation.norm(dim=1, keepdim=True)
    torch.testing.assert_close(parts.heads[:, 1, 0] - parts.heads[:, 1, 1], expected.detach())


def attended(block, stream, *, silent):
    """The stream between a block's two halves with one head silent."""

    def silence(heads):
        return torch.cat([torch.zeros_like(x) if i == silent else x for i, x in enumerate(heads.split(1, 1))], 1)

    trace = Trace(edit={"b.heads": silence})
    return received(block.ffn_pre, lambda: block(stream, causal=False, pool="first", trace=trace, name="b"))


def received(module, run):
    """What a module is given while something runs."""
    seen = {}
    handle = module.register_forward_pre_hook(lambda _, given: seen.update(x=given[0]))
    run()
    handle.remove()
    return seen["x"].detach()


def test_a_patch_that_is_not_attended_to_adds_only_what_is_spread():
    """With values of zero but for one token, the other tokens' parts are all alike."""
    images = noise()
    model = own(layers=1).double()
    with torch.no_grad():
        model.visual.blocks[0].qkv.weight[128:] = 0  # the values' rows; their bias is left
    tokens = decompose(model, images, reduce="none").attention
    weights = Trace(keep=["blocks.0.attention"])
    model.encode_image(images, trace=weights)
    seen = weights.values["blocks.0.attention"].double()
    # Every value is the same bias, so a token's part grows with the attention it gets and with nothing else.
    change = tokens[:, 0, 1] - tokens[:, 0, 2]
    scale = (seen[:, :, 1] - seen[:, :, 2])[..., None]
    other = tokens[:, 0, 3] - tokens[:, 0, 2]
    torch.testing.assert_close(change * (seen[:, :, 3] - seen[:, :, 2])[..., None], other * scale, rtol=1e-4, atol=1e-9)


def test_streaming_means():
    images = noise()
    model = own().double()
    whole = decompose(model, images, reduce="tokens")
    told = []
    means = mean_parts(model, images.split(2), on_progress=lambda done, total: told.append((done, total)))
    torch.testing.assert_close(means.attention, whole.attention.mean(0, keepdim=True))
    torch.testing.assert_close(means.mlp, whole.mean().mlp)
    assert told == [(2, None), (3, None)]
    with pytest.raises(InputError, match="at least one image"):
        mean_parts(model, [])


def test_raw_pixels(tmp_path):
    model = own()
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    parts = decompose(model, pixels)
    assert float((parts.total() - model.encode_image(pixels).unit).detach().abs().max()) < 1e-5


def test_file_and_back(tmp_path):
    model = own()
    parts = decompose(model, torch.zeros(1, 3, 32, 32), reduce="heads")
    digest = model_digest(model)
    parts.save(tmp_path / "parts.npz", digest=digest)
    again = Decomposition.load(tmp_path / "parts.npz", digest=digest)
    assert torch.equal(again.attention, parts.attention)
    assert torch.equal(again.mlp, parts.mlp)
    assert torch.equal(again.representation, parts.representation)
    assert (again.reduce, again.class_tokens) == ("heads", 1)
    with pytest.raises(InputError, match="made with a model of digest"):
        Decomposition.load(tmp_path / "parts.npz", digest="another")
    with pytest.raises(InputError, match="no such file"):
        Decomposition.load(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(InputError, match=r"expected a file of Decomposition\.save"):
        Decomposition.load(tmp_path / "other.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(InputError, match="not a decomposition"):
        Decomposition.load(tmp_path / "text.npz")


@pytest.mark.parametrize(
    ("vision", "why"),
    [
        ({"block": {"preset": "postnorm"}}, "a norm after the sum"),
        ({"block": {"preset": "hybridnorm"}}, "a norm after the sum"),
        ({"block": {"preset": "nalaformer"}}, "out_gate, ctx_norm, lepe, position_conv, rope under linear attention"),
        ({"block": {"residual_scale": True}}, "residual_scale"),
        ({"block": {"qkv_norm": "qc"}}, "qkv_norm: c"),
        ({"block": {"preset": "skip_middle"}, "gate": "mirror"}, "gates"),
    ],
)
def test_towers_that_do_more_than_add_are_refused(vision, why):
    with pytest.raises(NotImplementedError, match=why) as caught:
        decompose(own(**vision), torch.zeros(1, 3, 32, 32))
    assert isinstance(caught.value, InputError)


def test_foreign_towers_of_another_kind_are_refused(tmp_path):
    images = torch.zeros(1, 3, 32, 32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for vision, why in (
            ({**PLAIN, "attentional_pool": True, "attn_pooler_heads": 2, "pool_type": "avg"}, "with several queries"),
            ({"layers": [1, 1, 1, 1], "width": 8, "head_width": 8, "image_size": 32}, "ModifiedResNet"),
        ):
            with pytest.raises(UnsupportedModelError, match=why):
                decompose(open_clip_tower(tmp_path, vision), images)
        with pytest.raises(UnsupportedModelError, match="'max'"):
            decompose(timm_tower(tmp_path, global_pool="max"), images)
        odd = open_clip_tower(tmp_path, {**PLAIN, "pool_type": "avg"})
        block = odd.model.visual.transformer.resblocks[1]
        block.__class__ = type("OtherBlock", (type(block),), {})
        with pytest.raises(UnsupportedModelError, match="OtherBlock with MultiheadAttention: expected pre-norm"):
            decompose(odd, images)
        assert dense_image(odd, images).tokens.shape == (1, 4, 24)
        odd = timm_tower(tmp_path)
        odd.model.visual.trunk.norm = torch.nn.Softplus()
        with pytest.raises(UnsupportedModelError, match=r"Softplus: the tower has no single layer norm"):
            decompose(odd, images)
        odd = timm_tower(tmp_path)
        odd.model.visual.head.append(torch.nn.GELU())
        with pytest.raises(UnsupportedModelError, match="ends in GELU: expected a linear map"):
            decompose(odd, images)
    with pytest.raises(UnsupportedModelError, match=r"expected a model of tether\.load"):
        decompose(_Stranger(), images)


class _Stranger:
    logit_scale = torch.ones(())


def test_bad_input():
    model = own()
    with pytest.raises(InputError, match="reduce"):
        decompose(model, torch.zeros(1, 3, 32, 32), reduce="layers")
    with pytest.raises(InputError, match="b >= 1"):
        decompose(model, torch.zeros(0, 3, 32, 32))
    with pytest.raises(InputError, match="expected"):
        decompose(model, torch.zeros(1, 3, 16, 32))
    with pytest.raises(InputError, match="NaN"):
        decompose(model, torch.full((1, 3, 32, 32), torch.nan))
    with pytest.raises(InputError, match="training mode"):
        decompose(model.train(), torch.zeros(1, 3, 32, 32))
    parts = decompose(model.eval(), torch.zeros(1, 3, 32, 32), reduce="tokens")
    with pytest.raises(InputError, match="summed away"):
        _ = parts.tokens
    with pytest.raises(InputError, match="summed away"):
        _ = decompose(model, torch.zeros(1, 3, 32, 32), reduce="heads").heads
    with pytest.raises(InputError, match="expected attention of 5 axes"):
        Decomposition(parts.attention, parts.mlp, parts.representation)
