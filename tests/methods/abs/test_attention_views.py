"""Attention-based selection: draws, crops of tokens on any tower, soft matching, and what is refused."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F

from families import FAMILIES
from tether.core.errors import InputError, UnsupportedModelError
from tether.data.placement import Placement
from tether.methods.abs.attention_boxes import attention_boxes, map_patches, patch_boxes, token_sizes, top_patches
from tether.methods.abs.attention_source import TowerAttention, open_attention
from tether.methods.abs.attention_views import AttentionViews
from tether.methods.abs.soft_match import soft_match, view_weights
from tether.methods.abs.token_crops import feature_crops, run_rows
from tether.models import create
from tether.models.embed import encode_texts
from tether.models.features.find import anatomy_of
from tether.models.refusals import EXCEPTIONS
from tether.tasks.classify.views import encode_windows, view_spec
from views_of_classes import CLASSES, SAYS, generator, image


@pytest.fixture(scope="module")
def model():
    return create("tiny", seed=1).eval()


class TestAttentionBoxes:
    def test_more_than_all_patches(self):
        with pytest.warns(UserWarning, match="top_k: 20 of 9 patches"):
            indices, chances = top_patches(torch.rand(9, generator=generator()), top_k=20)
        assert sorted(indices.tolist()) == list(range(9))
        assert float(chances.sum()) == pytest.approx(1)

    def test_draws_come_again_and_lie_inside(self):
        attention = torch.rand(6, 9, generator=generator())
        first, again = (attention_boxes(attention, size=(47, 101), n=40, generator=generator(1)) for _ in range(2))
        assert all(map(torch.equal, first, again))
        x0, y0, x1, y1 = first[0].T
        assert ((x0 >= 0) & (x0 < x1) & (x1 <= 101)).all()
        assert ((y0 >= 0) & (y0 < y1) & (y1 <= 47)).all()

    def test_single_precision_of_the_release(self):
        """In whole numbers, or in double precision, this corner is another one."""
        sizes = torch.tensor([[2, 2]])
        box = patch_boxes(torch.tensor([7]), sizes=sizes, grid=(14, 14), size=(62, 62))
        assert box[0, 0] == (30 + 30 + 4) // 2 - 1

    def test_maps_of_other_sizes(self):
        every = torch.arange(196)
        assert map_patches(every, grid=(14, 14), to=(14, 14)).equal(every)
        assert map_patches(every, grid=(14, 14), to=(7, 7)).equal(every // 14 // 2 * 7 + every % 14 // 2)
        assert map_patches(every, grid=(14, 14), to=(16, 16)).equal(every // 14 * 16 // 14 * 16 + every % 14 * 16 // 14)
        middle = map_patches(torch.arange(8), grid=(1, 8), to=(1, 4), placement=Placement((0.25, 0, 0.75, 1)))
        assert middle.tolist() == [0, 0, 0, 1, 2, 3, 3, 3]

    def test_sizes_of_tokens(self):
        assert set(token_sizes(200, grid=(14, 14), generator=generator()).tolist()) == set(range(8, 13))
        assert set(token_sizes(50, grid=(1, 1), ratio=(0.6, 0.9), generator=generator()).tolist()) == {0, 1}
        assert token_sizes(50, grid=(4, 6), generator=generator()).shape == (50, 2)


class TestFeatureCrops:
    def test_a_map_that_is_not_square(self):
        tokens = torch.arange(2 + 24, dtype=torch.float64)[:, None]
        crops = feature_crops(
            tokens, centres=torch.tensor([9, 0]), sizes=torch.tensor([[9, 99], [1, 1]]), grid=(4, 6), prefix=2
        )
        torch.testing.assert_close(crops[0], tokens)
        torch.testing.assert_close(crops[1], torch.cat([tokens[:2], tokens[2].expand(24, 1)]))

    def test_refuses(self):
        with pytest.raises(InputError, match="grid: expected 5 tokens beside 1"):
            feature_crops(torch.rand(6, 2), centres=torch.tensor([0]), sizes=torch.tensor([1]))
        with pytest.raises(InputError, match="centres from 0 to 3"):
            feature_crops(torch.rand(5, 2), centres=torch.tensor([4]), sizes=torch.tensor([1]))

    @pytest.mark.parametrize(
        "family", ["Tether", "open_clip ViT", "EVA02", "SigLIP 2", "timm ViT", "transformers' CLIP", "SigLIP 2 NaFlex"]
    )
    def test_the_whole_map_is_the_image(self, family, tmp_path):
        """A window that holds all tokens changes nothing, on any library's tower; others do."""
        encoder = FAMILIES[family](tmp_path)
        tower = anatomy_of(encoder)
        pixels = torch.randint(0, 256, (2, 3, *encoder.image_spec.size), dtype=torch.uint8, generator=generator())
        with torch.no_grad():
            stream = tower.run(tower.embed(pixels), 0, -1)
            grid = stream.layout.grid
            centres, sizes = torch.tensor([0, 0]), torch.tensor([99, 1])
            crops = (
                feature_crops(tokens, centres=centres, sizes=sizes, grid=grid, prefix=tower.prefix)
                for tokens in stream.x
            )
            found = run_rows(tower, stream, crops, layer=-1, batch_size=3)
            wanted = encoder.encode_image(pixels).pooled
        torch.testing.assert_close(found[::2], wanted, rtol=0, atol=1e-5)
        assert not torch.allclose(found[1::2], wanted, atol=1e-5)


