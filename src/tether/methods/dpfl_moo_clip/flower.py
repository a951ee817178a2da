"""The same rounds between machines, by Flower: a strategy for its server, an app for each site."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tether.core.errors import InputError, MissingExtraError
from tether.methods.dpfl_moo_clip import MooClipSchedule
from tether.methods.dpfl_moo_clip.checks import check_update
from tether.methods.dpfl_moo_clip.client import PrivateClient

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp
    from flwr.serverapp.strategy import FedAvg

NORM, SHARE, WEIGHT = "clipping-norm", "clipped-share", "weight"
"""Names in Flower's records: what a site is told, and what it tells."""
SPENT, COUNTED = "privacy-spent", ("noise-multiplier", "sample-rate", "steps")
"""What stays at a node."""


def flower_library() -> None:
    """See that Flower is there.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import flwr  # noqa: F401
    except ImportError:
        raise MissingExtraError("flwr", extra="federated") from None


def moo_fedavg(clip: MooClipSchedule | float, **settings: Any) -> FedAvg:
    """Flower's ``FedAvg`` that sends the round's clipping norm and moves it by the shares that come back.

    Samples are what is protected, by each site itself. Flower's own wrappers clip and noise whole updates of sites, and
    go around this strategy where sites are to be protected as well; their norm is another one. In release 1.42 the
    adaptive wrapper counts updates that are clipped where its rule (arXiv 1905.03871) means those that are not, so that
    its norm runs away from its target.

    Args:
        clip: the rule, whose state moves; or a fixed norm.
        settings: of ``FedAvg``; sites count alike, as their sizes are theirs.

    Raises:
        InputError: ``weighted_by_key``, which is fixed here; later, a reply without a share or with one that is NaN.
        NotFiniteError: later, weights of a round that are NaN or infinite.
        MissingExtraError: Flower is not installed.

    Example:
        ``moo_fedavg(schedule).start(grid, initial_arrays=ArrayRecord(module.state_dict()), num_rounds=60)`` in a
        Flower ``ServerApp``.
    """
    flower_library()
    if "weighted_by_key" in settings:
        raise InputError("weighted_by_key: is fixed: the number of a site's samples is under privacy, too")
    from flwr.serverapp.strategy import FedAvg

    class MooFedAvg(FedAvg):
        def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Iterable[Any]:
            config[NORM] = clip.c if isinstance(clip, MooClipSchedule) else float(clip)
            return super().configure_train(server_round, arrays, config, grid)

        def aggregate_train(self, server_round: int, replies: Iterable[Any]) -> tuple[Any, Any]:
            arrays, metrics = super().aggregate_train(server_round, replies)
            if arrays is not None:
                check_update(arrays.to_torch_state_dict(), whose=f"round {server_round}: the mean of the sites")
            if metrics is not None and isinstance(clip, MooClipSchedule):
                if SHARE not in metrics:
                    raise InputError(
                        f"round {server_round}: a site released no {SHARE}; expected clients with count_std"
                    )
                clip.update(float(metrics[SHARE]))
            return arrays, metrics

    return MooFedAvg(weighted_by_key=WEIGHT, **settings)


def client_app(make: Callable[[Any], PrivateClient], *, simulation: bool = False) -> ClientApp:
    """A Flower app for sites, which answers ``train`` with noised weights and a noisy share, and nothing else.

    What the site's accountant has counted lies in the node's ``context.state``, so that a process that begins anew,
    which Flower may do for every message, goes on counting.

    Args:
        make: Flower's ``Context`` to the site's ``PrivateClient``; asked once for each node and process.
        simulation: take clients whose noise comes from a seed. A new process would draw the same noise again.

    Raises:
        InputError: later, a client with a seed.
        MissingExtraError: Flower is not installed.
    """
    flower_library()
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    app, clients = ClientApp(), dict[int, PrivateClient]()

    @app.train()
    def train(message: Any, context: Any) -> Any:
        if context.node_id not in clients:
            client = make(context)
            if client.repeats and not simulation:
                raise InputError("client: its noise comes from a seed; expected seed=None, or simulation=True")
            if SPENT in context.state:
                spent = context.state[SPENT]
                client.spent_before(list(zip(*(spent[name] for name in COUNTED), strict=True)))
            clients[context.node_id] = client
        client, content = clients[context.node_id], message.content
        state: Mapping[str, Tensor] = content["arrays"].to_torch_state_dict()
        update = client.train(state, c=float(content["config"][NORM]))
        if client.history:
            context.state[SPENT] = MetricRecord(
                dict(zip(COUNTED, map(list, zip(*client.history, strict=True)), strict=True))
            )
        told = {WEIGHT: 1.0} | ({} if update.clipped is None else {SHARE: update.clipped})
        found = {"arrays": ArrayRecord(dict(update.state)), "metrics": MetricRecord(told)}
        return Message(content=RecordDict(found), reply_to=message)

    return app
