"""What every verb looks at before it writes: its outputs are files of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tether import cli
from tether.cli.options import check_outputs, settings_of
from tether.core.errors import InputError

VERBS = [path for path in sorted(Path(cli.__file__).parent.glob("*.py")) if "json: Json" in path.read_text()]


@pytest.mark.parametrize("path", VERBS, ids=lambda path: path.stem)
def test_every_verb_with_a_file_of_json_looks(path: Path) -> None:
    text = path.read_text()
    assert "    check_outputs(" in text
    assert "check_new(" not in text


def test_two_of_one_name_by_any_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    for other in ("a.csv", "./a.csv", "link/a.csv", str(tmp_path / "a.csv")):
        with pytest.raises(InputError, match=r"--html: .*a\.csv is --out, too; give it another name"):
            check_outputs({"--out": Path("a.csv"), "--html": Path(other)}, existing="replace")
    check_outputs({"--out": Path("a.csv"), "--html": None, "--json": "-"}, existing="refuse")


@pytest.mark.parametrize(
    "given", ["data.csv", "csv:path=data.csv", "*.csv", ["x.png", Path("data.csv")], "link/data.csv"]
)
def test_nothing_is_written_over_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: object) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "data.csv").touch()
    inputs = {"IMAGES": given, "--words": None, "--classes": "a cat,\0 dog"}
    with pytest.raises(InputError, match=r"--out: data\.csv is IMAGES, too; give it another name"):
        check_outputs({"--out": Path("data.csv")}, existing="replace", inputs=inputs)
    check_outputs({"--out": Path("other.csv")}, existing="replace", inputs=inputs)


def test_a_long_setting_is_shortened() -> None:
    with pytest.raises(InputError) as caught:
        settings_of([f"size={'[' * 5000}"], hint="--set")
    assert len(str(caught.value)) < 400