class TestSoftMatch:
    def test_ragged_lists_are_what_they_say(self):
        views = F.normalize(torch.randn(2, 5, 8, generator=generator(), dtype=torch.float64), dim=-1)
        texts = F.normalize(torch.randn(3, 4, 8, generator=generator(1), dtype=torch.float64), dim=-1)
        mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]).bool()
        found = soft_match(views, descriptions=texts, mask=mask)
        s = torch.einsum("bvd,cmd->bvcm", views, texts) / 0.03
        w = s.masked_fill(~mask, -torch.inf).flatten(2).softmax(-1).view_as(s)
        torch.testing.assert_close(found, (w * s).sum((1, 3)))

    def test_half_precision_is_widened(self):
        views = F.normalize(torch.randn(5, 8, generator=generator()), dim=-1).half()
        texts = F.normalize(torch.randn(3, 2, 8, generator=generator(1)), dim=-1).half()
        found = soft_match(views, descriptions=texts)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, soft_match(views.float(), descriptions=texts.float()))

    def test_weights(self):
        views = F.normalize(torch.randn(5, 8, generator=generator()), dim=-1)
        texts = F.normalize(torch.randn(3, 2, 8, generator=generator(1)), dim=-1)
        weights = view_weights(views, image=views[2])
        assert float(weights.sum()) == pytest.approx(1)
        assert int(weights.argmax()) == 2
        each = torch.stack([soft_match(view[None], descriptions=texts) for view in views])
        torch.testing.assert_close(soft_match(views, descriptions=texts, weights=weights), weights @ each)

    def test_refuses(self):
        with pytest.raises(InputError, match="at least one description of each class"):
            soft_match(torch.rand(1, 2), descriptions=torch.rand(2, 1, 2), mask=torch.tensor([[True], [False]]))
        with pytest.raises(InputError, match="expected views"):
            soft_match(torch.rand(1, 3), descriptions=torch.rand(2, 1, 2))


