"""``tether classify --regions``: regions of images named from a list of classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import cast

from torch import nn

from tether.core.errors import InputError
from tether.data import open_source
from tether.data.bad_rows import BadRows
from tether.data.boxes import Unit, said_of_unit
from tether.data.region_files import open_regions
from tether.models.towers.vision.alpha_stem import stem_of
from tether.tasks.classify.descriptions import Descriptions, check_described, descriptions_of
from tether.tasks.classify.prompts import classes_of, templates_of
from tether.tasks.classify.regions import RegionAs, RegionLabel, check_ways, write_region_csv
from tether.tasks.classify.regions import classify_regions as labels_of
from tether.tasks.classify.remarks import alike_classes
from tether.tasks.classify.zero_shot import ZeroShotClassifier
from tether.workflows.models import Data, Model, Progress, opened, with_total


@dataclass(frozen=True)
class RegionLabels:
    """The classes of the regions of a source's images.

    Attributes:
        labels: one for each region and way.
        bad: images that could not be read.
        ways: how regions were asked about.
        unit: what boxes were taken to be in; None of masks.
        alike: what is to be said of classes that the model reads alike.
    """

    labels: Sequence[RegionLabel]
    bad: int
    ways: Sequence[RegionAs]
    unit: Unit | None = None
    alike: Sequence[str] = ()

    def lines(self) -> list[str]:
        """What boxes are in, how many regions each class got, by each way, and how often two ways agree."""
        found = [] if self.unit is None else [said_of_unit(self.unit)]
        by_way = {way: [one.label for one in self.labels if one.region_as == way] for way in self.ways}
        for way, names in by_way.items():
            counts = ", ".join(f"{name or 'no label'} {count}" for name, count in Counter(names).most_common(5))
            found.append(f"{way}: {len(names)} regions: {counts}")
        first, *others = self.ways
        for way in others:
            same = sum(one == other for one, other in zip(by_way[first], by_way[way], strict=True))
            found.append(f"{first} and {way} give {same} of {len(by_way[first])} regions the same label")
        return [*found, *self.alike]

    def save(self, path: str | Path, *, raw_csv: bool = False) -> None:
        """Write them as a CSV file; see ``tasks.classify.regions.write_region_csv``."""
        write_region_csv(self.labels, Path(path), raw_csv=raw_csv)

    def _repr_html_(self) -> str:
        return "".join(f"<p>{escape(line)}</p>" for line in self.lines())


def classify_regions(
    source: Data,
    classes: str | Path | Sequence[str] | None = None,
    *,
    model: Model,
    regions: str | Path,
    region_as: str | Sequence[RegionAs] | None = None,
    region_unit: Unit | None = None,
    templates: str | Path | Sequence[str] | None = None,
    descriptions: str | Path | Descriptions | None = None,
    top: int = 3,
    abstain: float = 0.0,
    strict: bool = False,
    bad_rows: Path | None = None,
    random_weights: bool = False,
    device: str = "auto",
    on_progress: Progress | None = None,
) -> RegionLabels:
    r"""Name regions of the images of a source from a list of classes.

    Args:
        source: what ``data.open_source`` takes.
        classes: different names, ``"cat,dog"``, or a text file with one on each line; None takes those described.
        model: loaded, or a name that ``tether.load`` takes.
        regions: a table of boxes or a folder of masks, see ``data.region_files``.
        region_as: names of ``tasks.classify.regions.REGION_WAYS``, also with commas; None takes ``alpha`` of a model
            that has it, else ``crop``.
        region_unit: of the table's boxes; None goes by its column ``unit``, or by the numbers.
        templates: as for ``tether.classify``.
        descriptions: as for ``tether.classify``.
        top: classes listed for each region.
        abstain: least confidence for a label to be given; confidences are the model's own.
        strict: stop at the first bad image instead of skipping it.
        bad_rows: JSON-lines file that names the images skipped; written anew.
        random_weights: accept a model without trained weights.
        device: where to load the model.
        on_progress: called with images done and, where the source knows, images in all.

    Raises:
        InputError: no such model or source, a region that is none or that no image has, or not one region.
        UnsupportedModelError: ``attention`` or ``patches`` of a model without patches.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import tether
        >>> from tether.workflows.classify_regions import classify_regions
        >>> table = Path(tempfile.mkdtemp()) / "boxes.csv"
        >>> _ = table.write_text("key,x0,y0,x1,y1\ntrain/0/00000001,4,4,40,40\n")
        >>> model = tether.load("tiny", random_weights=True)
        >>> found = classify_regions(
        ...     "scenes:rows=5", ["a circle", "a square"], model=model, regions=table, region_as="crop,blur"
        ... )
        >>> [(one.region, one.region_as) for one in found.labels]
        [('1', 'crop'), ('1', 'blur')]
    """
    says = None if descriptions is None else descriptions_of(descriptions)
    given = list(says or ()) if classes is None else classes
    if not given:
        raise InputError("--classes: expected names for the regions, or --descriptions of them")
    names = classes_of(given)
    if says is not None:
        where = str(descriptions) if isinstance(descriptions, (str, Path)) else "descriptions"
        check_described(names, says, where=where)
    forms = None if templates is None else templates_of(templates)
    prompted = ZeroShotClassifier(templates=forms, descriptions=says)
    files = open_regions(regions, unit=region_unit)
    rows = open_source(source, where="SOURCE")
    encoder, _ = opened(model, device=device, random_weights=random_weights)
    takes_alpha = stem_of(cast(nn.Module, encoder)) is not None
    asked = region_as.split(",") if isinstance(region_as, str) else region_as
    ways = tuple(cast("Sequence[RegionAs]", asked or ("alpha" if takes_alpha else "crop",)))
    check_ways(encoder, ways)
    bad = BadRows.anew(rows.name, path=bad_rows, strict=strict)
    head = prompted.prepare(encoder, names)
    labels = list(
        labels_of(
            rows,
            model=encoder,
            head=head,
            regions=files,
            ways=ways,
            bad=bad,
            top=top,
            abstain=abstain,
            on_progress=with_total(on_progress, rows),
        )
    )
    if not labels:
        raise InputError(f"{regions}: no region of an image that can be read")
    return RegionLabels(labels, bad.count, ways, files.unit, alike_classes(names, head.weights))
