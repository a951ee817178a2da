"""``tether edit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tether.cli.options import STDOUT, Device, Existing, Json, RandomWeights, check_outputs, put_json
from tether.cli.say import say


def command(
    image: Annotated[Path, typer.Argument(help="The image to change; it is not written over.")],
    model: Annotated[str, typer.Option(help="A run's folder, starter, open_clip:NAME/WEIGHTS or hf:OWNER/NAME.")],
    style: Annotated[str | None, typer.Option(help="What it, or with --mask the object, shall look like.")] = None,
    ground: Annotated[str | None, typer.Option(help="What lies around the object shall look like.")] = None,
    mask: Annotated[Path | None, typer.Option(help="A PNG of the image's size; what is not 0 is the object.")] = None,
    morph: Annotated[str | None, typer.Option(help="What the image shall show, coming from --source.")] = None,
    source: Annotated[str, typer.Option(help="What it shows now.")] = "a photo",
    out: Annotated[Path | None, typer.Option(help="Write the image as a PNG to this file.")] = None,
    frames: Annotated[Path | None, typer.Option(help="Write images on the way to this new folder.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with the film to this file.")] = None,
    kept: Annotated[int, typer.Option("--frame-count", min=1, help="Frames, besides the start.")] = 12,
    similarity: Annotated[Literal["geodesic", "cosine"], typer.Option(help="Of a morph.")] = "geodesic",
    stability: Annotated[float, typer.Option(min=0, help="Of a morph: weight of what stays as it was.")] = 0.2,
    canvas: Annotated[Literal["network", "pixels"], typer.Option(help="Of a morph: what moves.")] = "network",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of the optimiser; 400 for a style, 200 for a morph.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Of the optimiser, in place of the way's own.")] = None,
    crops: Annotated[int, typer.Option(min=1, help="Of each step, of a style.")] = 64,
    views: Annotated[int, typer.Option(min=1, help="Of each step, of a morph.")] = 4,
    size: Annotated[
        int | None, typer.Option(min=16, help="Longer side of what is worked on; default: twice the model's.")
    ] = None,
    judge: Annotated[str | None, typer.Option(help="Another model that says how near the image is.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an edit that was stopped.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of crops, views and network.")] = 0,
    device: Device = "auto",
    random_weights: RandomWeights = False,
    json: Json = None,
    existing: Existing = "refuse",
) -> None:
    """Change one image as words say, for a model: restyle it, or morph it from a text to another.

    Examples:
      tether edit cat.jpg --model starter --style "a charcoal drawing" --out edited.png
      tether edit cat.jpg --model MODEL --style "a golden cat" --ground "snow" --mask cat.png --out edited.png
      tether edit cat.jpg --model MODEL --morph "a fox" --source "a cat" --out fox.png --frames way/ --html film.html
    """
    from tether.cli.screen import bar
    from tether.cli.stopping import Stopping
    from tether.core.errors import InputError
    from tether.workflows.edit import check_frames, check_ways, edit

    outputs = {"--out": out, "--html": html, "--json": json}
    first = out or html or frames
    if first is None:
        raise InputError("--out, --html, --frames: expected at least one to write")
    check_ways(style=style, morph=morph, ground=ground, mask=mask)
    state = first.with_name(f"{first.name}.painting")
    inputs: dict[str, object] = {"IMAGE": image, "--mask": mask, "--model": model, "the edit on its way": state}
    check_outputs(outputs, existing=existing, inputs=inputs)
    if frames is not None:
        check_frames(frames)
    with bar("edit") as shown, Stopping() as stopping:

        def step(done: int, total: int | None) -> None:
            shown(done, total)
            if total is not None and done + 1 >= total:
                stopping.last("finish")

        found = edit(
            image,
            model=model,
            style=style,
            ground=ground,
            mask=mask,
            morph=morph,
            source=source,
            similarity=similarity,
            stability=stability,
            canvas=canvas,
            steps=steps,
            rate=rate,
            crops=crops,
            views=views,
            size=size,
            frames=kept,
            judge=judge,
            state=state,
            resume=resume,
            seed=seed,
            random_weights=random_weights,
            device=device,
            on_progress=step,
            should_stop=stopping.asked,
        )
    if out is not None:
        found.save_png(out)
    if frames is not None:
        found.save_frames(frames)
    if html is not None:
        found.film(html)
    if json is not None:
        told = {"out": out, "frames": frames, "html": html, "similarity": found.similarity, "before": found.before}
        put_json(told | {"judged": found.judged, "change": found.change, "remarks": found.remarks}, to=json)
    if json != STDOUT:
        by = "" if found.judged is None else " (another: {:.3f}, then {:.3f})".format(*found.judged)
        say(f"{first}: similarity {found.before:.3f}, then {found.similarity:.3f}{by}; changed by {found.changed}")
    for line in found.remarks:
        say(line, err=True)
