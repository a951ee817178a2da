from __future__ import annotations

import json

import pytest
import torch

from tether.core.errors import InputError
from tether.evaluate.cutoff import FALSE, Cutoff, fit_cutoffs, read_cutoffs
from tether.evaluate.embeddings import Embedded


def pairs(images: int, *, strength: float, seed: int = 0) -> Embedded:
    """Two captions an image, that share ``strength`` times its direction."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(images, 32, generator=generator)
    owner = torch.arange(images).repeat_interleave(2)
    text = strength * image[owner] + torch.randn(2 * images, 32, generator=generator)
    keys = tuple(map(str, range(images)))
    return Embedded(keys, tuple(f"caption {at}" for at in range(2 * images)), (), image, text, owner)


def test_auto_lets_one_wrong_pair_in_a_hundred_pass():
    found = fit_cutoffs(pairs(60, strength=1.0), digest="d", source="s")
    chosen = found.auto()
    assert 0.005 < chosen.false <= FALSE
    assert chosen.true > 0.9
    assert chosen.false_low <= chosen.false <= chosen.false_high
    assert chosen.true_low <= chosen.true <= chosen.true_high
    fresh = fit_cutoffs(pairs(400, strength=1.0, seed=1), digest="d", source="s").at(chosen.threshold)
    assert chosen.false_low <= fresh.false <= chosen.false_high
    assert [row.true for row in found.table] == sorted((row.true for row in found.table), reverse=True)
    line = Cutoff(chosen.threshold, chosen, "s", 60).line(pool=600)
    assert f"{600 * chosen.false:,.1f} of 600 images" in line
    assert "decides nothing" not in line


def test_a_model_that_tells_nothing_apart_is_named():
    chosen = fit_cutoffs(pairs(60, strength=0.0), digest="d", source="s").auto()
    assert "decides nothing" in Cutoff(chosen.threshold, chosen, "s", 60).line(pool=600)


def test_the_same_words_on_two_images_belong_to_both():
    seen = pairs(60, strength=3.0)
    same = Embedded(seen.keys, ("one", "two") * 60, (), seen.image, seen.text[:2].repeat(60, 1), seen.text_to_image)
    with pytest.raises(InputError, match="all images have the same captions"):
        fit_cutoffs(same, digest="d", source="s")


def test_between_two_thresholds_the_rates_lie_between():
    found = fit_cutoffs(pairs(40, strength=1.0), digest="d", source="s")
    first, second = found.table[3:5]
    middle = found.at((first.threshold + second.threshold) / 2)
    assert second.true <= middle.true <= first.true
    assert middle.false == pytest.approx((first.false + second.false) / 2)


def test_saved_and_read(tmp_path):
    found = fit_cutoffs(pairs(40, strength=1.0), digest="d", source="s")
    path = tmp_path / "cutoff.json"
    assert read_cutoffs(path) is None
    found.save(path)
    assert read_cutoffs(path) == found
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"table": values["table"][::-1]}))
    with pytest.raises(InputError, match="rising thresholds"):
        read_cutoffs(path)


def test_a_handful_of_images_is_refused():
    with pytest.raises(InputError, match=r"at least 10 images with captions to fit a cutoff on, got 9"):
        fit_cutoffs(pairs(9, strength=1.0), digest="d", source="s")
