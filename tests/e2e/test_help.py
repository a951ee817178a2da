"""The command line in a process of its own: what it imports, prints and returns."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tether import cli
from tether.cli import verbs

HEAVY = {"torch", "numpy", "pyarrow", "sklearn", "open_clip", "transformers", "timm", "rich", "yaml"}


def tether(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tether", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **options)


def test_help_lists_every_verb_with_its_summary():
    done = tether("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for rows in verbs.sections().values():
        for name, line in rows.items():
            assert f"\n  {name}" in done.stdout
            assert line.split()[0] in done.stdout


def test_no_arguments_show_the_help():
    assert "Usage: tether" in tether().stdout + tether().stderr


@pytest.mark.parametrize(
    "code",
    [
        "import tether",
        "import tether.cli",
        "import tether_lab.papers",
        "from tether import cli; cli.main(['--help'])",
        "from tether import cli; cli.main(['methods', 'zclip'])",
        "from tether_lab import cli; cli.main(['where', 'zclip'])",
    ],
)
def test_nothing_heavy_is_imported(code):
    script = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr))\n"
        f"{code}\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_the_installed_script_is_the_same():
    script = Path(sys.executable).with_name("tether")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == tether("--version").stdout


def test_bad_input_is_one_message_and_code_2():
    done = tether("methods", "no-such-method")
    assert done.returncode == 2
    assert done.stderr.startswith("tether: no method 'no-such-method'")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("typed", "paper"), [("CLIP-rocket", "improved-baselines"), ("Lamb", "eva-clip-18b"), ("clip-refin", "clip-refine")]
)
def test_a_paper_is_found_by_a_method_or_a_part(typed, paper):
    command = [sys.executable, "-m", "tether_lab", "where", typed]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"no paper {typed!r}; it is named by {paper}; known" in done.stderr


def test_unknown_verbs_and_options_are_code_2():
    for arguments in (["trian"], ["methods", "--rooom", "optim"]):
        done = tether(*arguments)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


def test_ctrl_c_is_one_message_and_code_130(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, types\n"
        "def command() -> None:\n"
        "    '''Wait.'''\n"
        "    import time\n"
        "    print('waiting', flush=True)\n"
        "    time.sleep(60)\n"
        "module = types.ModuleType('tether.cli.methods')\n"
        "module.command = command\n"
        "sys.modules['tether.cli.methods'] = module\n"
    )
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-m", "tether", "methods"],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore Ctrl-C, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130
    assert stderr.strip() == "tether: interrupted"


def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m tether methods zclip | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("title")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("--help",), ("methods", "zclip")])
def test_an_output_that_takes_no_more_is_one_line(arguments: tuple[str, ...]) -> None:
    read, write = os.pipe()  # the end that is read from takes nothing
    done = subprocess.run(
        [sys.executable, "-m", "tether", *arguments], stdout=read, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(read)
    os.close(write)
    assert done.returncode == 2
    assert re.fullmatch(r"tether: (standard output: )?Bad file descriptor\n", done.stderr)


def test_letters_that_a_terminal_does_not_know_are_escaped() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = tether("methods", "a 😀 method", env=environment)
    assert done.returncode == 2
    assert "a \\U0001f600 method" in done.stderr
    code = (
        "from tether.cli import main; import tether.cli.methods as m\n"
        "m.command = lambda: m.say('😀')\n"
        "main(['methods'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "\\U0001f600\n"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError("half a file"), "tether: half a file\n"),
        (OSError(5, "Input/output error"), "tether: Input/output error\n"),
        (MemoryError("Unable to allocate 9 TiB"), "tether: out of memory: Unable to allocate 9 TiB\n"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory\nmore"), "tether: out of memory: DefaultCPUAllo"),
    ],
)
def test_what_a_machine_lacks_is_one_line(error: Exception, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(cli.typer.Exit) as ended, cli._one_message():
        raise error
    assert ended.value.exit_code == 2
    assert capsys.readouterr().err.startswith(message)


def test_no_verb_needs_the_laboratory() -> None:
    script = (
        "import sys; from tether import cli; from tether.cli import verbs\n"
        "sys.modules['tether_lab'] = None\n"
        "print(len([cli.as_command(name) for name in verbs.names()]))\n"
        "import tether.workflows.train, tether.workflows.clipper_comparison.compare, tether.workflows.adapt\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(verbs.names())
