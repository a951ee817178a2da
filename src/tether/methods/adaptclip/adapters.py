"""AdaptCLIP's three adapters together: what they say of images with texts, and with good images beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, PositiveSingle, Whole, checked
from tether.models.config_check import of_kind
from tether.models.features.value_attention import (
    TEMPERATURE,
    ReadLayers,
    ValueFeatures,
    ValueRows,
    text_logits,
    text_maps,
)
from tether.models.heads.defect_adapters import PromptQueryAdapter, VisualAdapter
from tether.models.towers.config import Layers


@dataclass(frozen=True, slots=True)
class Judged:
    """What texts say.

    Attributes:
        logits: normal and defective, of images.
        maps: probabilities of the two for each pixel.
    """

    logits: Float[Tensor, "b 2"]
    maps: Float[Tensor, "b 2 h w"]


class AdaptClip(nn.Module):
    """A visual adapter, a row each for the learnt normal and defective text, and a comparison with good images.

    Moved features meet texts that are fixed, and learnt texts features that are fixed, so that each learns against
    something that stands still: the paper calls it alternating. With ``apart=False`` moved features meet the learnt
    texts, which its ablation calls joint.

    Source: AdaptCLIP (arXiv 2505.09926) and its released code.

    Attributes:
        visual: moves images and the last block's patches.
        compare: patches of each block with those of good images.
        fixed: (2, d) rows of a normal and a defective text.
        learnt: likewise of learnt prompts; the fixed ones until they are set.
        apart: see above.
        temperature: cosines are divided by it.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.methods.adaptclip.adapters import AdaptClip
        >>> from tether.models.features.value_attention import value_attention_features
        >>> model, images = create("tiny").eval(), torch.rand(3, 3, 32, 32)
        >>> seen = value_attention_features(model, images, layers=(0, 1))
        >>> adapters = AdaptClip(torch.randn(2, model.dim), layers=2).eval()
        >>> [one.maps.shape for one in adapters.by_texts(seen, grid=(4, 4), size=(32, 32))]
        [torch.Size([3, 2, 32, 32]), torch.Size([3, 2, 32, 32])]
        >>> good = seen.patches[:, :1, None].expand(-1, 3, -1, -1, -1)  # the first image is good
        >>> bool((adapters.compare(seen.patches, good, grid=(4, 4), size=(32, 32)).away[:, 0] < 1e-5).all())
        True
    """

    fixed: Tensor
    learnt: Tensor

    @checked
    def __init__(
        self,
        fixed: Float[Tensor, "2 d"],
        *,
        layers: Layers,
        reduction: Count = 4,
        hidden: Count = 128,
        context: bool = True,
        apart: bool = True,
        temperature: PositiveSingle = TEMPERATURE,
    ) -> None:
        """Draw the weights, as torch does.

        Args:
            fixed: rows of the normal and of the defective text, of any length.
            layers: blocks whose patches are compared; texts meet the last one's.
            reduction: see ``models.heads.defect_adapters.ResidualAdapter``.
            hidden: see ``models.heads.defect_adapters.PromptQueryAdapter``.
            context: likewise.
            apart: see above.
            temperature: likewise.

        Raises:
            InputError: not two rows.
        """
        super().__init__()
        if fixed.ndim != 2 or len(fixed) != 2:
            raise InputError(f"fixed: expected (2, d) rows, got {tuple(fixed.shape)}")
        dim = fixed.shape[1]
        self.settings: dict[str, Any] = {
            "layers": layers,
            "reduction": reduction,
            "hidden": hidden,
            "context": context,
            "apart": apart,
            "temperature": temperature,
        }
        self.apart, self.temperature = apart, temperature
        self.visual = VisualAdapter(dim, reduction=reduction)
        self.compare = PromptQueryAdapter(dim, layers, hidden=hidden, context=context)
        self.register_buffer("fixed", fixed.detach().clone())
        self.register_buffer("learnt", fixed.detach().clone())

    def by_texts(
        self,
        seen: ValueFeatures,
        *,
        grid: tuple[int, int],
        size: tuple[int, int],
        learnt: Float[Tensor, "2 d"] | None = None,
    ) -> list[Judged]:
        """What the visual adapter says, then what the learnt texts say; one answer of both where they are not apart.

        Args:
            seen: images and their patches, as many blocks as the adapters have.
            grid: rows and columns of patches.
            size: height and width of the maps.
            learnt: rows in place of its own, with gradient.

        Raises:
            InputError: patches that do not fit, or one image alone in training mode.
        """
        last = seen.patches[-1]
        maps = [
            text_maps(patches[None], texts, grid=grid, size=size, temperature=self.temperature)[0]
            for patches, texts in self._pairs(self.visual.patches(last), last, learnt)
        ]
        return [Judged(*one) for one in zip(self.image_logits(seen.image, learnt=learnt), maps, strict=True)]

    def image_logits(
        self, image: Float[Tensor, "b d"], *, learnt: Float[Tensor, "2 d"] | None = None
    ) -> list[Float[Tensor, "b 2"]]:
        """The logits of ``by_texts``, which need no patches."""
        pairs = self._pairs(self.visual.whole(image), image, learnt)
        return [text_logits(rows, texts, temperature=self.temperature) for rows, texts in pairs]

    def _pairs(self, moved: Tensor, plain: Tensor, learnt: Tensor | None) -> list[tuple[Tensor, Tensor]]:
        own = self.learnt if learnt is None else learnt
        return [(moved, self.fixed), (plain, own)] if self.apart else [(moved, own)]


@checked
@dataclass(frozen=True, slots=True)
class TrainedAdapters:
    """Adapters, and how they read images; the adapters are in eval mode and rest.

    Attributes:
        adapters: as they were trained.
        layers: blocks whose patches they compare, see ``models.features.value_attention.value_attention_features``.
        blocks: that are changed, likewise.
        post_norm: likewise.
        image_size: side of the images, see ``models.features.value_attention.ValueRows``.

    Raises:
        InputError: another number of blocks than the adapters compare.
    """

    adapters: AdaptClip
    layers: ReadLayers
    blocks: Whole | None = None
    post_norm: bool = False
    image_size: Count | None = None

    def __post_init__(self) -> None:
        """Put them to rest."""
        object.__setattr__(self, "layers", tuple(self.layers))
        of_kind(self.post_norm, bool, where="post_norm")
        if len(self.layers) != self.adapters.settings["layers"]:
            raise InputError(f"layers: expected {self.adapters.settings['layers']}, got {self.layers}")
        self.adapters.eval().requires_grad_(False)

    @property
    def plain_layers(self) -> tuple[int, ...]:
        """Blocks whose patches sentences are compared with, where the two are measured side by side."""
        return tuple(self.layers)[-1:]

    def settings(self) -> dict[str, Any]:
        """Plain values beside the adapters."""
        return {name: getattr(self, name) for name in ("layers", "blocks", "post_norm", "image_size")}

    def reader(self, model: DualEncoder, *, images: bool = False) -> ValueRows:
        """The model as they read it.

        Args:
            model: that they were trained on.
            images: whether rows are of whole images alone.

        Raises:
            InputError: embeddings of another length, or no such block.
            UnsupportedModelError: see ``models.features.value_attention.ValueRows``.
        """
        dim = self.adapters.fixed.shape[1]
        found = ValueRows(
            model,
            blocks=self.blocks,
            layers=() if images else self.layers,
            post_norm=self.post_norm,
            image_size=self.image_size,
        )
        if found.width != dim:
            raise InputError(f"adapters: are for embeddings of length {dim}, the model's have {found.width}")
        return found
