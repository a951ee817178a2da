"""The command line's promises: errors, exit codes, lazy verbs; in one process."""

from __future__ import annotations

import errno
import json
import re
import shlex
import sys
import threading
import types
import warnings

import pytest
import typer
from typer.testing import CliRunner

from tether import cli
from tether.cli import verbs
from tether.cli.stopping import Terminated
from tether.core.errors import InputError, MissingExtraError
from tether.core.method_files import LISTED

pytestmark = pytest.mark.slow
METHODS = len(LISTED.read_text(encoding="utf-8").split())


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


def test_a_signal_within_a_lock_is_no_bug(verb):
    def command() -> None:
        """Fails as ``Condition.wait`` does when the signal comes before it has its lock back."""
        lock = threading.Lock()
        with lock:
            lock.release()
            raise KeyboardInterrupt

    verb(command)
    code, _, stderr = call("probe")
    assert (code, stderr) == (130, "tether: interrupted\n")


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
    code, _, stderr = call("method")
    assert code == 2
    assert "no verb 'method'; did you mean 'methods'? known: " in stderr


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
    (tmp_path / "methods.py").write_text('def command() -> None:\n    """List."""\n')
    assert verbs.sections(tmp_path) == {"Papers": {"methods": "List."}, "Others": {"paint": "Paint a picture."}}


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


def test_methods_as_lines_and_as_json():
    code, stdout, _ = call("methods", "--json")
    rows = {row["slug"]: row for row in json.loads(stdout)}
    assert (code, [*rows]) == (0, LISTED.read_text(encoding="utf-8").split())
    assert rows["zclip"]["verdict"] == "reproduced"
    code, stdout, _ = call("methods")
    assert [line.split()[0] for line in stdout.splitlines()[:-1]] == list(rows)
    assert stdout.splitlines()[-1] == f"{METHODS} of {METHODS} methods; tether methods SLUG shows the parts of one"


def test_a_method_that_is_lost_is_told_beside_those_that_are_there(monkeypatch, tmp_path):
    from tether.core import method_files

    listed = tmp_path / "slugs.txt"
    listed.write_text(method_files.LISTED.read_text() + "zlost\n")
    monkeypatch.setattr(method_files, "LISTED", listed)
    code, stdout, stderr = call("methods")
    said = f"{listed}: names zlost, of which {method_files.FOLDER} has no method.toml that can be read; install tether"
    assert (code, len(stdout.splitlines()), said in stderr) == (2, METHODS + 1, True)
    assert call("methods", "zclip")[0] == 0
    code, _, stderr = call("methods", "zlost")
    assert (code, said in stderr) == (2, True)


def test_a_method_shows_its_parts():
    code, stdout, _ = call("methods", "zclip")
    assert code == 0
    assert "https://arxiv.org/abs/2504.02507" in stdout
    assert re.search(r"^verdict +reproduced, on photographs contrary$", stdout, flags=re.MULTILINE)
    assert re.search(r"^part +tether\.methods\.zclip\.clipper\.ZClip  \w", stdout, flags=re.MULTILINE)
    code, _, stderr = call("methods", "zclap")
    assert (code, "no method 'zclap'; did you mean 'zclip'" in stderr) == (2, True)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (["--find", "2504.02507"], "zclip "),
        (["--find", "https://arxiv.org/pdf/2504.02507v1.pdf"], "zclip "),
        (
            ["--find", "arXiv:2010.04592v2"],
            "arXiv:2010.04592v2 is named in tether/methods/m2_mix/hard_contrastive.py: ",
        ),
        (["--find", "align-clip"], "alignclip "),
        (["--find", "Eslami"], "alignclip "),
        (["--find", "2010.04592"], "2010.04592 is named in tether/methods/m2_mix/hard_contrastive.py: "),
        (["--verdict", "Reproduced"], "zclip "),
        (["--needs", "GRADIENT"], "zclip "),
        (["--needs", "no such thing"], f"0 of {METHODS} methods"),
    ],
)
def test_methods_can_be_chosen(asked, found):
    code, stdout, _ = call("methods", *asked)
    assert code == 0
    assert f"\n{found}" in f"\n{stdout}"
    assert len(stdout.splitlines()) < METHODS


def test_one_method_takes_no_choice():
    code, _, stderr = call("methods", "zclip", "--needs", "pairs")
    assert (code, "a name shows one method; leave out --find" in stderr) == (2, True)


def test_a_verdict_that_there_is_not_is_refused():
    code, _, stderr = call("methods", "--verdict", "true")
    assert code == 2
    assert "--verdict: no 'true'; known: contrary, " in " ".join(stderr.split())


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
