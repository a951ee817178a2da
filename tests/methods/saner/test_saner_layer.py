"""SANER: nothing changes at the start, gradients at equality, gating on models of three libraries, and refusals."""

import copy

import pytest
import torch
import torch.nn.functional as F

import tether
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder, Tokenizer
from tether.methods.saner import AttributeLexicon, DebiasedTextEncoder, SanerLayer, fit_saner, group_cosines, saner_loss
from tether.models import create
from tether.models.embed import encode_texts

LEXICON = AttributeLexicon({"red": ["red"], "green": ["green"]}, nouns=("cat", "dog", "mat"))
TEXTS = ["a cat", "a red cat", "the dog in the sun", "a long mat", "the sun"]
NEUTRAL, EXPLICIT = [0, 2, 3, 4], [1]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestLoss:
    def test_the_layer_starts_as_the_identity(self):
        h = draw(5, 8)
        layer = SanerLayer(8, hidden=3, generator=torch.Generator().manual_seed(0)).double()
        assert torch.equal(layer(h), h)
        assert layer.first.weight.shape == (3, 8)
        assert layer.first.weight.any()

    def test_equal_nearness_costs_nothing_and_has_a_finite_gradient(self):
        z = draw(4, 8).requires_grad_()
        same = draw(4, 1, 8, seed=1).expand(4, 3, 8)
        found = saner_loss(z, h=z.detach(), attributes=same)
        found.total.backward()
        assert float(found.debias) == pytest.approx(0, abs=1e-12)
        assert float(found.total.detach()) == pytest.approx(0, abs=1e-12)
        assert z.grad.isfinite().all()
        assert z.grad.abs().max() < 1e-6

    def test_gradients(self):
        h, versions, image = draw(3, 4), draw(3, 2, 4, seed=1), draw(3, 4, seed=2)

        def total(z):
            return saner_loss(z, h=h, attributes=versions, image=image, logit_scale=5.0, weights=(1, 0.1, 0.5)).total

        assert torch.autograd.gradcheck(total, (draw(3, 4, seed=3).requires_grad_(),))

    def test_lengths_of_versions_and_images_do_not_matter(self):
        z, versions, image = draw(4, 8), draw(4, 2, 8, seed=1), draw(4, 8, seed=2)
        one = saner_loss(z, h=z, attributes=versions, image=image, logit_scale=10.0)
        other = saner_loss(z, h=z, attributes=3 * versions, image=7 * image, logit_scale=10.0)
        torch.testing.assert_close(one.total, other.total)
        assert float(one.reconstruction) == 0

    def test_several_attributes_add_up(self):
        z, a, b = draw(4, 8), draw(4, 2, 8, seed=1), draw(4, 3, 8, seed=2)
        both = saner_loss(z, h=z, attributes=[a, b]).debias
        torch.testing.assert_close(
            both, saner_loss(z, h=z, attributes=a).debias + saner_loss(z, h=z, attributes=b).debias
        )

    def test_spreads(self):
        z, versions = draw(4, 8), draw(4, 3, 8, seed=1)
        cosines = group_cosines(z, attributes=versions)
        for word, correction in (("population", 0), ("sample", 1)):
            found = saner_loss(z, h=z, attributes=versions, spread=word).debias
            torch.testing.assert_close(found, cosines.std(dim=1, correction=correction).mean())

    @pytest.mark.parametrize(
        "changes",
        [
            {"h": draw(4, 7)},
            {"attributes": draw(4, 1, 8)},
            {"attributes": draw(3, 2, 8)},
            {"attributes": []},
            {"image": draw(4, 8)},
            {"image": draw(3, 8), "logit_scale": 1.0},
        ],
    )
    def test_refuses(self, changes):
        with pytest.raises(InputError):
            saner_loss(draw(4, 8), **{"h": draw(4, 8), "attributes": draw(4, 2, 8)} | changes)


def own(folder):
    return create("tiny", seed=1).eval()


