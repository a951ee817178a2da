"""A small language model that is shown images and writes what it is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from tether.core.device import chosen_device
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, PositiveRate, Rate, Whole, checked
from tether.core.replaced_parts import replaced_parts
from tether.core.state_file import check_encoder, read_state, wide_array, write_state
from tether.core.types import Batch, ImageLike
from tether.core.words_read import Texts
from tether.models.config_check import blamed_on, of_kind
from tether.models.convert.weights import check_fit, fill
from tether.models.encoders.causal_lm import CausalLM, load_causal_lm
from tether.models.encoders.vision_vocabulary import VisionVocabulary
from tether.models.features.image_digest import image_digest
from tether.models.load import load as load_model
from tether.models.save import save as save_model
from tether.models.train_mode import eval_mode
from tether.tasks.caption.captioner import PrefixCaptioner
from tether.tasks.read.learning import learn_
from tether.tasks.read.merged_vision import MergedVision, VisionPixels, VisionTokens, splice
from tether.tasks.read.reader import MODEL_FOLDER
from tether.training.loop import StepReport

PAGE_FILE, VOCABULARY_FOLDER, LM_FOLDER = "vision_lm.safetensors", "vocabulary", "language_model"
_FORMAT = "tether-vision-lm-1"
START, PLACE, END = "<img>", "<imgpad>", "</img>"
"""Words around an image and in its places, as released."""
KEPT_BYTES = 2**30
"""Tokens of the networks at rest are kept for all steps up to this size, and made anew in each above it."""
IGNORED = -100
_SIDES = ("seen by the clip", "seen by the vocabulary")


class VisionLM(nn.Module):
    """Tokens of images in the place of words of a causal language model, which goes on after them and a prompt.

    Its parts are saved apart: the vocabulary, the language model, and the maps between; the CLIP lies beside them.

    Source: Vary (arXiv 2312.06109). A text is ``<img>``, a place for each image token, ``</img>``, the prompt, the
    answer and the end; answer and end alone are learnt.

    Attributes:
        vision: gives rows of images.
        language_model: goes on.
        start: id of the word before an image.
        place: id of the words in its place.
        end: id of the word behind it.
        prompt: of ``read``.
        longest: tokens of an answer of ``read``, at most.

    Example:
        >>> from tether.data.lettering.pages import draw_pages
        >>> from tether.models import create
        >>> from tether.models.encoders.causal_lm import small_causal_lm
        >>> from tether.tasks.read import MergedVision, VisionLM
        >>> pages = draw_pages(["7 A", "B 2"])
        >>> words = small_causal_lm(pages.texts, width=32, layers=1)
        >>> reader = VisionLM(MergedVision(create("tiny").eval(), None, lm_dim=32), words)
        >>> len(reader.fit(pages.image, pages.texts, steps=2, batch_size=2).generate(pages.image).words)
        2
    """

    file: ClassVar[str | None] = PAGE_FILE
    unit: ClassVar[str] = "page"
    scenes: ClassVar[bool] = False

    @checked
    def __init__(
        self, vision: MergedVision, language_model: CausalLM, *, prompt: str = "", longest: Count = 64
    ) -> None:
        """Take both; the language model learns three more words, in place, unless it has them.

        Args:
            vision: gives rows of images.
            language_model: goes on.
            prompt: of ``read``.
            longest: tokens of an answer of ``read``, at most.

        Raises:
            InputError: rows of another width than the language model's words.
        """
        super().__init__()
        maps = [one for one in (vision.merge.clip, vision.merge.vocabulary) if one is not None]
        if (width := sum(one.out_features for one in maps)) != language_model.dim:
            raise InputError(f"vision: expected rows of {language_model.dim} for this language model, got {width}")
        self.vision, self.language_model, self.prompt, self.longest = vision, language_model, prompt, longest
        self.start, self.place, self.end = _image_words(language_model)
        self._writer = PrefixCaptioner(nn.Identity(), language_model)

    def rows(self, tokens: VisionTokens, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b l w"]:
        """Rows of words with images in their places, with gradient; errors as for ``splice``."""
        words = self.language_model
        ids = ids.to(words.device)
        shown = self.vision.merge(*(None if one is None else one.to(words.device) for one in tokens))
        return splice(words.embed(ids), ids, shown, start=self.start, end=self.end)

    def loss(self, tokens: VisionTokens, ids: Int[Tensor, "b l"], labels: Int[Tensor, "b l"]) -> Float[Tensor, ""]:
        """Mean cross-entropy in nats of each label after the words before it; -100 is no label."""
        logits = self.language_model.logits(self.rows(tokens, ids))
        return shifted_cross_entropy(logits, labels.to(logits.device))

    def texts(
        self, prompts: Sequence[str], answers: Sequence[str] | None, *, shown: Sequence[bool], longest: int = 64
    ) -> tuple[Int[Tensor, "b l"], Int[Tensor, "b l"]]:
        """Ids and labels of texts; without answers they end with the prompt.

        Args:
            prompts: of each.
            answers: of each, or None.
            shown: whether an image stands before.
            longest: most tokens of an answer, the end among them.

        Raises:
            InputError: more words than the language model's context.
        """
        words = self.language_model
        image = [self.start, *[self.place] * self.vision.tokens, self.end]
        asked = [[] if not prompt.strip() else _plain(words, prompt, 2**20)[:-1] for prompt in prompts]
        said = [[] for _ in prompts] if answers is None else [_plain(words, answer, longest) for answer in answers]
        ids, labels = [], []
        for seen, prompt, answer in zip(shown, asked, said, strict=True):
            before = (image if seen else []) + prompt
            ids.append(torch.tensor(before + answer))
            labels.append(torch.tensor([IGNORED] * len(before) + answer))
        if words.context is not None and (most := max(map(len, ids))) > words.context:
            raise InputError(
                f"texts: {most} words with {self.vision.tokens} places of an image are more than the language model's "
                f"context of {words.context}"
            )
        pad = nn.utils.rnn.pad_sequence
        return pad(ids, True, words.pad), pad(labels, True, IGNORED)

    @checked
    def fit(
        self,
        images: Sequence[ImageLike | None] | UInt8[Tensor, "n 3 h w"],
        answers: Sequence[str],
        *,
        prompts: Sequence[str] | str = "",
        steps: Count = 2000,
        batch_size: Count = 32,
        learning_rate: PositiveRate = 1e-3,
        weight_decay: Rate = 0.05,
        longest: Count = 64,
        seed: Whole = 0,
        folder: Path | None = None,
        on_step: Callable[[StepReport], None] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> VisionLM:
        """Learn to answer, in place: language model and maps learn, both image networks rest. In eval mode afterwards.

        Args:
            images: of each answer; None for a text alone.
            answers: what is to be written.
            prompts: what stands before each, or one for all.
            steps: of AdamW.
            batch_size: answers of a step.
            learning_rate: after a warm-up of 7.5 % of the steps; it falls to 0 as a cosine. Released: 5e-5, for large
                language models.
            weight_decay: of matrices.
            longest: most tokens of an answer; longer ones are cut.
            seed: of the order.
            folder: of checkpoints, the newest of which is resumed; None keeps none.
            on_step: told each step.
            should_stop: asked after each step; when true a checkpoint is saved and ``StoppedError`` raised.

        Raises:
            InputError: not one answer and prompt for each image, no image at all, an image that cannot be read, or more
                words than the context.
        """
        asked = [prompts] * len(answers) if isinstance(prompts, str) else list(prompts)
        if not len(images) == len(answers) == len(asked):
            raise InputError(
                f"answers, prompts: expected one for each of {len(images)} images, got {len(answers)} and {len(asked)}"
            )
        shown = [True] * len(images) if isinstance(images, Tensor) else [image is not None for image in images]
        pixels = self._pixels(images, shown)
        ids, labels = self.texts(asked, answers, shown=shown, longest=longest)
        rows, tokens_of = self._frozen(pixels)

        def loss(batch: Batch, generator: torch.Generator) -> Tensor:
            return self.loss(tokens_of(batch), batch.text, cast(Tensor, batch.extra["labels"]))

        learn_(
            self,
            loss,
            rows | {"text": ids, "labels": labels},
            moves=[*self.vision.merge.parameters(), *self.language_model.parameters()],
            training=[self.language_model],
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

    @torch.no_grad()
    @checked
    def generate(
        self,
        images: Sequence[ImageLike] | UInt8[Tensor, "n 3 h w"],
        prompt: str = "",
        *,
        longest: Count = 64,
        batch_size: Count = 64,
    ) -> Texts:
        """What it writes of images, the likeliest word each time; nothing is told to it but image and prompt.

        Args:
            images: any.
            prompt: the same before each answer.
            longest: most tokens of an answer, the end among them.
            batch_size: images at once.

        Raises:
            InputError: no image, one that cannot be read, or more words than the context.
        """
        pixels = self.vision.prepare(images)
        count = len(images)
        parts = []
        with eval_mode(self):
            for first in range(0, count, batch_size):
                tokens = self.vision.encode(_part(pixels, first, first + batch_size))
                size = min(batch_size, count - first)
                ids, _ = self.texts([prompt] * size, None, shown=[True] * size)
                rows = self.rows(tokens, ids)
                written = self._writer.draw(rows, longest=longest)
                sure = self._writer.log_probabilities(rows, written.tokens).sum(1).exp().clamp(0, 1)
                parts.append(Texts(written.texts, sure.cpu().numpy().astype(np.float64)))
        return Texts.joined(parts)

    def read(self, images: Sequence[ImageLike] | UInt8[Tensor, "n 3 h w"], /, *, batch_size: int = 64) -> Texts:
        """What stands on pages: ``generate`` with the reader's own prompt and length."""
        return self.generate(images, self.prompt, longest=self.longest, batch_size=batch_size)

    def save(self, folder: Path | str) -> Path:
        """Write parts to a folder: the vocabulary, which can be used alone, the language model, the maps, and the CLIP.

        Raises:
            WriteError: it cannot be written; what stood there before is unchanged.
        """
        folder = Path(folder)
        vocabulary, clip = self.vision.vocabulary, self.vision.clip
        arrays = {name: wide_array(value) for name, value in self.vision.merge.state_dict().items()}
        encoder = None if clip is None else image_digest(clip)
        settings = {
            "vocabulary": vocabulary is not None,
            "encoder": encoder,
            "prompt": self.prompt,
            "longest": self.longest,
        }
        with replaced_parts(folder, keys=[PAGE_FILE]) as new:
            if vocabulary is not None:
                vocabulary.save(new / VOCABULARY_FOLDER)
            self.language_model.save(new / LM_FOLDER)
            if clip is not None:
                save_model(cast(nn.Module, clip), new / MODEL_FOLDER)
            write_state(new / PAGE_FILE, format=_FORMAT, settings=settings, arrays=arrays)
        return folder

    @classmethod
    def load(cls, folder: Path | str, *, model: DualEncoder | None = None, device: str = "cpu") -> VisionLM:
        """Read what ``save`` wrote, with nothing unpickled; in eval mode.

        Args:
            folder: of the parts.
            model: the CLIP that it was fitted with, where it is loaded already; None takes the one in the folder.
            device: of all.

        Raises:
            InputError: no reader, a damaged one, or one of another CLIP.
        """
        folder = Path(folder)
        path = folder / PAGE_FILE
        settings, arrays = read_state(path, what="vision language model", format=_FORMAT)
        recorded = settings.get("encoder")
        if recorded is None:
            model = None
        else:
            model = cast(DualEncoder, load_model(str(folder / MODEL_FOLDER), device=device)) if model is None else model
            check_encoder(path, recorded=str(recorded), encoder=None, digest=image_digest(model))
        vocabulary = VisionVocabulary.load(folder / VOCABULARY_FOLDER) if settings.get("vocabulary") else None
        words = load_causal_lm(folder / LM_FOLDER)
        vision = MergedVision(model, vocabulary, lm_dim=words.dim)
        state = {name: torch.from_numpy(value) for name, value in arrays.items()}
        check_fit(vision.merge, state, where=path)
        fill(vision.merge, state, where=path)
        with blamed_on(path):
            prompt = of_kind(settings["prompt"], str, where="prompt")
            reader = cls(vision, words, prompt=prompt, longest=settings["longest"])
        return reader.to(chosen_device(device) if model is None else model.logit_scale.device).eval()

    def _pixels(self, images: Sequence[ImageLike | None] | Tensor, shown: Sequence[bool]) -> VisionPixels:
        """Images at both sizes, zeros where there is none."""
        if isinstance(images, Tensor):
            return self.vision.prepare(images)
        if not any(shown):
            raise InputError("images: expected at least one, got none")
        seen = self.vision.prepare([image for image in images if image is not None])
        kept = torch.tensor(shown)

        def spread(pixels: Tensor | None) -> Tensor | None:
            if pixels is None or bool(kept.all()):
                return pixels
            whole = pixels.new_zeros(len(kept), *pixels.shape[1:])
            whole[kept] = pixels
            return whole

        return VisionPixels(*(spread(one) for one in seen))

    def _frozen(self, pixels: VisionPixels) -> tuple[dict[str, Tensor], Callable[[Batch], VisionTokens]]:
        """Rows for batches, and the tokens of a batch of them: kept where they are small, else made in each step."""
        count = len(next(one for one in pixels if one is not None))
        first = self.vision.encode(_part(pixels, 0, 1))
        size = count * sum(one.numel() * 4 for one in first if one is not None)
        kept = size <= KEPT_BYTES
        found = self.vision.encode(pixels) if kept else None
        shown = zip(_SIDES, pixels if found is None else found, strict=True)
        rows = {name: one for name, one in shown if one is not None}

        def tokens_of(batch: Batch) -> VisionTokens:
            clip, vocabulary = (cast(Tensor | None, batch.extra.get(name)) for name in _SIDES)
            return VisionTokens(clip, vocabulary) if kept else self.vision.encode(VisionPixels(clip, vocabulary))

        return rows, tokens_of


