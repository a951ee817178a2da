"""A reader of words that also looks at the scene in which a word stands."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Positive, PositiveRate, Rate, Whole, checked
from tether.core.replaced_parts import replaced_parts
from tether.core.state_file import check_encoder, read_state, wide_array, write_state
from tether.core.types import ImageLike
from tether.core.words_read import Texts
from tether.models.config_check import blamed_on
from tether.models.convert.weights import fill
from tether.models.train_mode import eval_mode
from tether.tasks.read.charset import Charset
from tether.tasks.read.learning import learn_
from tether.tasks.read.reader import READER_FILE, SCENE_FILE, DualReader, image_tokens, stacked
from tether.tasks.read.scene_attention import GatedSceneAttention
from tether.training.loop import StepReport

_FORMAT = "tether-scene-reader-1"


class WordReader(Protocol):
    """What a scene is added to: a module that makes rows of crops and reads words in them; ``DualReader`` is one."""

    charset: Charset
    max_length: int
    dim: int

    @property
    def decoder(self) -> nn.Module:
        """What reads the rows, and is in training mode while it learns."""
        ...

    def prepare(self, crops: Sequence[ImageLike] | UInt8[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b 3 h w"]:
        """Crops at the size that it reads."""
        ...

    def encode(self, pixels: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """Rows of crops."""
        ...

    def loss(
        self, memory: Float[Tensor, "b n d"], ids: Int[Tensor, "b l"], *, generator: torch.Generator
    ) -> Float[Tensor, ""]:
        """Of its rows and the true words."""
        ...

    def decode(self, memory: Float[Tensor, "b n d"], *, refine: int = 1) -> Texts:
        """The words of its rows."""
        ...

    def moving(self) -> list[nn.Parameter]:
        """Its parameters that learn."""
        ...


class SceneReader(nn.Module):
    """Adds what a frozen CLIP sees of the whole scene to the rows of a reader that was taught on crops.

    The gate starts closed: before ``fit`` it reads bit for bit what the reader reads, and always does without scenes.

    Source: CLIPTER (arXiv 2301.07464), for which no code was found; see ``GatedSceneAttention``.

    Attributes:
        reader: a copy of the one that was given.
        fusion: the gated attention.

    Example:
        >>> import numpy as np
        >>> from tether.models import create
        >>> from tether.tasks.read import Charset, DualReader, SceneReader
        >>> crops = [np.full((32, 128, 3), grey, np.uint8) for grey in (0, 255)]
        >>> clip = create("tiny").eval()
        >>> reader = SceneReader(DualReader(clip, charset=Charset("ab"), max_length=3, heads=4), clip, heads=4)
        >>> reader.read(crops, scenes=crops).words == reader.reader.read(crops).words
        True
    """

    file: ClassVar[str | None] = SCENE_FILE
    unit: ClassVar[str] = "word"
    scenes: ClassVar[bool] = True

    @checked
    def __init__(
        self,
        reader: WordReader,
        scene_encoder: DualEncoder,
        *,
        heads: Count = 8,
        position: bool = False,
        fusion_rate: Positive = 10.0,
        seed: Whole = 0,
    ) -> None:
        """Copy the reader and draw the fusion.

        Args:
            reader: taught on crops.
            scene_encoder: any of ``tether.load`` whose image tower shows tokens or a map; it stays as it is.
            heads: of the attention; must divide the reader's ``dim``.
            position: whether the place of a word in its scene is looked at.
            fusion_rate: how many times faster than the reader the fusion learns.
            seed: of its weights.

        Raises:
            InputError: heads that do not divide the width.
        """
        super().__init__()
        self.reader = cast(Any, copy.deepcopy(reader))
        generator = torch.Generator().manual_seed(seed)
        self.fusion = GatedSceneAttention(
            reader.dim, scene_dim=scene_encoder.dim, heads=heads, position=position, generator=generator
        )
        self.fusion.rate_scale = fusion_rate  # pyrefly: ignore  # read by optim.parameter_groups
        self.fusion.to(scene_encoder.logit_scale.device)
        self.settings = {"heads": heads, "position": position, "fusion_rate": fusion_rate}
        self._scenes = [scene_encoder]  # in a list, so that it is no part of what learns and moves

    @torch.no_grad()
    def scene_tokens(
        self, scenes: Sequence[ImageLike] | UInt8[Tensor, "s 3 h w"], *, batch_size: int = 64
    ) -> Float[Tensor, "s n e"]:
        """Tokens of whole images, the pooled row first; the words of one image may share them.

        Raises:
            InputError: none, or one that cannot be read, by its number.
        """
        (encoder,) = self._scenes
        pixels = stacked(scenes, encoder.image_spec.fixed(), called="scene")
        with eval_mode(cast(nn.Module, encoder)):
            found = [image_tokens(encoder, some.to(encoder.logit_scale.device)) for some in pixels.split(batch_size)]
        return torch.cat(found).float()

    @checked
    def fit(
        self,
        crops: Sequence[ImageLike] | UInt8[Tensor, "b 3 h w"],
        words: Sequence[str],
        *,
        scenes: Sequence[ImageLike] | UInt8[Tensor, "s 3 h w"],
        scene_index: Sequence[int] | None = None,
        boxes: Float[Tensor, "b 4"] | None = None,
        steps: Count = 1000,
        batch_size: Count = 64,
        learning_rate: PositiveRate = 2e-5,
        weight_decay: Rate = 0.2,
        seed: Whole = 0,
        folder: Path | None = None,
        on_step: Callable[[StepReport], None] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> SceneReader:
        """Teach fusion and reader together by the reader's own loss, in place; it is in eval mode afterwards.

        Args:
            crops: of a word each.
            words: that stand in them.
            scenes: whole images.
            scene_index: number of each crop's scene; None where each has its own.
            boxes: of the words in their scenes, x0, y0, x1, y1 in 0..1; for ``position``.
            steps: of AdamW.
            batch_size: crops of a step.
            learning_rate: of the reader.
            weight_decay: of matrices.
            seed: of all draws.
            folder: of checkpoints, or None.
            on_step: told each step.
            should_stop: asked after each step; when true a checkpoint is saved and ``StoppedError`` raised.

        Raises:
            InputError: a word that is refused, an image that cannot be read, or numbers that do not fit.
        """
        if len(crops) != len(words):
            raise InputError(f"words: expected one for each of {len(crops)} crops, got {len(words)}")
        tokens, index = self.scene_tokens(scenes), _numbers(scene_index, crops=len(crops), scenes=len(scenes))
        ids = self.reader.charset.encode(words, longest=self.reader.max_length)
        rows = {"image": self.reader.prepare(crops), "text": ids, "scene": index}
        rows |= {} if boxes is None else {"boxes": boxes}

        def loss(batch: Any, generator: torch.Generator) -> Tensor:
            memory, boxes = self.reader.encode(batch.image), batch.extra.get("boxes")
            boxes = None if boxes is None else boxes.to(memory.device)
            memory = self.fusion(memory, tokens, scene_index=batch.extra["scene"].to(tokens.device), boxes=boxes)
            return self.reader.loss(memory, batch.text, generator=generator)

        learn_(
            self,
            loss,
            rows,
            moves=self.moving(),
            training=[self.reader.decoder],
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            seed=seed,
            folder=folder,
            on_step=on_step,
            should_stop=should_stop,
        )
        return self

    def moving(self) -> list[nn.Parameter]:
        """Its parameters that learn."""
        return [*self.reader.moving(), *self.fusion.parameters()]

    @checked
    def read(
        self,
        crops: Sequence[ImageLike] | UInt8[Tensor, "b 3 h w"],
        *,
        scenes: Sequence[ImageLike] | UInt8[Tensor, "s 3 h w"] | None = None,
        scene_index: Sequence[int] | None = None,
        boxes: Float[Tensor, "b 4"] | None = None,
        refine: Whole = 1,
        batch_size: Count = 64,
    ) -> Texts:
        """The words that stand in crops.

        Args:
            crops: of a word each.
            scenes: whole images; None reads the crops alone.
            scene_index: number of each crop's scene; None where each has its own.
            boxes: as in ``fit``.
            refine: how often all is read again with all other characters in view.
            batch_size: crops read at once.

        Raises:
            InputError: an image that cannot be read, or numbers that do not fit.
        """
        pixels = self.reader.prepare(crops)
        tokens = None if scenes is None else self.scene_tokens(scenes, batch_size=batch_size)
        index = None if scenes is None else _numbers(scene_index, crops=len(crops), scenes=len(scenes))
        found = []
        with torch.no_grad(), eval_mode(self):
            for some in torch.arange(len(crops)).split(batch_size):
                memory = self.reader.encode(pixels[some])
                if tokens is not None and index is not None:
                    places = None if boxes is None else boxes[some].to(memory.device)
                    memory = self.fusion(memory, tokens, scene_index=index[some].to(tokens.device), boxes=places)
                found.append(self.reader.decode(memory, refine=refine))
        return Texts.joined(found)

    def save(self, folder: Path | str) -> Path:
        """Write reader and fusion to a folder, bound to the scene encoder, which is not written.

        Raises:
            InputError: a reader that is no ``DualReader``.
            WriteError: it cannot be written; what stood there before is unchanged.
        """
        folder = Path(folder)
        if not isinstance(self.reader, DualReader):
            raise InputError(f"save: expected a DualReader inside, got {type(self.reader).__name__}")
        arrays = {name: wide_array(value) for name, value in self.fusion.state_dict().items()}
        settings = {**self.settings, "encoder": model_digest(cast(nn.Module, self._scenes[0]))}
        with replaced_parts(folder, keys=[READER_FILE, SCENE_FILE]) as new:
            self.reader.save(new)
            write_state(new / SCENE_FILE, format=_FORMAT, settings=settings, arrays=arrays)
        return folder

    @classmethod
    def load(cls, folder: Path | str, *, scene_encoder: DualEncoder, device: str = "cpu") -> SceneReader:
        """Read what ``save`` wrote, with nothing unpickled; in eval mode.

        Args:
            folder: of the reader.
            scene_encoder: the one that it learnt with.
            device: of the reader's CLIP.

        Raises:
            InputError: no such reader, a damaged one, or another encoder.
        """
        path = Path(folder) / SCENE_FILE
        settings, arrays = read_state(path, what="scene reader", format=_FORMAT)
        check_encoder(path, recorded=str(settings.pop("encoder", None)), encoder=scene_encoder, digest=None)
        with blamed_on(path):
            found = cls(DualReader.load(folder, device=device), scene_encoder, **settings)
        fill(found.fusion, {name: torch.from_numpy(value) for name, value in arrays.items()}, where=path)
        return found.eval()


def _numbers(index: Sequence[int] | None, *, crops: int, scenes: int) -> Int[Tensor, " b"]:
    found = torch.arange(crops) if index is None else torch.tensor(list(index), dtype=torch.int64)
    if index is None and scenes != crops:
        raise InputError(f"scenes: expected one for each of {crops} crops, got {scenes}; or give scene_index")
    if len(found) != crops or not 0 <= int(found.min()) <= int(found.max()) < scenes:
        raise InputError(f"scene_index: expected {crops} numbers from 0 to {scenes - 1}, got {found.tolist()!s:.100}")
    return found
