"""Files of trained mask heads: what is read back, and what is refused before memory is set aside for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tether.core.errors import InputError
from tether.core.state_file import write_state
from tether.models import create
from tether.models.convert.saved_files import HEAD_FILE, HEAD_FORMAT
from tether.models.features.image_digest import image_digest
from tether.models.heads.mask_decoder import MaskHead
from tether.models.heads.mask_models import PREFIX, PromptMasks, load_masks

MODEL = create("tiny", seed=1).eval()
SHAPE = {"dim": 8, "heads": 2, "layers": 1, "queries": 4, "classes": 2, "text_dim": 3, "doublings": 0}


def forged(folder: Path, *, arrays: dict[str, Any] | None = None, **settings: Any) -> Path:
    """The file of a head, with other settings and arrays."""
    made = PromptMasks(MaskHead(MODEL.dim, **SHAPE), torch.eye(3)[None, :2].expand(2, 2, 3))
    written = {PREFIX + name: one for name, one in (made.arrays() | (arrays or {})).items()}
    said = {"kind": "masks", "classes": ["road", "sky"], "encoder": image_digest(MODEL)} | made.settings() | settings
    write_state(folder / HEAD_FILE, format=HEAD_FORMAT, settings=said, arrays=written)
    return folder


def test_a_file_is_read_back(tmp_path: Path) -> None:
    found = load_masks(forged(tmp_path), model=MODEL)
    assert found.classes == ("road", "sky")
    assert isinstance(found.masks, PromptMasks)
    assert found.masks.texts.shape == (2, 2, 3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"head": {"width": MODEL.dim, **SHAPE, "layers": 10**7}}, "layers"),
        ({"head": {"width": MODEL.dim, **SHAPE, "queries": 10**9}}, "size mismatch"),
        ({"classes": ["road", "sky", "car"]}, "classes: expected the 2 of its prompts, got 3"),
        ({"classes": ["road", "road"]}, "classes: 'road' comes twice"),
        ({"classes": ["road", 3]}, "classes: expected names, got"),
        ({"classes": None}, "classes: expected names, got None"),
        ({"arrays": {"texts": np.full((2, 2, 3), np.nan, np.float32)}}, "'texts': expected finite floats"),
        ({"arrays": {"texts": np.ones((2, 2, 3), np.int32)}}, "'texts': expected finite floats"),
        ({"temperature": "x"}, "temperature"),
        ({"masks": "others"}, "masks: expected one of prompts, named"),
    ],
)
def test_a_forged_file_is_refused(given: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        load_masks(forged(tmp_path, **given), model=MODEL)
