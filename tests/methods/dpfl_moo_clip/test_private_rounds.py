"""Sites that learn together: what leaves them, what it costs by Opacus' accountant, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from opacus.accountants import create_accountant
from torch import Tensor, nn

from tether.core.errors import InputError, MissingExtraError, NotFiniteError
from tether.methods.dpfl_moo_clip import MooClipSchedule, PrivateClient, RoundRecord, Update, federate
from tether.methods.dpfl_moo_clip import checks as federated_checks

SIGMA, BATCH = 1.0, 20
GIVEN: dict[str, Any] = {"batch_size": BATCH, "noise_multiplier": SIGMA, "lr": 1.0}


def head() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(5, 3)


def rows(seed: int, count: int = 60) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))
    return x, x[:, :3].argmax(1)


def sites(count: int = 3, **more: Any) -> list[PrivateClient]:
    given = GIVEN | {"count_std": 2.0} | more
    return [PrivateClient(head(), *rows(site), seed=site, **given) for site in range(count)]


def rule(**more: Any) -> MooClipSchedule:
    given = {"noise_multiplier": SIGMA, "dim": 18, "batch_size": BATCH, "count_std": 2.0}
    return MooClipSchedule(0.5, **(given | more))


def test_sites_learn_together_and_the_norm_moves() -> None:
    schedule = rule()
    done = federate(head(), sites(), rounds=30, clip=schedule, delta=1e-3)
    x, y = rows(99, 300)
    before, after = (float((module(x).argmax(1) == y).float().mean()) for module in (head(), done.module))
    assert after > max(before + 0.15, 0.6)
    assert schedule.round == 30
    assert done.c == schedule.c != 0.5
    assert [record.round for record in done.records] == list(range(1, 31))
    assert done.records[0].c == 0.5
    again = federate(head(), sites(), rounds=30, clip=rule(), delta=1e-3)
    assert torch.equal(again.module.weight, done.module.weight)


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
def test_epsilon_is_opacus_own_with_and_without_the_count(accountant: str) -> None:
    found = []
    for count_std in (None, 2.0):
        done = federate(
            head(),
            sites(count_std=count_std, accountant=accountant, steps=2),
            rounds=5,
            clip=0.5 if count_std is None else rule(),
            delta=1e-3,
        )
        found.append(done.epsilon)
    expected = create_accountant(mechanism=accountant)
    for _ in range(10):
        expected.step(noise_multiplier=SIGMA, sample_rate=BATCH / 60)
    assert found == [expected.get_epsilon(delta=1e-3)] * 2


def test_what_was_spent_before_is_counted() -> None:
    whole = sites(1, count_std=None)[0]
    first, second = (sites(1, count_std=None)[0] for _ in range(2))
    for client, rounds in ((whole, 7), (first, 3)):
        for _ in range(rounds):
            client.train(client.state, c=1.0)
    second.spent_before(first.history)
    for _ in range(4):
        second.train(second.state, c=1.0)
    assert second.history == whole.history == [(SIGMA, BATCH / 60, 7)]
    assert second.epsilon(delta=1e-3) == whole.epsilon(delta=1e-3) > first.epsilon(delta=1e-3)
    with pytest.raises(InputError, match="history: expected"):
        second.spent_before([(1.0, 0.1, 1)])
    with pytest.raises(InputError, match="history: expected"):
        sites(1)[0].spent_before([(1.0, 2.0, 1)])


def test_a_site_refuses_a_round_beyond_its_own_bound() -> None:
    steps = {"count_std": None, "steps": 2}
    free = sites(1, **steps)[0]
    for _ in range(2):
        free.train(free.state, c=1.0)
    most = free.epsilon(delta=1e-3)
    bound = sites(1, most_epsilon=most, delta=1e-3, **steps)[0]
    for _ in range(2):
        bound.train(bound.state, c=1.0)
    with pytest.raises(InputError, match="client: another round would spend epsilon"):
        bound.train(bound.state, c=1.0)
    assert bound.epsilon(delta=1e-3) == most
    for wrong in ({"most_epsilon": 1.0}, {"delta": 1e-3}, {"most_epsilon": 1.0, "delta": 1e-3, "noise_multiplier": 0}):
        with pytest.raises(InputError, match="most_epsilon, delta: expected both or neither, and noise"):
            sites(1, **(steps | wrong))


def test_one_site_of_nan_is_named_before_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    clients, train = sites(2, count_std=None), PrivateClient.train

    def spoilt(self: PrivateClient, state: Mapping[str, Tensor], *, c: float) -> Update:
        update = train(self, state, c=c)
        return update if self is clients[0] else Update({**update.state, "bias": torch.full((3,), torch.nan)}, None)

    monkeypatch.setattr(PrivateClient, "train", spoilt)
    with pytest.raises(NotFiniteError, match="round 1, client 1: bias became NaN"):
        federate(head(), clients, rounds=5, clip=1.0, delta=1e-3)


def test_without_noise_nothing_is_private_and_gradients_are_the_plain_ones() -> None:
    client = PrivateClient(head(), *rows(0), batch_size=60, noise_multiplier=0.0, lr=0.5)
    module, (x, y) = head(), rows(0)
    update = client.train(client.state, c=1e6)
    F.cross_entropy(module(x), y).backward()
    torch.testing.assert_close(update.state["weight"], module.weight.detach() - 0.5 * module.weight.grad)
    assert client.epsilon(delta=0.1) == math.inf
    assert update.clipped is None


def test_batches_are_poisson_and_may_be_empty() -> None:
    sizes = list[int]()

    def counted(logits: Tensor, labels: Tensor) -> Tensor:
        sizes.append(len(logits))
        return F.cross_entropy(logits, labels, reduction="none")

    client = PrivateClient(head(), *rows(0), **(GIVEN | {"batch_size": 2}), steps=400, loss=counted, seed=0)
    sizes.clear()
    update = client.train(client.state, c=1.0)
    assert min(sizes) == 0
    assert sum(sizes) / 400 == pytest.approx(2, abs=0.3)
    assert torch.tensor(sizes).float().var().item() == pytest.approx(2 * (1 - 2 / 60), rel=0.35)
    assert all(bool(value.isfinite().all()) for value in update.state.values())


def test_noise_is_not_that_of_a_seed_which_others_know() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        client = PrivateClient(head(), *rows(0), **GIVEN)
        states.append(client.train(client.state, c=1.0).state["weight"])
    assert not torch.equal(*states)


def test_nothing_leaves_a_site_or_enters_a_log_but_what_was_noised(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row that only one site has, of numbers that cannot come from elsewhere."""
    marked = 7731.5
    x, y = rows(0)
    x[0] = marked
    clients = [PrivateClient(head(), x, y, seed=0, count_std=2.0, **GIVEN), *sites(2)]
    told = list[RoundRecord]()
    with caplog.at_level(0):
        done = federate(head(), clients, rounds=3, clip=rule(), delta=1e-3, on_round=told.append)
    seen = f"{caplog.text}{''.join(capsys.readouterr())}{[asdict(one) for one in told]}{[repr(one) for one in clients]}"
    assert str(marked) not in seen
    assert {one.name for one in fields(RoundRecord)} == {"round", "c", "clipped"}
    assert {one.name for one in fields(Update)} == {"state", "clipped"}
    assert not [name for client in clients for name in vars(client) if not name.startswith("_") and name in ("x", "y")]
    assert tuple(told) == tuple(done.records)


