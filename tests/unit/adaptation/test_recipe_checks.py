"""What the check of a recipe refuses before data are read."""

import pytest

from tether.adaptation.recipes import RECIPES
from tether.core.errors import UnsupportedModelError
from tether.core.model_digest import model_digest
from tether.models import create

ONE_SIDE = {
    "clipood": {},
    "full": {},
    "image_search": {},
    "norms": {"side": "text"},
    "pairs": {"side": "text"},
    "paraphrases": {},
    "region_teacher": {"boxes": None},
    "svd": {"side": "image"},
    "swap_text": {},
    "typo_proof": {},
}
COSINE = ("image_search", "pairs", "paraphrases", "region_teacher", "swap_text", "typo_proof")


@pytest.mark.parametrize("name", ONE_SIDE)
def test_towers_that_share_parameters(name):
    recipe = RECIPES[name](**ONE_SIDE[name])
    shared, own = create("tiny", towers="shared"), create("tiny", seed=1)
    digest, asked = model_digest(own), [one.requires_grad for one in own.parameters()]
    with pytest.raises(UnsupportedModelError, match=r"one side must rest, and the towers share parameters.*visual\."):
        recipe.check(shared)
    recipe.check(own)
    assert model_digest(own) == digest
    assert [one.requires_grad for one in own.parameters()] == asked


def test_both_sides_may_share_parameters():
    for name in ("full", "norms", "pairs", "svd"):
        RECIPES[name](side="both").check(create("tiny", towers="shared"))


@pytest.mark.parametrize("name", COSINE)
@pytest.mark.parametrize("geometry", ["elliptic", "euclidean"])
def test_models_that_do_not_compare_by_cosine(name, geometry):
    with pytest.raises(UnsupportedModelError, match=f"compares embeddings by cosine.*geometry is {geometry}"):
        RECIPES[name](**ONE_SIDE[name]).check(create("tiny", geometry=geometry))
