"""The steps that rows miss while sampling passes them by, made up for later.

Without a gradient of its own, a row W with momentum buffer v takes the linear step

    v <- momentum * v + weight_decay * W,   W <- W - lr * v,

so n missed steps are a product of n matrices 2 x 2. One product is kept for each step
at which rows were last up to date, not for each row.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mmhyperface.utils.global_batch import send

# How often products that no row needs any more are dropped, in steps.
TIDY = 256
# Rows that are brought up to date at once.
CHUNK = 2**14


class SkippedSteps:
    """Knows which steps each row has missed.

    Args:
        weight: All rows, [C, D].
        optimizer: Plain SGD that steps them.
        group: Gives the optimizer's group of the weight as it is now.

    Attributes:
        touched: Rows that take part in the step to come, each of them int64 [n].
    """

    def __init__(
        self,
        weight: nn.Parameter,
        optimizer: Optimizer,
        group: Callable[[], dict[str, Any]],
    ) -> None:
        self.weight, self.optimizer, self._group = weight, optimizer, group
        state = optimizer.state[weight]
        if group()['momentum'] and state.get('momentum_buffer') is None:
            # Weight decay builds momentum in rows that have never been drawn.
            state['momentum_buffer'] = torch.zeros_like(weight)
        # For each row the entry of ``products`` that brings it up to date.
        self.seen = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
        self.products = torch.eye(2, dtype=torch.float64, device=weight.device)[None]
        self.touched: list[Tensor] = []

    def stepped(self, index: Tensor) -> None:
        """Announce rows that have made up for what they missed and taken the step."""
        self.seen.index_fill_(0, index, len(self.products) - 1)
        self.touched.append(index)

    def make_up(self, index: Tensor, rows: Tensor, velocity: Tensor | None) -> None:
        """Apply what rows have missed, in place.

        Args:
            index: The rows, int64 [n].
            rows: Copies of them, [n, D].
            velocity: Copies of their momentum buffers, [n, D]; None without momentum.
        """
        products = self.products.to(rows.dtype).view(-1, 4, 1)
        # Each factor as a column [n, 1].
        missed = products.index_select(0, self.seen.index_select(0, index))
        a, b, c, d = missed.unbind(1)
        if velocity is None:
            rows.mul_(a)
            return
        moved = (rows * a).addcmul_(velocity, b)
        velocity.mul_(d).addcmul_(rows, c)
        rows.copy_(moved)

    @torch.no_grad()
    def flush(self) -> None:
        """Bring all rows up to date."""
        velocity = self.optimizer.state[self.weight].get('momentum_buffer')
        everyone = torch.arange(len(self.weight), device=self.weight.device)
        for start in range(0, len(everyone), CHUNK):
            block = slice(start, start + CHUNK)
            self.make_up(
                everyone[block],
                self.weight.data[block],
                None if velocity is None else velocity[block],
            )
        self.reset()

    def reset(self) -> None:
        """Take all rows as up to date: others have been loaded."""
        self.seen.zero_()
        self.products = self.products[-1:]

    @torch.no_grad()
    def step(self) -> None:
        """Let all rows miss the step that was taken, but for those that it touched."""
        group = self._group()
        lr, decay, momentum = group['lr'], group['weight_decay'], group['momentum']
        # Together with the identity, of those that are up to date now.
        numbers = [1 - lr * decay, -lr * momentum, decay, momentum, 1, 0, 0, 1]
        factors = torch.tensor(numbers, dtype=torch.float64, device='cpu')
        step, now = send([factors], self.seen.device)[0].view(2, 2, 2)
        self.products = torch.cat([step @ self.products, now[None]])
        for index in self.touched:
            self.seen.index_fill_(0, index, len(self.products) - 1)
        self.touched.clear()
        if len(self.products) % TIDY == 0 and len(self.seen):
            unneeded = int(self.seen.min())
            self.seen -= unneeded
            self.products = self.products[unneeded:]
