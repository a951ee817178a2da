"""``tether draw``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tether.cli.options import (
    STDOUT,
    Device,
    Existing,
    Json,
    RandomWeights,
    check_endings,
    check_outputs,
    only_beside,
    put_json,
)
from tether.cli.say import say


def command(
    context: typer.Context,
    prompt: Annotated[
        list[str], typer.Argument(help="What to draw; for blobs several texts, each its part of the circle.")
    ],
    model: Annotated[str, typer.Option(help="A run's folder, starter, open_clip:NAME/WEIGHTS or hf:OWNER/NAME.")],
    svg: Annotated[Path | None, typer.Option(help="Write the lines to this file.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with the film to this file.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the drawing as a PNG to this file.")] = None,
    canvas: Annotated[
        str,
        typer.Option(
            help="strokes, blobs, primitives, implicit or pixels, with settings as strokes:n_strokes=64,size=96 (a "
            "wrong one is answered with all there are)."
        ),
    ] = "strokes",
    negative: Annotated[list[str] | None, typer.Option(help="What not to show; may be given again.")] = None,
    negative_weight: Annotated[float, typer.Option(min=0, help="Weight of each --negative.")] = 0.3,
    steps: Annotated[int, typer.Option(min=1, help="Of the optimiser.")] = 500,
    views: Annotated[int, typer.Option(min=0, help="Random views of each step; 0 looks at the canvas as it is.")] = 4,
    frame_count: Annotated[int, typer.Option(min=1, help="Frames of the film, besides the start.")] = 12,
    start: Annotated[
        Path | None, typer.Option(help="To start from: for strokes an SVG of paths, for implicit an image.")
    ] = None,
    bank: Annotated[
        str | None,
        typer.Option(help="Images with texts for the canvas implicit: it starts from the one nearest to the prompt."),
    ] = None,
    judge: Annotated[str | None, typer.Option(help="Another model that says how near the drawing is.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a drawing that was stopped.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the start and the views.")] = 0,
    device: Device = "auto",
    random_weights: RandomWeights = False,
    json: Json = None,
    existing: Existing = "refuse",
) -> None:
    """Draw what a text says, for a model: strokes, blobs, primitives or a field, with SVG and film.

    Examples:
      tether draw "a red bicycle" --model starter --svg bicycle.svg --html film.html
      tether draw "a red bicycle" --model MODEL --canvas primitives:patches=5 --svg bicycle.svg --judge OTHER
      tether draw "a red circle" --model MODEL --negative "a mess" --svg circle.svg --steps 1000 --resume
      tether draw "a red circle" --model MODEL --canvas implicit --bank photos/ --out circle.png
    """
    from tether.cli.screen import stoppable
    from tether.core.errors import InputError
    from tether.workflows.draw import check_canvas, draw

    if not negative:
        only_beside(context, "negative_weight", other="--negative")
    check_endings(svg=(svg, ".svg"), html=(html, ".html .htm"), out=(out, ".png"))
    outputs = {"--svg": svg, "--html": html, "--out": out, "--json": json}
    first = svg or html or out
    if first is None:
        raise InputError("--svg, --html, --out: expected at least one file to write")
    state = first.with_name(f"{first.name}.painting")
    inputs: dict[str, object] = {"--start": start, "--bank": bank, "--model": model, "the drawing on its way": state}
    check_outputs(outputs, existing=existing, inputs=inputs)
    check_canvas(canvas, svg=svg is not None, start=start, bank=bank is not None)
    with stoppable("draw") as (on_progress, should_stop):
        found = draw(
            prompt,
            model=model,
            canvas=canvas,
            negatives=negative or [],
            negative_weight=negative_weight,
            steps=steps,
            views=views,
            frames=frame_count,
            start=start,
            bank=bank,
            judge=judge,
            state=state,
            resume=resume,
            seed=seed,
            random_weights=random_weights,
            device=device,
            on_progress=on_progress,
            should_stop=should_stop,
        )
    if svg is not None:
        found.save_svg(svg)
    if out is not None:
        found.save_png(out)
    if html is not None:
        found.film(html)
    if json is not None:
        told = {"svg": svg, "html": html, "out": out, "similarity": found.similarity, "judged": found.judged}
        put_json(told | {"steps": steps, "remarks": found.remarks}, to=json)
    found.remove_state()
    if json != STDOUT:
        by = "" if found.judged is None else f", {found.judged:.3f} to the other"
        say(f"{first}: similarity {found.similarity:.3f} to the model that was drawn for{by}")
    for line in found.remarks:
        say(line, err=True)
