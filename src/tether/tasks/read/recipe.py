"""The recipes of ``tether adapt`` that give a reader, as settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge

from tether.core.atomic_io import local
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Decay, Positive, PositiveRate, Rate, Whole, checked
from tether.core.registry import Registry
from tether.data.boxes import Unit
from tether.data.regions import RegionColumns
from tether.models.towers.config import Layers
from tether.tasks.read.charset import Charset
from tether.tasks.read.page_recipe import ReadPages, ReadRecipe
from tether.tasks.read.reader import READER_FILE, DualReader
from tether.tasks.read.readers import MADE_READER
from tether.tasks.read.scene_reader import SceneReader

MOST_WORDS = 256
"""Boxes of words of an image that are read, at most."""


class ReadWords(ReadRecipe):
    """A reader learnt from crops with a word each; see ``DualReader``.

    Source: CLIP4STR (arXiv 2305.14014), whose settings are the defaults.
    """

    learnt_by = "tether.workflows.reading.words.learn_words"

    @checked
    def __init__(
        self,
        *,
        characters: str | None = None,
        case: Literal["keep", "lower"] = "keep",
        longest: Count = 25,
        steps: Count | None = None,
        batch_size: Count = 64,
        learning_rate: PositiveRate = 8.4e-5,
        decoder_rate: Positive = 19.0,
        weight_decay: Rate = 0.2,
        heads: Count = 8,
        depth: Layers = 1,
        dropout: Decay = 0.1,
        perms: Count = 6,
        text_length: Annotated[int, Ge(3)] = 16,
        frozen_text_blocks: Whole | None = None,
    ) -> None:
        """Take the settings.

        Args:
            characters: that words are made of; None takes those that occur.
            case: ``lower`` learns and reads small letters only.
            longest: most characters of a word.
            steps: of AdamW; None takes 10 passes over the words, at least 500 steps.
            batch_size: words of a step.
            learning_rate: of the model, after the warm-up.
            decoder_rate: how many times faster the decoders learn.
            weight_decay: on matrices only.
            heads: see ``DualReader``.
            depth: see ``DualReader``.
            dropout: see ``DualReader``.
            perms: see ``DualReader``.
            text_length: see ``DualReader``.
            frozen_text_blocks: see ``DualReader``.
        """
        self.characters, self.case, self.longest = characters, case, longest
        self.steps, self.batch_size, self.learning_rate, self.weight_decay = (
            steps,
            batch_size,
            learning_rate,
            weight_decay,
        )
        self.reader = {
            "max_length": longest,
            "heads": heads,
            "depth": depth,
            "dropout": dropout,
            "perms": perms,
            "text_length": text_length,
            "frozen_text_blocks": frozen_text_blocks,
            "decoder_rate": decoder_rate,
        }

    def spelt(self, word: str) -> str:
        """A word as it is learnt."""
        return word.lower() if self.case == "lower" else word

    def start(self, model: DualEncoder, words: Sequence[str], *, seed: int) -> DualReader:
        """The reader before it has learnt.

        Args:
            model: the base.
            words: as they are learnt, whose characters are taken where none were given.
            seed: of its weights.

        Raises:
            InputError: settings that do not fit the model.
            UnsupportedModelError: an image tower without tokens.
        """
        charset = Charset(self.characters or "".join(sorted(set("".join(words)))))
        return DualReader(model, charset=charset, seed=seed, **self.reader)  # pyrefly: ignore  # of these types


class ReadScenes(ReadRecipe):
    """A reader that goes on with whole images in which boxes of words are marked; see ``SceneReader``.

    Source: CLIPTER (arXiv 2301.07464).
    """

    goes_on, made_by = "reader", MADE_READER
    learnt_by = "tether.workflows.reading.scenes.learn_scenes"

    @checked
    def __init__(
        self,
        *,
        reader: str,
        boxes: str = "boxes",
        phrases: str = "phrases",
        unit: Unit | None = None,
        form: Literal["xyxy", "xywh"] = "xyxy",
        steps: Count | None = None,
        batch_size: Count = 64,
        learning_rate: PositiveRate = 2e-5,
        fusion_rate: Positive = 10.0,
        weight_decay: Rate = 0.2,
        heads: Count = 8,
        position: bool = False,
    ) -> None:
        """Take the settings.

        Args:
            reader: folder of a reader of crops, which goes on.
            boxes: column of the boxes of an image's words; see ``data.regions.RegionColumns``.
            phrases: column of the words in them.
            unit: of the boxes; None goes by the numbers.
            form: of the boxes.
            steps: of AdamW; None takes 10 passes over the words, at least 500 steps.
            batch_size: words of a step.
            learning_rate: of the reader, after the warm-up.
            fusion_rate: how many times faster the fusion learns.
            weight_decay: on matrices only.
            heads: of the fusion.
            position: whether the place of a word in its image is looked at.

        Raises:
            InputError: no reader in the folder.
        """
        self.folder, self.steps, self.batch_size = reader, steps, batch_size
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.columns = RegionColumns(most=MOST_WORDS, boxes=boxes, phrases=phrases, unit=unit, form=form)
        self.fusion = {"heads": heads, "position": position, "fusion_rate": fusion_rate}
        self.position = position
        if not (local(reader) / READER_FILE).is_file():
            raise InputError(f"reader: {reader} holds no reader; expected the folder of one that {MADE_READER} made")

    def start(self, model: DualEncoder, *, device: str, seed: int) -> SceneReader:
        """The reader as it was, with a closed gate.

        Args:
            model: that sees whole images.
            device: of the reader.
            seed: of the fusion's weights.

        Raises:
            InputError: a damaged reader, or heads that do not divide its width.
            UnsupportedModelError: an image tower without tokens.
        """
        reader = DualReader.load(Path(self.folder), device=device)
        return SceneReader(reader, model, seed=seed, **self.fusion)  # pyrefly: ignore  # of these types


READ_RECIPES: Registry[ReadWords | ReadScenes | ReadPages] = Registry(
    "read_recipes",
    {
        "read": "tether.tasks.read.recipe:ReadWords",
        "read_scene": "tether.tasks.read.recipe:ReadScenes",
        "read_page": "tether.tasks.read.page_recipe:ReadPages",
    },
)
"""Recipes of ``tether adapt`` that give a reader."""
