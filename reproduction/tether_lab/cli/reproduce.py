"""``tether-lab reproduce``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tether.cli.options import Device
from tether.cli.say import say

SHOWN = 8
"""Figures of a smoke run that are printed; the first two are the metric's."""


def command(
    slugs: Annotated[list[str] | None, typer.Argument(help="Papers, such as zclip w-clip.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every paper.")] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Seconds each: does it run? No verdict, no stored result.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for SLUG.json (SLUG.smoke.json); otherwise the paper's own, and a smoke run stores nothing."
        ),
    ] = None,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch.")] = 1,
    fresh_seeds: Annotated[
        bool, typer.Option("--fresh-seeds", help="Measure seeds 5 to 7 besides; they do not enter the verdict.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what was already measured.")] = False,
    record: Annotated[
        bool,
        typer.Option("--record", help="With --smoke: store the figures that later smoke runs are compared with."),
    ] = False,
) -> None:
    """Check papers' claims over the paired seeds 0 to 4 and store the measured verdicts.

    A smoke run is compared with the figures on record, to the last bit where this machine and its libraries made them,
    and ends with exit code 1 where one differs.

    Examples:
      tether-lab reproduce zclip
      tether-lab reproduce zclip w-clip --smoke
      tether-lab reproduce --all --smoke --record
      tether-lab reproduce zclip --smoke --record  (the others on record stay)
      tether-lab reproduce zclip --fresh-seeds
      tether-lab reproduce --all --out measured
    """
    from tether.cli.screen import bars
    from tether.core.atomic_io import check_file, write_json
    from tether.core.device import chosen_device
    from tether.core.errors import InputError
    from tether_lab.lab import source_index
    from tether_lab.lab.history import CHANGED_SOURCE, commit
    from tether_lab.lab.reproduce import reproduce
    from tether_lab.lab.smoke_record import FILE, differences, is_this_machine, origin_of, store, stored_record
    from tether_lab.lab.stored_result import Figures, smoke_figures
    from tether_lab.papers import CARDS, card

    if every == bool(slugs):
        raise typer.BadParameter("name at least one paper, or --all, not both")
    if smoke and fresh_seeds:
        raise typer.BadParameter("--smoke looks at seed 0 alone; leave out --fresh-seeds", param_hint="--smoke")
    if record and not smoke:
        raise typer.BadParameter("stores the figures of smoke runs: give --smoke", param_hint="--record")
    chosen = list(CARDS) if every else list(dict.fromkeys(slugs or ()))
    for slug in chosen:
        card(slug)
    folder, device = out, str(chosen_device(device))
    outputs = {slug: folder / f"{slug}{'.smoke' * smoke}.json" for slug in chosen} if folder else {}
    for path in outputs.values():
        check_file(path, where="--out")
    as_stored = (device, threads) == ("cpu", 1)
    if record or (folder is None and not smoke):
        if not as_stored:
            raise InputError(
                f"a stored result holds what one thread of the CPU measured, got {device} and {threads} threads; "
                "give --device cpu --threads 1, or --out"
            )
        source_index.need_checkout("storing a result (or give --out)")
        if commit().endswith(CHANGED_SOURCE):
            where = " or ".join(source_index.ROOTS)
            raise InputError(f"{where}: uncommitted changes, which no result may rest on; commit them or give --out")

    before = stored_record() if smoke and as_stored and not record else None
    compared = [slug for slug in chosen if before and (every or slug in before["papers"])]  # a new paper with nothing
    figures, differing = dict[str, Figures](), list[str]()
    with bars() as progress:
        for slug in chosen:
            task, measured = progress.add_task(slug, total=None), list[int]()
            result = reproduce(
                slug,
                smoke=smoke,
                fresh_seeds=fresh_seeds,
                device=device,
                threads=threads,
                fresh=fresh,
                on_progress=lambda done, total, task=task: progress.update(task, completed=done, total=total),
                on_measured=measured.append,
            )
            if folder is not None:
                write_json(outputs[slug], result)
            elif not smoke:
                write_json(source_index.result_path(slug), result)
            for line in result_lines(result, measured=len(measured)):
                say(line)
            if smoke:
                figures[slug] = smoke_figures(result["seeds"][0])
                found = differences(before, slug, figures[slug]) if before else []
                differing += [slug] if found and slug in compared else []
                for line in found:
                    say(f"  {line}")
    if record:
        store(figures, path=source_index.results_folder() / FILE, beside=None if every else stored_record())
    elif before and compared:
        origins = [origin_of(before, slug) for slug in compared if slug in before["papers"]] or [before]
        here = all(map(is_this_machine, origins))
        exact = "to the last bit" if here else "within the tolerance for another machine"
        commits = ", ".join(dict.fromkeys(origin["commit"] for origin in origins))
        say(f"{len(compared) - len(differing)} of {len(compared)} gave the figures of {commits}, {exact}")
        if differing:
            raise typer.Exit(1)


def result_lines(result: dict, *, measured: int) -> list[str]:
    """What is said of a result of which so many seeds were measured just now."""
    from tether_lab.lab import figures

    if result["verdict"] is None:
        (run,) = result["seeds"]
        named = {"baseline": run["baseline"], "ours": run["ours"], **run["notes"]}
        told = ", ".join(f"{name} {value:.4g}" for name, value in list(named.items())[:SHOWN])
        told += f"; {len(named) - SHOWN} more with --out" if len(named) > SHOWN else ""
        return [f"{result['slug']}: smoke run ended in {result['wall_seconds']:.1f} s", f"  {told}"]
    runs = [*result["seeds"], *(result["fresh"] or {"seeds": []})["seeds"]]
    kept = f"  {len(runs) - measured} of {len(runs)} seeds were measured before; --fresh measures them again"
    lines = [
        f"{result['slug']}: {result['verdict']}; {result['metric']}: {figures.improvement(result)}; "
        f"{len(result['seeds'])} seeds, {result['wall_seconds']:.0f} s",
        *(f"  does not hold: {one['says']}" for one in result["conditions"] if not one["holds"]),
    ]
    if fresh := result["fresh"]:
        lines.append(f"  fresh seeds: {fresh['verdict']}; {figures.improvement(result | fresh)}")
    return lines if measured == len(runs) else [*lines, kept]
