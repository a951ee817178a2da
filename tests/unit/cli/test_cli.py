"""The command line's promises: errors, exit codes, lazy verbs; in one process."""

from __future__ import annotations

import errno
import json
import shlex
import sys
import types
import warnings

import pytest
import typer
from typer.testing import CliRunner

from tether import cli
from tether.cli import verbs
from tether.cli.reproduce import result_lines
from tether.cli.stopping import Terminated
from tether.core.errors import InputError, MissingExtraError
from tether.papers.cards import CARDS

pytestmark = pytest.mark.slow


def call(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(_app(), list(arguments), prog_name="tether")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def _app() -> typer.Typer:
    app = typer.Typer(cls=cli.Verbs, rich_markup_mode=None, no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback()(cli._root)
    return app


@pytest.fixture
def verb(monkeypatch):
    """Makes the verb ``probe`` out of a function, without a file."""

    def make(function) -> None:
        module = types.ModuleType("tether.cli.probe")
        module.command = function
        monkeypatch.setitem(sys.modules, "tether.cli.probe", module)
        monkeypatch.setattr(cli.Verbs, "get_command", lambda self, ctx, name: cli.as_command("probe"))

    return make


def raising(error: BaseException):
    def command() -> None:
        """Fails."""
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("pairs.csv: row 3: no caption"), 2, "tether: pairs.csv: row 3: no caption\n"),
        (MissingExtraError("ray", extra="ray"), 2, "pip install 'tether-clip[ray]'"),
        (ModuleNotFoundError("No module named 'faiss'", name="faiss"), 2, "pip install 'tether-clip[search]'"),
        (ModuleNotFoundError("No module named 'transformers.x'", name="transformers.x"), 2, "'tether-clip[hf]'"),
        (OSError(errno.ENOSPC, "No space left on device", "out.parquet"), 2, "out.parquet: No space left on device\n"),
        (PermissionError(errno.EACCES, "Permission denied", "/root/x"), 2, "/root/x: Permission denied\n"),
        (KeyboardInterrupt(), 130, "tether: interrupted\n"),
        (Terminated(), 143, "tether: terminated\n"),
    ],
)
def test_errors_become_one_message_and_a_code(verb, error, code, message):
    verb(raising(error))
    assert (got := call("probe"))[0] == code
    assert message in got[2]
    assert "Traceback" not in got[2]


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), ModuleNotFoundError("No module named 'x'", name="x")])
def test_bugs_are_not_hidden(verb, error):
    verb(raising(error))
    with pytest.raises(type(error)):
        call("probe")


def test_traceback_on_request(verb, monkeypatch):
    monkeypatch.setenv(cli.TRACEBACK, "")
    verb(raising(InputError("pairs.csv: empty")))
    code, _, stderr = call("--traceback", "probe")
    assert code == 2
    assert "Traceback" in stderr
    assert stderr.endswith("tether: pairs.csv: empty\n")


def test_an_unknown_verb_is_answered_with_a_near_one():
    code, _, stderr = call("paper")
    assert code == 2
    assert "no verb 'paper'; did you mean 'papers'? known: " in stderr


@pytest.mark.parametrize("name", ["../core", "verbs", "__init__", "reference", "progress"])
def test_files_without_a_command_are_no_verbs(name):
    assert call(name)[0] == 2


def test_every_verb_file_is_listed_once_with_a_summary():
    listed = verbs.names()
    assert len(listed) == len(set(listed))
    for title, rows in verbs.sections().items():
        for verb_name, line in rows.items():
            assert line.endswith("."), f"{title}: {verb_name}: {line!r}"
    code, stdout, _ = call("--help")
    assert code == 0
    for name in listed:
        assert f"\n  {name} " in stdout


def test_sections_name_each_verb_once():
    named = [name for rows in verbs.SECTIONS.values() for name in rows]
    assert len(named) == len(set(named))


def test_a_new_verb_shows_up_by_itself(tmp_path):
    (tmp_path / "paint.py").write_text('def command() -> None:\n    """Paint a picture."""\n')
    (tmp_path / "helper.py").write_text("x = 1\n")
    (tmp_path / "papers.py").write_text('def command() -> None:\n    """List."""\n')
    assert verbs.sections(tmp_path) == {"Papers": {"papers": "List."}, "Others": {"paint": "Paint a picture."}}


@pytest.mark.parametrize("name", verbs.names())
def test_every_verb_has_help(name):
    code, stdout, _ = call(name, "--help")
    assert code == 0
    assert stdout.startswith(f"Usage: tether {name}")


