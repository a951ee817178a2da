"""A CLIP that reads words: both its towers, and two decoders behind them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from tether.core.errors import InputError, UnsupportedModelError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Decay, Positive, PositiveRate, Rate, Whole, checked
from tether.core.replaced_parts import replaced_parts
from tether.core.state_file import read_state, wide_array, write_state
from tether.core.types import ImageLike, ImageSpec
from tether.core.words_read import Texts
from tether.data.images import load as load_image
from tether.models.config_check import blamed_on
from tether.models.convert.weights import check_fit, fill
from tether.models.encoders.tower_parts import side_parts
from tether.models.features.dense import dense_image, dense_text
from tether.models.features.find import tower_of
from tether.models.load import load as load_model
from tether.models.save import save as save_model
from tether.models.towers.config import Layers
from tether.models.train_mode import eval_mode
from tether.optim.layer_decay import layer_of
from tether.tasks.read.charset import Charset
from tether.tasks.read.dual_decoder import DualDecoder
from tether.tasks.read.learning import learn_
from tether.tasks.read.orders import permutations
from tether.tasks.read.permuted_decoder import PermutedDecoder
from tether.training.loop import StepReport

READER_FILE, SCENE_FILE, MODEL_FOLDER = "reader.safetensors", "scene.safetensors", "model"
_FORMAT = "tether-reader-1"
_SIZES = ("max_length", "heads", "depth", "mlp_ratio", "dropout")


def word_spec(model: DualEncoder) -> ImageSpec:
    """How crops of words are prepared for a model: brought to its size whatever their aspect."""
    return replace(model.image_spec.fixed(), resize="squash", resized=None)


def stacked(
    images: Sequence[ImageLike] | UInt8[Tensor, "b 3 h w"], spec: ImageSpec, *, called: str
) -> UInt8[Tensor, "b 3 h w"]:
    """Images at a size; a tensor that has it already stays.

    Args:
        images: at least one.
        spec: the size, and how it is reached.
        called: what an image is called in errors, before its number.

    Raises:
        InputError: none, a tensor of another shape or type, or an image that cannot be read, by its number or its file.
    """
    if not len(images):
        raise InputError(f"{called}s: expected at least one image, got none")
    if isinstance(images, Tensor):
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] != (3, *spec.size):
            expected = f"uint8 (b, 3, {spec.size[0]}, {spec.size[1]})"
            raise InputError(f"{called}s: expected {expected}, got {images.dtype} {tuple(images.shape)}")
        return images
    named = [str(one) if isinstance(one, str | Path) else f"{called} {row}" for row, one in enumerate(images)]
    return torch.stack([load_image(one, spec, name=name) for one, name in zip(images, named, strict=True)])


def image_tokens(model: DualEncoder, pixels: Tensor) -> Float[Tensor, "b n d"]:
    """The pooled row and all patches of images in the joint space, not normalised, with gradient."""
    found = dense_image(model, pixels)
    assert found.tokens is not None  # dense_image gives them
    return torch.cat([found.pooled[:, None], found.tokens], dim=1)


class DualReader(nn.Module):
    """Reads a word from a crop: one branch from the image, the other from the image and the first one's guess.

    Image tokens and, for the guess, text tokens of a CLIP are what both decoders read; the CLIP learns with them.

    Source: CLIP4STR (arXiv 2305.14014) and its released code. It differs in that an image tower's pooled row stands for
    its class token where it has none, and that a text tower which shows no tokens gives its row alone.

    Attributes:
        model: the CLIP, a copy of the one that was given.
        decoder: both branches.
        charset: what words are made of.
        image_spec: how crops are prepared: brought to the model's size whatever their aspect.

    Example:
        >>> import numpy as np
        >>> from tether.models import create
        >>> from tether.tasks.read import Charset, DualReader
        >>> crops = [np.full((32, 128, 3), grey, np.uint8) for grey in (0, 255)]
        >>> reader = DualReader(create("tiny").eval(), charset=Charset("abn"), max_length=4, heads=4)
        >>> len(reader.fit(crops, ["a", "ban"], steps=2, batch_size=2).read(crops))
        2
    """

    file: ClassVar[str | None] = READER_FILE
    unit: ClassVar[str] = "word"
    scenes: ClassVar[bool] = False

    @checked
    def __init__(
        self,
        model: DualEncoder,
        *,
        charset: Charset | None = None,
        max_length: Count = 25,
        heads: Count = 8,
        depth: Layers = 1,
        mlp_ratio: Count = 4,
        dropout: Decay = 0.1,
        perms: Count = 6,
        text_length: Count = 16,
        frozen_text_blocks: Whole | None = None,
        decoder_rate: Positive = 19.0,
        seed: Whole = 0,
    ) -> None:
        """Copy the model and draw the decoders.

        Args:
            model: any of ``tether.load`` whose image tower shows tokens or a map.
            charset: what words are made of; None takes the 94 printable characters of ASCII.
            max_length: most characters of a word.
            heads: of each attention; must divide the model's ``dim``.
            depth: layers of each decoder.
            mlp_ratio: width of the decoders' feed-forward networks over their width.
            dropout: of the decoders, in training.
            perms: orders in which words are learnt, an even number.
            text_length: tokens of a guess that the text tower reads, begin and end among them.
            frozen_text_blocks: of the text tower, from its input on, which stay as they are with all before them; None
                is half of them.
            decoder_rate: how many times faster than the CLIP the decoders learn.
            seed: of their weights.

        Raises:
            UnsupportedModelError: an image tower without tokens.
            InputError: heads that do not divide the width, or an odd number of orders.
        """
        super().__init__()
        permutations(5, perms)
        self.charset, self.max_length, self.perms = charset or Charset(), max_length, perms
        self.image_spec = word_spec(model)
        self.dim, self.text_length = model.dim, min(text_length, model.tokenizer.context_length)
        self.settings: dict[str, Any] = {
            "max_length": max_length,
            "heads": heads,
            "depth": depth,
            "mlp_ratio": mlp_ratio,
            "dropout": dropout,
            "perms": perms,
            "text_length": text_length,
            "frozen_text_blocks": frozen_text_blocks,
            "decoder_rate": decoder_rate,
        }
        self.model = cast(nn.Module, copy.deepcopy(model)).eval()
        sizes = {name: self.settings[name] for name in _SIZES}
        self.decoder = _decoder(model.dim, charset=self.charset, generator=torch.Generator().manual_seed(seed), **sizes)
        self.decoder.rate_scale = decoder_rate  # pyrefly: ignore  # read by optim.parameter_groups
        self.decoder.to(model.logit_scale.device)
        with torch.no_grad(), eval_mode(self.model):
            self.encode(torch.zeros(1, 3, *self.image_spec.size, dtype=torch.uint8))

    def prepare(self, crops: Sequence[ImageLike] | UInt8[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b 3 h w"]:
        """Crops at the model's size; a tensor that has it stays.

        Raises:
            InputError: none, or one that cannot be read, by its number.
        """
        return stacked(crops, self.image_spec, called="crop")

    def encode(self, pixels: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """What the decoders read of crops: the pooled row and all patches in the joint space, not normalised."""
        encoder = cast(DualEncoder, self.model)
        return image_tokens(encoder, pixels.to(encoder.logit_scale.device)).float()

    def loss(
        self, memory: Float[Tensor, "b n d"], ids: Int[Tensor, "b l"], *, generator: torch.Generator
    ) -> Float[Tensor, ""]:
        """See ``DualDecoder.loss``; the generator draws the orders."""
        longest = int((ids != self.charset.pad).sum(1).max())
        orders = permutations(longest - 2, self.perms, generator=generator)
        return self.decoder.loss(
            ids[:, :longest].to(memory.device), memory, text_memory=self.text_memory, orders=orders
        )

    def decode(self, memory: Float[Tensor, "b n d"], *, refine: int = 1, charset: Charset | None = None) -> Texts:
        """The words that a memory holds, spelt in ``charset`` as ``read`` says."""
        text_memory = functools.partial(self.text_memory, charset=charset)
        found = self.charset.decode(self.decoder.read(memory, text_memory=text_memory, refine=refine).cross)
        return found if charset is None else replace(found, words=tuple(map(charset.spell, found.words)))

    def text_memory(self, guess: Int[Tensor, "b l"], *, charset: Charset | None = None) -> Float[Tensor, "b t d"]:
        """What the text tower makes of guessed words: all its tokens, padding too, so that no row sees its batch.

        Args:
            guess: of a decoder.
            charset: that the guess is spelt in before; None leaves it as it is.
        """
        encoder = cast(DualEncoder, self.model)
        words = self.charset.words(guess)
        ids = encoder.tokenizer(words if charset is None else [charset.spell(word) for word in words])
        kept = ids[:, : self.text_length].clone()
        cut = (ids[:, self.text_length :] != 0).any(1)
        if bool(cut.any()):  # the end stays
            ends = (ids != 0).sum(1) - 1
            kept[cut, -1] = ids[cut, ends[cut]]
        kept = F.pad(kept, (0, self.text_length - kept.shape[1])).to(encoder.logit_scale.device)
        try:
            tokens = dense_text(encoder, kept).tokens
        except UnsupportedModelError:
            tokens = encoder.encode_text(kept).pooled[:, None]
        assert tokens is not None  # dense_text gives them
        return tokens.float()

    @checked
    def fit(
        self,
        crops: Sequence[ImageLike] | UInt8[Tensor, "b 3 h w"],
        words: Sequence[str],
        *,
        steps: Count = 2000,
        batch_size: Count = 64,
        learning_rate: PositiveRate = 8.4e-5,
        weight_decay: Rate = 0.2,
        seed: Whole = 0,
        folder: Path | None = None,
        on_step: Callable[[StepReport], None] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> DualReader:
        """Learn to read, in place; it is in eval mode afterwards.

        Args:
            crops: of a word each, or a tensor of ``prepare``.
            words: that stand in them.
            steps: of AdamW.
            batch_size: crops of a step; fewer crops are one batch.
            learning_rate: of the CLIP, after a warm-up of 7.5 % of the steps; it falls to 0 as a cosine.
            weight_decay: of matrices, but positions and characters.
            seed: of the order of crops, the orders of reading and dropout.
            folder: of checkpoints, the newest of which is resumed; None keeps none.
            on_step: told each step.
            should_stop: asked after each step; when true a checkpoint is saved and ``StoppedError`` raised.

        Raises:
            InputError: a word too long or with unknown characters, a crop that cannot be read, or not one word a crop.
        """
        if len(crops) != len(words):
            raise InputError(f"words: expected one for each of {len(crops)} crops, got {len(words)}")
        ids = self.charset.encode(words, longest=self.max_length)
        learn_(
            self,
            lambda batch, generator: self.loss(self.encode(batch.image), batch.text, generator=generator),
            {"image": self.prepare(crops), "text": ids},
            moves=self.moving(),
            training=[self.decoder],
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
        """The parameters that learn: all but the text tower's first blocks and what lies before them, and the scale."""
        encoder = cast(Any, self.model)
        rests = {id(encoder.logit_scale), *(id(one) for name, one in self.model.named_parameters() if "logit_" in name)}
        try:
            blocks = len(tower_of(encoder, "text").blocks)
        except UnsupportedModelError:
            blocks = 0
        frozen = self.settings["frozen_text_blocks"]
        frozen = blocks // 2 if frozen is None else min(frozen, blocks)
        for name, part in side_parts(encoder, "text").items() if frozen else ():
            inside = [(name, part)] if isinstance(part, nn.Parameter) else part.named_parameters(prefix=name)
            rests |= {id(one) for whole, one in inside if layer_of(whole, blocks=blocks) <= frozen}
        return [one for one in self.parameters() if id(one) not in rests]

    @checked
    def read(
        self,
        crops: Sequence[ImageLike] | UInt8[Tensor, "b 3 h w"],
        *,
        refine: Whole = 1,
        batch_size: Count = 64,
        charset: Charset | None = None,
    ) -> Texts:
        """The words that stand in crops.

        Args:
            crops: of a word each.
            refine: how often all is read again with all other characters in view.
            batch_size: crops read at once; no word depends on it.
            charset: what the words can be made of, where that is less than the reader knows, such as small letters:
                guesses are spelt in it before the text tower sees them, and so is the answer: in its case where it has
                but one, without characters that it lacks. The confidence stays that of what was read.

        Raises:
            InputError: none, or one that cannot be read, by its number.
        """
        with torch.no_grad(), eval_mode(self):
            parts = self.prepare(crops).split(batch_size)
            found = [self.decode(self.encode(some), refine=refine, charset=charset) for some in parts]
        return Texts.joined(found)

    def save(self, folder: Path | str) -> Path:
        """Write both decoders, the characters and the tuned CLIP to a folder, in place of a reader that is there.

        Raises:
            WriteError: it cannot be written; what stood there before is unchanged.
        """
        folder = Path(folder)
        arrays = {name: wide_array(value) for name, value in self.decoder.state_dict().items()}
        settings = {**self.settings, "characters": self.charset.characters}
        with replaced_parts(folder, keys=[READER_FILE, SCENE_FILE]) as new:
            save_model(self.model, new / MODEL_FOLDER)
            write_state(new / READER_FILE, format=_FORMAT, settings=settings, arrays=arrays)
        return folder

    @classmethod
    def load(cls, folder: Path | str, *, device: str = "cpu") -> DualReader:
        """Read what ``save`` wrote, with nothing unpickled; in eval mode.

        Raises:
            InputError: no reader, or a damaged one.
        """
        path = Path(folder) / READER_FILE
        settings, arrays = read_state(path, what="reader", format=_FORMAT)
        model = cast(DualEncoder, load_model(str(Path(folder) / MODEL_FOLDER), device=device))
        state = {name: torch.from_numpy(value) for name, value in arrays.items()}
        with blamed_on(path):
            charset = Charset(settings.pop("characters"))
            with torch.device("meta"):  # nothing is allocated for what a file merely says
                outline = _decoder(model.dim, charset=charset, **{name: settings[name] for name in _SIZES})
            check_fit(outline, state, where=path)
            reader = cls(model, charset=charset, **settings)
        fill(reader.decoder, state, where=path)
        return reader.eval()


def _decoder(dim: int, *, charset: Charset, generator: torch.Generator | None = None, **sizes: Any) -> DualDecoder:
    """Both branches, of the same sizes."""
    branches = [PermutedDecoder(dim, charset=charset, generator=generator, **sizes) for _ in range(2)]
    return DualDecoder(visual=branches[0], cross=branches[1])
