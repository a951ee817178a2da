"""A new word for a thing, learnt from a few images of it: the direction of its rows alone (DTI)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from jaxtyping import Float
from torch import Tensor

from tether.adaptation.heads.word import WordHead
from tether.adaptation.recipes.given import ROWS, Given
from tether.adaptation.recipes.moving import rest_
from tether.adaptation.recipes.recipe import TuneRecipe
from tether.adaptation.recipes.refusals import check_cosine_model, check_text_tower
from tether.adaptation.recipes.tuning import Outcome, Tuning
from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.hash_rng import hash_int
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, Positive, PositiveRate, checked
from tether.core.types import Batch, Loss
from tether.data import open_source
from tether.methods.dti.optimizer import tangent
from tether.models.composed.cached import CachedEncoder, side_digest
from tether.models.texts.directional_token import DirectionalToken, Length, tokenizer_hash
from tether.models.texts.text_vectors import FILLER
from tether.training.schedules import Constant
from tether.training.steps.module import InsideStep, StepModule
from tether.training.tensor_batches import TensorBatches

TOKEN = "word"
_NONSENSE = "qzxwvkj"
SAME = 0.9999
"""Cosine from which on an image among the others is one of the thing's own."""


class NewWordRecipe(TuneRecipe):
    """A word for one thing of yours from four to eight images: usable in any text of ``tether search --words``.

    "a <word>" must be nearer to the thing's images than to images of other things. Only the direction of the word's
    rows moves, on the sphere; their length stays that of the vocabulary. The paper says that the words beside it are
    then still read; in our check free rows at a low rate did as well. Both towers rest. What comes of it is a head:
    directions, length, first word, hash of the tokenizer, digests of both sides. A diffusion's own loss is
    ``denoising_loss``.

    Source: DTI (arXiv 2512.13672), whose loss is a diffusion's; rate, steps and prior are the paper's.
    """

    takes = "images"
    gives = "head"
    used_by = "search"
    used_as = '"a WORD on a table" --words {folder}'
    simpler = "tether search --image FILE, which looks for images like one"
    cost = 60.0

    @checked
    def __init__(
        self,
        *,
        word: str,
        init_word: str,
        others: str,
        most: Count = 2_000,
        templates: Annotated[Sequence[str], MinLen(1)] = ("a {}", "a photo of a {}", "a picture of a {}"),
        scale: Length | Positive = "mean",
        kappa: NonNegative = 1e-4,
        steps: Count = 400,
        batch_size: Count = 4,
        against: Count = 64,
        learning_rate: PositiveRate = 0.01,
    ) -> None:
        """Take the settings.

        Args:
            word: the new word, as it shall stand in texts, such as ``<mug>``.
            init_word: what it begins as, such as ``cup``; several tokens give as many new rows.
            others: images of other things, such as the photos that will be searched, as ``data.open_source`` takes it.
            most: of them that are read.
            templates: texts with ``{}`` where the word goes.
            scale: length of the rows: the mean, least or greatest of the vocabulary, or a number.
            kappa: pull toward the first word.
            steps: of the run.
            batch_size: images of the thing in a step.
            against: images of other things in a step.
            learning_rate: radians of a step.

        Raises:
            InputError: a template without ``{}``.
        """
        if bad := [one for one in templates if "{}" not in one]:
            raise InputError(f"templates: expected texts with {{}} where the word goes, got {bad[0]!r:.200}")
        self.word, self.init_word, self.others, self.most = word, init_word, others, most
        self.templates, self.scale, self.kappa, self.steps = tuple(templates), scale, kappa, steps
        self.batch_size, self.against, self.learning_rate = batch_size, against, learning_rate

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        check_cosine_model(model)
        check_text_tower(model)
        self.token(model)

    def remarks(self, model: DualEncoder) -> list[str]:
        """See Recipe: of a word that texts have already."""
        before, nonsense, known = self.token(model).words_of([FILLER, f"{FILLER} {_NONSENSE}", f"{FILLER} {self.word}"])
        own = known[len(before) :]
        if self.word != self.init_word and (len(own) != 1 or own == nonsense[len(before) :]):
            return []
        return [
            f"The model knows the word {self.word!r} already: with --words every {self.word!r} in a text is read as "
            "the new one. A word of its own, such as '<mug>', leaves the others as they are."
        ]

    def token(self, model: DualEncoder) -> DirectionalToken:
        """The word as it begins."""
        return DirectionalToken(model, self.init_word, word=self.word, scale=self.scale)

    def tuning(self, model: DualEncoder, given: Given) -> Tuning:
        """See TuneRecipe."""
        rest_(model)
        own = F.normalize(given.embed(model).image, dim=1)
        source, reader = open_source(self.others, where="others"), CachedEncoder(model)
        parts = [rows for _, rows in reader.rows_of(source, batch_size=ROWS, workers=given.workers, limit=self.most)]
        others = F.normalize(torch.cat([own[:0], *parts]), dim=1)
        others = others[(others @ own.T).amax(dim=1) < SAME]
        if not len(others):
            raise InputError(f"others: {source.name}: expected images of other things, got none but the thing's own")
        token = self.token(model)
        token.direction.register_hook(
            lambda gradient: tangent(gradient - self.kappa * token.start, token.direction.detach())[0]
        )

        @torch.no_grad()
        def back_to_length_1(_: object) -> None:
            token.direction.div_(token.direction.norm(dim=1, keepdim=True))

        @torch.no_grad()
        def finish() -> Outcome:
            text = token.encode([one.replace("{}", self.word) for one in self.templates]).unit.mean(dim=0, keepdim=True)
            head = WordHead(
                token.direction,
                start=token.start,
                text=F.normalize(text.float(), dim=1),
                word=self.word,
                init_word=self.init_word,
                length=token.scale,
                text_side=side_digest(token.model, "text"),
                tokenizer=tokenizer_hash(model.tokenizer),
                scale=float(model.logit_scale.detach()),
            )
            return Outcome(head=head)

        return Tuning(
            step=WordStep(self, others, seed=given.seed),
            batches=TensorBatches({"image": own}, batch_size=self.batch_size, seed=given.seed),
            steps=self.steps,
            optimizer={"name": "sgd", "lr": self.learning_rate, "momentum": 0.0, "momentum_rule": "heavy_ball"},
            schedule=Constant(),
            modules={TOKEN: token},
            after_step=back_to_length_1,
            finish=finish,
        )


