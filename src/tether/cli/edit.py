"""``tether edit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tether.cli.options import (
    STDOUT,
    Device,
    Existing,
    Json,
    RandomWeights,
    check_outputs,
    log_beside,
    missing,
    put_json,
)
from tether.cli.say import say, say_skipped


def command(
    context: typer.Context,
    image: Annotated[str, typer.Argument(help="The image to change, not written over; with --learn images.")],
    model: Annotated[
        str | None, typer.Option(help="A run's folder, starter, open_clip:NAME/WEIGHTS or hf:OWNER/NAME.")
    ] = None,
    style: Annotated[str | None, typer.Option(help="What it, or with --mask the object, shall look like.")] = None,
    ground: Annotated[str | None, typer.Option(help="What lies around the object shall look like.")] = None,
    mask: Annotated[Path | None, typer.Option(help="A PNG of the image's size; what is not 0 is the object.")] = None,
    morph: Annotated[str | None, typer.Option(help="What the image shall show, coming from --source.")] = None,
    source: Annotated[str, typer.Option(help="What it shows now.")] = "a photo",
    to: Annotated[str | None, typer.Option(help="What all of it shall show, by --codes that know such images.")] = None,
    codes: Annotated[Path | None, typer.Option(help="An auto-encoder's file: what --learn writes, --to reads.")] = None,
    learn: Annotated[
        bool, typer.Option("--learn", help="Learn --codes from a folder of images or a data set.")
    ] = False,
    keep: Annotated[Path | None, typer.Option(help="With --to: a mask, white where nothing may change.")] = None,
    change: Annotated[
        str | None, typer.Option(help='With --to: words for what may change, as "shirt,trousers".')
    ] = None,
    keep_words: Annotated[str | None, typer.Option(help='Beside --change: for what is kept, as "face,hair".')] = None,
    rest: Annotated[str | None, typer.Option(help='Beside --change: for all else, as "wall,floor".')] = None,
    settings: Annotated[str | None, typer.Option(help="With --learn: as size=64,dim=64,width=32.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the image as a PNG to this file.")] = None,
    frames: Annotated[Path | None, typer.Option(help="Write images on the way to this new folder.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with the film to this file.")] = None,
    kept: Annotated[int, typer.Option("--frame-count", min=1, help="Frames, besides the start.")] = 12,
    similarity: Annotated[Literal["geodesic", "cosine"], typer.Option(help="Of a morph.")] = "geodesic",
    stability: Annotated[float, typer.Option(min=0, help="Of a morph: weight of what stays as it was.")] = 0.03,
    canvas: Annotated[Literal["network", "pixels"], typer.Option(help="Of a morph: what moves.")] = "network",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of the optimiser; style 400, morph 200, --to 500, --learn 4000.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Of the optimiser, in place of the way's own.")] = None,
    crops: Annotated[int, typer.Option(min=1, help="Of each step, of a style.")] = 64,
    views: Annotated[int | None, typer.Option(min=1, help="Of each step: 4 of a morph, else the image itself.")] = None,
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
    """Change one image as words say, for a model: restyle it, morph it from a text to another, or change a part.

    Examples:
      tether edit cat.jpg --model starter --style "a charcoal drawing" --out edited.png
      tether edit cat.jpg --model MODEL --style "a golden cat" --ground "snow" --mask cat.png --out edited.png
      tether edit cat.jpg --model MODEL --morph "a fox" --source "a cat" --out fox.png --frames way/ --html film.html
      tether edit people/ --learn --codes people.codes
      tether edit ann.jpg --model MODEL --to "a woman in a red coat" --codes people.codes --keep face.png --out red.png
    """
    from tether.cli.screen import bar
    from tether.cli.stopping import Stopping
    from tether.core.errors import InputError
    from tether.workflows.edit import check_frames, check_ways, edit

    if learn:
        idle = {"--model": model, "--style": style, "--morph": morph, "--to": to, "--out": out, "--frames": frames,
                "--html": html}  # fmt: skip
        if wrong := [option for option, given in idle.items() if given is not None]:
            raise typer.BadParameter("is of editing, not of learning to; leave it out", param_hint=wrong[0])
        _learn(image, codes, steps=steps, rate=rate, settings=settings, seed=seed, device=device, json=json,
               existing=existing)  # fmt: skip
        return
    if model is None:
        raise missing(context, "model")
    if settings is not None:
        raise InputError("--settings: expected with --learn alone")
    outputs = {"--out": out, "--html": html, "--json": json}
    first = out or html or frames
    if first is None:
        raise InputError("--out, --html, --frames: expected at least one to write")
    check_ways(style=style, morph=morph, to=to, ground=ground, mask=mask)
    _check_to(to, codes=codes, keep=keep, change=change, keep_words=keep_words, rest=rest)
    state = first.with_name(f"{first.name}.painting")
    inputs: dict[str, object] = {"IMAGE": image, "--mask": mask, "--model": model, "--keep": keep, "--codes": codes}
    inputs |= {"the edit on its way": state}
    check_outputs(outputs, existing=existing, inputs=inputs)
    if frames is not None:
        check_frames(frames)
    with bar("edit") as shown, Stopping() as stopping:

        def step(done: int, total: int | None) -> None:
            shown(done, total)
            if total is not None and done + 1 >= total:
                stopping.last("finish")

        if to is not None:
            assert codes is not None  # _check_to saw to it
            from tether.workflows.guided_edit import edit_to

            found = edit_to(
                image, to, model=model, codes=codes, keep=keep, change=_words(change), keep_words=_words(keep_words),
                rest=_words(rest), steps=steps or 500, views=views or 0, frames=kept, judge=judge, state=state,
                resume=resume, seed=seed, random_weights=random_weights, device=device, on_progress=step,
                should_stop=stopping.asked, rate=5e-2 if rate is None else rate,
            )  # fmt: skip
        else:
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
                views=views or 4,
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


def _words(said: str | None) -> list[str]:
    return [word.strip() for word in (said or "").split(",") if word.strip()]


def _check_to(
    to: str | None, *, codes: Path | None, keep: Path | None, change: str | None, keep_words: str | None,
    rest: str | None,
) -> None:  # fmt: skip
    from tether.core.errors import InputError

    given = {"--codes": codes, "--keep": keep, "--change": change, "--keep-words": keep_words, "--rest": rest}
    if to is None:
        if wrong := [option for option, value in given.items() if value is not None]:
            raise InputError(f"{wrong[0]}: expected with --to alone")
        return
    if codes is None:
        raise InputError("--codes: expected an auto-encoder's file with --to; tether edit IMAGES --learn makes one")
    from tether.workflows.guided_edit import check_parts

    check_parts(keep=keep, change=_words(change), others=[*_words(keep_words), *_words(rest)])


def _learn(
    images: str, codes: Path | None, *, steps: int | None, rate: float | None, settings: str | None, seed: int,
    device: str, json: str | None, existing: str,
) -> None:  # fmt: skip
    from tether.cli.screen import staged_bar
    from tether.cli.stopping import Stopping
    from tether.core.errors import InputError
    from tether.core.yaml_files import parse_yaml
    from tether.workflows.guided_edit import learn_codes

    if codes is None:
        raise InputError("--codes: expected a file to write with --learn")
    chosen = dict[str, object]()
    for one in _words(settings):
        key, equals, value = one.partition("=")
        if not equals or not key:
            raise InputError(f"--settings: expected key=value, got {one!r}")
        chosen[key] = parse_yaml(value, where=f"setting {one!r}")
    log = log_beside(codes)
    check_outputs({"--codes": codes, "--json": json}, existing=existing, inputs={"IMAGE": images}, log=log)
    with staged_bar("images") as on_stage, Stopping() as stopping:
        found = learn_codes(
            images, out=codes, settings=chosen, steps=steps or 4000, seed=seed, device=device,
            learning_rate=2e-3 if rate is None else rate, bad_rows=log, on_stage=on_stage, should_stop=stopping.asked,
        )  # fmt: skip
    if json is not None:
        put_json({"path": codes, "images": found.images, "psnr": found.psnr, "bad": found.bad}, to=json)
    if json != STDOUT:
        say(f"{codes}: learnt from {found.images} images; makes others of them again with {found.psnr:.1f} dB")
        say("next: tether edit IMAGE --model MODEL --to TEXT --codes CODES --keep MASK --out edited.png")
    say_skipped(found.bad, log)
