"""``tether export``: a model as a folder that other libraries open, or that runs without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tether.cli.options import Device, ModelName, RandomWeights
from tether.cli.say import say


def command(
    model: ModelName,
    folder: Annotated[Path | None, typer.Argument(help="New folder.", metavar="OUT")] = None,
    out: Annotated[Path | None, typer.Option(help="The same, as an option.")] = None,
    form: Annotated[
        Literal["open_clip", "transformers", "tether", "onnx", "openvino"],
        typer.Option("--format", help="Who shall open it; onnx and openvino run without torch."),
    ] = "open_clip",
    int8: Annotated[
        bool, typer.Option("--int8", help="Products of 8-bit numbers (onnx, openvino); needs --data.")
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(help="Pairs to compare embeddings and recall on, and for --int8 to measure ranges on."),
    ] = None,
    allow: Annotated[
        float, typer.Option(min=0, max=100, help="Points of recall at 10 that --int8 may lose, else it is refused.")
    ] = 2.0,
    calibration: Annotated[int, typer.Option(min=1, help="Rows of --data that --int8 measures ranges on.")] = 128,
    limit: Annotated[int | None, typer.Option(min=2, help="Look at this many rows of --data only.")] = None,
    dims: Annotated[
        int | None, typer.Option(min=1, help="Keep the first so many numbers of embeddings (onnx, openvino).")
    ] = None,
    device: Device = "cpu",
    random_weights: RandomWeights = False,
) -> None:
    """Write a model with its tokenizer and image processor as a folder that other libraries open, or without torch.

    Examples:
      tether export runs/demo out/ --format transformers
      tether export starter out/ --format tether
      tether export runs/demo --format onnx --int8 --data photos.csv --out fast/
    """
    from tether import load
    from tether.cli.screen import bar
    from tether.core.errors import InputError
    from tether.models.encoders.truncated import narrowed
    from tether.models.export import check_format
    from tether.workflows.export import export

    if (folder is None) == (out is None):
        raise InputError(
            "OUT: expected one new folder, as the second argument or as --out FOLDER. "
            "For example: tether export runs/demo out/ --format transformers"
        )
    target = folder or out
    assert target is not None
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target}: exists and is not an empty folder; choose another")
    graphs = form in ("onnx", "openvino")
    if form not in ("onnx", "openvino"):
        if dims is not None:
            raise InputError(f"--dims: is for the formats onnx and openvino, got {form}")
        check_format(model, format=form)
    loaded = load(model, random_weights=random_weights, device="cpu" if graphs else device)
    with bar("embedding") as on_progress:
        made = export(
            narrowed(loaded, dims),  # pyrefly: ignore - a module too
            target,
            format=form,
            int8=int8,
            data=data,
            allow=allow,
            calibration=calibration,
            limit=limit,
            on_progress=on_progress,
        )
    opened = {
        "open_clip": f'open_clip.create_model_from_pretrained("local-dir:{made}")',
        "transformers": f'pipeline("zero-shot-image-classification", model="{made}")',
        "tether": f'tether.load("{made}")',
    }
    said = opened.get(form, f'python {made}/run.py "a photo of a cat", or tether.load("{made}")')
    say(f"wrote {made}; open it with {said}")
    if graphs:
        say(_parity(made))


def _parity(folder: Path) -> str:
    """How near the folder is to the model, in one line."""
    from tether.core.atomic_io import read_json
    from tether.models.encoders.onnx.folder import PARITY_FILE

    found = read_json(folder / PARITY_FILE)
    on = "data" if "data" in found else "drawn"
    near = ", ".join(f"{side} {found[on][side]['min_cosine']:.6f}" for side in ("image", "text"))
    said = f"least cosine with the model's embeddings on {on} inputs: {near}"
    if "recall" in found:
        one, other = (100 * found["recall"][when]["text_to_image_r10"] for when in ("before", "after"))
        chance = 100 * min(1.0, 10 / found["data"]["rows"])
        said += f"; text to image R@10 {one:.1f} before, {other:.1f} after, {chance:.1f} by chance"
    return f"{said} ({folder / PARITY_FILE})"
