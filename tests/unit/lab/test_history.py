"""Whether a claim stood before its seeds were measured, in a repository made for it."""

from __future__ import annotations

import subprocess

import pytest

from tether_lab.lab import history, source_index

CARD = """MARGIN = {margin}
CARD = Card(claim=Claim("It helps.", margin=MARGIN))


def reproduce(lab):
    return {body}
"""


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A function that commits a card and gives the commit's name."""
    path = tmp_path / "src/cards/made_up.py"
    path.parent.mkdir(parents=True)
    monkeypatch.setattr(source_index, "checkout", lambda: tmp_path)
    monkeypatch.setattr(source_index, "card_path", lambda slug: path)

    def git(*arguments: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    git("init")

    def put(*, margin: float, body: str = "1", commit: bool = True) -> str:
        path.write_text(CARD.format(margin=margin, body=body))
        if commit:
            git("add", ".")
            git("commit", "-m", "a card")
        return history.commit()

    return put


def measured_at(*commits: str, fresh: str | None = None) -> dict:
    return {
        "seeds": [{"commit": one} for one in commits],
        "fresh": {"seeds": [{"commit": fresh}]} if fresh else None,
    }


def test_a_claim_that_was_committed_first_stood_before(repository):
    first = repository(margin=0.5)
    second = repository(margin=0.5, body="2")
    assert first != second
    assert history.was_fixed_before("made-up", measured_at(first, second))


def test_a_margin_that_was_changed_after_a_seed_did_not(repository):
    first = repository(margin=0.5)
    second = repository(margin=0.4)
    assert not history.was_fixed_before("made-up", measured_at(first, second))
    assert history.was_fixed_before("made-up", measured_at(second))
    assert history.was_fixed_before("made-up", measured_at(second, fresh=second))
    assert not history.was_fixed_before("made-up", measured_at(second, fresh=first))


def test_an_annotated_constant_is_part_of_the_claim(repository, monkeypatch):
    monkeypatch.setattr(f"{__name__}.CARD", CARD.replace("MARGIN =", "MARGIN: float ="))
    first, _ = repository(margin=0.5), repository(margin=0.4)
    assert not history.was_fixed_before("made-up", measured_at(first))


def test_a_default_that_is_spelt_out_is_the_same_claim(repository, monkeypatch):
    monkeypatch.setattr(f"{__name__}.CARD", CARD.replace("margin=", 'better="higher", margin='))
    first = repository(margin=0.5)
    monkeypatch.setattr(f"{__name__}.CARD", CARD.replace('better="higher", ', ""))
    repository(margin=0.5)
    assert history.was_fixed_before("made-up", measured_at(first))
    monkeypatch.setattr(f"{__name__}.CARD", CARD.replace("margin=", 'better="lower", margin='))
    repository(margin=0.5)
    assert not history.was_fixed_before("made-up", measured_at(first))


def test_a_new_file_is_a_change(repository, tmp_path):
    clean = repository(margin=0.5)
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench/new.py").write_text("")
    assert history.commit() == clean
    assert history.commit("bench") == clean + history.CHANGED_SOURCE
    (tmp_path / "src/new.py").write_text("")
    assert history.commit() == clean + history.CHANGED_SOURCE


def test_changed_source_unknown_commits_and_no_checkout_prove_nothing(repository, monkeypatch):
    clean = repository(margin=0.5)
    dirty = repository(margin=0.5, body="3", commit=False)
    assert dirty == clean + history.CHANGED_SOURCE
    for commit in (dirty, "unknown", "0123456789ab", "HEAD", clean[:7]):
        assert not history.was_fixed_before("made-up", measured_at(commit))
    monkeypatch.setattr(source_index, "checkout", lambda: None)
    assert not history.was_fixed_before("made-up", measured_at(clean))
    assert history.commit() == "unknown"
