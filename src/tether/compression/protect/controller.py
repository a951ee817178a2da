"""A recurrent net that chooses rows of every layer and learns from what came of its choices (REINFORCE)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

STATE, HIDDEN, SPREAD = 256, 512, 0.1


class FilterController(nn.Module):
    """Chooses ``per_layer`` different rows of each layer, by a softmax over rows, layer after layer.

    Args:
        rows: how many each layer has.
        per_layer: how many are chosen of each; of a layer that has fewer, all.
        generator: of its weights and of every choice; on the CPU.
        lr: learning rate of Adam.

    Source: ``controller_rnn.py`` of Tongzhou0101/NNSplitter. There the loss is ``sum (r - b) log p``, whose descent
    makes good choices less likely; here it is ``-(r - b) log p``. Of several rows of a layer none is drawn twice.
    """

    def __init__(self, rows: Sequence[int], *, per_layer: int, generator: torch.Generator, lr: float = 0.01) -> None:
        """Draw the weights."""
        super().__init__()
        self.rows, self.per_layer, self.generator = tuple(rows), per_layer, generator
        self.rnn = nn.RNN(STATE, HIDDEN)
        self.heads = nn.ModuleList(nn.Linear(HIDDEN, count) for count in rows)
        with torch.no_grad():
            for name, value in self.named_parameters():
                value.uniform_(-SPREAD, SPREAD, generator=generator)
                if name.startswith("heads") and name.endswith("bias"):
                    value.zero_()
        self._optimizer = torch.optim.Adam(self.parameters(), lr=lr)

    def choose(self) -> tuple[list[list[int]], Float[Tensor, ""]]:
        """Rows of each layer, and the logarithm of the probability of this choice, with gradient."""
        start = torch.randint(0, min(STATE, *self.rows), (len(self.rows),), generator=self.generator)
        state = nn.functional.one_hot(start, STATE).float()
        chosen, told = list[list[int]](), torch.zeros(())
        for hidden, head in zip(self.rnn(state)[0], self.heads, strict=True):
            chances = head(hidden).softmax(0)
            count = min(self.per_layer, len(chances))
            drawn = torch.multinomial(chances.detach(), count, generator=self.generator)
            taken = chances[drawn]
            # Without what was drawn before: p1 * p2 / (1 - p1) * ...
            left = (1 - (taken.cumsum(0) - taken)).clamp(min=1e-12)
            told = told + (taken.clamp(min=1e-12).log() - left.log()).sum()
            chosen.append(drawn.tolist())
        return chosen, told

    def learn(self, rewards: Sequence[float], told: Sequence[Float[Tensor, ""]]) -> None:
        """One step that makes choices of more than the mean reward likelier."""
        gains = torch.tensor(rewards) - sum(rewards) / len(rewards)
        self._optimizer.zero_grad()
        (-(gains * torch.stack(tuple(told))).sum()).backward()
        self._optimizer.step()
