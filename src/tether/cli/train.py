"""``tether train``: from a recipe to a run folder."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tether.cli.options import Device
from tether.cli.say import say

if TYPE_CHECKING:
    from tether.training.config import RunConfig
    from tether.workflows.train import Prepared

COMPARE = "compare"
_SETTING = re.compile(r"[A-Za-z_][\w.]*=")
"""How ``key=value`` begins; ``csv:path=pairs.csv`` is a source."""


def command(
    data: Annotated[
        str | None,
        typer.Argument(
            help="Your pairs: a folder of images with captions, a CSV, Parquet, tars, a set's name; or a YAML recipe.",
            show_default=False,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings as key=value, for example clipper.alpha=0.9.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="A YAML file, or a recipe of the package: attentive, caption-and-rebuild, demo, federated, finetune, "
            "grounded, latents, long-text, multi-objective, photos, pseudo-labels, short-tokens, speedrun, "
            "text-and-image, upcycle. DATA replaces its data."
        ),
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="Model to begin with: starter, a folder, open_clip:..., hf:...")
    ] = None,
    out: Annotated[Path, typer.Option(help="The run's folder.")] = Path("runs/latest"),
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the folder's newest checkpoint.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Build everything, take a few steps, say what the run would cost, leave.")
    ] = False,
    device: Device = "auto",
    clipper: Annotated[
        str | None,
        typer.Option(
            help="Short for clipper=NAME; `compare` does the first steps with every clipper and says what it saw.",
            metavar="NAME",
        ),
    ] = None,
    compare_steps: Annotated[
        int | None, typer.Option(help="Steps of each clipper with --clipper compare; 100 if not given.", metavar="N")
    ] = None,
) -> None:
    """Train a dual encoder on pairs of images and texts.

    Examples:
      tether train photos/ --out runs/mine
      tether train pairs.csv --from open_clip:ViT-B-32 --out runs/tuned
      tether train photos/ --recipe demo steps=1000 --out runs/scratch
      tether train --resume --out runs/mine
    """
    from tether.training.claim import check_free, check_recorded
    from tether.training.epochs import with_steps
    from tether.training.run_files import CONFIG, SUMMARY
    from tether.workflows.head_run import gives_head
    from tether.workflows.remarks import remarks
    from tether.workflows.train import go, prepare

    given = list(overrides or [])
    if data is not None and _SETTING.match(data) and not Path(data).exists():
        given, data = [data, *given], None
    if data is not None and data.lower().endswith((".yaml", ".yml")):
        if recipe is not None:
            raise typer.BadParameter(f"{data} is a recipe, and --recipe names another", param_hint="DATA")
        recipe, data = data, None
    recorded = recipe is None and data is None and resume and (out / CONFIG).is_file()
    if recorded:
        recipe = str(out / CONFIG)
    if clipper is not None and clipper != COMPARE:
        given.append(f"clipper={_known(clipper)}")
    if compare_steps is not None and clipper != COMPARE:
        raise typer.BadParameter("goes with --clipper compare only", param_hint="--compare-steps")
    if not (resume or dry_run or clipper == COMPARE):
        check_free(out)
    prepared = prepare(data, recipe=recipe, start=start, settings=given)
    config = prepared.config
    if recorded:
        check_recorded(config, given=[*given, *([] if start is None else ["model"])], folder=out)
    _tell(prepared)
    if gives_head(config):
        if resume or clipper == COMPARE:
            raise typer.BadParameter(
                "goes with training steps, and this recipe learns a head without any",
                param_hint="--resume" if resume else "--clipper",
            )
        _learn_head(config, out=out, dry_run=dry_run, device=device)
        return
    if clipper == COMPARE and not dry_run:
        _compare(config, out=out, steps=compare_steps, resume=resume)
        return
    if config.fit is None:
        config = with_steps(config)
    finished = (out / SUMMARY).exists()
    notes = list(remarks(config)) if dry_run or not finished else []
    if dry_run:
        _dry_run(config, notes, where=recipe or "settings", device=device)
        return
    for line in notes:
        say(f"note: {line}", err=True)

    from tether.cli.progress import TrainingProgress, summarise
    from tether.cli.screen import bar

    run = partial(go, config, out=out, resume=resume, device=device, where=recipe or "command line")
    if config.fit is not None:
        with bar("features") as on_progress:
            done = run(on_progress=on_progress)
    else:
        with TrainingProgress(steps=config.steps) as progress:
            done = run(on_record=progress.show, should_stop=progress.interrupted)
    if os.environ.get("RANK", "0") == "0":  # of several processes one tells it
        summarise(done, before=finished)


def _tell(prepared: Prepared) -> None:
    """What was found in the data, what was chosen, and why."""
    if (plan := prepared.plan) is None:
        return
    for title, lines in (("found", prepared.found), ("chosen", plan.because), ("to change it", plan.change)):
        say(f"{title}:")
        for line in lines:
            say(f"  {line}")


def _learn_head(config: RunConfig, *, out: Path, dry_run: bool, device: str) -> None:
    from tether.cli.screen import bar
    from tether.training.config import dump_config
    from tether.workflows.head_run import learn_head

    if dry_run:
        say(dump_config(config), lines=True)
        say("# images are embedded once, and a head is learnt from their rows: no steps to rehearse")
        return
    with bar("features") as on_progress:
        done = learn_head(config, out=out, device=device, on_progress=on_progress)
    for line in [*done.report.data, *done.report.lines()]:
        say(line)
    say(f"head: tether classify DATA --head {out}")


def _dry_run(config: RunConfig, notes: Sequence[str], *, where: str, device: str) -> None:
    """Build all parts, take a few steps, and say what the run would cost."""
    from tether.training.config import dump_config
    from tether.training.dry_run import dry_run as steps_of
    from tether.training.parts import check_parts
    from tether.training.view_costs import view_costs
    from tether.workflows.edits import EDITS

    if config.fit is not None:
        say(dump_config(config), lines=True)
        say("# the towers see each image once, and the maps are fitted in closed form: no steps to rehearse")
        return
    costs = list(view_costs(check_parts(config, EDITS, where=where)))
    found = steps_of(config, device=device, edits=EDITS)
    say(dump_config(config) + "\n".join(f"# {line}" for line in [*costs, *found.lines(), *notes]), lines=True)


def _known(name: str) -> str:
    """The name of a clipper; a wrong one is answered before anything is read."""
    from tether.core.component import closest
    from tether.optim.clip import CLIPPERS

    if name not in CLIPPERS:
        raise typer.BadParameter(
            f"unknown clipper {name!r}; {closest(name, [*CLIPPERS, COMPARE])}", param_hint="--clipper"
        )
    return name


def _compare(config: RunConfig, *, out: Path, steps: int | None, resume: bool) -> None:
    from rich.table import Table

    from tether.cli.progress import TrainingProgress
    from tether.core.atomic_io import write_text
    from tether.training.run_files import COMPARE_PAGE
    from tether.workflows.clipper_comparison.compare import STEPS, compare
    from tether.workflows.clipper_comparison.report import grid, report
    from tether.workflows.edits import EDITS

    wanted = min(STEPS if steps is None else steps, config.steps)
    with TrainingProgress(steps=max(1, wanted)) as progress:

        def start(name: str, number: int, of: int) -> None:
            progress.console.print(f"{name}, {number + 1} of {of}")

        found, traces = compare(
            config,
            folder=out,
            steps=wanted,
            resume=resume,
            on_start=start,
            on_record=progress.show if progress.console.is_terminal else None,
            should_stop=progress.interrupted,
            edits=EDITS,
        )
    write_text(out / COMPARE_PAGE, report(out.resolve().name, found, traces).html())
    shown, table = grid(found), Table(box=None, header_style="bold", pad_edge=False)
    for title in shown.head:
        table.add_column(title, justify="left" if title == "clipper" else "right", no_wrap=True)
    for row in shown.rows:
        table.add_row(*row)
    progress.console.print(table)
    say(
        f"{found.steps} steps each. * the recipe's own. max, usual, limit: of the gradient norm. "
        "cost: of a calm call, torch's clip_grad_norm_ = 1."
    )
    for line in found.advice:
        say(f"- {line}")
    say(f"page: {out / COMPARE_PAGE}")