def shifted_cross_entropy(logits: Float[Tensor, "b l v"], labels: Int[Tensor, "b l"]) -> Float[Tensor, ""]:
    """Mean cross-entropy of each label by the logits one place before it, in nats; labels of -100 do not count."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)


def _part(pixels: VisionPixels, first: int, stop: int) -> VisionPixels:
    return VisionPixels(*(None if one is None else one[first:stop] for one in pixels))


def _plain(words: CausalLM, text: str, longest: int) -> list[int]:
    return words.tokens([text], longest=max(2, longest))[0].tolist()


@torch.no_grad()
def _image_words(language_model: CausalLM) -> tuple[int, int, int]:
    """Ids of the three words around an image; new ones have rows like the mean of all, apart by a little."""
    tokenizer, model = language_model.tokenizer, language_model.model
    known = tokenizer.get_vocab()
    new = [word for word in (START, PLACE, END) if word not in known]
    if new:
        tokenizer.add_tokens(new, special_tokens=True)
        model: Any = model
        rows = language_model.vocabulary
        if len(tokenizer) > rows:
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            table = model.get_input_embeddings().weight
            generator = torch.Generator().manual_seed(rows)
            noise = torch.randn(len(table) - rows, table.shape[1], generator=generator).to(table)
            table[rows:] = table[:rows].mean(0) + table[:rows].std(0) * noise
    start, place, end = tokenizer.convert_tokens_to_ids([START, PLACE, END])
    return start, place, end
