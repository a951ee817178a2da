"""Images and texts as a CLIP sees both: where an image of a new text begins, and what it must meet."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from tether.core.errors import InputError, NotFiniteError
from tether.core.procrustes import procrustes
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Positive, checked
from tether.models.embed import encode_images, encode_texts


@dataclass(frozen=True, slots=True, eq=False)
class ImageBank:
    """Images and what a CLIP makes of them and of their texts.

    What an image is to be made of must not lie in the bank, or finding it is all there is to do: ``of`` leaves out what
    ``exclude`` names, ``without`` more, and ``left_out`` says how many there were.

    Attributes:
        images: (n, 3, h, w).
        image_rows: (n, d) unit rows.
        text_rows: (n, d) unit rows of a text of each image; None for images without texts.
        ids: of the images, in their order.
        left_out: how many images were kept out of the bank on purpose.
    """

    images: UInt8[Tensor, "n 3 h w"]
    image_rows: Float[Tensor, "n d"]
    text_rows: Float[Tensor, "n d"] | None
    ids: tuple[str, ...]
    left_out: int = 0

    def __post_init__(self) -> None:
        """Check that all is of one length and width."""
        rows = [self.image_rows] if self.text_rows is None else [self.image_rows, self.text_rows]
        many = len(self.images)
        if not many or len(self.ids) != many or any(len(one) != many for one in rows):
            got = f"{many} images, {len(self.ids)} ids, " + ", ".join(f"{len(one)} rows" for one in rows)
            raise InputError(f"bank: expected at least one image, and as many ids and rows, got {got}")
        if len({one.shape[1:] for one in rows}) != 1 or rows[0].ndim != 2:
            shapes = " and ".join(str(tuple(one.shape)) for one in rows)
            raise InputError(f"bank: expected (n, d) rows of images and texts, equally wide, got {shapes}")
        if not all(bool(one.isfinite().all()) for one in rows):
            raise NotFiniteError("bank: expected finite rows, got NaN or infinity")

    @classmethod
    @checked
    def of(
        cls,
        model: DualEncoder,
        images: UInt8[Tensor, "n 3 h w"],
        texts: Sequence[str] | None = None,
        *,
        ids: Sequence[str] | None = None,
        exclude: Collection[str] = (),
        batch_size: Count = 64,
    ) -> ImageBank:
        """Embed images and their texts.

        Args:
            model: any encoder of ``tether.load``.
            images: of the model's size.
            texts: one of each image; None for a bank that can start an image but not turn a text's embedding.
            ids: names of the images; None numbers them.
            exclude: ids of what must stay out, such as the images of a test.
            batch_size: images in one forward.

        Raises:
            InputError: no images are left, texts or ids of another number, ids twice, or ``exclude`` names an id that
                is not there.

        Example:
            >>> import torch
            >>> from tether.generation import ImageBank
            >>> from tether.models import create
            >>> images = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
            >>> bank = ImageBank.of(create("tiny").eval(), images, ["a", "b", "c"], ids=list("xyz"), exclude=["y"])
            >>> bank.ids, bank.left_out
            (('x', 'z'), 1)
        """
        names = [str(number) for number in range(len(images))] if ids is None else list(ids)
        for what, some in (("texts", texts), ("ids", names)):
            if some is not None and len(some) != len(images):
                raise InputError(f"{what}: expected one for each of {len(images)} images, got {len(some)}")
        if len(set(names)) != len(names):
            raise InputError("ids: expected each once")
        with torch.no_grad():
            image_rows = encode_images(model, images.split(batch_size))
            text_rows = None if texts is None else F.normalize(encode_texts(model, list(texts)), dim=1)
        return cls(images, F.normalize(image_rows, dim=1), text_rows, tuple(names)).without(exclude)

    def without(self, ids: Collection[str]) -> ImageBank:
        """The bank without some images, which are counted as left out.

        Raises:
            InputError: an id that is not there, or no image is left.
        """
        if missing := sorted(set(ids) - set(self.ids)):
            raise InputError(f"exclude: {missing[0]!r:.100} is no id of the bank")
        out = set(ids)
        kept = [number for number, name in enumerate(self.ids) if name not in out]
        if not kept:
            raise InputError(f"bank: expected at least one image, got none; {len(out)} were left out")
        texts = None if self.text_rows is None else self.text_rows[kept]
        names = tuple(self.ids[number] for number in kept)
        return ImageBank(self.images[kept], self.image_rows[kept], texts, names, self.left_out + len(out))

    @checked
    def nearest(self, row: Float[Tensor, " d"], *, k: Count) -> list[int]:
        """Numbers of the ``k`` images whose embeddings are nearest to a row, the nearest first.

        Raises:
            InputError: fewer images than ``k``, or a row of another width.
        """
        if k > len(self.ids):
            raise InputError(f"k: expected at most the {len(self.ids)} images of the bank, got {k}")
        if row.shape != self.image_rows.shape[1:]:
            wide = self.image_rows.shape[1]
            raise InputError(f"bank: is of another model: its rows are {wide} wide, got {tuple(row.shape)}")
        order = (self.image_rows @ row.to(self.image_rows)).argsort(descending=True, stable=True)
        return cast(list[int], order[:k].tolist())


def local_procrustes(E_T: Float[Tensor, "k d"], E_I: Float[Tensor, "k d"]) -> Float[Tensor, "d e"]:
    """The rotation of the space of texts that brings the texts of some pairs nearest to their images.

    ``core.procrustes.procrustes`` of pairs near a prompt; fewer pairs than dimensions leave the directions that none of
    them reaches as nearly as possible as they are.

    Args:
        E_T: unit rows of texts.
        E_I: unit rows of their images.

    Returns:
        (d, d) orthogonal R; the target of a text is ``normalize(R @ row)``.

    Raises:
        InputError: no pairs, or rows of different shapes.

    Source: Implicit Inversion (arXiv 2505.23161); how it is completed is ours.

    Example:
        >>> import torch
        >>> from tether.generation import local_procrustes
        >>> texts = torch.eye(4)[:2]
        >>> (texts @ local_procrustes(texts, -texts).T).tolist()
        [[-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0]]
    """
    return procrustes(E_T, E_I)


@checked
def blended(
    query: Float[Tensor, " d"], rows: Float[Tensor, "k d"], *, tau: Positive = 0.1
) -> tuple[Float[Tensor, " k"], Float[Tensor, " d"]]:
    """How much each row counts for a query, softmax(rows @ query / tau), and their weighted mean at length 1.

    Example:
        >>> import torch
        >>> from tether.generation.inversion.bank import blended
        >>> weights, mean = blended(torch.tensor([1.0, 0.0]), torch.eye(2), tau=0.5)
        >>> weights.round(decimals=2).tolist(), round(mean.norm().item(), 3)
        ([0.8799999952316284, 0.11999999731779099], 1.0)
    """
    weights = (rows @ query / tau).softmax(dim=0)
    return weights, F.normalize(weights @ rows, dim=0)
