"""Attention-based selection: crops where a vision transformer looks, of pixels and of tokens, matched softly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from tether.core.errors import InputError, UnsupportedModelError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Part, Positive, Whole, checked
from tether.data.images import fitted, resize_and_crop
from tether.data.placement import Placement
from tether.methods.abs.attention_boxes import attention_boxes, draw_patches, map_patches, token_sizes
from tether.methods.abs.attention_source import AttentionSource, open_attention
from tether.methods.abs.soft_match import matched
from tether.methods.abs.soft_match import view_weights as weights_of
from tether.methods.abs.token_crops import feature_crops, map_grid, run_rows
from tether.models.features.find import anatomy_of
from tether.tasks.classify.descriptions import Descriptions, described_rows
from tether.tasks.classify.views import ViewHead, encode_windows, image_draws, view_spec, whole


class AttentionViews(ViewHead):
    """Names images by views where a vision transformer looks, matched softly to descriptions of the classes.

    Half of the views are crops of the pixels, the other half of the tokens that enter a block, which know the whole
    image; they draw their places apart. Scores are ``soft_match`` in units of the cosine and a mean over views, which
    orders as the released sum does.

    Source: arXiv 2505.13233. There attention is DINO's; give its folder. It is that of the whole image, resized
    directly. Here places in the tokens follow where the model's own preparation cuts an image that is not square;
    the release takes them as if it were whole.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.methods.abs.attention_views import AttentionViews
        >>> says = {"cat": ["A cat purrs.", "It has whiskers."], "sun": ["A yellow disc."]}
        >>> head = AttentionViews(n=4, descriptions=says).prepare(create("tiny").eval(), ["cat", "sun"])
        >>> head.predict(torch.randint(0, 256, (1, 3, 120, 90), dtype=torch.uint8)).cosine.shape
        torch.Size([1, 2])
    """

    @checked
    def __init__(
        self,
        *,
        n: Count = 50,
        views: Literal["both", "pixels", "features"] = "both",
        attention: str | Path | Callable[..., object] = "own",
        attention_layer: int = -1,
        top_k: Count | None = None,
        ratio: tuple[Part, Part] = (0.6, 0.9),
        layer: int = -1,
        match: Literal["soft", "mean"] = "soft",
        tau: Positive = 0.03,
        view_weights: bool = False,
        most: Count = 50,
        templates: Sequence[str] | None = None,
        descriptions: Descriptions | None = None,
        seed: Whole = 1,
        batch_size: Count = 64,
    ) -> None:
        """Take the settings.

        Args:
            n: views of each kind.
            views: which kinds.
            attention: ``own``, of the model's image tower; ``uniform``, a control; the folder of a vision transformer,
                such as DINO's, or ``timm:NAME``; or a callable from images to (b, rows, columns).
            attention_layer: block of it, negative from the end.
            top_k: patches that may be drawn; None is 20, or all of a smaller map or where attention is uniform.
            ratio: least and largest share of a side.
            layer: block whose tokens are cropped, negative from the end.
            match: ``soft``, or ``mean``, the mean cosine over a class's descriptions.
            tau: temperature of ``soft``.
            view_weights: weigh views by their likeness to the whole image.
            most: descriptions of a class that count, the first.
            templates: as for ``ViewHead``; without descriptions each is one.
            descriptions: as for ``ViewHead``.
            seed: of the draws.
            batch_size: views in one forward.
        """
        super().__init__(templates=templates, descriptions=descriptions, seed=seed, batch_size=batch_size)
        if ratio[0] > ratio[1]:
            raise InputError(f"ratio: expected the smaller number first, got {list(ratio)}")
        self.n, self.views, self.attention, self.attention_layer = n, views, attention, attention_layer
        self.top_k, self.ratio, self.layer = top_k, ratio, layer
        self.match, self.tau, self.view_weights, self.most = match, tau, view_weights, most
        self._source: AttentionSource | None = None
        self._layer = -1
        self._rows, self._owners = torch.empty(0, 0), torch.empty(0, dtype=torch.int64)

    def start(self, model: DualEncoder, texts: Sequence[Sequence[str]]) -> float:
        """All descriptions as unit rows, and where attention comes from."""
        if not self.geometry.unit:
            raise InputError(f"the model compares by {self.geometry.name}; expected one that compares by the cosine")
        try:
            if self.views != "pixels":
                self._layer = anatomy_of(model).place(self.layer)
            self._source = open_attention(
                self.attention, model=model, layer=self.attention_layer, batch_size=self.batch_size
            )
        except UnsupportedModelError as error:
            raise UnsupportedModelError(
                f"{error}; with such a model give views=pixels and attention=FOLDER or timm:NAME of one, or take "
                "guided_crops"
            ) from error
        rows, counts = described_rows(model, [some[: self.most] for some in texts])
        self._rows = F.normalize(rows, dim=1)
        self._owners = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        return float(model.logit_scale.detach()) if self.match == "mean" else 1 / self.tau

    def scores(self, images: Sequence[UInt8[Tensor, "3 h w"]]) -> Float[Tensor, "b c"]:
        """Soft matching of all views."""
        assert self._source is not None  # it was prepared
        maps = self._source(images).float().cpu()
        if maps.ndim != 3 or len(maps) != len(images) or not maps.isfinite().all():
            raise InputError(f"attention: expected finite ({len(images)}, rows, columns), got {tuple(maps.shape)}")
        draws = [image_draws(image, seed=self.seed, salt="attention views") for image in images]
        found = list[list[Tensor]]([] for _ in images)
        full: Sequence[Tensor | None] = [None] * len(images)
        if self.views != "pixels":
            full, parts = self._feature_views(images, maps, draws)
            found = [[*one, part] for one, part in zip(found, parts, strict=True)]
        if self.views != "features":
            parts = self._pixel_views(images, maps, draws)
            found = [[*one, part] for one, part in zip(found, parts, strict=True)]
            if self.view_weights and full[0] is None:
                full = self._encoded(images, [[whole(image)] for image in images])
        views = [F.normalize(torch.cat(parts), dim=1) for parts in found]
        return torch.stack([self._score(some, image) for some, image in zip(views, full, strict=True)])

    def _score(self, views: Float[Tensor, "v d"], image: Tensor | None) -> Float[Tensor, " c"]:
        weights = torch.full((len(views),), 1 / len(views))
        if self.view_weights:
            assert image is not None  # it was encoded
            weights = weights_of(views, image=image.flatten())
        classes = len(self.classes)
        if self.match == "mean":
            counts = torch.bincount(self._owners, minlength=classes)
            alike = (weights @ (views @ self._rows.T))[None]
            return alike.new_zeros(1, classes).index_add(1, self._owners, alike)[0] / counts
        return self.tau * matched(views, self._rows, self._owners, classes=classes, tau=self.tau, weights=weights)

    def _drawn(self, attention: Tensor) -> int:
        if self.top_k is not None:
            return self.top_k
        return attention.numel() if self.attention == "uniform" else min(20, attention.numel())

    def _pixel_views(self, images: Sequence[Tensor], maps: Tensor, draws: Sequence[torch.Generator]) -> list[Tensor]:
        windows = []
        for image, attention, generator in zip(images, maps, draws, strict=True):
            boxes, _ = attention_boxes(
                attention,
                size=(image.shape[1], image.shape[2]),
                n=self.n,
                top_k=self._drawn(attention),
                ratio=self.ratio,
                generator=generator,
            )
            windows.append([tuple(box) for box in boxes.tolist()])
        return self._encoded(images, windows)

    def _encoded(self, images: Sequence[Tensor], windows) -> list[Tensor]:
        spec = view_spec(self.model)
        return encode_windows(self.model, images, windows, spec=spec, batch_size=self.batch_size)

    @torch.inference_mode()
    def _feature_views(
        self, images: Sequence[Tensor], maps: Tensor, draws: Sequence[torch.Generator]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The whole images, and crops of their tokens."""
        tower, spec = anatomy_of(self.model), view_spec(self.model)
        device = self.model.logit_scale.device
        first = tower.embed(resize_and_crop(images[0], spec)[None].to(device))
        grid = map_grid(first, tower)

        def streams() -> Iterator[Tensor]:
            for start in range(0, len(images), self.batch_size):
                some = images[start : start + self.batch_size]
                pixels = torch.stack([resize_and_crop(image, spec) for image in some]).to(device)
                for number, tokens in enumerate(tower.run(tower.embed(pixels), 0, self._layer).x, start):
                    image, generator = images[number], draws[number]
                    placement = fitted(image.shape[1], image.shape[2], spec)
                    centres, sizes = self._places(maps[number], placement, grid, generator)
                    crops = feature_crops(tokens, centres=centres, sizes=sizes, grid=grid, prefix=tower.prefix)
                    yield torch.cat([tokens[None], crops])

        rows = run_rows(tower, first, streams(), layer=self._layer, batch_size=self.batch_size).float().cpu()
        each = rows.view(len(images), 1 + self.n, -1)
        return list(each[:, 0]), list(each[:, 1:])

    def _places(
        self, attention: Float[Tensor, "r c"], placement: Placement, grid: tuple[int, int], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Centres and sizes in tokens: patches drawn anew, and looked up in the map of the model's image."""
        patches = draw_patches(attention.flatten(), n=self.n, top_k=self._drawn(attention), generator=generator)
        sizes = token_sizes(self.n, grid=grid, ratio=self.ratio, generator=generator)
        return map_patches(patches, grid=(attention.shape[0], attention.shape[1]), to=grid, placement=placement), sizes
