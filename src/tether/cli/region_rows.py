"""The part of ``tether classify`` that names regions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tether.cli.options import STDOUT, put_json
from tether.cli.say import say


def name_regions(
    source: str,
    classes: str | None,
    *,
    idle: Sequence[str],
    out: Path,
    json: Any,
    raw_csv: bool,
    regions: str | None,
    region_unit: str | None,
    **settings: Any,
) -> None:
    """Name the regions and write them; ``idle`` are options that were given and do not go with regions."""
    from tether.cli.screen import bar
    from tether.core.errors import InputError
    from tether.workflows.classify_regions import classify_regions

    if regions is None:
        raise InputError("--region-as: goes with --regions FILE, a table of boxes or a folder of masks")
    if idle:
        raise InputError(f"{idle[0]}: does not go with --regions, which are named by words alone; leave it out")
    if region_unit not in (None, "pixel", "share"):
        raise InputError(f"--region-unit: expected pixel or share, got {region_unit!r}")
    with bar("classify") as on_progress:
        found = classify_regions(
            source, classes, regions=regions, region_unit=region_unit, on_progress=on_progress, **settings
        )
    found.save(out, raw_csv=raw_csv)
    if json is not None:
        put_json(
            {"path": out, "rows": len(found.labels), "ways": list(found.ways), "bad": found.bad, "unit": found.unit},
            to=json,
        )
    if json != STDOUT:
        say(f"{out}: {len(found.labels)} rows, one for each region and way")
    for line in found.lines():
        say(line, err=True)
    say("confidence: the model's own scale, not calibrated; it orders classes, it is no probability", err=True)
    if found.bad:
        say(f"{found.bad} bad images were skipped; {settings['bad_rows']} names them", err=True)
