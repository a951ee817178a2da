"""What a restyled image is held to: patches and regions that move as texts do, the content as it was, smoothness."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, Number, Part, Share, checked
from tether.core.warps import homography_grid, random_perspectives, warped
from tether.generation.goals import Moment
from tether.generation.seen import seen_by, unit_images
from tether.losses.directional import directional_loss
from tether.models.features.find import tower_of

_STRIP = 0.2
"""Share of a crop's height, at its bottom, in which an object makes it a crop of the object."""
_LEAST = 1e-6


@checked
def thresholded_patch_loss(
    terms: Float[Tensor, " n"],
    is_object: Shaped[Tensor, " n"] | None = None,
    *,
    threshold: Number = 0.7,
    object_scale: NonNegative = 0.3,
    ground_scale: NonNegative = 1.0,
) -> Float[Tensor, ""]:
    """Mean over patches of what each still lacks, where that is at least a threshold: enough style is not pushed on.

    In the release the scales lie in the order in which crops were drawn and the terms in another, with the ground's
    first, so that scales meet other crops; here each crop has its own.

    Args:
        terms: of ``directional_loss``, one for each patch.
        is_object: which patches show the object, as booleans or as 0 and 1; None for none.
        threshold: below it a term counts nothing and has no gradient.
        object_scale: of patches of the object.
        ground_scale: of all others.

    Raises:
        InputError: no patches, or another number of marks.

    Source: Sem-CS (arXiv 2307.05934), clipstyler_spectral_globfb.py; the threshold is CLIPStyler's (2112.00374).

    Example:
        >>> import torch
        >>> from tether.generation.edit import thresholded_patch_loss
        >>> round(thresholded_patch_loss(torch.tensor([1.0, 1.0, 0.5]), torch.tensor([True, False, False])).item(), 3)
        0.433
    """
    marks = torch.zeros(len(terms), dtype=torch.bool) if is_object is None else is_object.bool()
    if terms.ndim != 1 or not len(terms) or marks.shape != terms.shape:
        raise InputError(f"terms: expected (n,) and as many marks, got {tuple(terms.shape)} and {tuple(marks.shape)}")
    scale = torch.where(marks.to(terms.device), object_scale, ground_scale).to(terms)
    return (scale * terms * (terms >= threshold)).mean()