def hugging_face_clip(folder):
    from transformers import CLIPConfig, CLIPModel

    shape = {"intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "projection_dim": 24}
    config = CLIPConfig(
        text_config=shape | {"hidden_size": 32, "max_position_embeddings": 16},
        vision_config=shape | {"hidden_size": 48, "image_size": 32, "patch_size": 16},
        projection_dim=24,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    return tether.load(folder)


def siglip(folder):
    from tokenizers import Tokenizer as Words
    from tokenizers import models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipModel

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config=shape | {"vocab_size": 64, "max_position_embeddings": 16, "projection_size": 32},
        vision_config=shape | {"image_size": 32, "patch_size": 16},
    )
    torch.manual_seed(0)
    SiglipModel(config).save_pretrained(folder)
    known = ["a", "red", "green", "cat", "dog", "mat", "the", "sun", "in", "long"]
    words = Words(
        models.WordLevel(
            {"<pad>": 0, "</s>": 1, "<unk>": 2} | {w: 3 + i for i, w in enumerate(known)}, unk_token="<unk>"
        )
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="</s>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(folder)
    return tether.load(folder)


def open_clip(folder):
    """A ConvNeXt, which stays a wrapped model of open_clip."""
    import json

    import open_clip
    from safetensors.torch import save_file

    cfg = {
        "embed_dim": 48,
        "vision_cfg": {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "linear", "image_size": 64},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    config = {"model_cfg": cfg, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return tether.load(folder)


@pytest.fixture(scope="module", params=[own, hugging_face_clip, siglip, open_clip], ids=lambda build: build.__name__)
def model(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def wrapped(model):
    layer = SanerLayer(model.dim, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(layer.last.weight, generator=torch.Generator().manual_seed(1))
    return DebiasedTextEncoder(model, layer=layer, lexicons=[LEXICON])


class TestGate:
    def test_it_is_a_dual_encoder(self, wrapped):
        assert isinstance(wrapped, DualEncoder)
        assert isinstance(wrapped.tokenizer, Tokenizer)

    def test_explicit_texts_stay_bit_for_bit(self, model, wrapped):
        ids = wrapped.tokenizer(TEXTS)
        before, after = model.encode_text(ids).pooled, wrapped.encode_text(ids).pooled
        assert torch.equal(before[EXPLICIT], after[EXPLICIT])
        torch.testing.assert_close(after[NEUTRAL], wrapped.layer(before[NEUTRAL]))
        assert ((after - before)[NEUTRAL].abs().amax(dim=1) > 1e-3).all()

    def test_the_length_of_the_padding_does_not_matter(self, wrapped):
        ids = wrapped.tokenizer(TEXTS)
        wide = F.pad(ids, (0, wrapped.tokenizer.context_length - ids.shape[1]))
        torch.testing.assert_close(wrapped.encode_text(wide).pooled, wrapped.encode_text(ids).pooled)

    def test_any_consumer_sees_the_gate(self, model, wrapped):
        embedded, plain = encode_texts(wrapped, TEXTS), encode_texts(model, TEXTS)
        assert torch.equal(embedded[EXPLICIT], plain[EXPLICIT])
        assert not torch.allclose(embedded[NEUTRAL], plain[NEUTRAL])

    def test_images_are_untouched(self, model, wrapped):
        pixels = torch.randint(0, 256, (2, 3, *model.image_spec.size), dtype=torch.uint8)
        assert torch.equal(wrapped.encode_image(pixels).pooled, model.encode_image(pixels).pooled)
        out = wrapped(pixels, wrapped.tokenizer(TEXTS[:2]))
        assert torch.equal(out.logit_scale, model.logit_scale)

    def test_round_trip(self, model, wrapped, tmp_path):
        wrapped.save(tmp_path / "layer.safetensors")
        back = DebiasedTextEncoder.load(tmp_path / "layer.safetensors", model=model)
        assert torch.equal(encode_texts(back, TEXTS), encode_texts(wrapped, TEXTS))
        half = DebiasedTextEncoder(model, layer=copy.deepcopy(wrapped.layer).bfloat16(), lexicons=[LEXICON])
        half.save(tmp_path / "half.safetensors")
        wide = DebiasedTextEncoder.load(tmp_path / "half.safetensors", model=model).layer
        assert torch.equal(wide.first.weight, half.layer.first.weight.float())
        other = copy.deepcopy(model)
        with torch.no_grad():
            next(other.parameters()).add_(1e-3)
        with pytest.raises(InputError, match="other weights"):
            DebiasedTextEncoder.load(tmp_path / "layer.safetensors", model=other)
        with pytest.raises(InputError, match="no such file"):
            DebiasedTextEncoder.load(tmp_path / "none", model=model)
        (tmp_path / "bad").write_bytes(b"x")
        with pytest.raises(InputError, match="safetensors"):
            DebiasedTextEncoder.load(tmp_path / "bad", model=model)

    def test_refuses(self, model):
        with pytest.raises(InputError, match="width"):
            DebiasedTextEncoder(model, layer=SanerLayer(model.dim + 1), lexicons=[LEXICON])
        with pytest.raises(InputError, match="at least one"):
            DebiasedTextEncoder(model, layer=SanerLayer(model.dim), lexicons=[])


class TestFit:
    def test_debiasing_falls_on_any_model(self, model):
        texts = ["a cat", "a red dog", "the mat", "the sun", "a green mat in the sun"]
        found = fit_saner(model, texts=texts, lexicons=[LEXICON], epochs=60, lr=1e-2, weights=(1.0, 0.0, 0.0))
        assert (found.used, found.skipped) == (4, 1)
        assert found.debias[-1] < 0.5 * found.debias[0]
        assert not found.layer.training
        assert all(not parameter.requires_grad for parameter in found.layer.parameters())

    def test_the_model_is_not_changed_and_the_seed_decides(self):
        model = own(None)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        settings = {"texts": TEXTS, "lexicons": [LEXICON], "images": draw(5, model.dim), "epochs": 2, "batch_size": 2}
        first, again, other = (fit_saner(model, **settings, seed=seed) for seed in (0, 0, 1))
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert torch.equal(first.layer.last.weight, again.layer.last.weight)
        assert not torch.equal(first.layer.last.weight, other.layer.last.weight)

    def test_no_weight_no_change(self):
        model = own(None)
        found = fit_saner(model, texts=TEXTS, lexicons=[LEXICON], weights=(0.0, 1.0, 0.0), epochs=3)
        h = encode_texts(model, TEXTS)
        assert torch.equal(found.layer(h), h)

    def test_progress(self):
        seen = []
        fit_saner(
            own(None),
            texts=TEXTS,
            lexicons=[LEXICON],
            epochs=2,
            batch_size=3,
            on_progress=lambda done, total: seen.append((done, total)),
        )
        assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]

    @pytest.mark.parametrize(
        "changes",
        [
            {"texts": ["the sun"]},
            {"lexicons": []},
            {"images": draw(2, 4)},
        ],
    )
    def test_refuses(self, changes):
        with pytest.raises(InputError):
            fit_saner(own(None), **{"texts": TEXTS, "lexicons": [LEXICON]} | changes)
