"""Regions, noise, and a captioner that learns from texts alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tether
from families import FAMILIES
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.state_file import read_state, write_state
from tether.models import create
from tether.models.encoders.causal_lm import CausalLM, small_causal_lm
from tether.tasks.caption import (
    ImageRows,
    TextOnlyCaptioner,
    Writing,
    mix,
    noisy_copies,
    read_images,
    region_features,
)
from tether.tasks.caption.captioner import FILE

pytestmark = pytest.mark.slow

TEXTS = ["a red ball", "a blue cube on a table", "two green stars"]


def words(seed: int = 0) -> CausalLM:
    return small_causal_lm(TEXTS, width=16, layers=1, heads=2, seed=seed)


def captioner(**settings: float) -> TextOnlyCaptioner:
    model = tether.load("tiny", random_weights=True)
    return TextOnlyCaptioner(model, words(), n_queries=3, **settings)


def drawing() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class TestRegionFeatures:
    def test_more_than_there_are_tokens(self) -> None:
        attn, tokens = torch.rand(2, 5, 5).softmax(-1), torch.randn(2, 5, 4)
        regions, ids = region_features(attn, tokens, k=99)
        assert ids.sort(dim=1)[0].tolist() == [list(range(5))] * 2
        assert torch.allclose(regions.norm(dim=2), torch.ones(2, 5))

    def test_heads_are_averaged_and_ties_go_to_the_first(self) -> None:
        attn = torch.full((1, 3, 4, 4), 0.25)
        assert region_features(attn, torch.randn(1, 4, 2), k=2)[1].tolist() == [[0, 1]]

    def test_logarithms_follow_the_attention(self) -> None:
        draws = torch.Generator().manual_seed(0)
        attn, tokens = torch.rand(1, 5, 5, generator=draws).softmax(-1), torch.randn(1, 5, 4, generator=draws)
        regions, ids = region_features(attn, tokens, k=2, over="logarithms")
        assert torch.allclose(regions, F.normalize(attn[0, ids[0]] @ tokens, dim=2), atol=1e-6)
        sharp, _ = region_features(attn, tokens, k=2, temperature=1e-5)
        wanted = F.normalize(tokens[0, attn[0, ids[0]].argmax(1)], dim=1)
        assert torch.allclose(sharp[0], wanted, atol=1e-3)

    def test_refuses(self) -> None:
        with pytest.raises(InputError, match=r"expected \(2, 5, 5\)"):
            region_features(torch.rand(2, 4, 4), torch.randn(2, 5, 4))
        with pytest.raises(InputError, match="k"):
            region_features(torch.rand(2, 5, 5), torch.randn(2, 5, 4), k=0)


class TestNoisyCopies:
    def test_each_copy_has_noise_of_its_own(self) -> None:
        row = F.normalize(torch.randn(3, 512), dim=1)
        copies = noisy_copies(row, 4, variance=0.016, generator=drawing())
        assert not torch.allclose(copies[:, 0], copies[:, 1])
        assert torch.equal(copies, noisy_copies(row, 4, variance=0.016, generator=drawing()))
        assert torch.allclose(copies.norm(dim=2), torch.ones(3, 4), atol=1e-5)

    def test_auto_keeps_the_length_of_noise(self) -> None:
        for dim in (64, 512):
            row, noise = F.normalize(torch.ones(1, dim), dim=1), torch.randn(1, 2, dim)
            added = noisy_copies(row, 2, variance=0.5 / dim, noise=noise)
            assert torch.equal(noisy_copies(row, 2, noise=noise), added)

    def test_refuses(self) -> None:
        with pytest.raises(ValueError, match="variance"):
            noisy_copies(torch.randn(1, 4), 2, variance=-0.1)
        with pytest.raises(InputError, match="generator"):
            noisy_copies(torch.randn(1, 4), 2)
        with pytest.raises(InputError, match="noise"):
            noisy_copies(torch.randn(1, 4), 2, noise=torch.zeros(1, 3, 4))


class TestReadImages:
    @pytest.mark.parametrize("family", list(FAMILIES))
    def test_any_encoder_is_read(self, family: str, tmp_path: Path) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = FAMILIES[family](tmp_path).eval()
        images = torch.rand(2, 3, *model.image_spec.fixed().size)
        plain = read_images(model, images, k=0)
        assert plain.regions is None
        reason = TextOnlyCaptioner(model, words(), n_queries=2).without_regions
        if reason is not None:
            with pytest.raises(UnsupportedModelError) as caught:
                read_images(model, images, k=4)
            assert reason == f"The image embedding alone is told, without regions: {caught.value}."
            return
        found = read_images(model, images, k=4)
        assert torch.allclose(found.image, plain.image, atol=1e-4)
        assert found.regions.shape == (2, 4, model.dim)
        assert torch.isfinite(found.regions).all()

    def test_is_the_published_memory(self) -> None:
        model = create("tiny").eval()
        read = read_images(model, torch.rand(2, 3, 32, 32), k=5)
        made = TextOnlyCaptioner(model, words(), n_queries=2, variance=0.0)
        memory = made.told(read, writing_as(), keys=["a", "b"])
        assert torch.allclose(memory, F.normalize(mix(read.image, read.regions), dim=2), atol=1e-6)


def writing_as(**settings: object) -> Writing:
    return Writing(**settings)


class TestTextOnlyCaptioner:
    def test_tells_texts_back(self) -> None:
        made = captioner(variance=0.0)
        made.fit(TEXTS, steps=200, batch_size=3, learning_rate=1e-2)
        rows = made.text_rows(TEXTS)
        found = made.generate(ImageRows(rows), gap="none", n_noise=1, longest=24)
        assert [one.caption for one in found] == TEXTS
        assert all(one.score == pytest.approx(1, abs=1e-4) for one in found)
        shifted = ImageRows(F.normalize(rows + torch.randn(64) * 0.1, dim=1))
        made.learn_shift_(shifted.image)
        assert [one.caption for one in made.generate(shifted, gap="shift", longest=24)] == TEXTS

    def test_candidates_and_the_nearest(self) -> None:
        made = captioner()
        made.fit(TEXTS, steps=2)
        images = torch.rand(2, 3, 32, 32)
        found = made.generate(images, n_noise=4, how="sample", longest=5, seed=1)
        assert all(one.score == max(score for _, score in one.candidates) for one in found)
        first = made.generate(images, n_noise=4, rerank=False, how="sample", longest=5, seed=1)
        assert [one.candidates for one in first] == [one.candidates for one in found]
        assert all(one.caption == one.candidates[0][0] for one in first)
        assert made.generate(images[:0]) == []

    def test_noise_belongs_to_the_image(self) -> None:
        made = captioner()
        read, writing = read_images(made.model, torch.rand(2, 3, 32, 32), k=3), writing_as()
        both = made.told(read, writing, keys=["a", "b"], seed=3)
        alone = made.told(ImageRows(read.image[1:], read.regions[1:]), writing, keys=["b"], seed=3)
        assert torch.equal(both[1:], alone)
        assert not torch.equal(both, made.told(read, writing, keys=["a", "b"], seed=3, draw=1))

    def test_is_bound_to_encoder_and_language_model(self, tmp_path: Path) -> None:
        made = captioner(variance=0.01, copies=4)
        made.fit(TEXTS, steps=2)
        made.learn_shift_(torch.randn(3, 64))
        made.save(tmp_path)
        images = torch.rand(2, 3, 32, 32)
        again = TextOnlyCaptioner.load(tmp_path, model=made.model)
        assert again.generate(images, gap="both", longest=5) == made.generate(images, gap="both", longest=5)
        for part in ("visual", "text"):
            other = tether.load("tiny", random_weights=True)
            named = [one for name, one in other.named_parameters() if part in name.split(".")[0]]
            named[0].data += 1
            with pytest.raises(InputError, match="fitted on an encoder"):
                TextOnlyCaptioner.load(tmp_path, model=other)
        with pytest.raises(InputError, match="language model of digest"):
            TextOnlyCaptioner.load(tmp_path, model=made.model, language_model=words(seed=1))

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"settings": "text_only"}, "not the state of a captioner"),
            ({"adaptor": {"dim": 64, "lm_dim": 16, "inner": 10**9}}, "another architecture"),
            ({"adaptor": {"dim": 64, "lm_dim": 16, "n_layers": 10**6}}, "n_layers: expected"),
            ({"settings": {"kind": "text_only", "variance": 0.1}}, "copies: expected"),
            ({"shift": np.zeros(3, np.float32)}, r"shift: expected \(64,\) finite numbers, got \(3,\)"),
            ({"shift": np.full(64, np.nan, np.float32)}, "shift: expected .* up to nan"),
        ],
    )
    def test_files_that_say_something_else(self, change: dict[str, Any], said: str, tmp_path: Path) -> None:
        made = captioner()
        path = made.save(tmp_path) / FILE
        settings, arrays = read_state(path, what="captioner", format="tether-captioner-1")
        target = arrays if "shift" in change else settings
        target.update(change)
        write_state(path, format="tether-captioner-1", settings=settings, arrays=arrays)
        with pytest.raises(InputError, match=said):
            TextOnlyCaptioner.load(tmp_path, model=made.model)

    def test_refuses(self) -> None:
        made = captioner()
        with pytest.raises(InputError, match="got none"):
            made.fit([])
        with pytest.raises(InputError, match="captions are empty"):
            made.fit(["a", ""])
        with pytest.raises(InputError, match="n_noise"):
            made.generate(torch.rand(1, 3, 32, 32), n_noise=0)
        with pytest.raises(InputError, match="learn_shift_"):
            made.generate(torch.rand(1, 3, 32, 32), gap="shift")
        with pytest.raises(InputError, match="after fit"):
            made.learn_shift_(torch.randn(2, 64))
        with pytest.raises(InputError, match="variance"):
            captioner(variance=-1.0)
        with pytest.raises(UnsupportedModelError, match="geometry is euclidean"):
            TextOnlyCaptioner(create("tiny", geometry="euclidean"), words())
