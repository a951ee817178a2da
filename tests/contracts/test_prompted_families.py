"""Patches of every family are pooled in boxes and its tokens read by a prompter, or a reason is given."""

from __future__ import annotations

import pytest
import torch

import tether
from families import FAMILIES
from tether.core.errors import InputError, UnsupportedModelError
from tether.models.features.dense_regions import encode_boxes
from tether.models.features.find import tower_of
from tether.models.features.penultimate import image_tokens
from tether.models.heads.grounded import grounded
from tether.models.heads.grounding_decoder import GroundingDecoder
from tether.models.heads.prompted import locate, prompted, region_embeddings
from tether.models.heads.prompter import Prompter

pytestmark = pytest.mark.slow

REFUSED = {"ALIGN"}
"""Families whose image tower gives no tokens."""
BOXES = torch.tensor([[[0.1, 0.2, 0.6, 0.9], [0.0, 0.0, 1.0, 1.0]], [[0.5, 0.5, 0.9, 1.0], [0.0, 0.0, 0.0, 0.0]]])
VALID = torch.tensor([[True, True], [True, False]])


@pytest.mark.parametrize("name", list(FAMILIES))
def test_boxes_and_prompter_of(name, tmp_path):
    (tmp_path / "family").mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = FAMILIES[name](tmp_path / "family").eval()
        prompter = Prompter(model.dim, state=tower_of(model).width if name not in REFUSED else None, heads=1).eval()
    image = torch.randn(2, 3, *model.image_spec.fixed().size, generator=torch.Generator().manual_seed(0))
    if name in REFUSED:
        with pytest.raises(InputError):
            prompted(model, prompter)
        return
    for last in ("value", "self_correlation", "skipped", "plain"):
        found = encode_boxes(model, image, BOXES, valid=VALID, last=last)
        assert found.shape == (2, 2, model.dim)
        assert found.isfinite().all()
        assert not found[~VALID].any()
    wanted = prompter.region(image_tokens(model, image).tokens, BOXES, valid=VALID)
    encoder = prompted(model, prompter)
    assert torch.allclose(region_embeddings(encoder, image, BOXES, valid=VALID), wanted, atol=1e-5)
    assert torch.allclose(encoder.encode_image(image).pooled, model.encode_image(image).pooled, atol=1e-5)
    text = model.encode_text(model.tokenizer(["a small red cat", "a dog"])).pooled
    assert torch.allclose(encoder.encode_text(model.tokenizer(["a dog"])).pooled[0], text[1], atol=1e-5)
    where = locate(encoder, image, text.expand(2, -1, -1))
    assert ((where > 0) & (where < 1)).all()
    assert torch.allclose(
        encode_boxes(encoder, image, BOXES, valid=VALID), encode_boxes(model, image, BOXES, valid=VALID), atol=1e-5
    )
    try:
        tether.save(model, tmp_path / "alone")
        tether.load(tmp_path / "alone")
    except InputError:  # a tower put into another's place, which its description does not know
        return
    tether.save(encoder, tmp_path / "prompted")
    again = tether.load(tmp_path / "prompted")
    assert torch.allclose(region_embeddings(again, image, BOXES, valid=VALID), wanted, atol=1e-5)


def test_strangers_and_second_prompters_are_refused():
    with pytest.raises((UnsupportedModelError, InputError)):
        prompted(torch.nn.Linear(2, 2), Prompter(8))
    model = tether.load("tiny", random_weights=True)
    with pytest.raises(InputError, match="without one"):
        region_embeddings(model, torch.rand(2, 3, 32, 32), BOXES)
    alone = grounded(model, GroundingDecoder(model.dim, state=64, layers=1, width=16, heads=4, inner=16))
    assert encode_boxes(alone, torch.rand(2, 3, 32, 32), BOXES, valid=VALID).shape == (*VALID.shape, alone.dim)
    once = prompted(model, Prompter(model.dim, state=64))
    with pytest.raises(InputError, match="without a decoder"):
        prompted(once, Prompter(model.dim, state=64))
    with pytest.raises(InputError, match="gives 64 values, it gives 8"):
        prompted(model, Prompter(8, state=64))
    with pytest.raises(InputError, match="reads rows of 64"):
        prompted(model, Prompter(model.dim, state=32))


@pytest.mark.parametrize("key", ["dim", "heads", "state", "fourier", "mlp_ratio"])
def test_a_forged_file_is_refused(key, tmp_path):
    import json

    model = tether.load("tiny", random_weights=True)
    tether.save(prompted(model, Prompter(model.dim, state=64)), tmp_path / "model")
    path = tmp_path / "model" / "model.json"
    told = json.loads(path.read_text())
    told["image"]["prompter"][key] = 10**12
    path.write_text(json.dumps(told))
    with pytest.raises(InputError, match=r"prompter|heads|weights"):
        tether.load(tmp_path / "model")
