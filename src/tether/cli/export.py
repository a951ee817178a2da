"""``tether export``: a model as a folder that other libraries open."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tether.cli.options import Device, ModelName, RandomWeights
from tether.cli.say import say


def command(
    model: ModelName,
    out: Annotated[Path, typer.Argument(help="New folder.")],
    form: Annotated[
        Literal["open_clip", "transformers", "tether"], typer.Option("--format", help="Who shall open it.")
    ] = "open_clip",
    device: Device = "cpu",
    random_weights: RandomWeights = False,
) -> None:
    """Write a model with its tokenizer and image processor as a folder that open_clip, transformers or Tether opens.

    Examples:
      tether export runs/demo out/ --format transformers
      tether export starter out/ --format tether
    """
    from tether import export, load
    from tether.core.errors import InputError
    from tether.models.export import check_format

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists and is not an empty folder; choose another")
    check_format(model, format=form)
    folder = export(load(model, random_weights=random_weights, device=device), out, format=form)
    opened = {
        "open_clip": f'open_clip.create_model_from_pretrained("local-dir:{folder}")',
        "transformers": f'pipeline("zero-shot-image-classification", model="{folder}")',
        "tether": f'tether.load("{folder}")',
    }
    say(f"wrote {folder}; open it with {opened[form]}")