@pytest.mark.parametrize("name", verbs.names())
def test_every_verb_has_examples_that_can_be_typed(name):
    _, _, block = call(name, "--help")[1].partition("\n  Examples:\n")
    lines = block.partition("\n\n")[0].splitlines()
    assert lines
    for line in lines:
        assert line.startswith(f"    tether {name}"), line
        cli.as_command(name).make_context(name, shlex.split(line)[2:])


LOADS = {
    "adapt",
    "audit",
    "caption",
    "classify",
    "compress",
    "detect",
    "draw",
    "embed",
    "edit",
    "eval",
    "export",
    "generate",
    "inspect",
    "label",
    "mine",
    "norms",
    "push",
    "read",
    "report",
    "reproduce",
    "quality",
    "rank",
    "search",
    "segment",
    "serve",
    "train",
}


def test_every_verb_that_loads_a_model_takes_a_device():
    having = {name for name in verbs.names() if any(one.name == "device" for one in cli.as_command(name).params)}
    assert having == LOADS


@pytest.mark.parametrize("name", verbs.names())
def test_every_option_says_what_it_does(name):
    for parameter in cli.as_command(name).params:
        assert parameter.help, f"tether {name}: {parameter.name} has no help"


def test_version():
    from tether import __version__

    assert call("--version")[:2] == (0, f"tether {__version__}\n")


def test_papers_as_table_and_as_json():
    slugs = list(CARDS)
    code, stdout, _ = call("papers", "--json")
    assert code == 0
    assert [row["slug"] for row in json.loads(stdout)] == slugs
    code, stdout, _ = call("papers")
    assert all(slug in stdout for slug in slugs)
    assert f"{len(slugs)} of {len(slugs)} papers" in stdout


def test_papers_can_be_chosen():
    one = next(iter(CARDS.values()))
    rows = json.loads(
        call("papers", "--json", "--package", one.package.upper(), "--needs", one.needs[0].upper()[:4])[1]
    )
    assert one.slug in [row["slug"] for row in rows]
    assert {row["package"] for row in rows} == {one.package}
    assert json.loads(call("papers", "--json", "--needs", "no such thing")[1]) == []
    code, _, stderr = call("papers", "--package", "garden")
    assert code == 2
    assert "no paper has 'garden'; known:" in stderr


@pytest.mark.parametrize(
    "slug", [pytest.param(slug, marks=[pytest.mark.nightly] if n % 10 else []) for n, slug in enumerate(CARDS)]
)
def test_where_shows_every_place(slug):
    code, stdout, _ = call("where", slug)
    assert code == 0
    assert f"src/tether/papers/cards/{slug.replace('-', '_')}.py:" in stdout
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
    monkeypatch.setattr("tether.papers.reproduction.history.commit", lambda: "0123456789ab+")
    code, _, stderr = call("reproduce", next(iter(CARDS)), "--device", "cpu")
    assert code == 2
    assert "src: has uncommitted changes" in stderr


def test_only_one_thread_of_the_cpu_is_stored():
    code, _, stderr = call("reproduce", next(iter(CARDS)), "--device", "cpu", "--threads", "2")
    assert code == 2
    assert "got cpu and 2 threads; give --device cpu --threads 1" in " ".join(stderr.split())


def test_reproduce_writes_where_it_is_told(tmp_path):
    slug = next(iter(CARDS))
    code, stdout, _ = call("reproduce", slug, "--smoke", "--out", str(tmp_path))
    assert code == 0
    assert f"{slug}: smoke run ended" in stdout
    assert json.loads((tmp_path / f"{slug}.smoke.json").read_text())["smoke"] is True  # no result is overwritten
    code, _, stderr = call("reproduce", slug, "--smoke", "--fresh-seeds")
    assert code == 2
    assert "--smoke looks at seed 0 alone" in stderr


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


def test_warnings_are_one_line(monkeypatch, capsys):
    monkeypatch.setattr(warnings, "showwarning", cli._show_warning)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("3 texts were cut", stacklevel=1)
    assert capsys.readouterr().err == "tether: warning: 3 texts were cut\n"


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("ray.data", "ray"),
        ("transformers", "hf"),
        ("pydicom", "medical"),
        ("conformal_clip_data", "textile"),
        ("numpy", None),
    ],
)
def test_extras_by_module(module, extra):
    assert cli.extra_of(module) == extra
