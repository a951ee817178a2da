"""Attention maps: the libraries' own weights, of the pooling token and of all, on both sides."""

import pytest
import torch

from families import FAMILIES, PLAIN, hugging_face, open_clip_tower, siglip, timm_tower
from tether.core.errors import InputError, UnsupportedModelError
from tether.models import Trace, create
from tether.models.features.attention_maps import attention_maps
from tether.models.features.find import anatomy_of
from tether.models.refusals import EXCEPTIONS

pytestmark = pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")
TEXTS = ["a small red cat", "sun", "the dog in the sun"]


def images(size=32):
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_our_own_are_what_a_trace_records():
    model = create("tiny", seed=1, vision={"layers": 3, "heads": 4}).eval()
    names = [f"blocks.{index}.attention" for index in range(3)]
    trace = Trace(keep=names)
    model.encode_image(images(), trace=trace)
    expected = torch.stack([trace.values[name] for name in names], dim=1)
    torch.testing.assert_close(attention_maps(model, images()), expected)
    torch.testing.assert_close(attention_maps(model, images(), layers=[-1, 0]), expected[:, [2, 0]])
    ids = model.tokenizer(TEXTS)
    trace = Trace(keep=names[:2])
    model.encode_text(ids, trace=trace)
    expected = torch.stack([trace.values[name] for name in names[:2]], dim=1)
    torch.testing.assert_close(attention_maps(model, ids, side="text"), expected)
    whole = attention_maps(model, ids, side="text", rows="all")
    assert torch.equal(whole, whole.tril())
    ends = (ids != 0).sum(dim=1) - 1
    torch.testing.assert_close(whole[torch.arange(3), :, :, ends], expected)


def test_transformers_are_its_own(tmp_path):
    model = hugging_face(tmp_path, "clip, another activation")
    model.model.set_attn_implementation("eager")
    given = {"pixel_values": model.pixels(images())}
    theirs = torch.stack(model.model.vision_model(**given, output_attentions=True).attentions, dim=1)
    torch.testing.assert_close(attention_maps(model, images(), rows="all"), theirs)
    torch.testing.assert_close(attention_maps(model, images()), theirs[:, :, :, 0])
    ids = model.tokenizer(TEXTS)
    theirs = torch.stack(model.model.text_model(**model.text_inputs(ids), output_attentions=True).attentions, dim=1)
    found = attention_maps(model, ids, side="text", rows="all")
    real = (ids != 0)[:, None, None, :, None].expand_as(found)
    torch.testing.assert_close(found[real], theirs[real])


def test_open_clips_are_its_own(tmp_path):
    model = open_clip_tower(tmp_path, PLAIN | {"pool_type": "avg"}).eval()
    visual = model.model.visual
    x, theirs = visual._embeds(model.pixels(images())), []
    for block in visual.transformer.resblocks:
        normed = block.ln_1(x)
        theirs.append(block.attn(normed, normed, normed, average_attn_weights=False)[1])
        x = block(x)
    theirs = torch.stack(theirs, dim=1)
    torch.testing.assert_close(attention_maps(model, images(), rows="all"), theirs)
    torch.testing.assert_close(attention_maps(model, images()), theirs[:, :, :, 1:].mean(dim=3))
    text = attention_maps(model, model.tokenizer(TEXTS), side="text", layers=[0])
    torch.testing.assert_close(text.sum(-1), torch.ones(3, 1, 2))


def test_a_pooling_attention_counts_the_rows(tmp_path):
    for model in (siglip(tmp_path), FAMILIES["PE-Core"](tmp_path), FAMILIES["CoCa"](tmp_path)):
        model.eval()
        maps, whole = attention_maps(model, images()), attention_maps(model, images(), rows="all")
        tower = anatomy_of(model)
        stream = tower.run(tower.embed(images()))
        shares = tower.pooling.shares(tower.norm(stream.x), stream.layout).mean(dim=1)
        torch.testing.assert_close(maps, torch.einsum("bm,blhmn->blhn", shares, whole))
        torch.testing.assert_close(maps.sum(-1), torch.ones_like(maps[..., 0]))


def test_a_model_stays_as_it_was_and_learns(tmp_path):
    model = timm_tower(tmp_path, qk_norm=True)
    attention_maps(model, images())[..., 1].sum().backward()
    assert model.model.visual.trunk.blocks[0].attn.qkv.weight.grad.abs().max() > 0
    assert not model.training


def test_bad_input(tmp_path):
    model = create("tiny").eval()
    for options, message in (
        ({"rows": "some"}, "rows: expected pool or all, got 'some'"),
        ({"layers": [2]}, "layer: expected -2 to 1, got 2"),
        ({"layers": []}, "layers: expected at least one block"),
        ({"side": "left"}, "side: expected image or text"),
    ):
        with pytest.raises(InputError, match=message):
            attention_maps(model, images(), **options)
    with pytest.raises(InputError, match="training mode"):
        attention_maps(model.train(), images())
    for name, reason in (("ConvNeXt", "map"), ("RN50", "map")):
        with pytest.raises(UnsupportedModelError) as caught:
            attention_maps(FAMILIES[name](tmp_path).eval(), images())
        assert EXCEPTIONS[reason] in str(caught.value)
    postnorm = create("tiny", vision={"block": {"preset": "postnorm"}}).eval()
    with pytest.raises(UnsupportedModelError, match=r"a norm after the sum \(post\)"):
        attention_maps(postnorm, images())
