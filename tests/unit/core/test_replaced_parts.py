"""Parts that belong together are all old or all new, or none of them opens."""

from __future__ import annotations

from pathlib import Path

import pytest

from tether.core.errors import WriteError
from tether.core.replaced_parts import replaced_parts

KEYS = ["reader", "scene"]


def wrote(folder: Path, text: str, *, scene: bool = True) -> None:
    with replaced_parts(folder, keys=KEYS, others=["gone"]) as new:
        (new / "model").mkdir()
        for name in ("model/weights", "reader", *(["scene"] if scene else [])):
            (new / name).write_text(text)


def held(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_the_new_take_the_place_of_the_old_and_the_rest_stays(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "old").touch()
    (tmp_path / "notes").write_text("mine")
    wrote(tmp_path, "old")
    wrote(tmp_path, "new", scene=False)
    assert held(tmp_path) == {"model/weights": "new", "reader": "new", "notes": "mine"}
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("at", range(9))
def test_killed_at_any_step_no_mixture_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    wrote(tmp_path, "old")
    left = iter(range(at))

    def hook(kind: type, name: str) -> None:
        true = getattr(kind, name)

        def step(*given: object, **more: object) -> object:
            if kind is Path and tmp_path not in (given[0].parent, given[0].parent.parent):  # pyrefly: ignore
                return true(*given, **more)
            if next(left, None) is None:
                raise KeyboardInterrupt
            return true(*given, **more)

        monkeypatch.setattr(kind, name, step)

    for name in ("rename", "unlink"):
        hook(Path, name)
    try:
        wrote(tmp_path, "new")
        whole = True
    except KeyboardInterrupt:
        whole = False
    monkeypatch.undo()
    found = held(tmp_path)
    if "reader" in found:
        assert found["model/weights"] == found["reader"]
    if "scene" in found:
        assert found["scene"] == found["reader"]
    assert whole == (found == {"model/weights": "new", "reader": "new", "scene": "new"})
    wrote(tmp_path, "again")
    assert set(held(tmp_path).values()) == {"again"}
    assert len(list(tmp_path.iterdir())) == 3


def test_what_cannot_be_written_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrote(tmp_path, "old")
    before = held(tmp_path)

    def full(*given: object, **more: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_text", full)
        with pytest.raises(WriteError, match="what stood there before is unchanged"):
            wrote(tmp_path, "new")
    assert held(tmp_path) == before
    (tmp_path / ".new-left").mkdir()  # of a process that was killed
    wrote(tmp_path, "new")
    assert set(held(tmp_path).values()) == {"new"}
