"""The recipe of ``tether adapt`` that gives a reader of pages, as settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from annotated_types import Ge

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, PositiveRate, Rate, Whole, checked
from tether.data.lettering.pages import CHARACTERS, DrawnPages, draw_pages, random_texts
from tether.models.encoders.causal_lm import CausalLM, load_causal_lm, small_causal_lm
from tether.models.encoders.vision_vocabulary import VisionVocabulary
from tether.models.features.penultimate import patch_grid
from tether.tasks.read.merged_vision import MergedVision
from tether.tasks.read.vision_lm import VisionLM

PASSES, LEAST_STEPS = 10, 500
_STRIDED = 4  # patches of the vocabulary on a side of a token


class ReadRecipe:
    """What recipes that give a reader share.

    Attributes:
        takes: the kind of data.
        gives: what comes of it.
        goes_on: setting that is the folder of what goes on, which the command ``made_by`` makes; or None.
        learnt_by: dotted name of the workflow that learns it.
        steps: that are taken, or None.
        batch_size: rows of a step.
        learning_rate: of AdamW.
        weight_decay: on matrices only.
    """

    takes, gives = "pairs", "reader"
    goes_on: ClassVar[str | None] = None
    learnt_by: ClassVar[str]
    steps: int | None
    batch_size: int
    learning_rate: float
    weight_decay: float

    def steps_for(self, count: int) -> int:
        """Steps for so many words or pages."""
        return self.steps or max(LEAST_STEPS, PASSES * -(-count // self.batch_size))


class ReadPages(ReadRecipe):
    """A vocabulary learns on rendered pages, then a language model reads its tokens beside the model's own.

    Source: Vary (arXiv 2312.06109). Without ``lm`` a small language model of single characters is made, and without
    ``vocabulary`` a new one is learnt; both from random weights, which needs many steps.
    """

    learnt_by = "tether.workflows.reading.pages.learn_pages"

    @checked
    def __init__(
        self,
        *,
        vocabulary: str | None = None,
        lm: str | None = None,
        longest: Annotated[int, Ge(2)] = 64,
        rendered: Whole = 4000,
        negatives: Whole = 400,
        words_steps: Whole = 100,
        pretrain_steps: Count = 2000,
        pretrain_rate: PositiveRate = 1e-3,
        steps: Count | None = None,
        batch_size: Count = 32,
        learning_rate: PositiveRate = 1e-3,
        weight_decay: Rate = 0.05,
        patch: Count = 8,
        width: Count = 96,
        depth: Count = 4,
        heads: Count = 4,
        window: Whole = 8,
        lm_width: Count = 128,
        lm_layers: Count = 4,
    ) -> None:
        """Take the settings.

        Args:
            vocabulary: folder of one that was learnt before, such as ``READER/vocabulary``.
            lm: folder of a causal language model of transformers.
            longest: most tokens of a page; longer ones are cut.
            rendered: pages that are drawn for the vocabulary, besides those of the data.
            negatives: drawn images without text among them.
            words_steps: of a small language model alone before, see ``pretrain_vocabulary``; none with ``lm``.
            pretrain_steps: of AdamW for the vocabulary.
            pretrain_rate: learning rate of the vocabulary.
            steps: for the language model; None takes 10 passes over the pages, at least 500 steps.
            batch_size: pages of a step.
            learning_rate: of the language model.
            weight_decay: on matrices only.
            patch: side of a patch of the vocabulary, whose images have 4 patches a side for each token.
            width: of the vocabulary.
            depth: of the vocabulary.
            heads: of the vocabulary.
            window: of the vocabulary, in patches.
            lm_width: of a small language model.
            lm_layers: of a small language model.

        Raises:
            InputError: neither rendered pages nor data to learn from, or a size that does not divide another.
        """
        self.vocabulary, self.lm, self.longest, self.steps = vocabulary, lm, longest, steps
        self.rendered, self.negatives = rendered, negatives
        self.words_steps = 0 if lm is not None else words_steps
        self.pretrain_steps, self.pretrain_rate = pretrain_steps, pretrain_rate
        self.batch_size, self.learning_rate, self.weight_decay = batch_size, learning_rate, weight_decay
        self.patch, self.width, self.depth, self.heads, self.window = patch, width, depth, heads, window
        self.lm_width, self.lm_layers = lm_width, lm_layers
        if width % heads:
            raise InputError(f"heads: expected a divisor of width = {width}, got {heads}")

    def network(self, model: DualEncoder, *, seed: int) -> VisionVocabulary:
        """A vocabulary whose tokens are a map of the model's size: one that was learnt, or a new one.

        Raises:
            InputError: no vocabulary in the folder, or a model whose patches are no square.
            UnsupportedModelError: a model without patches.
        """
        if self.vocabulary is not None:
            return VisionVocabulary.load(self.vocabulary)
        rows, columns = patch_grid(model)
        if rows != columns:
            raise InputError(f"the model's patches are a map of {rows} x {columns}; expected a square one")
        return VisionVocabulary(
            image_size=rows * _STRIDED * self.patch,
            patch=self.patch,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            window=self.window,
            global_blocks=sorted({self.depth // 2, self.depth - 1}),
            channels=[self.width // 2, self.width, 2 * self.width],
            seed=seed,
        )

    def words(self, texts: Sequence[str], *, tokens: int, seed: int) -> CausalLM:
        """The language model before it has learnt; a small one writes character by character.

        Raises:
            InputError: a folder without a language model.
        """
        if self.lm is not None:
            return load_causal_lm(self.lm)
        return small_causal_lm(
            texts,
            width=self.lm_width,
            layers=self.lm_layers,
            vocabulary=257,
            context=tokens + 2 + self.longest,
            std=self.lm_width**-0.5,
            seed=seed,
        )

    def pages(self, texts: Sequence[str], *, size: int, seed: int) -> DrawnPages:
        """Rendered pages: each line a word or random characters of those that occur in texts and can be drawn."""
        written = sorted({letter for text in texts for letter in text if letter.isascii() and letter.isalnum()})
        characters = "".join(written) or CHARACTERS
        lines = random_texts(self.rendered, seed=seed, characters=characters, lines=(1, 3))
        return draw_pages(lines, seed=seed, size=size, points=(max(6, size // 10), max(8, size // 5)))

    def reader(self, model: DualEncoder, net: VisionVocabulary, words: CausalLM, *, seed: int) -> VisionLM:
        """The reader before it has learnt.

        Raises:
            InputError: a vocabulary whose map of tokens has another size than the model's.
        """
        return VisionLM(MergedVision(model, net, lm_dim=words.dim, seed=seed), words, longest=self.longest)
