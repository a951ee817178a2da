"""``tether-lab``, in one process."""

from __future__ import annotations

import json
import re

import pytest
import typer
from typer.testing import CliRunner

from tether import cli
from tether.cli import verbs
from tether_lab.cli import LabVerbs, _about
from tether_lab.cli.reproduce import result_lines
from tether_lab.papers import CARDS

pytestmark = pytest.mark.slow


def call(*arguments: str) -> tuple[int, str, str]:
    app = typer.Typer(cls=LabVerbs, rich_markup_mode=None, no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback()(_about)
    result = CliRunner().invoke(app, list(arguments), prog_name="tether-lab")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_every_verb_has_a_summary_and_every_option_says_what_it_does():
    listed = verbs.sections(LabVerbs.folder, LabVerbs.order)
    assert list(listed) == ["Papers"]
    assert list(listed["Papers"]) == list(LabVerbs.order["Papers"])
    for name in listed["Papers"]:
        command = cli.as_command(name, package=LabVerbs.package)
        assert "Examples:\n  tether-lab " in command.help
        assert all(parameter.help for parameter in command.params)


def test_papers_as_table_and_as_json():
    slugs = list(CARDS)
    code, stdout, _ = call("list", "--json")
    assert code == 0
    assert [row["slug"] for row in json.loads(stdout)] == slugs
    code, stdout, _ = call("list")
    assert all(slug in stdout for slug in slugs)
    assert f"{len(slugs)} of {len(slugs)} papers" in stdout


def test_papers_can_be_chosen():
    one = next(iter(CARDS.values()))
    rows = json.loads(call("list", "--json", "--package", one.package.upper(), "--needs", one.needs[0].upper()[:4])[1])
    assert one.slug in [row["slug"] for row in rows]
    assert {row["package"] for row in rows} == {one.package}
    assert json.loads(call("list", "--json", "--needs", "no such thing")[1]) == []
    code, _, stderr = call("list", "--package", "garden")
    assert code == 2
    assert "no paper has 'garden'; known:" in stderr


@pytest.mark.parametrize(
    "slug", [pytest.param(slug, marks=[pytest.mark.nightly] if n % 10 else []) for n, slug in enumerate(CARDS)]
)
def test_where_shows_every_place(slug):
    code, stdout, _ = call("where", slug)
    assert code == 0
    assert f"reproduction/tether_lab/papers/{slug.replace('-', '_')}/study.py:" in stdout
    for part in CARDS[slug].parts:
        assert part in stdout
    for name in ("test ", "vector ", "guide ", "result "):
        assert f"\n{name}" in stdout


def test_where_of_no_paper_suggests_one():
    code, _, stderr = call("where", next(iter(CARDS)) + "x")
    assert code == 2
    assert f"did you mean '{next(iter(CARDS))}'?" in stderr


def test_reproduce_needs_names_or_all():
    slug = next(iter(CARDS))
    for arguments in ([], [slug, "--all"]):
        code, _, stderr = call("reproduce", *arguments)
        assert code == 2
        assert "name at least one paper, or --all" in stderr


def test_nobody_chooses_the_seeds(tmp_path):
    code, _, stderr = call("reproduce", next(iter(CARDS)), "--seeds", "2", "--out", str(tmp_path))
    assert code == 2
    assert "No such option" in stderr
    assert list(tmp_path.iterdir()) == []


def test_no_result_is_stored_from_uncommitted_source(monkeypatch):
    monkeypatch.setattr("tether_lab.lab.history.commit", lambda: "0123456789ab+")
    code, _, stderr = call("reproduce", next(iter(CARDS)), "--device", "cpu")
    assert code == 2
    assert "src or reproduction: uncommitted changes" in " ".join(stderr.split())


def test_only_one_thread_of_the_cpu_is_stored():
    code, _, stderr = call("reproduce", next(iter(CARDS)), "--device", "cpu", "--threads", "2")
    assert code == 2
    assert "got cpu and 2 threads; give --device cpu --threads 1" in " ".join(stderr.split())


def test_reproduce_writes_where_it_is_told(tmp_path):
    slug = next(iter(CARDS))
    code, stdout, _ = call("reproduce", slug, "--smoke", "--out", str(tmp_path))
    assert code == 0
    assert f"{slug}: smoke run ended" in stdout
    assert re.search(r"^  baseline [\d.e+-]+, ours [\d.e+-]+", stdout, flags=re.MULTILINE)
    assert json.loads((tmp_path / f"{slug}.smoke.json").read_text())["smoke"] is True  # no result is overwritten
    code, _, stderr = call("reproduce", slug, "--smoke", "--fresh-seeds")
    assert code == 2
    assert "--smoke looks at seed 0 alone" in stderr
    code, stdout, stderr = call("reproduce", slug, "--smoke", "--out", str(tmp_path / f"{slug}.smoke.json"))
    assert (code, stdout) == (2, "")  # before anything is measured
    assert "is a file, not a folder" in " ".join(stderr.split())


def test_reproduce_says_which_seeds_were_kept():
    summary = {"verdict": "in part", "mean": -0.5, "lower": -0.75, "upper": -0.25, "kind": "no_worse", "margin": 1.0}
    result = {
        **summary,
        "slug": "some-paper",
        "metric": "error",
        "wall_seconds": 3.0,
        "conditions": [{"says": "The norm is kept.", "holds": False}],
        "seeds": [{}] * 5,
        "fresh": summary | {"seeds": [{}] * 3},
    }
    improvement = "improvement -0.5 (-0.75 to -0.25), 1 worse allowed"
    lines = [
        f"some-paper: in part; error: {improvement}; 5 seeds, 3 s",
        "  does not hold: The norm is kept.",
        f"  fresh seeds: in part; {improvement}",
    ]
    assert result_lines(result, measured=8) == lines
    kept = "  5 of 8 seeds were measured before; --fresh measures them again"
    assert result_lines(result, measured=3) == [*lines, kept]


def test_docs_needs_one_of_its_two_words():
    for arguments in ([], ["--write", "--check"]):
        code, _, stderr = call("docs", *arguments)
        assert code == 2
        assert "--write or --check" in stderr
