"""Whether a caption is well formed, read from what a text's embedding is projected from; and its training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError, UnsupportedModelError
from tether.core.gather import Gather
from tether.core.geometry import geometry_of
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, PositiveRate, Whole, checked
from tether.core.state_file import check_encoder, read_state, wide_array, write_state
from tether.core.types import Batch, Loss
from tether.data.captions.corrupt import corrupt
from tether.data.captions.rng import of_key
from tether.losses import clip_loss
from tether.models.composed.towers import TowerSide
from tether.models.texts.text_state import text_state
from tether.optim import parameter_groups
from tether.tasks.caption.clip_s import PREFIX
from tether.tasks.caption.training import caption_batches, check_captions
from tether.training.loop import StepReport
from tether.training.tensor_batches import ReplayedBatches
from tether.training.tuning import Tuning, play

HEAD_RATE, WEIGHT_DECAY = 10.0, 0.1
_FORMAT = "tether-grammar-1"


class GrammarHead(nn.Module):
    """Two linear layers without biases, a ReLU between them: whether a text is well formed.

    Source: CLIP-Caption-Reward (arXiv 2205.13115, section 3.3) and its release.

    Attributes:
        prefix: words before every text that it has seen.

    Example:
        >>> import torch
        >>> from tether.tasks.caption.reward_grammar import GrammarHead
        >>> GrammarHead(64).probability(torch.randn(3, 64)).shape
        torch.Size([3])
    """

    @checked
    def __init__(self, dim: Count, *, prefix: str = PREFIX, generator: torch.Generator | None = None) -> None:
        """Draw the weights.

        Args:
            dim: width of the state, see ``models.texts.text_state``.
            prefix: words before every text that is scored.
            generator: of the weights, on the CPU; None takes a fixed one.
        """
        super().__init__()
        self.prefix = prefix
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.hidden, self.out = nn.Linear(dim, dim, bias=False), nn.Linear(dim, 2, bias=False)
        for layer in (self.hidden, self.out):
            nn.init.uniform_(layer.weight, -(dim**-0.5), dim**-0.5, generator=generator)  # as nn.Linear's own

    def forward(self, state: Float[Tensor, "n w"]) -> Float[Tensor, "n 2"]:
        """Logits of broken (0) and well formed (1)."""
        return self.out(self.hidden(state).relu())

    def probability(self, state: Float[Tensor, "n w"]) -> Float[Tensor, " n"]:
        """Of being well formed."""
        return self(state).softmax(1)[:, 1]

    def save(self, path: Path | str, *, encoder: DualEncoder) -> None:
        """Write one safetensors file that is bound to the encoder whose states it reads."""
        written = {"encoder": model_digest(cast(nn.Module, encoder)), "prefix": self.prefix}
        arrays = {name: wide_array(value) for name, value in self.state_dict().items()}
        write_state(path, format=_FORMAT, settings=written, arrays=arrays)

    @classmethod
    def load(cls, path: Path | str, *, encoder: DualEncoder) -> GrammarHead:
        """Read what ``save`` wrote, with nothing unpickled.

        Raises:
            InputError: no grammar head, or one of another encoder.
        """
        written, arrays = read_state(path, what=cls.__name__, format=_FORMAT)
        check_encoder(path, recorded=str(written.get("encoder")), encoder=encoder, digest=None)
        try:
            found = cls(arrays["hidden.weight"].shape[1], prefix=str(written["prefix"]))
            found.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
        except (KeyError, IndexError, RuntimeError) as error:
            raise InputError(f"{path}: not the state of a grammar head: {error}") from error
        return found.to(encoder.logit_scale.device).eval()


def prefixed(texts: Sequence[str], *, prefix: str = PREFIX) -> list[str]:
    """The texts as they are scored, alike for samples, greedy captions and references."""
    return [f"{prefix} {text}".strip() for text in texts]


class GrammarStep:
    """CLIP's loss on pairs plus the head's cross-entropy on their captions and as many broken ones.

    A ``core.protocols.Step``: a batch's images are rows that rest, its texts (b, 1) places of captions. How a caption
    is broken depends on the seed, the step and its place.
    """

    def __init__(
        self, model: DualEncoder, head: GrammarHead, *, texts: Sequence[str], vocabulary: Sequence[str], seed: int
    ) -> None:
        """Args: model: whose text side learns. head: too. texts: captions. vocabulary: to break them. seed: of it."""
        self._model, self._head, self._seed = model, head, seed
        self._texts, self._vocabulary = texts, vocabulary

    def __call__(self, model: nn.Module, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See Step; the model that is given is not looked at."""
        places, b = batch.text[:, 0].tolist(), len(batch.text)
        good = [self._texts[place] for place in places]
        draws = (of_key(f"{step} {row}", seed=self._seed, salt="corrupt") for row in range(b))
        bad = [corrupt(one, vocabulary=self._vocabulary, generator=draw) for one, draw in zip(good, draws, strict=True)]
        ids = self._model.tokenizer(prefixed([*good, *bad], prefix=self._head.prefix))
        read = text_state(self._model, ids.to(batch.image.device))
        assert read.tokens is not None
        unit = F.normalize(read.pooled[:b].float(), dim=1)
        pairs = clip_loss(F.normalize(batch.image, dim=1), unit, self._model.logit_scale.detach().float())
        truth = torch.arange(2 * b, device=unit.device) < b
        judged = F.cross_entropy(self._head(read.tokens[:, 0].float()), truth.long())
        return Loss(pairs + judged, {"clip": pairs.detach(), "grammar": judged.detach()})


