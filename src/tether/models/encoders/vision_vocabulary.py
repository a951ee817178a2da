"""A second image tower that reads: windows, positions between tokens, and convolutions that leave few tokens."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Gt, Le, MaxLen, MinLen
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d

from tether.core.errors import InputError
from tether.core.ranges import Count, Positive, PositiveSingle, Single, Whole, checked
from tether.core.state_file import read_state, wide_array, write_state
from tether.core.types import ImageSpec
from tether.models.config_check import MAX_LAYERS, MAX_SIZE, blamed_on
from tether.models.convert.weights import check_fit, fill
from tether.models.towers.config import Layers

FILE = "vocabulary.safetensors"
_FORMAT = "tether-vision-vocabulary-1"
_CLIP = ImageSpec((1, 1))  # for its mean and standard deviation


class VisionVocabulary(nn.Module):
    """A vision transformer of fixed size whose map ends as a few tokens; Vary's new vocabulary, of text and charts.

    Patches with absolute positions; pre-norm blocks that attend within windows, some over the whole map, each with
    positions between tokens apart for rows and columns; a neck to fewer channels; two convolutions of stride 2 without
    bias or activation. Names of weights are those of the release, so that its ``state_dict`` and that of SAM's image
    encoder can be loaded.

    Source: Vary (arXiv 2312.06109, section 3.2), ``sam.py`` of Ucas-HaoranWei/Vary, whose sizes are the defaults.

    Attributes:
        settings: constructor keywords as plain values.
        image_size: side of the square images in pixels.
        image_spec: how images are prepared: whole, squeezed where they are no square.
        grid: side of the map of tokens.
        out: numbers of a token.

    Example:
        >>> import torch
        >>> from tether.models.encoders.vision_vocabulary import VisionVocabulary
        >>> net = VisionVocabulary(
        ...     image_size=64, patch=8, width=32, depth=2, heads=2, window=4, global_blocks=[1], channels=[16, 24, 48]
        ... )
        >>> net(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 4, 48])
    """

    @checked
    def __init__(
        self,
        *,
        image_size: Count = 1024,
        patch: Count = 16,
        width: Count = 768,
        depth: Layers = 12,
        heads: Count = 12,
        mlp_ratio: Annotated[float, Gt(0), Le(MAX_SIZE)] = 4.0,
        window: Whole = 14,
        global_blocks: Annotated[Sequence[Whole], MaxLen(MAX_LAYERS)] = (2, 5, 8, 11),
        channels: Annotated[Sequence[Count], MinLen(1), MaxLen(MAX_LAYERS)] = (256, 512, 1024),
        absolute: bool = True,
        relative: bool = True,
        qkv_bias: bool = True,
        norm_eps: Positive = 1e-6,
        mean: tuple[Single, Single, Single] = _CLIP.mean,
        std: tuple[PositiveSingle, PositiveSingle, PositiveSingle] = _CLIP.std,
        seed: Whole = 0,
    ) -> None:
        """Draw the weights; positions begin at zero.

        Args:
            image_size: side of the images.
            patch: side of a patch.
            width: of the blocks.
            depth: number of blocks.
            heads: of each attention; must divide the width.
            mlp_ratio: width of the feed-forward nets over the width.
            window: side of a window in patches; the map is padded to a multiple of it. 0 has none.
            global_blocks: numbers of the blocks that attend over the whole map.
            channels: of the neck, and after each further convolution of stride 2.
            absolute: whether patches have positions of their own.
            relative: whether attention knows positions between tokens.
            qkv_bias: whether queries, keys and values have a bias.
            norm_eps: of the blocks' layer norms.
            mean: of the channels of images, on the [0, 1] scale; the default is CLIP's, as released. Near white, paper
                says nothing, and letters are learnt from fewer pages.
            std: of the channels of images, likewise.
            seed: of the weights; torch's own generator stays as it is.

        Raises:
            InputError: a patch that does not divide the image, heads that do not divide the width, or no such block.
        """
        super().__init__()
        if image_size % patch or width % heads:
            raise InputError(
                f"patch, heads: expected divisors of image_size = {image_size} and width = {width}, "
                f"got {patch} and {heads}"
            )
        if wrong := [block for block in global_blocks if block >= depth]:
            raise InputError(f"global_blocks: expected numbers in 0..{depth - 1}, got {wrong}")
        self.settings: dict[str, Any] = {
            "image_size": image_size, "patch": patch, "width": width, "depth": depth, "heads": heads,
            "mlp_ratio": mlp_ratio, "window": window, "global_blocks": [*global_blocks], "channels": [*channels],
            "absolute": absolute, "relative": relative, "qkv_bias": qkv_bias, "norm_eps": norm_eps,
            "mean": [*mean], "std": [*std],
        }  # fmt: skip
        self.image_size, self.out = image_size, channels[-1]
        self.image_spec = ImageSpec((image_size, image_size), tuple(mean), tuple(std), resize="squash")
        side = image_size // patch
        self.grid = side
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, stride=patch)})
            self.pos_embed = nn.Parameter(torch.zeros(1, side, side, width)) if absolute else None
            self.blocks = nn.ModuleList(
                _Block(
                    width,
                    heads=heads,
                    inner=int(width * mlp_ratio),
                    window=0 if number in global_blocks else window,
                    side=side,
                    relative=relative,
                    bias=qkv_bias,
                    eps=norm_eps,
                )
                for number in range(depth)
            )
            first = channels[0]
            self.neck = nn.Sequential(
                nn.Conv2d(width, first, 1, bias=False),
                LayerNorm2d(first, eps=1e-6),
                nn.Conv2d(first, first, 3, padding=1, bias=False),
                LayerNorm2d(first, eps=1e-6),
            )
            self._strided = [f"net_{number}" for number in range(2, len(channels) + 1)]
            for name, before, after in zip(self._strided, channels, channels[1:], strict=False):
                self.add_module(name, nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False))
                self.grid = (self.grid - 1) // 2 + 1

    @property
    def tokens(self) -> int:
        """Tokens of an image."""
        return self.grid**2

    def features(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c k k"]:
        """The last map.

        Args:
            image: normalised as for CLIP, of the size that was set.

        Raises:
            InputError: another size.
        """
        if image.ndim != 4 or tuple(image.shape[1:]) != (3, self.image_size, self.image_size):
            side = self.image_size
            raise InputError(f"image: expected (b, 3, {side}, {side}), got {tuple(image.shape)}")
        x = self.patch_embed["proj"](image).permute(0, 2, 3, 1)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        for block in self.blocks:
            x = block(x)
        x = self.neck(x.permute(0, 3, 1, 2))
        for name in self._strided:
            x = self.get_submodule(name)(x)
        return x

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """Tokens, row by row from the top left; see ``features``."""
        return self.features(image).flatten(2).transpose(1, 2)

    def save(self, folder: Path | str) -> Path:
        """Write it to a folder, from which it can be used alone.

        Raises:
            WriteError: it cannot be written.
        """
        arrays = {name: wide_array(value) for name, value in self.state_dict().items()}
        write_state(Path(folder) / FILE, format=_FORMAT, settings=self.settings, arrays=arrays)
        return Path(folder)

    @classmethod
    def load(cls, folder: Path | str) -> VisionVocabulary:
        """Read what ``save`` wrote, with nothing unpickled; in eval mode.

        Raises:
            InputError: no vocabulary, or a damaged one.
        """
        path = Path(folder) / FILE
        settings, arrays = read_state(path, what="vision vocabulary", format=_FORMAT)
        state = {name: torch.from_numpy(value) for name, value in arrays.items()}
        with blamed_on(path), torch.device("meta"):  # nothing is allocated for what a file merely says
            net = cls(**settings)
        check_fit(net, state, where=path)
        fill(net.to_empty(device="cpu"), state, where=path)
        return net.eval()


class _Block(nn.Module):
    """Attention within windows of a padded map, or over all of it, and a feed-forward net."""

    def __init__(
        self, width: int, *, heads: int, inner: int, window: int, side: int, relative: bool, bias: bool, eps: float
    ) -> None:
        super().__init__()
        self.window = window
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.attn = _Attention(width, heads=heads, side=(window or side) if relative else 0, bias=bias)
        parts: dict[str, nn.Module] = {
            "lin1": nn.Linear(width, inner),
            "act": nn.GELU(),
            "lin2": nn.Linear(inner, width),
        }
        self.mlp = nn.Sequential(OrderedDict(parts))

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        y = self.norm1(x)
        if self.window:
            b, h, w, c = y.shape
            side = self.window
            y = F.pad(y, (0, 0, 0, -w % side, 0, -h % side))
            rows, columns = y.shape[1] // side, y.shape[2] // side
            y = y.view(b, rows, side, columns, side, c).transpose(2, 3).reshape(-1, side, side, c)
            y = self.attn(y)
            y = y.view(b, rows, columns, side, side, c).transpose(2, 3).reshape(b, rows * side, columns * side, c)
            y = y[:, :h, :w]
        else:
            y = self.attn(y)
        x = x + y
        return x + self.mlp(self.norm2(x))


class _Attention(nn.Module):
    """Attention whose logits have, besides, a query's product with a vector for each distance in rows and columns."""

    def __init__(self, width: int, *, heads: int, side: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=bias), nn.Linear(width, width)
        if side:
            self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, width // heads))
            self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, width // heads))
        else:
            self.rel_pos_h = self.rel_pos_w = None

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        b, h, w, c = x.shape
        q, k, v = self.qkv(x).view(b, h * w, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = None
        if self.rel_pos_h is not None and self.rel_pos_w is not None:
            steps = torch.arange(h, device=x.device)  # windows and maps are square
            places = steps[:, None] - steps + h - 1
            map_of_q = q.unflatten(2, (h, w))
            by_row = torch.einsum("bnhwd,hkd->bnhwk", map_of_q, self.rel_pos_h[places])
            by_column = torch.einsum("bnhwd,wkd->bnhwk", map_of_q, self.rel_pos_w[places])
            bias = (by_row[..., None] + by_column[..., None, :]).reshape(b, self.heads, h * w, h * w)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(y.transpose(1, 2).reshape(b, h, w, c))
