"""What the CLIPs of two beds are told: which drawings are good, and words with a wrong letter."""

from __future__ import annotations

import numpy as np
import torch

from tether.models import create
from tether.models.texts.prompt_quality import PROMPTS
from tether_lab.worlds import drawn_shapes
from tether_lab.worlds.degraded_scenes import NONSENSE, SAID_OF, SEEN, told
from tether_lab.worlds.occluded_words import misspelt


def test_a_third_stays_a_third_is_called_good_and_a_third_is_worse_and_called_bad() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = (255 * torch.rand(60, 3, 48, 48, generator=generator)).to(torch.uint8)
    captions = [f"scene {number}" for number in range(60)]
    found, texts = told(pixels, captions, generator=generator)
    assert texts[0::3] == captions[0::3]
    assert torch.equal(found[0::3], pixels[0::3])
    assert torch.equal(found[1::3], pixels[1::3])
    assert all(not torch.equal(*pair) for pair in zip(found[2::3], pixels[2::3], strict=True))
    for first, prompts in ((1, PROMPTS[0::2]), (2, PROMPTS[1::2])):
        for text, caption in zip(texts[first::3], captions[first::3], strict=True):
            assert text.removesuffix(f" {caption}") in prompts


def test_every_pair_of_prompts_is_said_of_a_kind_that_is_learnt_from() -> None:
    assert set(SAID_OF) == set(SEEN)
    assert sorted(pair for pairs in SAID_OF.values() for pair in pairs) == list(range(len(PROMPTS) // 2))


def test_nonsense_has_no_word_of_quality_nor_of_the_drawings() -> None:
    tokenizer, world = create("tiny").tokenizer, drawn_shapes.shape_world((1, 4))
    names = " ".join([*PROMPTS, *drawn_shapes.PHRASES, *world.backgrounds, *world.sizes])
    common = set(tokenizer(list(NONSENSE)).flatten().tolist()) & set(tokenizer(names.split()).flatten().tolist())
    assert len(NONSENSE) == len(set(NONSENSE)) == len(PROMPTS)
    assert len(common - {0}) == 3  # begin, end and the full stop, beside padding


def test_one_letter_is_wrong() -> None:
    words = ["abc", "zzzz", "house"] * 20
    for word, wrong in zip(words, misspelt(words, np.random.default_rng(0)), strict=True):
        assert len(word) == len(wrong)
        assert sum(one != other for one, other in zip(word, wrong, strict=True)) == 1
