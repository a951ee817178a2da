"""Defects on real images from 0, 1, 2, 4 and 8 good ones: every detector on two encoders, beside anomalib's PatchCore.

    pip install anomalib elpv-dataset   # for PatchCore and the solar cells alone; either may be left out
    python benchmarks/detect_table.py [TILES.parquet] [--sets tiles,textile,elpv] [--encoders own,starter]
        [--shots 0,1,2,4,8] [--draws 5] [--ask 160] [--with NAME:key=value ...] [--quick] [--json OUT]

TILES has the columns image, mask (0 where nothing is wrong) and label. ``textile`` is the set of that name
(``tether-clip[textile]``), ``elpv`` the package ``elpv-dataset`` (cells of solar modules, CC BY-NC-SA 4.0; those that
its authors call certainly good or certainly defective). Of each set a fixed sample of ``--ask`` images is asked about,
half of them good, of defects as many of each kind; good images to remember are drawn from others, at most 8 times
``--draws`` of them.

``own`` is the small CLIP of the checks of papers on defects: 64 pixels, drawn things, captions that say states. An
image is looked at once by each way, and all draws share what was read. *PatchCore* is anomalib's (means of 3 x 3
patches, distances, the weighted score, the blurred map) on the same patches that ``patches`` reads, in place of those
of a backbone whose weights must be fetched. It keeps all of them, as ``patches`` does of so few images; its default, a
core set of a tenth, is for hundreds. A way that learns from good images (``clap``, 17 CPU seconds each time) does so
once, from the first draw of the most of them. ``--with``, once for each way, takes other ways in place of all.

Image AUROC is the mean over draws, with a 95 % interval over the images asked (the same resample for all draws) and the
standard deviation over draws; *less patches* is how much more it is than that of ``patches`` with the most good images,
of the same draws and resamples. Pixel AUROC and AUPRO (up to 30 % false pixels) are means over two draws of the most
good images, of every third pixel in both directions. ms: of the processor, an image, one thread: to look and to judge
with the most good images. MB: tensors that are held after good images were remembered or learnt from and were not
before. What cannot be asked is named below the table. ``--quick`` draws things where no TILES is given, and its figures
mean nothing. About 9 CPU minutes, and four the first time to train ``own``.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor, nn

import tether
from tether.core.anomaly_map import AnomalyMap
from tether.core.component import build
from tether.core.errors import TetherError
from tether.core.protocols import DualEncoder
from tether.data.images import decode
from tether.data.sets.textile import TextileSet
from tether.evaluate.anomaly import AnomalyScores
from tether.evaluate.medical.report import curves, ranked
from tether.tasks.anomaly import DETECTORS, AnomalyclipDetector, Detector, ImageFeatures, Learning
from tether.workflows.methods import named
from tether_lab.lab.lab import Lab
from tether_lab.worlds import flawed_things

RESAMPLES = 1000
EVERY = 3
"""Of pixels, in each direction, those that figures of pixels are of."""
MAPPED = 2
"""Draws of good images whose maps are compared with masks."""


@dataclass(frozen=True)
class Inspected:
    """Images of one kind.

    Attributes:
        what: they show.
        asked: images that are scored.
        defective: whether each of them is.
        masks: of each of them where it is, or none at all.
        good: other images, none of them defective.
    """

    what: str
    asked: Sequence[UInt8[Tensor, "3 h w"]]
    defective: Bool[np.ndarray, " n"]
    masks: Sequence[Bool[np.ndarray, "h w"]]
    good: Sequence[UInt8[Tensor, "3 h w"]]


def sampled(
    kinds: Sequence[str], *, good: str, ask: int, keep: int, rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    """Places that are asked about, half of them good and of each other kind as many, and of other good ones."""
    places = {kind: rng.permutation(np.flatnonzero(np.array(kinds) == kind)) for kind in sorted(set(kinds))}
    bad = [kind for kind in places if kind != good]
    asked = [*places[good][: ask // 2], *(place for kind in bad for place in places[kind][: ask // 2 // len(bad)])]
    return [int(place) for place in asked], [int(place) for place in places[good][ask // 2 : ask // 2 + keep]]


def tiles(path: Path, *, ask: int, keep: int, rng: np.random.Generator) -> Inspected:
    """Magnetic tiles with masks; an image that is called defective and has an empty mask is left out."""
    rows = pq.read_table(path).to_pylist()
    masks = [np.asarray(Image.open(io.BytesIO(row["mask"]["bytes"]))) > 0 for row in rows]
    kinds = ["good" if row["label"] == "free" else row["label"] for row in rows]
    kept = [place for place, kind in enumerate(kinds) if (kind != "good") == bool(masks[place].any())]
    asked, good = sampled([kinds[place] for place in kept], good="good", ask=ask, keep=keep, rng=rng)

    def image(place: int) -> Tensor:
        return decode(rows[kept[place]]["image"]["bytes"], name=str(kept[place]))

    bad = np.array([kinds[kept[place]] != "good" for place in asked])
    found = [masks[kept[place]] for place in asked]
    return Inspected("magnetic tile", [image(place) for place in asked], bad, found, [image(place) for place in good])


def textile(*, ask: int, keep: int, rng: np.random.Generator) -> Inspected:
    """Woven cloth with local or global defects."""
    source = TextileSet(split="all")
    asked, good = sampled(source.labels, good="normal", ask=ask, keep=keep, rng=rng)
    bad = np.array([source.labels[place] != "normal" for place in asked])
    images = [[decode(source.paths[place].read_bytes()) for place in some] for some in (asked, good)]
    return Inspected("textile", images[0], bad, [], images[1])


def elpv(*, ask: int, keep: int, rng: np.random.Generator) -> Inspected:
    """Solar cells that shine, of one crystal or of many."""
    from elpv_dataset.utils import load_dataset

    images, chances, _ = load_dataset()
    kinds = ["good" if chance == 0 else "defective" if chance == 1 else "unsure" for chance in chances]
    sure = [place for place, kind in enumerate(kinds) if kind != "unsure"]
    asked, good = sampled([kinds[place] for place in sure], good="good", ask=ask, keep=keep, rng=rng)

    def image(place: int) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(images[sure[place]]))[None].repeat(3, 1, 1)

    bad = np.array([kinds[sure[place]] != "good" for place in asked])
    return Inspected("solar cell", [image(place) for place in asked], bad, [], [image(place) for place in good])


def drawn(*, ask: int, keep: int) -> Inspected:
    """Drawn things, where no tiles are given."""
    with Lab(0, smoke=True) as lab:
        asked = flawed_things.flawed(lab, "asked", ask, flawed_things.UNSEEN)
        good = flawed_things.flawed(lab, "good", keep, flawed_things.UNSEEN, damaged=0)
    return Inspected("object", list(asked.pixels), asked.damaged.numpy(), list(asked.masks.numpy()), list(good.pixels))


class Given(nn.Module):
    """Hands anomalib the patches that were read."""

    def __init__(self) -> None:
        """Hold none."""
        super().__init__()
        self.patches: Tensor | None = None

    def forward(self, images: Tensor) -> dict[str, Tensor | None]:
        """The patches, whatever the images."""
        del images
        return {"layer1": self.patches}


class Plain(nn.Module):
    """A map as it is, in place of one enlarged and blurred."""

    def forward(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """The scores."""
        del size
        return scores


class PatchCore:
    """anomalib's PatchCore on the patches of ``patches``."""

    needs_good = True

    def __init__(self) -> None:
        """Build it without a backbone's weights."""
        from anomalib.models.image.patchcore.torch_model import PatchcoreModel

        self.net: Any = PatchcoreModel(layers=["layer1"], backbone="resnet18", pre_trained=False)
        self.net.feature_extractor = self.given = Given()
        self.blur = self.net.anomaly_map_generator

    def remember(self, good: Sequence[ImageFeatures]) -> PatchCore:
        """See ``Detector``."""
        self.net.train()
        self.net.memory_bank = torch.vstack([self._run(look) for look in good])
        self.net.embedding_store.clear()
        self.net.eval()
        return self

    @torch.no_grad()
    def judge(self, look: ImageFeatures, *, pixels: bool = True) -> AnomalyMap:
        """See ``Detector``; distances d become d / (1 + d), which leaves their order; the map is blurred if asked."""
        self.net.anomaly_map_generator = self.blur if pixels else Plain()
        found = self._run(look)
        score, values = (one / (1 + one) for one in (found.pred_score, found.anomaly_map[0, 0]))
        return AnomalyMap(float(score), values.float().numpy(), look.size)

    def _run(self, look: ImageFeatures) -> Any:
        self.given.patches = look.rows[0].T.unflatten(1, look.grid)[None]
        return self.net(torch.zeros(1, 3, *look.size))