def test_a_broken_sample_adds_nothing() -> None:
    x, y = rows(0)
    x[3] = math.nan
    client = PrivateClient(head(), x, y, batch_size=60, noise_multiplier=0.0, lr=0.5)
    state = client.train(client.state, c=0.1).state
    assert all(bool(value.isfinite().all()) for value in state.values())


def contrastive(logits: Tensor, labels: Tensor) -> Tensor:
    del labels
    return F.cross_entropy(logits @ logits.T, torch.arange(len(logits)), reduction="none")


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (contrastive, "the loss of one sample depends on the others of its batch, as of contrastive losses"),
        (
            lambda logits, labels: F.cross_entropy(logits, labels),
            r"loss: expected one number for each of 3 rows, got \(\)",
        ),
        (lambda logits, labels: (logits - logits.mean(0)).square().sum(1), "no epsilon holds"),
    ],
)
def test_losses_that_couple_samples_are_refused(loss: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PrivateClient(head(), *rows(0), loss=loss, **GIVEN)


def test_modules_that_mix_samples_are_refused() -> None:
    class Mixed(nn.Sequential):
        pass

    with pytest.raises(InputError, match="1: batch norm mixes the samples of a batch"):
        PrivateClient(Mixed(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)), *rows(0), **GIVEN)
    with pytest.raises(InputError, match="nothing learns"):
        PrivateClient(head().requires_grad_(False), *rows(0), **GIVEN)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"batch_size": 61}, "client: batch_size: expected at most its 60 rows, got 61"),
        ({"count_std": 0.5}, "noise_multiplier: expected less than twice count_std"),
        ({"lr": 0.0}, "lr"),
        ({"noise_multiplier": -1.0}, "noise_multiplier"),
    ],
)
def test_clients_that_are_refused(more: Mapping[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PrivateClient(head(), *rows(0), **(GIVEN | dict(more)))


def test_rounds_that_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"client 0: expected noise_multiplier, batch_size and count_std"):
        federate(head(), sites(count_std=None), rounds=1, clip=rule(), delta=1e-3)
    for norm in (math.nan, 0.0):
        with pytest.raises(InputError, match="clip: expected a finite norm above 0"):
            federate(head(), sites(1), rounds=1, clip=norm, delta=1e-3)
    with pytest.raises(InputError, match="client: expected as many rows as labels, and some"):
        PrivateClient(head(), torch.zeros(0, 5), torch.zeros(0, dtype=torch.long), **GIVEN)
    with pytest.raises(InputError, match="state: expected weights"):
        sites(1)[0].train({"weight": torch.zeros(1)}, c=1.0)

    def missing() -> None:
        raise MissingExtraError("opacus", extra="private")

    monkeypatch.setattr(federated_checks, "opacus_library", missing)
    with pytest.raises(MissingExtraError, match="opacus"):
        federated_checks.check_private_module(head())