class TestAttentionViews:
    def test_scores_are_those_of_its_parts(self, model):
        head = AttentionViews(n=3, views="pixels", attention=corner, descriptions=SAYS).prepare(model, CLASSES)
        windows = []

        def kept(encoder, images, boxes, **given):
            windows.extend(boxes)
            return encode_windows(encoder, images, boxes, **given)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tether.methods.abs.attention_views.encode_windows", kept)
            found = head.predict([image()]).cosine
        rows = F.normalize(encode_windows(model, [image()], windows, spec=view_spec(model), batch_size=9)[0], dim=1)
        texts = [F.normalize(encode_texts(model, SAYS[name]), dim=1) for name in CLASSES]
        room = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence(
            [torch.ones(len(some), dtype=torch.bool) for some in texts], batch_first=True
        )
        torch.testing.assert_close(found[0], soft_match(rows, descriptions=room, mask=mask) * 0.03 / 3)
        assert all(window[0] < 45 and window[1] < 30 for window in windows[0])

    @pytest.mark.parametrize("views", ["both", "pixels", "features"])
    @pytest.mark.parametrize("match", ["soft", "mean"])
    @pytest.mark.parametrize("weigh", [False, True])
    def test_every_setting(self, model, views, match, weigh):
        head = AttentionViews(n=2, views=views, match=match, view_weights=weigh, layer=0, batch_size=5)
        found = head.prepare(model, CLASSES).predict([image(), image(33, 80), image(90, 20)])
        assert found.cosine.shape == (3, 3)
        assert found.cosine.isfinite().all()

    @pytest.mark.parametrize("family", ["open_clip ViT", "timm ViT", "SigLIP 2", "transformers' CLIP", "composed ViT"])
    def test_other_libraries(self, family, tmp_path):
        head = AttentionViews(n=2).prepare(FAMILIES[family](tmp_path), CLASSES)
        assert head.predict([image(), image(20, 50)]).cosine.isfinite().all()

    def test_refusals(self, model, tmp_path):
        resnet = FAMILIES["RN50"](tmp_path)
        with pytest.raises(UnsupportedModelError, match=re.escape(EXCEPTIONS["map"])):
            AttentionViews(n=2).prepare(resnet, CLASSES)
        with pytest.raises(UnsupportedModelError, match="give views=pixels and attention=FOLDER"):
            AttentionViews(n=2, views="pixels").prepare(resnet, CLASSES)
        found = AttentionViews(n=2, views="pixels", attention="uniform").prepare(resnet, CLASSES).predict([image()])
        assert found.cosine.isfinite().all()
        with pytest.raises(InputError, match="layer: expected -2 to 1, got 2"):
            AttentionViews(n=2, layer=2).prepare(model, CLASSES)
        with pytest.raises(InputError, match="layer: expected -2 to 1, got -3"):
            AttentionViews(n=2, attention_layer=-3).prepare(model, CLASSES)
        with pytest.raises(InputError, match="ratio: expected the smaller number first"):
            AttentionViews(ratio=(0.9, 0.6))
        with pytest.raises(InputError, match="attention: expected own, uniform or an image tower"):
            AttentionViews(attention="dino").prepare(model, CLASSES)
        with pytest.raises(InputError, match=r"attention: expected finite \(1, rows, columns\)"):
            AttentionViews(attention=lambda images: torch.ones(5)).prepare(model, CLASSES).predict([image()])

    def test_uniform_attention_looks_anywhere(self, model):
        head = AttentionViews(n=300, attention="uniform", views="pixels").prepare(model, CLASSES)
        maps = head._source([image()])
        assert head._drawn(maps[0]) == 196
        _, patches = attention_boxes(maps[0], size=(60, 90), n=2000, top_k=196, generator=generator())
        assert len(patches.unique()) == 196

    def test_a_head_goes_to_another_model(self, model):
        head = AttentionViews(n=2)
        deeper = create("tiny", vision={"layers": 3}).eval()
        wanted = AttentionViews(n=2).prepare(deeper, CLASSES).predict([image()]).cosine
        torch.testing.assert_close(
            head.prepare(model, CLASSES).prepare(deeper, CLASSES).predict([image()]).cosine, wanted
        )

    def test_top_k_beyond_the_map_warns(self, model):
        with pytest.warns(UserWarning, match="top_k: 99 of 16 patches"):
            AttentionViews(n=2, top_k=99).prepare(model, CLASSES).predict([image()])

    def test_attention_of_a_vision_transformer_in_a_folder(self, model, tmp_path):
        from transformers import ViTConfig, ViTImageProcessor, ViTModel

        shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        torch.manual_seed(0)
        theirs = ViTModel(ViTConfig(image_size=64, patch_size=16, attn_implementation="eager", **shape)).eval()
        theirs.save_pretrained(tmp_path)
        ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
        source = open_attention(str(tmp_path), model=model, layer=-1, batch_size=4)
        assert isinstance(source, TowerAttention)
        square = image(64, 64)
        pixels = (square[None].float() / 255 - 0.5) / 0.5
        wanted = theirs(pixel_values=pixels, output_attentions=True).attentions[-1][:, :, 0, 1:].mean(1)
        torch.testing.assert_close(source([square]).flatten(1), wanted, rtol=0, atol=1e-5)
        head = AttentionViews(n=2, attention=str(tmp_path)).prepare(model, CLASSES)
        assert head.predict([image()]).cosine.isfinite().all()


def corner(images):
    heat = torch.zeros(len(images), 8, 8)
    heat[:, 0, 0] = 50
    return heat