def held(thing: Any) -> int:
    """Bytes of tensors in what a detector holds, its model left out."""
    if isinstance(thing, Tensor):
        return thing.numel() * thing.element_size()
    if isinstance(thing, nn.Module):
        return sum(map(held, thing.state_dict().values()))
    if isinstance(thing, tuple | list):
        return sum(map(held, thing))
    return sum(held(one) for name, one in vars(thing).items() if name != "_model") if hasattr(thing, "judge") else 0


@dataclass
class Cell:
    """One way with so many good images.

    Attributes:
        scores: (draws, n) of the images.
        pixel: mean over ``MAPPED`` draws of pixel AUROC and AUPRO, or None.
        judge: milliseconds an image.
        memory: megabytes.
    """

    scores: Float[np.ndarray, "r n"]
    pixel: tuple[float, float] | None
    judge: float
    memory: float

    def resampled(self, defective: Bool[np.ndarray, " n"], *, seed: int = 0) -> Float[np.ndarray, "r m"]:
        """AUROC of each draw of good images, of all images asked and of resamples of them."""
        rng, count = np.random.default_rng(seed), len(defective)
        drawn = [np.bincount(rng.integers(0, count, count), minlength=count) for _ in range(RESAMPLES)]
        weights = np.array([np.ones(count), *drawn], dtype=np.float64)
        return np.stack([curves(ranked(one, truth=defective), weights=weights)[0] for one in self.scores])

    def auroc(self, defective: Bool[np.ndarray, " n"]) -> tuple[float, float, float, float]:
        """Mean over draws, both ends of its interval over images, standard deviation over draws."""
        found = self.resampled(defective)
        return (*ends(found.mean(axis=0)), float(found[:, 0].std()))

    def more(self, other: Cell, defective: Bool[np.ndarray, " n"]) -> tuple[float, float, float]:
        """AUROC more than another way has of the same first draws, with its interval."""
        mine, its = self.resampled(defective), other.resampled(defective)
        return ends(mine.mean(axis=0) - its[: len(mine)].mean(axis=0))


