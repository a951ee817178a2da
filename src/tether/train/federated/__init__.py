"""Learning across sites whose data stay there: rounds on one machine, and the same between machines by Flower."""

from __future__ import annotations

from tether.train.federated.checks import check_loss, check_private_module
from tether.train.federated.client import PrivateClient, Update
from tether.train.federated.rounds import Federated, RoundRecord, federate

__all__ = [
    "Federated",
    "PrivateClient",
    "RoundRecord",
    "Update",
    "check_loss",
    "check_private_module",
    "federate",
]