class GrammarFit:
    """What ``fit_grammar`` trains, for whoever plays the steps: a copy of a model whose text side moves, and its head.

    Attributes:
        judge: the copy.
        head: on its text states.
        step: see ``GrammarStep``.
    """

    def __init__(
        self,
        model: DualEncoder,
        image: Float[Tensor, "n d"],
        texts: Sequence[str],
        *,
        owner: Sequence[int] | None = None,
        prefix: str = PREFIX,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        """Prepare the copy; arguments and errors as for ``fit_grammar``."""
        check_captions(texts)
        self._owner = torch.tensor(range(len(texts)) if owner is None else list(owner), dtype=torch.int64)
        if len(self._owner) != len(texts) or not 0 <= int(self._owner.min()) <= int(self._owner.max()) < len(image):
            raise InputError(f"owner: expected one of {len(image)} rows for each of {len(texts)} captions")
        words = sorted({word for text in texts for word in text.split()})
        if len(words) < 2:
            raise InputError(f"texts: expected at least 2 words to break captions with, got {len(words)}")
        width = check_judge(model, grammar=True)
        self.judge = cast(DualEncoder, copy.deepcopy(cast(nn.Module, model)).eval())
        text_parameters(self.judge)
        self.head = GrammarHead(width, prefix=prefix, generator=torch.Generator().manual_seed(seed))
        self.head.to(model.logit_scale.device)
        self.step = GrammarStep(self.judge, self.head, texts=texts, vocabulary=words, seed=seed)
        self._image, self._size, self._seed = image.float(), batch_size, seed

    def tuning(self, *, steps: int, learning_rate: float) -> Tuning[None]:
        """How the judge learns; the head begins at random and learns 10 times as fast. Both rest afterwards."""
        text = parameter_groups(cast(nn.Module, self.judge), weight_decay=WEIGHT_DECAY)
        own = parameter_groups(self.head, weight_decay=WEIGHT_DECAY)
        for group in own:
            group["params"] = [(f"head.{name}", one) for name, one in group["params"]]
        places = torch.arange(len(self._owner))[:, None]
        return Tuning[None](
            step=self.step,
            batches=ReplayedBatches(
                partial(caption_batches, self._image, places, owner=self._owner, batch_size=self._size, seed=self._seed)
            ),
            steps=steps,
            optimizer={"name": "adamw", "lr": learning_rate},
            groups=[*text, *(group | {"name": f"head_{group['name']}", "lr_scale": HEAD_RATE} for group in own)],
            modules={"head": self.head},
            finish=self._rest,
        )

    def _rest(self) -> None:
        cast(nn.Module, self.judge).requires_grad_(False)
        self.head.requires_grad_(False)


@checked
def fit_grammar(
    model: DualEncoder,
    image: Float[Tensor, "n d"],
    texts: Sequence[str],
    *,
    owner: Sequence[int] | None = None,
    prefix: str = PREFIX,
    steps: Count = 500,
    batch_size: Count = 64,
    learning_rate: PositiveRate = 1e-5,
    seed: Whole = 0,
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> tuple[DualEncoder, GrammarHead]:
    """Tune the text side of a copy together with a grammar head: a judge of meaning and of form.

    The image side and the logit scale rest, so ``image`` stays valid for the copy. No part is in training mode.

    Source: arXiv 2205.13115, section 3.3; the release has batches of 1,600.

    Args:
        model: any of ``tether.load`` whose text tower shows the state before its projection; it does not change.
        image: embeddings of images by it.
        texts: good captions.
        owner: the image of each caption; None where there is one for each.
        prefix: words before every caption.
        steps: of AdamW, whose learning rate falls to 0 as a cosine.
        batch_size: pairs of a step.
        learning_rate: of the text side; the head's is 10 times as high.
        seed: of the order, of how captions are broken, and of the head's weights.
        on_step: told each step.

    Returns:
        The copy, which rests, and its head.

    Raises:
        UnsupportedModelError: a text tower that gives rows alone, another geometry, or sides that share parameters.
        InputError: no captions, empty ones, owners that are no rows, or fewer than 2 words in all.
    """
    run = GrammarFit(model, image, texts, owner=owner, prefix=prefix, batch_size=batch_size, seed=seed)
    play(run.tuning(steps=steps, learning_rate=learning_rate), run.judge, seed=seed, on_step=on_step)
    return run.judge, run.head


def check_judge(model: DualEncoder, *, grammar: bool) -> int:
    """Refuse what cannot score captions; with ``grammar`` the width of the text state is given, and 0 without.

    Raises:
        UnsupportedModelError: a model of another geometry, or with ``grammar`` a text tower without a state.
    """
    if (found := geometry_of(model)).name != "clip":
        raise UnsupportedModelError(f"CLIP-S is a cosine, and this model's geometry is {found.name}")
    if not grammar:
        return 0
    with torch.no_grad():
        state = text_state(model, model.tokenizer(["a"]).to(model.logit_scale.device)).tokens
    assert state is not None
    return state.shape[-1]


def text_parameters(model: DualEncoder) -> dict[str, nn.Parameter]:
    """Let what a text's embedding depends on move, and nothing else.

    Raises:
        UnsupportedModelError: nothing would move, or an image's embedding depends on it too.
    """
    module = cast(nn.Module, model)
    for part in module.modules():
        if isinstance(part, TowerSide):
            part.lock_("tuned")
    named = {name: one for name, one in module.named_parameters() if one.is_floating_point()}
    for one in named.values():
        one.requires_grad_(True)
    height, width = model.image_spec.fixed().size
    blank = torch.zeros(1, 3, height, width, dtype=torch.uint8, device=model.logit_scale.device)
    ids = model.tokenizer(["a"]).to(blank.device)
    asked = (model.encode_text(ids).pooled, model.encode_image(blank).pooled, model.logit_scale)
    reached = [
        torch.autograd.grad(one.sum(), list(named.values()), allow_unused=True) if one.requires_grad else [None]
        for one in asked
    ]
    text, image, scale = ({name for name, g in zip(named, some, strict=False) if g is not None} for some in reached)
    if (shared := sorted(text & image)) or not text - scale:
        reason = f"its sides share parameters, among them {shared[0]}" if shared else "nothing of its text side can"
        raise UnsupportedModelError(f"the text side must move while the image side rests: {reason}")
    module.requires_grad_(False)
    moving = {name: one for name, one in named.items() if name in text - scale}
    for one in moving.values():
        one.requires_grad_(True)
    return moving
