"""The bed of four checks: flaws are where the masks say, good images have none, and captions tell the truth."""

import pytest
import torch
import torch.nn.functional as F

from tether_lab.lab.lab import Lab
from tether_lab.worlds import contrasted_flaws, flawed_things
from tether_lab.worlds.flaw_figures import flaw_figures
from tether_lab.worlds.flawed_things import DAMAGED, FLAWS, LEAST, SEEN, TEMPLATES, UNSEEN, flawed
from tether_lab.worlds.flaws_within import flat, within_flawed


def test_half_of_the_images_have_a_flaw_and_its_mask():
    found = flawed(Lab(0), "some", 60, UNSEEN)
    assert found.pixels.shape == (60, 3, 64, 64)
    assert found.pixels.dtype == torch.uint8
    areas = found.masks.sum(dim=(1, 2))
    assert torch.equal(found.damaged, areas > 0)
    assert 15 < found.damaged.sum() < 45
    assert LEAST <= areas[found.damaged].min() < 60 < areas.max()  # small ones and large ones
    assert {one for one in found.flaws if one} == set(FLAWS)
    assert all(bool(flaw) == bad for flaw, bad in zip(found.flaws, found.damaged.tolist(), strict=True))
    assert {name.split()[1] for name in found.names} == set(UNSEEN)
    assert not set(SEEN) & set(UNSEEN)


def test_draws_follow_the_seed_and_the_name():
    found = flawed(Lab(0), "some", 6, UNSEEN)
    assert torch.equal(flawed(Lab(0), "some", 6, UNSEEN).pixels, found.pixels)
    assert not torch.equal(flawed(Lab(0), "others", 6, UNSEEN).pixels, found.pixels)
    assert not torch.equal(flawed(Lab(1), "some", 6, UNSEEN).pixels, found.pixels)


def test_a_product_always_looks_alike():
    good = flawed(Lab(3), "good", 8, ("star",), damaged=0.0, alike=True)
    assert len(set(good.names)) == 1
    assert not good.damaged.any()
    bad = flawed(Lab(3), "asked", 8, ("star", "ring"), damaged=1.0, alike=True)
    assert bad.damaged.all()
    assert set(good.names) < set(bad.names)
    assert len(set(bad.names)) == 2


def test_captions_say_most_states():
    pixels, texts = flawed_things.captioned(Lab(0), "base", count=200)
    assert pixels.shape == (200, 3, 64, 64)
    words = {word for text in texts for word in text.rstrip(".").split()}
    assert {"damaged", "perfect", "flawless", "without", "object", *SEEN, *UNSEEN} <= words
    plain = [text for text in texts if not any(word in text for word in ("with", "damaged", "perf", "less", "unbl"))]
    assert 30 < len(plain) < 90


def test_a_map_that_knows_the_masks_has_the_best_figures():
    found = flawed(Lab(0), "some", 12, SEEN)
    perfect = flaw_figures(found, found.damaged.float() * 0.9, found.masks.float())
    assert perfect == {"image_auroc": 100.0, "pixel_auroc": 100.0, "pixel_ap": 100.0, "aupro": 100.0}
    nothing = flaw_figures(found, torch.full((12,), 0.3), torch.full((12, 8, 8), 0.2))
    assert nothing["image_auroc"] == 50
    assert abs(nothing["pixel_auroc"] - 50) < 0.1  # rounding of the enlargement
    assert abs(nothing["pixel_ap"] - 100 * found.masks.float().mean().item()) < 0.1


def test_a_flat_map_finds_pixels_over_images_and_none_within():
    found = flawed(Lab(0), "some", 24, SEEN)
    maps = flat(found.damaged.double() * 0.5 + 0.25, (8, 8))
    assert flaw_figures(found, maps[:, 0, 0], maps)["pixel_auroc"] > 70  # of an image that is told apart all pixels are
    assert within_flawed(found, maps) == 50
    assert within_flawed(found, found.masks.float()) == 100
    assert within_flawed(found, 1 - found.masks.float()) == 0


def test_pixels_that_were_cut_off_rank_by_what_they_were_before():
    found = flawed(Lab(0), "some", 24, SEEN)
    before = F.avg_pool2d(found.masks[:, None].float(), 8)[:, 0] - 2.0  # all below 0, so that nothing is left
    cut = before.relu()
    figures = contrasted_flaws.pixel_figures(cut, found, before=before)
    assert figures["auroc"] == figures["within"] == 50
    assert figures["lost"] == 100
    assert figures["false"] < 40
    assert contrasted_flaws.pixel_figures(cut, found)["false"] == 100
    known = contrasted_flaws.pixel_figures(found.masks.float(), found, before=found.masks.float() - 2)
    assert known == {"auroc": 100, "within": 100, "lost": 0, "false": pytest.approx(0)}


def test_texts_of_controls_are_as_many_and_the_strange_ones_name_nothing_that_is_drawn():
    texts = contrasted_flaws.other_texts(Lab(3))
    assert {len(some) for some in texts.values()} == {len(contrasted_flaws.NEGATIVE)}
    assert all(any(text.rstrip(".").endswith(shape) for shape in flawed_things.SHAPES) for text in texts["things"])
    known = set(" ".join(flawed_things.captioned(Lab(0), "base", count=200)[1]).replace(".", "").split())
    assert not known & set(contrasted_flaws.STRANGE)


def test_the_clip_is_trained_once_and_knows_its_prompts():
    lab = Lab(0, smoke=True)
    model = flawed_things.base(lab)
    again = flawed_things.base(lab)
    assert all(torch.equal(one, again.state_dict()[name]) for name, one in model.state_dict().items())
    assert model.image_spec.size == (64, 64)
    assert len(DAMAGED) == 4
    assert all("{}" in template for template in TEMPLATES)