class WordStep(InsideStep):
    """``word_loss`` of one text with the word; a ``core.protocols.Step``."""

    def __init__(self, recipe: NewWordRecipe, others: Float[Tensor, "n d"], *, seed: int) -> None:
        """Args: recipe: the settings. others: unit rows of images of other things. seed: of the draws."""
        self.recipe, self.others, self.seed = recipe, others, seed

    def loss_of(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See InsideStep."""
        token, recipe = module.heads[TOKEN], self.recipe
        draw = torch.Generator().manual_seed(hash_int(str(step), seed=self.seed, salt="new word") >> 1)
        template = recipe.templates[int(torch.randint(len(recipe.templates), (), generator=draw))]
        against = self.others[torch.randint(len(self.others), (recipe.against,), generator=draw)]
        assert isinstance(token, DirectionalToken)
        text = token.encode([template.replace("{}", recipe.word)]).unit[0]
        return Loss(word_loss(text, batch.image.to(text), against.to(text), scale=token.model.logit_scale.detach()))


def word_loss(
    text: Float[Tensor, " d"], own: Float[Tensor, "p d"], others: Float[Tensor, "n d"], *, scale: float | Tensor
) -> Float[Tensor, ""]:
    """How far a text is from telling each image of a thing from images of others: the mean cross-entropy.

    Args:
        text: unit row.
        own: unit rows of the thing's images.
        others: unit rows of other images.
        scale: multiplier of cosines.
    """
    right, wrong = scale * (own @ text), scale * (others @ text)
    return (torch.logsumexp(torch.cat([right[:, None], wrong.expand(len(right), -1)], dim=1), dim=1) - right).mean()
