"""A decoder of regions reads every family's tokens, and what is made of both is saved, or refused with a reason."""

from __future__ import annotations

import pytest
import torch

import tether
from families import FAMILIES
from tether.core.errors import InputError, UnsupportedModelError
from tether.models.features.dense import dense_image
from tether.models.features.find import tower_of
from tether.models.features.penultimate import image_map, image_tokens
from tether.models.heads.grounded import ground, grounded
from tether.models.heads.grounding_decoder import GroundingDecoder
from tether.models.refusals import EXCEPTIONS

pytestmark = pytest.mark.slow

REFUSED = {"ALIGN": "map"}
"""Families whose image tower gives no tokens."""


@pytest.mark.parametrize("name", list(FAMILIES))
def test_is_grounded_saved_and_loaded_or_a_reason(name, tmp_path):
    (tmp_path / "family").mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = FAMILIES[name](tmp_path / "family").eval()
    image = torch.randn(2, 3, *model.image_spec.size, generator=torch.Generator().manual_seed(0))
    if name in REFUSED:
        with pytest.raises(InputError) as caught:
            grounded(model, GroundingDecoder(model.dim, layers=1, width=16, heads=4, inner=16))
        assert EXCEPTIONS.get(REFUSED[name], REFUSED[name]) in str(caught.value)
        return
    width = tower_of(model).width
    decoder = GroundingDecoder(model.dim, state=width, layers=1, width=16, heads=4, inner=16, queries=3).eval()
    wanted = decoder(image_tokens(model, image).tokens)
    encoder = grounded(model, decoder)
    assert torch.allclose(encoder.encode_image(image).pooled, wanted.image, atol=1e-5)
    assert torch.allclose(ground(encoder, image).boxes, wanted.boxes, atol=1e-5)
    for read in (image_tokens, image_map):  # the tower's tokens, behind the decoder's embedding
        found, bare = read(encoder, image), read(model, image)
        assert torch.allclose(found.pooled, wanted.image, atol=1e-5)
        assert torch.allclose(found.tokens, bare.tokens, atol=1e-5)
    last = decoder(image_tokens(model, image).tokens[:, -1:]).image
    assert torch.allclose(dense_image(encoder, image).tokens[:, -1], last, atol=1e-5)
    words = model.tokenizer(["a small red cat"])
    assert torch.allclose(encoder.encode_text(words).pooled, model.encode_text(words).pooled, atol=1e-5)
    try:
        tether.save(model, tmp_path / "alone")
        tether.load(tmp_path / "alone")
    except InputError:  # a tower put into another's place, which its description does not know
        return
    tether.save(encoder, tmp_path / "grounded")
    again = tether.load(tmp_path / "grounded")
    assert torch.allclose(again.encode_image(image).pooled, wanted.image, atol=1e-5)


def test_a_stranger_is_refused():
    with pytest.raises((UnsupportedModelError, InputError)):
        grounded(torch.nn.Linear(2, 2), GroundingDecoder(8, layers=1, width=16, heads=4, inner=16))
