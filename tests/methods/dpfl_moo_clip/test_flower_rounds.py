"""The rounds by Flower, where it is installed: the same weights as in one process, and what it is told."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import nn

from tether.core.errors import InputError, MissingExtraError, NotFiniteError
from tether.methods.dpfl_moo_clip import MooClipSchedule, PrivateClient, federate, gradient_noise
from tether.methods.dpfl_moo_clip.flower import client_app, moo_fedavg

SIGMA, BATCH, ROUNDS = 1.0, 20, 4


def head() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(5, 3)


def site(number: int) -> PrivateClient:
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(number))
    given: dict[str, Any] = {"batch_size": BATCH, "noise_multiplier": SIGMA, "lr": 1.0, "count_std": 2.0}
    return PrivateClient(head(), x, x[:, :3].argmax(1), seed=number, **given)


def rule(**more: Any) -> MooClipSchedule:
    given: dict[str, Any] = {"noise_multiplier": SIGMA, "dim": 18, "batch_size": BATCH, "count_std": 2.0}
    return MooClipSchedule(0.5, **(given | more))


def test_without_flower_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flwr", None)
    for make in (lambda: moo_fedavg(rule()), lambda: client_app(lambda context: site(0))):
        with pytest.raises(MissingExtraError, match="federated"):
            make()


@pytest.fixture
def flower(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower, which makes messages only in a process that has a task."""
    pytest.importorskip("flwr")
    from flwr.supercore.task_identity import TaskIdentity

    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.mark.usefixtures("flower")
def test_rounds_by_flower_are_those_in_one_process(caplog: pytest.LogCaptureFixture) -> None:
    from flwr.app import ArrayRecord, Context, RecordDict

    made = list[int]()

    def make(context: Any) -> PrivateClient:
        made.append(context.node_id)
        return site(context.node_id - 1)

    app = client_app(make, simulation=True)
    kept = {node: RecordDict() for node in (1, 2, 3)}

    class OneMachine:
        """Hands each message to its site's app, in the order of sites."""

        def get_node_ids(self) -> list[int]:
            return [1, 2, 3]

        def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> list[Any]:
            replies = list[Any]()
            for message in sorted(messages, key=lambda one: one.metadata.dst_node_id):
                node = message.metadata.dst_node_id
                context = Context(run_id=1, node_id=node, node_config={}, state=kept[node], run_config={})
                replies.append(app(message, context))
            return replies

    schedule = rule()
    strategy = moo_fedavg(schedule, fraction_evaluate=0.0)
    with caplog.at_level(0):
        result = strategy.start(OneMachine(), ArrayRecord(head().state_dict()), num_rounds=ROUNDS)
    expected = federate(head(), [site(number) for number in range(3)], rounds=ROUNDS, clip=rule(), delta=1e-3)
    assert sorted(made) == [1, 2, 3]
    assert schedule.round == ROUNDS
    assert schedule.c == pytest.approx(expected.c, rel=1e-6)
    for name, value in result.arrays.to_torch_state_dict().items():
        torch.testing.assert_close(value, expected.module.state_dict()[name], rtol=1e-5, atol=1e-6)
    told = {name for metrics in result.train_metrics_clientapp.values() for name in metrics}
    assert told == {"clipped-share"}
    assert list(kept[1]["privacy-spent"]["steps"]) == [ROUNDS]
    app = client_app(make, simulation=True)  # a new process
    moo_fedavg(rule(), fraction_evaluate=0.0).start(OneMachine(), ArrayRecord(head().state_dict()), num_rounds=1)
    assert list(kept[1]["privacy-spent"]["steps"]) == [ROUNDS + 1]
    app = client_app(make)
    with pytest.raises(InputError, match="its noise comes from a seed"):
        moo_fedavg(0.5, fraction_evaluate=0.0).start(OneMachine(), ArrayRecord(head().state_dict()), num_rounds=1)
    spoilt = {name: value * torch.nan for name, value in head().state_dict().items()}
    app = client_app(make, simulation=True)
    with pytest.raises(NotFiniteError, match="round 1: the mean of the sites: weight became NaN"):
        moo_fedavg(0.5, fraction_evaluate=0.0).start(OneMachine(), ArrayRecord(spoilt), num_rounds=1)
    with pytest.raises(InputError, match="weighted_by_key: is fixed"):
        moo_fedavg(rule(), weighted_by_key="num-examples")


def test_the_rule_beside_flowers_adaptive_wrapper() -> None:
    """Number for number with the share below the norm; release 1.42 counts the other ones, and runs away."""
    pytest.importorskip("flwr")
    from flwr.serverapp.strategy import DifferentialPrivacyServerSideAdaptiveClipping, FedAvg
    from flwr.supercore.differential_privacy import adaptive_clip_inputs_inplace

    ours = rule(kappa=1.0, lr=0.3)
    theirs = DifferentialPrivacyServerSideAdaptiveClipping(
        FedAvg(),
        noise_multiplier=SIGMA,
        num_sampled_clients=BATCH,
        initial_clipping_norm=0.5,
        target_clipped_quantile=ours.target_unclipped_quantile,
        clip_norm_lr=0.3,
        clipped_count_stddev=2.0,
    )
    for clipped in (0.2, 1.0, 0.0, 0.55):
        theirs._geometric_update(1 - clipped)
        assert ours.update(clipped) == pytest.approx(theirs.clipping_norm, rel=1e-12)
    bit = adaptive_clip_inputs_inplace([torch.full((4,), 100.0).numpy()], 1.0)
    assert bool(bit)  # of an update that is clipped; the rule then shrinks the norm where all are
    assert gradient_noise(SIGMA, 2.0) == pytest.approx(theirs.noise_multiplier, rel=1e-12)
