"""``tether edit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tether.cli.options import (
    STDOUT,
    Device,
    Existing,
    Json,
    RandomWeights,
    check_endings,
    check_outputs,
    given,
    log_beside,
    missing,
    only_with,
    put_json,
    settings_of,
)
from tether.cli.say import say, say_skipped

_EDITING = "image model out frames html frame_count steps rate judge resume seed device random_weights json existing"
_WAYS = {
    "style": "style ground mask source crops size",
    "morph": "morph source similarity stability canvas views size",
    "to": "to codes mask change keep_words rest views",
}
_LEARNING = "image learn codes settings steps rate seed device json existing"
"""Parameters that do something: in every edit, in one way of it, and in learning."""


def command(
    context: typer.Context,
    image: Annotated[str, typer.Argument(help="The image to change, not written over; with --learn images.")],
    model: Annotated[
        str | None, typer.Option(help="A run's folder, starter, open_clip:NAME/WEIGHTS or hf:OWNER/NAME.")
    ] = None,
    style: Annotated[
        str | None, typer.Option(help="The look wanted, of the image or, with --mask, of the object.")
    ] = None,
    ground: Annotated[str | None, typer.Option(help="With --style: the look wanted around the object.")] = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="With --style or --to: a PNG of the image's size, white where the object is or may change."),
    ] = None,
    morph: Annotated[str | None, typer.Option(help="What the image shall show, coming from --source.")] = None,
    source: Annotated[str, typer.Option(help="With --style or --morph: what the image shows now.")] = "a photo",
    to: Annotated[str | None, typer.Option(help="What the whole image shall show; needs --codes.")] = None,
    codes: Annotated[Path | None, typer.Option(help="An auto-encoder's file: what --learn writes, --to reads.")] = None,
    learn: Annotated[
        bool, typer.Option("--learn", help="Learn --codes from a folder of images or a data set.")
    ] = False,
    change: Annotated[
        str | None, typer.Option(help='With --to: words for what may change, as "shirt,trousers".')
    ] = None,
    keep_words: Annotated[
        str | None, typer.Option(help='With --change: words for what is kept and pasted back, as "face,hair".')
    ] = None,
    rest: Annotated[
        str | None, typer.Option(help='With --change: words for all else, as "wall,floor", held but not pasted back.')
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="With --learn: a setting, as size=64; may be given again.", metavar="KEY=VALUE"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the image as a PNG to this file.")] = None,
    frames: Annotated[Path | None, typer.Option(help="Write images on the way to this new folder.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with the film to this file.")] = None,
    frame_count: Annotated[int, typer.Option(min=1, help="Frames, besides the start.")] = 12,
    similarity: Annotated[
        Literal["geodesic", "cosine"], typer.Option(help="With --morph: how likeness to the texts is taken.")
    ] = "geodesic",
    stability: Annotated[
        float, typer.Option(min=0, help="With --morph: weight of keeping what the image shows now.")
    ] = 0.03,
    canvas: Annotated[Literal["network", "pixels"], typer.Option(help="With --morph: what moves.")] = "network",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of the optimiser; style 400, morph 200, --to 500, --learn 4000.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Of the optimiser, in place of the way's own.")] = None,
    crops: Annotated[int, typer.Option(min=1, help="With --style: random crops of each step.")] = 64,
    views: Annotated[
        int | None,
        typer.Option(min=0, help="Random views of each step of --morph (default 4) or --to (default 0: as it is)."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=16, help="With --style or --morph: longer side worked on; default: twice the model's."),
    ] = None,
    judge: Annotated[str | None, typer.Option(help="Another model that says how near the image is.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an edit that was stopped.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of crops, views and network.")] = 0,
    device: Device = "auto",
    random_weights: RandomWeights = False,
    json: Json = None,
    existing: Existing = "refuse",
) -> None:
    """Change one image as words say, for a model: restyle it, morph it from a text to another, or change a part.

    Examples:
      tether edit cat.jpg --model MODEL --style "a charcoal drawing" --out edited.png
      tether edit cat.jpg --model MODEL --style "a golden cat" --ground "snow" --mask cat.png --out edited.png
      tether edit cat.jpg --model MODEL --morph "a fox" --source "a cat" --out fox.png --frames way/ --html film.html
      tether edit people/ --learn --codes people.codes
      tether edit ann.jpg --model MODEL --to "a woman in a red coat" --codes people.codes --mask coat.png --out red.png
    """
    from tether.cli.screen import stoppable
    from tether.core.errors import InputError
    from tether.workflows.edit import check_ways, edit

    if learn:
        only_with(context, "--learn", _LEARNING)
        _learn(image, codes, steps=steps, rate=rate, settings=settings, seed=seed, device=device, json=json,
               existing=existing)  # fmt: skip
        return
    if model is None:
        raise missing(context, "model")
    first = out or html or frames
    if first is None:
        raise InputError("--out, --html, --frames: expected at least one to write")
    check_ways(style=style, morph=morph, to=to)
    way = "style" if style is not None else "to" if to is not None else "morph"
    only_with(context, f"--{way}", f"{_EDITING} {_WAYS[way]}")
    check_endings(out=(out, ".png"), html=(html, ".html .htm"))
    if to is not None:
        from tether.workflows.guided_edit import check_parts

        if codes is None:
            raise InputError("--codes: expected an auto-encoder's file with --to; tether edit IMAGES --learn makes one")
        check_parts(mask=mask, change=_words(change), others=[*_words(keep_words), *_words(rest)])
    state = first.with_name(f"{first.name}.painting")
    inputs: dict[str, object] = {"IMAGE": image, "--mask": mask, "--model": model, "--codes": codes}
    inputs |= {"the edit on its way": state}
    outputs = {"--out": out, "--html": html, "--json": json}
    check_outputs(outputs, existing=existing, inputs=inputs, folders={"--frames": frames})
    with stoppable("edit") as (on_progress, should_stop):
        common: dict[str, Any] = {
            "model": model, "mask": mask, "frames": frame_count, "judge": judge, "state": state, "resume": resume,
            "seed": seed, "random_weights": random_weights, "device": device, "on_progress": on_progress,
            "should_stop": should_stop, **given(steps=steps, rate=rate, views=views),
        }  # fmt: skip
        if to is not None:
            from tether.workflows.guided_edit import edit_to

            assert codes is not None  # seen to above
            found = edit_to(
                image, to, codes=codes, change=_words(change), keep_words=_words(keep_words), rest=_words(rest),
                **common,
            )  # fmt: skip
        else:
            found = edit(
                image, style=style, ground=ground, morph=morph, source=source, similarity=similarity,
                stability=stability, canvas=canvas, crops=crops, size=size, **common,
            )  # fmt: skip
    if out is not None:
        found.save_png(out)
    if html is not None:
        found.film(html)
    if frames is not None:
        found.save_frames(frames)
    if json is not None:
        told = {"out": out, "frames": frames, "html": html, "similarity": found.similarity, "before": found.before}
        put_json(told | {"judged": found.judged, "change": found.change, "remarks": found.remarks}, to=json)
    found.remove_state()
    if json != STDOUT:
        by = "" if found.judged is None else " (another: {:.3f}, then {:.3f})".format(*found.judged)
        say(f"{first}: similarity {found.before:.3f}, then {found.similarity:.3f}{by}; changed by {found.changed}")
    for line in found.remarks:
        say(line, err=True)


def _words(said: str | None) -> list[str]:
    return [word.strip() for word in (said or "").split(",") if word.strip()]


def _learn(
    images: str, codes: Path | None, *, steps: int | None, rate: float | None, settings: list[str] | None, seed: int,
    device: str, json: str | None, existing: str,
) -> None:  # fmt: skip
    from tether.cli.screen import staged_bar
    from tether.cli.stopping import Stopping
    from tether.core.errors import InputError
    from tether.workflows.guided_edit import learn_codes

    if codes is None:
        raise InputError("--codes: expected a file to write with --learn")
    log = log_beside(codes)
    check_outputs({"--codes": codes, "--json": json}, existing=existing, inputs={"IMAGE": images}, log=log)
    with staged_bar("images") as on_stage, Stopping() as stopping:
        found = learn_codes(
            images, out=codes, settings=settings_of(settings, hint="--set"), seed=seed, device=device, bad_rows=log,
            **given(steps=steps, learning_rate=rate), on_stage=on_stage, should_stop=stopping.asked,
        )  # fmt: skip
    if json is not None:
        put_json({"path": codes, "images": found.images, "psnr": found.psnr, "bad": found.bad}, to=json)
    if json != STDOUT:
        say(f"{codes}: learnt from {found.images} images; makes others of them again with {found.psnr:.1f} dB")
        say("next: tether edit IMAGE --model MODEL --to TEXT --codes CODES --mask MASK --out edited.png")
    say_skipped(found.bad, log)