def ends(values: Float[np.ndarray, " m"]) -> tuple[float, float, float]:
    """The first, and the interval of the others."""
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return float(values[0]), float(low), float(high)


def measured(detector: Detector | PatchCore, looks: Sequence[ImageFeatures], data: Inspected, *, pixels: bool) -> Cell:
    """One draw, with or without figures of pixels."""
    begun = time.process_time()
    if isinstance(detector, PatchCore):
        maps = [detector.judge(look, pixels=pixels) for look in looks]
    else:
        maps = [detector.judge(look) for look in looks]
    judge = 1000 * (time.process_time() - begun) / len(looks)
    pixel = None
    if pixels:
        scores = AnomalyScores()
        for found, mask in zip(maps, data.masks, strict=True):
            some = found.pixels()[::EVERY, ::EVERY]
            small = np.ascontiguousarray(mask[::EVERY, ::EVERY])
            scores.add(AnomalyMap(found.score, np.ascontiguousarray(some), some.shape), mask=small)
        report = scores.report(resamples=1)
        assert report.pixel_auroc is not None
        assert report.aupro is not None
        pixel = (report.pixel_auroc.value, report.aupro.value)
    return Cell(np.array([[one.score for one in maps]]), pixel, judge, 0.0)


def together(cells: Sequence[Cell]) -> Cell:
    """All draws as one."""
    pixels = [cell.pixel for cell in cells if cell.pixel is not None]
    mean = (float(np.mean([one[0] for one in pixels])), float(np.mean([one[1] for one in pixels]))) if pixels else None
    judge, memory = (float(np.mean([getattr(cell, name) for cell in cells])) for name in ("judge", "memory"))
    return Cell(np.concatenate([cell.scores for cell in cells]), mean, judge, memory)


@dataclass(frozen=True)
class Read:
    """What was read of all images, and milliseconds an image."""

    asked: Sequence[ImageFeatures]
    good: Sequence[ImageFeatures]
    look: float


def made(way: str) -> Detector | PatchCore:
    """A way with its settings; PatchCore raises ``ModuleNotFoundError`` without anomalib."""
    return PatchCore() if way == "PatchCore" else build(named(way), DETECTORS, where="--with", finite=True)


def read(detector: Any, model: DualEncoder, data: Inspected, *, name: str) -> Read:
    """Look at all images once."""
    detector.prepare(model, name)
    begun = time.process_time()
    asked = detector.look(data.asked)
    look = 1000 * (time.process_time() - begun) / len(data.asked)
    return Read(asked, detector.look(data.good), look)


def cells_of(
    detector: Detector | PatchCore, seen: Read, data: Inspected, *, shots: Sequence[int], draws: int
) -> dict[int, Cell]:
    """Each number of good images with what it gave; fewer where a way learns, or where good images change nothing."""
    looks, kept = seen.asked, seen.good
    bare, found = held(detector), dict[int, Cell]()
    if isinstance(detector, Learning):
        shots, draws = sorted({0, max(shots)} & set(shots)), 1
    for shot in shots:
        if not shot and detector.needs_good:
            continue
        cells = []
        for draw in range(draws if shot else 1):
            chosen = np.random.default_rng([draw, 1]).permutation(len(kept))[:shot]
            detector.remember([kept[place] for place in chosen])
            last = shot == max(shots) or type(detector) is AnomalyclipDetector
            pixels = bool(data.masks) and last and draw < MAPPED
            cells.append(measured(detector, looks, data, pixels=pixels))
            cells[-1].memory = (held(detector) - bare) / 2**20
        found[shot] = together(cells)
        if type(detector) is AnomalyclipDetector:  # its scores are of texts alone
            break
    return found