def tv4(image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
    """Total variation as CLIPStyler's code has it: lengths, not squared, of differences along rows, columns, diagonals.

    Args:
        image: at least 2 x 2 pixels. The gradient of an even image is zero.

    Raises:
        InputError: another shape.

    Example:
        >>> import torch
        >>> from tether.generation.edit import tv4
        >>> round(tv4(torch.tensor([[0.0, 1.0], [0.0, 1.0]]).expand(1, 1, 2, 2)).item(), 3)
        3.414
    """
    if image.ndim != 4 or min(image.shape[2:]) < 2:
        raise InputError(f"image: expected (b, c, h, w) of at least 2 x 2 pixels, got {tuple(image.shape)}")
    ways = (
        image[..., :, :-1] - image[..., :, 1:],
        image[..., :-1, :] - image[..., 1:, :],
        image[..., 1:, :-1] - image[..., :-1, 1:],
        image[..., :-1, :-1] - image[..., 1:, 1:],
    )
    return torch.stack([torch.linalg.vector_norm(way) for way in ways]).sum()


class PatchGoal:
    """Random crops of the image, in perspective, each moved from the source as the text of its region says.

    A crop shows the object if the mask has any of it in the lowest fifth of the crop. Crops lie evenly over the image;
    of the object's at most ``object_share`` are kept, and others drawn in place of the rest.

    Example:
        >>> import torch
        >>> from tether.generation import Moment
        >>> from tether.generation.edit.style_goals import PatchGoal
        >>> from tether.models import create
        >>> mask, way = torch.eye(32) > 0, torch.eye(64)[:1]
        >>> goal = PatchGoal(create("tiny").eval(), source=torch.eye(64)[1:2], object_way=way, mask=mask, crops=4)
        >>> goal(torch.rand(1, 3, 32, 32), Moment()).shape
        torch.Size([])
    """

    @checked
    def __init__(
        self,
        model: DualEncoder,
        *,
        source: Float[Tensor, "1 d"],
        object_way: Float[Tensor, "1 d"],
        ground_way: Float[Tensor, "1 d"] | None = None,
        mask: Bool[Tensor, "h w"] | None = None,
        crops: Count = 64,
        crop: Part = 0.25,
        threshold: Number = 0.7,
        object_scale: NonNegative = 0.3,
        object_share: Share = 0.2,
        distortion: Annotated[float, Ge(0), Le(0.5)] = 0.5,
        weight: NonNegative = 9000.0,
    ) -> None:
        """Take the settings; the defaults are the release's.

        Args:
            model: any encoder of ``tether.load``.
            source: row of the source image.
            object_way: direction of the object's text, or of the only one.
            ground_way: direction of the ground's text; None draws crops of the object alone.
            mask: True where the object is; None knows no regions, as CLIPStyler.
            crops: of each step.
            crop: their side, as a share of the image's shorter one.
            threshold: see ``thresholded_patch_loss``.
            object_scale: see there.
            object_share: of the crops at most, where the ground has a text.
            distortion: of the perspective; what lies beyond a crop is mirrored.
            weight: of the whole.
        """
        self._model, self._source, self._mask = model, source, mask
        self._ways = (object_way if ground_way is None else ground_way, object_way)
        self._alone = ground_way is None
        self._crops, self._crop, self._share, self._distortion = crops, crop, object_share, distortion
        self._threshold, self._scale, self._weight = threshold, object_scale, weight
        self._spots: tuple[Tensor, Tensor] | None = None

    def __call__(self, image: Float[Tensor, "1 3 h w"], moment: Moment) -> Float[Tensor, ""]:
        """See Goal."""
        side = max(1, round(self._crop * min(image.shape[2:])))
        corners, marks = self.draw(moment.draws, size=(image.shape[2], image.shape[3]), side=side)
        views = torch.stack([image[0, :, top : top + side, left : left + side] for top, left in corners.tolist()])
        seen = random_perspectives(len(views), generator=moment.draws, distortion=self._distortion)
        views = warped(views, homography_grid(seen.to(image), size=(side, side)))
        ways = torch.cat([self._ways[int(mark)] for mark in marks]).to(image)
        terms = directional_loss(unit_images(self._model, views), self._source.to(image), ways)
        marked = None if self._mask is None else marks
        scale = self._scale
        return self._weight * thresholded_patch_loss(terms, marked, threshold=self._threshold, object_scale=scale)

    def draw(
        self, draws: torch.Generator, *, size: tuple[int, int], side: int
    ) -> tuple[Tensor, Bool[Tensor, " crops"]]:
        """Top and left of each crop, and which show the object.

        Args:
            draws: on the CPU.
            size: of the image.
            side: of a crop, in pixels.
        """
        high, wide = size[0] - side + 1, size[1] - side + 1
        if self._mask is None:
            spots = torch.randint(high * wide, (self._crops,), generator=draws)
            return torch.stack([spots // wide, spots % wide], dim=1), torch.ones(self._crops, dtype=torch.bool)
        if self._spots is None:
            strip = max(1, int(_STRIP * side))
            seen = F.max_pool2d(self._mask[None].float(), (strip, side), stride=1)[0, side - strip :]
            if not seen.any():  # an object at the upper edge, that no crop has at its bottom
                seen = F.max_pool2d(self._mask[None].float(), side, stride=1)[0]
            self._spots = (seen.flatten() == 0).nonzero()[:, 0].cpu(), (seen.flatten() > 0).nonzero()[:, 0].cpu()
        ground, there = self._spots
        if self._alone or not len(ground):
            spots = there[torch.randint(len(there), (self._crops,), generator=draws)]
            return torch.stack([spots // wide, spots % wide], dim=1), torch.ones(self._crops, dtype=torch.bool)
        spots = torch.randint(high * wide, (self._crops,), generator=draws)
        marks = torch.isin(spots, there)
        over = marks & (marks.cumsum(0) > int(self._share * self._crops))
        spots = torch.where(over, ground[torch.randint(len(ground), (self._crops,), generator=draws)], spots)
        return torch.stack([spots // wide, spots % wide], dim=1), marks & ~over


class RegionGoal:
    """One region of the image, all else black, moved as a text says; without a text, kept as it was.

    Example:
        >>> import torch
        >>> from tether.generation import Moment
        >>> from tether.generation.edit.style_goals import RegionGoal
        >>> from tether.models import create
        >>> image, model = torch.rand(1, 3, 32, 32), create("tiny").eval()
        >>> goal = RegionGoal(model, image, region=torch.eye(32) > 0)
        >>> goal(image, Moment()).abs().item() < 1e-3
        True
    """

    @checked
    def __init__(
        self,
        model: DualEncoder,
        image: Float[Tensor, "1 3 h w"],
        *,
        region: Bool[Tensor, "h w"] | None = None,
        way: Float[Tensor, "1 d"] | None = None,
        source_softmax: bool = False,
        weight: NonNegative = 500.0,
    ) -> None:
        """Look at the source.

        Args:
            model: any encoder of ``tether.load``.
            image: the source, in 0 to 1.
            region: True where it is seen; None for the whole image.
            way: direction of the text; None holds the region's row where it was.
            source_softmax: take a softmax over the source's row, as the release does.
            weight: of the whole.
        """
        self._model, self._region, self._way, self._weight = model, region, way, weight
        with torch.no_grad():
            source = unit_images(model, self._seen(image))
        self._source = source.softmax(dim=1) if source_softmax else source

    def _seen(self, image: Tensor) -> Tensor:
        return image if self._region is None else image * self._region.to(image)

    def __call__(self, image: Float[Tensor, "1 3 h w"], moment: Moment) -> Float[Tensor, ""]:
        """See Goal."""
        rows = unit_images(self._model, self._seen(image))
        if self._way is None:
            return self._weight * (1 - F.cosine_similarity(rows, self._source.to(rows))).mean()
        return self._weight * directional_loss(rows, self._source.to(rows), self._way.to(rows)).mean()


class FeatureContent:
    """How far the image is from its source in an encoder's early blocks, in units of the source's own variance.

    The release compares what two layers of VGG19 give; any encoder whose blocks can be seen serves here. An image much
    larger than the encoder's is cut into tiles of its size, so that details count.

    Example:
        >>> import torch
        >>> from tether.generation import Moment
        >>> from tether.generation.edit import FeatureContent
        >>> from tether.models import create
        >>> image = torch.rand(1, 3, 64, 64)
        >>> FeatureContent(create("tiny").eval(), image)(image, Moment()).item()
        0.0
    """

    @checked
    def __init__(
        self,
        model: DualEncoder,
        image: Float[Tensor, "1 3 h w"],
        *,
        blocks: tuple[Count, ...] = (1, 2),
        weight: NonNegative = 600.0,
    ) -> None:
        """Look at the source.

        Args:
            model: any encoder of ``tether.load`` with blocks that can be seen.
            image: the source, in 0 to 1.
            blocks: after how many of them the stream is read; those that the encoder does not have are left out.
            weight: of the whole.

        Raises:
            UnsupportedModelError: a tower that cannot be looked into.
            InputError: no such blocks.
        """
        self._tower, self._spec, self._weight = tower_of(model).opened(), model.image_spec, weight
        self._blocks = sorted({number for number in blocks if number <= len(self._tower.blocks)})
        if not self._blocks:
            raise InputError(f"blocks: expected some of 1 to {len(self._tower.blocks)}, got {blocks}")
        rows, columns = self._spec.size
        self._tiles = max(1, round(image.shape[2] / rows)), max(1, round(image.shape[3] / columns))
        with torch.no_grad():
            self._wanted = [(one, one.var().clamp(min=_LEAST)) for one in self._features(image)]

    def _features(self, image: Tensor) -> list[Tensor]:
        down, across = self._tiles
        rows, columns = self._spec.size
        if image.shape[2:] != (down * rows, across * columns):
            image = F.interpolate(image, size=(down * rows, across * columns), mode="bilinear", antialias=True)
        tiles = image.unflatten(3, (across, columns)).unflatten(2, (down, rows)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
        stream, found, before = self._tower.embed(seen_by(tiles, spec=self._spec)), list[Tensor](), 0
        for number in self._blocks:
            stream, before = self._tower.run(stream, before, number), number
            found.append(stream.x[:, self._tower.prefix :])
        return found

    def __call__(self, image: Float[Tensor, "1 3 h w"], moment: Moment) -> Float[Tensor, ""]:
        """See Goal."""
        pairs = zip(self._features(image), self._wanted, strict=True)
        away = [F.mse_loss(one, wanted.to(one)) / variance.to(one) for one, (wanted, variance) in pairs]
        return self._weight * torch.stack(away).sum()
