"""Counted ranks are what sorting every row would give, for any shape, ties and block size."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.evaluate.retrieval import ranks


@settings(max_examples=60, deadline=None)
@given(
    images=st.integers(1, 12),
    texts=st.integers(1, 20),
    levels=st.integers(1, 6),
    block_cells=st.integers(1, 300),
    seed=st.integers(0, 2**31),
)
def test_ranks_equal_slow_definition(images, texts, levels, block_cells, seed):
    rng = np.random.default_rng(seed)
    # Whole numbers, so products are exact and ties are real.
    image = rng.integers(-levels, levels + 1, (images, 3)).astype(np.float64)
    text = rng.integers(-levels, levels + 1, (texts, 3)).astype(np.float64)
    owner = rng.integers(0, images, texts)
    found = ranks(
        torch.from_numpy(image),
        torch.from_numpy(text),
        text_to_image=torch.from_numpy(owner),
        block_cells=block_cells,
    )
    scores = image @ text.T
    for row in range(images):
        own = owner == row
        expected = 1 + int((scores[row, ~own] >= scores[row, own].max()).sum()) if own.any() else 0
        assert found.image_to_text[row] == expected
    for column in range(texts):
        others = np.arange(images) != owner[column]
        expected = 1 + int((scores[others, column] >= scores[owner[column], column]).sum())
        assert found.text_to_image[column] == expected
