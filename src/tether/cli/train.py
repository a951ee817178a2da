"""``tether train``: from a recipe to a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tether.cli.say import say

if TYPE_CHECKING:
    from tether.train.config import RunConfig

COMPARE = "compare"


def command(
    recipe: Annotated[Path | None, typer.Argument(help="A YAML recipe; see recipes/.", show_default=False)] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings as key=value, for example clipper.alpha=0.9.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The run's folder.")] = Path("runs/latest"),
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the folder's newest checkpoint.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the resolved settings and what the views cost, and leave.")
    ] = False,
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
    """Train a dual encoder on pairs of images and texts."""
    from tether.train.config import dump_config, load_config
    from tether.train.run_files import CONFIG

    given = list(overrides or [])
    if recipe is not None and "=" in str(recipe) and not recipe.exists():
        given, recipe = [str(recipe), *given], None
    recorded = recipe is None and resume and (out / CONFIG).is_file()
    if recorded:
        recipe = out / CONFIG
    if clipper is not None and clipper != COMPARE:
        given.append(f"clipper={_known(clipper)}")
    if compare_steps is not None and clipper != COMPARE:
        raise typer.BadParameter("goes with --clipper compare only", param_hint="--compare-steps")
    config = load_config(recipe, overrides=given)
    if recorded and not dry_run:
        from tether.train.claim import check_recorded

        check_recorded(config, given=given, folder=out)
    if dry_run:
        from tether.compress.quantise import QUANTISERS
        from tether.train.parts import check_parts
        from tether.train.view_costs import view_costs

        costs = [f"# {line}" for line in view_costs(check_parts(config, QUANTISERS, where=str(recipe or "settings")))]
        say(dump_config(config) + "\n".join(costs), lines=True)
        return

    if clipper == COMPARE:
        _compare(config, out=out, steps=compare_steps, resume=resume)
        return

    from tether.cli.progress import TrainingProgress
    from tether.compress.quantise import QUANTISERS
    from tether.evaluate import evaluate
    from tether.train.run import train

    wanted = config.evaluate
    measure = None
    if wanted is not None:
        from tether.data import open_source

        source = open_source(wanted.source, where=f"{recipe or 'command line'}: evaluate.source")

        def measure(model):
            return evaluate(model, source, limit=wanted.limit)

    with TrainingProgress(steps=config.steps) as progress:
        result = train(
            config,
            folder=out,
            resume=resume,
            evaluate=measure,
            on_record=progress.show,
            should_stop=progress.interrupted,
            edits=QUANTISERS,
        )
    progress.summarise(result, folder=out)


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
    from tether.compress.quantise import QUANTISERS
    from tether.core.atomic_io import write_text
    from tether.papers.stability.own_report import grid, report
    from tether.papers.stability.own_run import STEPS, compare
    from tether.train.run_files import COMPARE_PAGE

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
            edits=QUANTISERS,
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
