"""The bed of four checks: flaws are where the masks say, good images have none, and captions tell the truth."""

import torch

from tether.papers.reproduction.lab import Lab
from tether.papers.testbeds import flawed_things
from tether.papers.testbeds.flaw_figures import flaw_figures
from tether.papers.testbeds.flawed_things import DAMAGED, FLAWS, LEAST, SEEN, TEMPLATES, UNSEEN, flawed


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


def test_the_clip_is_trained_once_and_knows_its_prompts():
    lab = Lab(0, smoke=True)
    model = flawed_things.base(lab)
    again = flawed_things.base(lab)
    assert all(torch.equal(one, again.state_dict()[name]) for name, one in model.state_dict().items())
    assert model.image_spec.size == (64, 64)
    assert len(DAMAGED) == 4
    assert all("{}" in template for template in TEMPLATES)
