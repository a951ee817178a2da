"""``tether-lab bench``: side by side, on this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from tether.cli.say import say


def command(
    name: Annotated[Literal["stability"], typer.Argument(help="Which bench.")],
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Language model, two seeds of 20 steps: does it run? The numbers mean nothing."),
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this guard or fault; may be given several times.", metavar="NAME")
    ] = None,
    models: Annotated[list[str] | None, typer.Option(help="Only this model, language or clip.", metavar="NAME")] = None,
    seeds: Annotated[int | None, typer.Option(help="How many, from 0 on: 3, or 2 with --quick.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the page, the JSON and the Markdown.")] = Path("runs/stability"),
    jobs: Annotated[int, typer.Option(min=1, help="Processes at work, of one thread each.")] = 1,
    fresh: Annotated[bool, typer.Option("--fresh", help="Do finished runs again, and keep no stored row.")] = False,
    publish: Annotated[
        bool,
        typer.Option(
            "--publish",
            help="Also write the checkout's reproduction/results/stability.json, guide and figures. Rows there whose "
            "fingerprint stands are kept, not run.",
        ),
    ] = False,
    guide: Annotated[
        bool,
        typer.Option("--guide", help="Run nothing: write the guide's tables from reproduction/results/stability.json."),
    ] = False,
) -> None:
    """Plant known faults in small trainings and compare every clipper and optimiser.

    About half an hour of one core for all of it. Finished runs are kept, so an interrupted bench resumes, and a new
    clipper costs only its own rows, two minutes.

    Examples:
      tether-lab bench stability --quick
      tether-lab bench stability --only zclip --models language --out runs/zclip
    """
    from tether.core.atomic_io import write_text
    from tether_lab.lab import source_index
    from tether_lab.stability import guide as guides
    from tether_lab.stability import result as results

    del name  # there is one so far
    if guide:
        root = source_index.need_checkout("writing the guide")
        found = results.read(root / guides.RESULT)
        guides.write(root, found)
        say(str(source_index.shown(root / guides.GUIDE)))
        return
    if publish and (quick or only or models or seeds is not None):
        raise typer.BadParameter("only the whole bench is published: no --quick, --only, --models or --seeds")
    root = source_index.need_checkout("--publish") if publish else None

    from tether.cli.screen import Screen, bars
    from tether_lab.stability import bench, guard_costs
    from tether_lab.stability.bench_report import bench_report

    wanted = bench.plan(
        models=models or (bench.QUICK_MODELS if quick else ()),
        only=only or (),
        seeds=seeds or (bench.QUICK_SEEDS if quick else 3),
        steps=bench.QUICK_STEPS if quick else bench.STEPS,
    )
    stored = results.read(root / guides.RESULT) if root and (root / guides.RESULT).is_file() and not fresh else None
    if stored and not bench.are_cached(wanted):
        wanted = replace(wanted, kept=results.standing(stored, wanted))
        if not wanted.new and stored["guards"].keys() == wanted.guards.keys():
            say(f"every row of {guides.RESULT} stands; --fresh measures them again")
            return
        say(f"kept from {guides.RESULT}: {', '.join(wanted.kept) or 'nothing'}", err=True)
    console = Screen(stderr=True)
    with bars(screen=console, transient=False, disable=not console.is_terminal) as progress:
        task = progress.add_task("runs", total=len(wanted))

        def show(done: int, total: int | None) -> None:
            progress.update(task, completed=done)
            if not console.is_terminal and total and done % max(1, total // 20) == 0:
                say(f"{done} of {total} runs", err=True)

        outcomes = bench.outcomes(wanted, jobs=jobs, fresh=fresh, on_progress=show)
    measured = guard_costs.guard_costs(wanted.new, rounds=3 if quick else guard_costs.ROUNDS)
    found = results.result(wanted, outcomes, costs=measured, stored=stored)
    drawn = () if wanted.kept else outcomes  # a curve needs the runs of all guards
    report = bench_report(found, drawn)
    results.write(out / results.FILE, found)
    write_text(out / "stability.html", report.html())
    write_text(out / "stability.md", report.markdown())
    for line in report.sections[0].lines:
        say(f"- {line}")
    say(f"page: {out / 'stability.html'}")
    if root is not None:
        results.write(root / guides.RESULT, found)
        guides.write(root, found, drawn)
        say(f"published: {guides.RESULT}, {guides.GUIDE}{', with the figures as they were' if wanted.kept else ''}")
