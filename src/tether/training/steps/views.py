"""Views: what of a batch is encoded, and how it looks to the model."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor

from tether.core.atomic_io import local, regular
from tether.core.component import build
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.gather import Gather
from tether.core.hash_rng import hash_int
from tether.core.protocols import Tokenizer
from tether.core.ranges import Count, Part, Share, checked
from tether.core.registry import Registry
from tether.core.types import Batch
from tether.models.encoders.tower_parts import Side
from tether.models.features.find import anatomy_of
from tether.models.tokenizer import lengths
from tether.models.towers.clip import Want
from tether.models.towers.patch_selection import TOKEN_CHOICES, RandomTokens, TokenChoice
from tether.models.towers.positions import Pair
from tether.training.steps.module import StepModule, ViewRows, ViewWant
from tether.training.terms.term import DENSE, LABELS

if TYPE_CHECKING:
    from tether.models.features.patch_attention import Attended
    from tether.training.steps.rewrites import Rewrite

MODEL = "model"
"""The encoder that is trained."""
TEACHER = "teacher"
"""The one that a step's setting ``teacher`` describes."""


class View(abc.ABC):
    """One thing to encode.

    Attributes:
        source: names of what a batch holds; several are taken in turn, one each step.
        side: the tower that reads it, told by the end of the source's name.
        encoder: ``model``, or who else reads it, see ``Teachers``.
        optional: left out where the batch does not have it.
        times: rows for each row of the source.
    """

    side: Side
    times = 1

    @property
    def needs(self) -> Sequence[str]:
        """Names of other views that it is made with."""
        return ()

    @property
    def guided(self) -> bool:
        """Whether what the step's teacher attends to chooses its patches."""
        return False

    def waits(self, step: int) -> bool:
        """Whether it is encoded at this step after the views that it needs."""
        return False

    def __init__(self, *, source: str | list[str], encoder: str, want: ViewWant, optional: bool) -> None:
        """Take the settings that all views have."""
        self.source = [source] if isinstance(source, str) else list(source)
        if not self.source or any(not name.endswith(self.side) for name in self.source):
            raise InputError(f"source: expected names that end in {self.side!r}, got {source!r}")
        self.encoder, self.optional = encoder, optional
        self.want: ViewWant = want

    def rows(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> ViewRows | None:
        """This process's rows at this step, or None for an optional view without a source.

        What belongs to the source goes along in ``about``: ``labels`` of its texts; ``box`` (b, 4) and ``flipped``
        (b,), which part of the original image a view of it shows, where the loader says so; ``seg``, ``depth`` and
        ``normal``, what is known of its pixels.

        Raises:
            InputError: the batch does not hold the source, or it is empty.
        """
        source = self.source[step % len(self.source)]
        found = getattr(batch, source) if source in ("image", "text") else batch.extra.get(source)
        if found is None and self.optional:
            return None
        if not isinstance(found, Tensor):
            raise InputError(
                f"batch.extra: expected {source!r}, got {', '.join(batch.extra) or 'nothing'}; every row of the source "
                "must have it in its meta, or tether.data.loader bring it"
            )
        if not found.numel():
            raise InputError(f"batch: {source}: expected rows to encode, got {tuple(found.shape)}")
        names = {"labels": LABELS.get(source, ""), **{key: f"{source}_{key}" for key in ("box", "flipped", *DENSE)}}
        given = {key: batch.extra.get(name) for key, name in names.items()}
        about = {key: value for key, value in given.items() if isinstance(value, Tensor)}
        return self._seen(module, found, batch, about, step=step, gather=gather)

    @abc.abstractmethod
    def _seen(
        self, module: StepModule, rows: Tensor, batch: Batch, about: dict[str, Tensor], *, step: int, gather: Gather
    ) -> ViewRows: ...


class ImageView(View):
    """Images of a batch: whole, cut out at random, at another size, or only some of their patches.

    Dropped patches never reach the blocks, so half the patches cost about half the image tower (FLIP,
    arXiv 2212.00794). A last stretch at full length closes the gap to test time.

    Attributes:
        choice: of the patches that are seen; None sees all.
        attended: the teacher's view whose attention guides it; None is the teacher's look at this view itself.
    """

    side = "image"

    @checked
    def __init__(
        self,
        *,
        source: str | list[str] = "image",
        size: Count | None = None,
        crop: Part = 1.0,
        keep_patches: Part = 1.0,
        patches: str | dict[str, Any] | None = None,
        attended: str | None = None,
        full_last: Share = 0.0,
        want: ViewWant = "pooled",
        encoder: str = MODEL,
        optional: bool = False,
        steps: int,
        seed: int,
        view: str,
    ) -> None:
        """Take the settings.

        Args:
            source: ``image``, or a name in the batch's extra that ends in it, such as ``negative_image``; several are
                taken in turn.
            size: pixels of a side; None leaves the batch's.
            crop: least side of a random square window, as a share of the image's; 1 is no window.
            keep_patches: share of the patches that is kept; views of equally many rows keep the same ones.
            patches: which are kept, one of ``TOKEN_CHOICES``, instead of a share of them at random; ``attentive`` asks
                the step's teacher.
            attended: with ``attentive``, a view of the same images that the teacher reads anyway, such as the whole
                images: what it attends to there is mapped to where this view lies, so one forward serves several views.
            full_last: last share of the run that sees every patch.
            want: ``tokens`` also gives the patches in the joint space, ``state`` what the embedding is projected from,
                ``states`` that of each token; of whole images, ``dense`` patches that the last block does not mix, and
                ``map`` the tower's last map.
            encoder: ``model``, ``teacher``, or the name of a frozen one for ``tether.load``.
            optional: leave the view out where a batch has no such images.
            steps: length of the run.
            seed: of windows and patches, which depend on (seed, step) and not on the number of processes.
            view: name of this one; windows of views with different names differ.
        """
        super().__init__(source=source, encoder=encoder, want=want, optional=optional)
        self.choice: TokenChoice | None = None
        if patches is not None:
            self.choice = build(patches, TOKEN_CHOICES, where=f"view {view}: patches")
        if keep_patches < 1:
            if patches is not None:
                raise InputError(f"patches: give them or keep_patches, not both; got {patches!r} and {keep_patches}")
            self.choice = RandomTokens(keep=keep_patches)
        if attended is not None and (self.choice is None or self.choice.scored != "attention"):
            raise InputError(f"attended: expected patches: attentive beside it, got {patches!r}")
        if encoder not in (MODEL, TEACHER) and (self.choice is not None or want != "pooled"):
            raise InputError(f"encoder: {encoder!r} sees whole images and gives pooled embeddings only")
        if encoder == TEACHER and self.choice is not None:
            raise InputError("encoder: the teacher sees whole images; expected keep_patches 1, and no patches")
        if want == "map" and (self.choice is not None or encoder != MODEL):
            raise InputError(f"want: 'map' is of all patches, by the model; got patches {patches!r} of {encoder!r}")
        if want == "dense" and self.choice is not None:
            raise InputError(f"want: 'dense' is of all patches; got patches {patches!r}")
        self.size, self.crop, self.seed, self.name, self.attended = size, crop, seed, view, attended
        self.steps, self.full_from = steps, round(steps * (1 - full_last))

    def _seen(
        self, module: StepModule, rows: Tensor, batch: Batch, about: dict[str, Tensor], *, step: int, gather: Gather
    ) -> ViewRows:
        size = (self.size, self.size) if self.size else tuple(rows.shape[2:])
        with torch.autocast(rows.device.type, enabled=False):  # eight bits of a pixel are more than bfloat16 has
            if self.crop < 1:
                rows, windows = self._window(rows, size, step=step, gather=gather)
                shown, flipped = placed(rows, about)
                about = {key: value for key, value in about.items() if key not in DENSE}  # of what lay outside, too
                about |= {"box": _within(shown, flipped, windows), "flipped": flipped}
            elif size != tuple(rows.shape[2:]):
                rows = _like(F.interpolate(rows.float(), size, mode="bicubic", antialias=True), rows.dtype)
        own = batch.extra.get("keys") if rows is batch.image else None
        names = [str(key) for key in own] if isinstance(own, Sequence) else None
        keep = None
        if self.choice is not None and step < self.full_from and not self.guided and not self.waits(step):
            grid = patch_grid(module, rows)
            generator = torch.Generator().manual_seed(hash_int(str(step), seed=self.seed, salt="patches") >> 1)
            noise = torch.rand(len(rows) * gather.world, grid[0] * grid[1], generator=generator)
            noise = noise[gather.rank * len(rows) : (gather.rank + 1) * len(rows)]
            keep = self.choice(noise, grid=grid).to(rows.device, non_blocking=True)
        return ViewRows("image", rows, keep, self.want, about, fixed=self.crop == 1, names=names)

    @property
    def guided(self) -> bool:
        """See View."""
        return self.choice is not None and self.choice.scored == "attention"

    @property
    def needs(self) -> Sequence[str]:
        """See View: those that choose its patches."""
        if self.attended is not None:
            return [self.attended]
        return () if self.choice is None else self.choice.views

    def waits(self, step: int) -> bool:
        """See View: where their features choose its patches."""
        return self.choice is not None and step < self.full_from and self.choice.scored_at(step, steps=self.steps)

    def guide(self, rows: ViewRows, look: Attended, *, own: Pair, of: ViewRows, grid: Pair) -> ViewRows:
        """Its rows with the patches that were attended to.

        Args:
            rows: as ``rows`` gave them.
            look: of the teacher at another view of the same images, or at this one.
            own: rows and columns of the teacher's patches.
            of: rows of that view.
            grid: rows and columns of this view's patches.

        Raises:
            InputError: views of unequal length.
        """
        assert self.choice is not None  # it is guided
        if len(of.rows) != len(rows.rows):
            raise InputError(f"attended: expected a view of the {len(rows.rows)} images, got {len(of.rows)} rows")
        scores = look.scores
        if of is not rows or own != grid:
            from tether.models.features.patch_attention import scores_in_view

            (view, flipped), (reference, mirrored) = (placed(one.rows, one.about) for one in (rows, of))
            scores = scores_in_view(
                scores,
                own=own,
                grid=grid,
                view=view,
                reference=reference,
                view_flipped=flipped,
                reference_flipped=mirrored,
            )
        return replace(rows, keep=self.choice(scores, grid=grid))

    def _window(self, rows: Tensor, size: tuple[int, ...], *, step: int, gather: Gather) -> tuple[Tensor, Tensor]:
        """A square window of each image, its side and its place drawn evenly, and the windows (b, 4) in its shares."""
        salt = f"window of {self.name}"
        generator = torch.Generator().manual_seed(hash_int(str(step), seed=self.seed, salt=salt) >> 1)
        drawn = torch.rand(len(rows) * gather.world, 3, generator=generator)
        drawn = drawn[gather.rank * len(rows) : (gather.rank + 1) * len(rows)].to(rows.device, non_blocking=True)
        side = self.crop + (1 - self.crop) * drawn[:, :1]
        place = (1 - side) * (2 * drawn[:, 1:] - 1)
        theta = torch.cat([side[:, :, None] * torch.eye(2, device=rows.device), place[:, :, None]], dim=2)
        grid = F.affine_grid(theta, [len(rows), 3, *size], align_corners=False)
        pixels = _like(F.grid_sample(rows.float(), grid, padding_mode="border", align_corners=False), rows.dtype)
        return pixels, torch.cat([place + 1 - side, place + 1 + side], dim=1) / 2


class TextView(View):
    """Captions of a batch: whole, cut, or in other words."""

    side = "text"

    @checked
    def __init__(
        self,
        *,
        source: str | list[str] = "text",
        context: Annotated[int, Ge(2)] | None = None,
        rewrite: str | dict[str, Any] | None = None,
        texts: list[str] | str | None = None,
        prompts: list[str] | None = None,
        want: Want = "pooled",
        encoder: str = MODEL,
        optional: bool = False,
        steps: int,
        seed: int,
        view: str,
    ) -> None:
        """Take the settings.

        Args:
            source: ``text``, or a name in the batch's extra that ends in it, such as ``negative_text``; several are
                taken in turn.
            context: most tokens, the end token among them; None leaves what the loader gave.
            rewrite: other texts made of the captions, one of ``REWRITES``.
            texts: the same texts at every step in place of the batch's, such as concepts: a list, or a file with one a
                line.
            prompts: sentences with ``{}`` for each of ``texts``; a term may take their mean.
            want: ``tokens`` also gives the words in the joint space.
            encoder: ``model``; ``teacher``; the name of a frozen one for ``tether.load``; or ``words``, which counts
                tokens.
            optional: leave the view out where a batch has no such texts.
            steps: length of the run.
            seed: of the rewriting.
            view: name of this one.
        """
        super().__init__(source=source, encoder=encoder, want=want, optional=optional)
        if encoder not in (MODEL, TEACHER) and want != "pooled":
            raise InputError(f"encoder: {encoder!r} gives pooled embeddings only")
        if (rewrite is not None or encoder not in (MODEL, TEACHER)) and self.source != ["text"]:
            raise InputError(f"source: rewriting and other encoders read the captions, 'text'; got {source!r}")
        if texts is not None and (rewrite is not None or optional):
            raise InputError("texts: are the same at every step; expected neither rewrite nor optional")
        if prompts is not None and (texts is None or not prompts or any("{}" not in one for one in prompts)):
            raise InputError(f"prompts: expected sentences with {{}} beside texts, got {prompts!r}")
        self.texts = None if texts is None else _fixed_texts(texts)
        self.prompts, self._ids = prompts, cast("Tensor | None", None)
        self.context = context
        self.rewrite: Rewrite | None = None
        if rewrite is not None:
            from tether.training.steps.rewrites import REWRITES

            self.rewrite = build(rewrite, REWRITES, where=f"view {view}: rewrite", steps=steps, seed=seed)
            self.times = self.rewrite.times

    def rows(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> ViewRows | None:
        """See View; of ``texts`` whatever the batch holds."""
        if self.texts is None:
            return super().rows(module, batch, step=step, gather=gather)
        prompts = self.prompts or ["{}"]
        if self._ids is None:
            tokenizer: Tokenizer = module.model.tokenizer
            self._ids = tokenizer([prompt.replace("{}", text) for text in self.texts for prompt in prompts])
        self._ids = self._ids.to(batch.image.device)
        about = {} if self.prompts is None else {"prompts": torch.arange(len(prompts), device=batch.image.device)}
        return self._seen(module, self._ids, batch, about, step=step, gather=gather)

    def _seen(
        self, module: StepModule, rows: Tensor, batch: Batch, about: dict[str, Tensor], *, step: int, gather: Gather
    ) -> ViewRows:
        if self.rewrite is not None:
            tokenizer: Tokenizer = module.model.tokenizer
            rows, about = self.rewrite(captions_of(batch), tokenizer, step=step, rank=gather.rank)
            # All is made on the CPU, so that the accelerator is never waited for.
            rows = rows.to(batch.text.device, non_blocking=True)
            about = {key: value.to(batch.text.device, non_blocking=True) for key, value in about.items()}
        if self.context is not None and rows.shape[1] > self.context:
            end = rows.gather(1, lengths(rows)[:, None] - 1)
            cut = rows[:, : self.context]
            longer = rows[:, self.context :].ne(0).any(dim=1, keepdim=True)
            rows = torch.cat([cut[:, :-1], torch.where(longer, end, cut[:, -1:])], dim=1)
        return ViewRows("text", rows, None, self.want, about, fixed=self.rewrite is None)


def _fixed_texts(texts: list[str] | str) -> list[str]:
    """The lines of a file, or a list, without what is empty; at least 2.

    Raises:
        InputError: fewer, or a file that cannot be read; it names the file.
    """
    where = "texts" if isinstance(texts, list) else f"texts: {texts}"
    if isinstance(texts, str):
        try:
            lines = regular(local(texts)).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{where}: expected a file with one text a line: {error}") from error
    else:
        lines = texts
    found = [line.strip() for line in lines if line.strip()]
    if len(found) < 2:
        raise InputError(f"{where}: expected at least 2 texts, got {len(found)}")
    return found


VIEWS: Registry[View] = Registry(
    "views",
    {
        "image": "tether.training.steps.views:ImageView",
        "text": "tether.training.steps.views:TextView",
    },
)
"""Kinds of views: those of a side by its name, others by the ``name`` in a view's settings."""


def captions_of(batch: Batch) -> Sequence[str]:
    """The captions of a batch as words.

    Raises:
        InputError: a batch that does not have them.
    """
    captions = batch.extra.get("texts")
    if not isinstance(captions, Sequence) or len(captions) != len(batch.text):
        raise InputError(
            f"batch.extra['texts']: expected the {len(batch.text)} captions as words, as tether's loader gives them; "
            f"got {captions!r}"
        )
    return [str(caption) for caption in captions]


def patch_grid(module: StepModule, image: Tensor) -> Pair:
    """Rows and columns of the patches that images are cut into.

    Raises:
        UnsupportedModelError: the image tower is no plain vision transformer.
    """
    try:
        return anatomy_of(module.model).grid(image)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"keep_patches: {error}; else use keep_patches=1, and no patches") from error


def placed(rows: Tensor, about: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Which part of their images rows show, (b, 4), and which are mirrored (b,); all of it where nothing says so."""
    if "box" in about:
        return about["box"], about["flipped"]
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0], device=rows.device).expand(len(rows), -1)
    return whole, torch.zeros(len(rows), dtype=torch.bool, device=rows.device)


def _within(boxes: Tensor, flipped: Tensor, windows: Tensor) -> Tensor:
    """Which part of the original image is seen through windows of views that show ``boxes`` of it, all (b, 4)."""
    x0, y0, x1, y1 = windows.unbind(1)
    x0, x1 = torch.where(flipped, 1 - x1, x0), torch.where(flipped, 1 - x0, x1)
    corner, sides = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    first, last = torch.stack([x0, y0], dim=1), torch.stack([x1, y1], dim=1)
    return torch.cat([corner + first * sides, corner + last * sides], dim=1)


def _like(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.round().clamp(0, 255).to(dtype) if dtype == torch.uint8 else values.to(dtype)
