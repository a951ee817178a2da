"""CLAP: where an image is as texts of defects say and not as texts of normal things say, blurred there and repaired."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, MinLen
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from tether.core.anomaly_map import AnomalyMap
from tether.core.errors import InputError
from tether.core.geometry import Geometry, check_finite, geometry_of
from tether.core.model_digest import model_digest
from tether.core.printable import is_text
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Inner, Part, Whole, checked
from tether.core.state_file import read_state, wide_array, write_state
from tether.data.images import resize
from tether.methods.clap.contrast import contrast, quantile_mask, unit_range
from tether.methods.clap.inpaint_net import InpaintNet
from tether.methods.clap.msgms import msgms
from tether.methods.clap.repair import learn_repair, mosaic
from tether.models.convert.weights import fill
from tether.models.embed import encode_texts
from tether.models.features.dense import DensePath, dense_tokens
from tether.models.features.penultimate import patch_grid
from tether.models.features.value_attention import value_path
from tether.models.features.windows import MOST_PIXELS, Windows, window_maps
from tether.tasks.anomaly.detector import Detector, ImageFeatures, pixels_of, unprepared
from tether.tasks.anomaly.registry import DETECTORS
from tether.tasks.anomaly.states import DEFECTIVE, NORMAL, checked_name
from tether.tasks.classify.prompts import SLOT

POSITIVE = tuple(f"a photo of a {state}." for state in DEFECTIVE)
NEGATIVE = tuple(f"a photo of a {state}." for state in NORMAL)
_FORMAT = "tether-clap-1"
_FOLDER = "learnt"
Texts = Annotated[Sequence[str], MinLen(1)]


class ClapDetector(Detector):
    """Defects as what some texts name and others do not, and, with good images, as what a network cannot repair.

    Each patch is compared with texts of defects (positive) and of what is as it should be (negative); the difference is
    where to look, and without good images it is the map. With good images a small network learns from them to repair
    what was blurred; of an image the tenth of its pixels with the largest difference is blurred and repaired, and the
    map says how far the edges before and after differ. Defects that were not blurred are not found.

    Source: arXiv 2411.07546; no code of the authors is public. From the paper are the difference of the two
    attentions, the mosaic, the network of normal images alone and the multi-scale comparison of gradients; what an
    attention is, its range, the share of pixels, the network, its loss and both scores are our definition. Without
    good images an image's score is a sigmoid of its largest difference of mean similarities, since maps are brought to
    0 to 1 image by image.

    Attributes:
        texts: embeddings of the positive and the negative texts, once prepared; without negative ones the second is
            empty.
        net: the network, once good images are remembered; else None.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.methods.clap import ClapDetector
        >>> texts = {"positive": ["a {} with a scratch"], "negative": ["a flawless {}"]}
        >>> detector = ClapDetector(**texts, steps=2).prepare(create("tiny").eval(), "tile")
        >>> image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
        >>> (words,) = detector.predict([image])
        >>> (repaired,) = detector.remember(detector.look([image])).predict([image])
        >>> words.values.shape, repaired.values.shape
        ((4, 6), (64, 96))
    """

    needs_good: ClassVar[bool] = False

    @checked
    def __init__(
        self,
        *,
        positive: Texts = POSITIVE,
        negative: Texts | Literal["none"] | None = NEGATIVE,
        dense: Literal["tokens", "values", "value-attention"] = "tokens",
        blocks: Count = 1,
        size: Count | None = None,
        stride: Part = 0.5,
        repair: bool = True,
        side: Annotated[int, Ge(8)] = 64,
        quantile: Inner = 0.9,
        block: Count = 4,
        weighted: bool = False,
        steps: Count = 300,
        crop: Annotated[int, Ge(8)] = 32,
        seed: Whole = 0,
        batch_size: Count = 16,
    ) -> None:
        """Choose the texts, and how images are blurred and repaired.

        Args:
            positive: texts that name defects; ``{}`` in them stands for the name of the thing.
            negative: likewise of what is as it should be; ``none`` or None leaves the positive ones alone.
            dense: patches as they leave the tower; or, of a vision transformer, such that take their own ``values`` in
                the last blocks, as MaskCLIP's, or that attend there by how alike values are, as AnomalyCLIP's.
            blocks: how many blocks that are.
            size: pixels of the image's short side when its patches are read; None takes the model's.
            stride: from one window of the model's size to the next, as a share of it.
            repair: whether a network learns from good images; without one they only give a threshold.
            side: pixels of the image's short side when it is repaired. A defect that is not seen so is not found.
            quantile: share of an image's pixels that are not blurred.
            block: side of the blocks of the mosaic in pixels, at the size at which the image is repaired. Larger ones
                hide more of a defect, and are harder to repair.
            weighted: whether the map is multiplied with the difference of attentions.
            steps: of the network's training.
            crop: side in pixels of the parts that it learns from.
            seed: of the network.
            batch_size: windows in one forward.
        """
        self.positive, self.negative = tuple(positive), None if negative in (None, "none") else tuple(negative)
        for where, texts in (("positive", self.positive), ("negative", self.negative or ())):
            for text in texts:
                if not isinstance(text, str) or not text.strip() or not is_text(text) or "\0" in text:
                    raise InputError(f"{where}: expected texts, such as 'a photo of a scratch', got {text!r:.100}")
        self.dense, self.blocks, self.repair, self.side, self.quantile = dense, blocks, repair, side, quantile
        self.block, self.weighted, self.steps, self.crop, self.seed = block, weighted, steps, crop, seed
        self.windows = Windows(size=size, stride=stride, batch_size=batch_size)
        self.name = ""
        self.texts: tuple[Float[Tensor, "p d"], Float[Tensor, "m d"]] = (torch.empty(0, 0), torch.empty(0, 0))
        self.geometry = Geometry()
        self.net: InpaintNet | None = None
        self._model: DualEncoder | None = None
        self._grid, self._digest = (0, 0), ""
        self._folder: Path | None = None

    @torch.no_grad()
    def prepare(self, model: DualEncoder, name: str) -> ClapDetector:
        """See ``Detector``.

        Raises:
            InputError: a name that is no text.
            UnsupportedModelError: an encoder that shows no patches.
        """
        check_finite(model)
        name = checked_name(name)
        self._grid = patch_grid(model)
        blank = torch.zeros(1, 3, *model.image_spec.size, dtype=torch.uint8, device=model.logit_scale.device)
        dense_tokens(model, blank, path=self._path(model))  # a tower that cannot be asked so says it now
        self.geometry = geometry_of(model).detached()
        sets = [[text.replace(SLOT, name) for text in texts] for texts in (self.positive, self.negative or ())]
        positive, negative = (self.geometry.points(encode_texts(model, texts)) for texts in sets)
        self.texts, self.name, self._model, self.net = (positive, negative), name, model, None
        self._digest = model_digest(cast(nn.Module, model))
        return self

    def keep_in(self, folder: Path | None) -> None:
        """See ``detector.Learning``."""
        self._folder = folder

    def look(self, images: Sequence[UInt8[Tensor, "3 h w"]]) -> list[ImageFeatures]:
        """See ``Detector``; the rows are mean similarities of patches, and pixels, 0 to 1, as they are repaired.

        Images are read one by one, so that what is learnt from them is the same to the last bit whatever they are
        looked at with.

        Raises:
            InputError: an image so long that it would have more than ``MOST_PIXELS``.
        """
        model = self._model
        if model is None:
            raise unprepared(self)
        images = pixels_of(images)
        found = []
        for image in images:
            height, width = _scaled((image.shape[1], image.shape[2]), self.side)
            pixels = resize(image, height, width, "bilinear").permute(1, 2, 0).reshape(-1, 3).float() / 255
            (maps,) = window_maps(self._read, [image], spec=model.image_spec, grid=self._grid, windows=self.windows)
            if not maps.isfinite().all():
                raise InputError("images: their patches are not finite; the model's weights are damaged")
            grid = (maps.shape[1], maps.shape[2])
            found.append(ImageFeatures((image.shape[1], image.shape[2]), grid, (maps.flatten(1).T, pixels)))
        return found

    def remember(self, good: Sequence[ImageFeatures]) -> ClapDetector:
        """See ``Detector``; the network is learnt from them, or read where it was kept.

        Raises:
            InputError: a file that is not the network that was kept; it names it.
        """
        if self._model is None:
            raise unprepared(self)
        if not good or not self.repair:
            self.net = None
            return self
        ordered = sorted((_digest(look.rows[1]), number) for number, look in enumerate(good))
        looks = [good[number] for _, number in ordered]
        said = json.dumps([self.settings(), self._digest, [mark for mark, _ in ordered]], sort_keys=True)
        mark = hashlib.blake2b(said.encode(), digest_size=16).hexdigest()
        path = None if self._folder is None else self._folder / _FOLDER / f"{mark}.safetensors"
        device = self._model.logit_scale.device
        if path is not None and path.exists():
            self.net = _load(path, mark).to(device)
            return self
        self.net = learn_repair(
            [self._pixels(look) for look in looks],
            [self.attention(look)[0] for look in looks],
            quantile=self.quantile,
            block=self.block,
            crop=self.crop,
            steps=self.steps,
            seed=self.seed,
            device=device,
        )
        if path is not None:
            arrays = {name: wide_array(value) for name, value in self.net.state_dict().items()}
            write_state(path, format=_FORMAT, settings={"mark": mark}, arrays=arrays)
        return self

    def attention(self, look: ImageFeatures) -> Float[Tensor, "1 r c"]:
        """How much more patches are like the positive texts than like the negative ones, 0 to 1."""
        positive, negative = look.rows[0].T.unflatten(1, look.grid)
        return unit_range(contrast(positive[None], None if self.negative is None else negative[None]))

    @torch.no_grad()
    def judge(self, look: ImageFeatures) -> AnomalyMap:
        """See ``Detector``."""
        if self._model is None:
            raise unprepared(self)
        attention = self.attention(look)
        if self.net is None:
            positive, negative = look.rows[0].unbind(dim=1)
            score = float((positive - negative).max().double().sigmoid())
            return AnomalyMap(score, attention[0].float().numpy(), look.size, self.name)
        image = self._pixels(look)[None]
        size = (image.shape[2], image.shape[3])
        mask = quantile_mask(attention, size=size, quantile=self.quantile)
        repaired = self.net(mosaic(image, mask, block=self.block).to(self._model.logit_scale.device)).cpu()
        found = msgms(image, repaired)[0, 0]
        if self.weighted:
            found = found * F.interpolate(attention[None], size, mode="bilinear")[0, 0]
        found = found.float().clamp(0, 1)
        return AnomalyMap(float(found.max()), found.numpy(), look.size, self.name)

    def settings(self) -> dict[str, Any]:
        """See ``Detector``."""
        names = ("name", "positive", "negative", "dense", "blocks", "repair", "side", "quantile", "block", "weighted")
        said = {name: getattr(self, name) for name in (*names, "steps", "crop", "seed")}
        return {
            "method": DETECTORS.name_of(type(self)),
            **said,
            "size": self.windows.size,
            "stride": self.windows.stride,
        }

    def _path(self, model: DualEncoder) -> DensePath | None:
        if self.dense == "value-attention":
            return value_path(model, blocks=self.blocks)
        return DensePath(start=-self.blocks) if self.dense == "values" else None

    def _pixels(self, look: ImageFeatures) -> Float[Tensor, "3 h w"]:
        return look.rows[1].T.unflatten(1, _scaled(look.size, self.side))

    @torch.no_grad()
    def _read(self, pixels: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 2 r c"]:
        assert self._model is not None  # look asked
        model = self._model
        patches = dense_tokens(model, pixels.to(model.logit_scale.device), path=self._path(model)).float().cpu()
        points = self.geometry.points(patches.flatten(0, 1))
        means = [
            self.geometry.similarity(points, texts).mean(dim=1) if len(texts) else points.new_zeros(len(points))
            for texts in self.texts
        ]
        return torch.stack([mean.float() for mean in means]).view(2, len(patches), *self._grid).transpose(0, 1)


def _scaled(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Height and width with a short side of so many pixels."""
    share = side / min(size)
    height, width = max(side, round(size[0] * share)), max(side, round(size[1] * share))
    if height * width > MOST_PIXELS:
        own = f"{size[1]} x {size[0]}"
        raise InputError(
            f"an image of {own} pixels would be repaired as {width} x {height}, more than {MOST_PIXELS:,} pixels; "
            "give a smaller side, or cut it"
        )
    return height, width


def _digest(pixels: Tensor) -> str:
    return hashlib.blake2b(pixels.contiguous().numpy().data, digest_size=16).hexdigest()


def _load(path: Path, mark: str) -> InpaintNet:
    settings, arrays = read_state(path, what="network of clap", format=_FORMAT)
    if settings.get("mark") != mark:
        raise InputError(f"{path}: is a network that was learnt from other images or settings; take it away")
    with torch.random.fork_rng(devices=[]):
        net = InpaintNet()
    fill(net, {name: torch.from_numpy(value) for name, value in arrays.items()}, where=str(path))
    return net.eval().requires_grad_(False)
