"""Encoders behind a decoder of regions: any model, saved and loaded, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch

import tether
from tether.core.errors import InputError
from tether.core.model_digest import model_digest
from tether.data.bad_rows import BadRows
from tether.data.sets.scenes import ScenesSet
from tether.methods.grain.classifier import (
    propose_regions,
    with_description,
    write_regions,
    zero_shot_with_descriptions,
)
from tether.models import create
from tether.models.features.penultimate import image_tokens
from tether.models.heads.grounded import ground, grounded
from tether.models.heads.grounding_decoder import GroundingDecoder


def made(seed: int = 0, **settings):
    model = create("tiny", seed=seed, **settings).eval()
    generator = torch.Generator().manual_seed(seed)
    decoder = GroundingDecoder(model.dim, state=64, layers=2, width=32, heads=4, inner=48, generator=generator)
    return model, decoder.eval()


class TestDecoder:
    def test_weights_come_from_the_generator(self) -> None:
        first, second, third = (made(seed)[1].state_dict() for seed in (0, 0, 1))
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert not torch.equal(first["decoder.queries"], third["decoder.queries"])

    def test_order_of_tokens_does_not_count_and_boxes_are_shares(self) -> None:
        _, decoder = made()
        tokens = torch.randn(2, 9, 64)
        found, mixed = decoder(tokens), decoder(tokens.flip(1))
        assert torch.allclose(found.image, mixed.image, atol=1e-5)
        assert found.boxes.min() > 0
        assert found.boxes.max() < 1
        assert found.earlier is not None
        assert found.earlier.shape == (1, 2, 5, 4)

    def test_gradient_reaches_every_parameter(self) -> None:
        decoder = made()[1].train()
        found = decoder(torch.randn(2, 9, 64))
        (found.image.sum() + found.regions.sum() + found.boxes.sum()).backward()
        assert all(parameter.grad is not None for parameter in decoder.parameters())


class TestGrounded:
    def test_is_saved_and_loaded_as_one(self, tmp_path) -> None:
        model, decoder = made()
        encoder, image = grounded(model, decoder), torch.rand(2, 3, 32, 32)
        tether.save(encoder, tmp_path)
        again = tether.load(tmp_path)
        assert model_digest(again) == model_digest(encoder)
        assert torch.equal(again.encode_image(image).pooled, encoder.encode_image(image).pooled)
        wanted = decoder(image_tokens(model, image).tokens)
        assert torch.allclose(ground(again, image).boxes, wanted.boxes, atol=1e-6)
        assert torch.allclose(again.encode_image(image).pooled, wanted.image, atol=1e-6)
        text = model.tokenizer(["a red star"])
        assert torch.equal(again.encode_text(text).pooled, model.encode_text(text).pooled)
        assert torch.allclose(again.logit_scale, model.logit_scale)
        assert again.resized(image_size=64).eval().encode_image(torch.rand(1, 3, 64, 64)).pooled.shape == (1, 64)

    def test_a_description_that_lies_is_refused(self, tmp_path) -> None:
        tether.save(grounded(*made()), tmp_path)
        file = tmp_path / "model.json"
        values = json.loads(file.read_text())
        for change in ({"layers": 10**9}, {"dim": 7}, {"heads": "four"}, {"queries": 3}):
            changed = json.loads(json.dumps(values))
            changed["image"]["decoder"] |= change
            file.write_text(json.dumps(changed))
            with pytest.raises(InputError, match=r"model\.(json|safetensors)"):
                tether.load(tmp_path)

    def test_refuses(self) -> None:
        model, decoder = made()
        with pytest.raises(InputError, match="reads rows of 64"):
            grounded(model, GroundingDecoder(model.dim, state=32, layers=1, width=32))
        with pytest.raises(InputError, match="has a decoder of regions already"):
            grounded(grounded(model, decoder), decoder)
        with pytest.raises(InputError, match="with a decoder of regions"):
            ground(model, torch.rand(1, 3, 32, 32))
        with pytest.raises(InputError, match="share their blocks"):
            grounded(create("tiny", towers="shared"), decoder)


class TestRegionsOfImages:
    def test_become_a_table_in_pixels_of_the_image(self, tmp_path) -> None:
        encoder = grounded(*made())
        bad = BadRows("scenes")
        source = ScenesSet(rows=3, size=96)
        regions = list(propose_regions(source, model=encoder, bad=bad, phrases=["a red star", "=a blue heart"]))
        assert len(regions) == 15
        for one in regions:
            x0, y0, x1, y1 = one.box
            assert 0 <= x0 <= x1 <= 96
            assert 0 <= y0 <= y1 <= 96
        assert max(one.box[2] for one in regions) > 32
        assert [one.score for one in regions[:5]] == sorted((one.score for one in regions[:5]), reverse=True)
        write_regions(regions, tmp_path / "boxes.csv")
        lines = (tmp_path / "boxes.csv").read_text().splitlines()
        assert lines[0] == "key,x0,y0,x1,y1,score,description"
        assert len(lines) == 16
        assert not any(line.endswith(",=a blue heart") for line in lines)
        assert all(one.description == "" for one in propose_regions(source, model=encoder, bad=bad))
        with pytest.raises(InputError, match="phrases: classes: class 1 of 1 has an empty name"):
            next(propose_regions(source, model=encoder, bad=bad, phrases=[""]))


class TestDescribedClasses:
    @pytest.mark.parametrize(
        ("description", "sentence"),
        [
            ("two legs", "a photo of a hen, which has two legs."),
            ("A bird.", "a photo of a hen, which is A bird."),
            ("can fly", "a photo of a hen, which can fly."),
            ("used for eggs", "a photo of a hen, which is used for eggs."),
        ],
    )
    def test_sentences(self, description: str, sentence: str) -> None:
        assert with_description("a photo of a hen.", description=description) == sentence

    def test_means_are_not_unit_rows_unless_asked(self) -> None:
        model, image = create("tiny").eval(), torch.rand(2, 3, 32, 32)
        said = {"hen": ["two legs", "a red comb"], "cow": ["horns"]}
        templates = ["a photo of a {}.", "a {}"]
        texts = [with_description(t.format("hen"), description=d) for t in templates for d in said["hen"]]
        unit = torch.nn.functional.normalize
        mean = unit(model.encode_text(model.tokenizer(texts)).pooled).mean(dim=0)
        rows = unit(model.encode_image(image).pooled)
        for kind, wanted in (("raw", mean), ("unit", unit(mean, dim=0))):
            head = zero_shot_with_descriptions(model, said, templates=templates, mean=kind)
            assert torch.allclose(head.predict(image).cosine[:, 0], rows @ wanted, atol=1e-5)

    @pytest.mark.parametrize("said", [{"hen": []}, {"hen": "two legs"}, {"hen": [" "]}, {"hen": [3]}, {}])
    def test_refuses(self, said) -> None:
        with pytest.raises(InputError, match=r"descriptions: (class 'hen'|expected classes)"):
            zero_shot_with_descriptions(create("tiny"), said)
