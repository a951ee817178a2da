"""What a step computes on two gloo processes, replicated and sharded, against one process on the whole batch."""

from __future__ import annotations

import pytest
import worker_adversarial
import worker_losses_clippers
import worker_optimizers
import worker_unit_norms
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from processes import in_group, run_ranks
from tether.core.errors import InputError
from tether.methods.wgan_gp.step import AdversarialPair

CHECKS = {
    "losses": (worker_losses_clippers.check_losses,),
    "clippers, ddp": (worker_losses_clippers.check_clippers, DistributedDataParallel),
    "clippers, fsdp2": (worker_losses_clippers.check_clippers, worker_losses_clippers.sharded),
    "optimizers, ddp": (worker_optimizers.check, DistributedDataParallel),
    "optimizers, fsdp2": (worker_optimizers.check, worker_optimizers.sharded),
    "optimizers of timm": (worker_optimizers.check_timm,),
    "units cut by shards": (worker_unit_norms.check,),
    "two players": (worker_adversarial.check,),
}


@pytest.mark.distributed
@pytest.mark.parametrize("check", CHECKS)
def test_two_processes_equal_one(check: str) -> None:
    run_ranks(in_group, *CHECKS[check])


def test_without_a_process_group_it_says_so() -> None:
    with pytest.raises(InputError, match="initialised process group"):
        AdversarialPair(nn.Linear(1, 1), nn.Linear(1, 1)).share_gradients_()