def row(data: Inspected, cells: dict[int, Cell], *, shots: Sequence[int], look: float, beside: Cell | None) -> str:
    """One line of the table, without its name."""
    told = []
    for shot in shots:
        if shot not in cells:
            told.append("")
            continue
        mean, low, high, spread = cells[shot].auroc(data.defective)
        of = f" ± {100 * spread:.1f}" if len(cells[shot].scores) > 1 else ""
        told.append(f"{100 * mean:.1f}{of} ({100 * low:.0f} to {100 * high:.0f})")
    last = cells[max(cells)]
    more = ""
    if beside is not None and max(cells):
        mean, low, high = last.more(beside, data.defective)
        more = f"{100 * mean:+.1f} ({100 * low:.0f} to {100 * high:.0f})"
    pixel = ["", ""] if last.pixel is None else [f"{100 * one:.1f}" for one in last.pixel]
    return f"{' | '.join([*told, more, *pixel, f'{look + last.judge:.1f}', f'{last.memory:.2f}'])} |"


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tiles", type=Path, nargs="?", metavar="TILES")
    parser.add_argument("--sets", default="tiles,textile,elpv")
    parser.add_argument("--encoders", default="own,starter")
    parser.add_argument("--shots", default="0,1,2,4,8")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--ask", type=int, default=160)
    parser.add_argument("--with", action="append", dest="ways", metavar="NAME:key=value")
    parser.add_argument("--quick", action="store_true", help="as little as possible; figures mean nothing")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.tiles is None and not given.quick and "tiles" in given.sets.split(","):
        parser.error("expected TILES, --sets without tiles, or --quick")
    torch.set_num_threads(1)
    shots = [0, 2] if given.quick else [int(one) for one in given.shots.split(",")]
    draws, ask = (2, 8) if given.quick else (given.draws, given.ask)
    keep, rng = max(shots) * draws, np.random.default_rng(0)
    readers: dict[str, Callable[[], Inspected]] = {
        "tiles": lambda: tiles(given.tiles, ask=ask, keep=keep, rng=rng),
        "textile": lambda: textile(ask=ask, keep=keep, rng=rng),
        "elpv": lambda: elpv(ask=ask, keep=keep, rng=rng),
    }
    sets = given.sets.split(",") if not given.quick else ["drawn"]
    readers["drawn"] = lambda: drawn(ask=ask, keep=keep)
    names = ["images", "encoder", "way", *(f"{shot} good" for shot in shots)]
    names += ["less patches", "pixel AUROC", "AUPRO", "ms", "MB"]
    print(f"| {' | '.join(names)} |\n|{' --- |' * len(names)}")
    found: dict[str, Any] = {}
    left_out: list[str] = []
    for name in sets:
        data = readers[name]()
        for encoder in ["own"] if given.quick else given.encoders.split(","):
            with Lab(0, smoke=given.quick) as lab:
                model = flawed_things.base(lab) if encoder == "own" else tether.load(encoder)
            seen: dict[str, Read] = {}
            baseline: Cell | None = None
            for way in given.ways or [*sorted(DETECTORS, key=lambda one: one != "patches"), "PatchCore"]:
                begun = time.process_time()
                try:
                    detector = made(way)
                    source = "patches" if way == "PatchCore" else way
                    if source not in seen:
                        what = "object" if encoder == "own" else data.what
                        seen[source] = read(made(source), model, data, name=what)
                    if not isinstance(detector, PatchCore):
                        detector.prepare(model, data.what if encoder != "own" else "object")
                    cells = cells_of(detector, seen[source], data, shots=shots, draws=draws)
                except (TetherError, ModuleNotFoundError) as error:
                    left_out.append(f"{name}, {encoder}, {way}: {error}")
                    continue
                if way == "patches":
                    baseline = cells[max(cells)]
                told = row(
                    data, cells, shots=shots, look=seen[source].look, beside=None if way == "patches" else baseline
                )
                print(f"| {name} | {encoder} | {way} | {told}", flush=True)
                print(f"{way}: {time.process_time() - begun:.0f} CPU s", file=sys.stderr, flush=True)
                found[f"{name}, {encoder}, {way}"] = {
                    shot: {"auroc": cell.auroc(data.defective), "pixel": cell.pixel, "memory": cell.memory}
                    for shot, cell in cells.items()
                }
    print("\n" + "\n".join(left_out))
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
