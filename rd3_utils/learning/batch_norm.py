"""Running statistics of batch norm over several processes: what is scored must not depend on how many there are."""

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rd3_utils.learning import training
from rd3_utils.protocols.recipe import Recipe


class RunningStatistics:
    """After every step, gives each process the running statistics of batch norm that the recipe's kind says.

    groups:N   those of one process: they move once per group, in the batch's order. While this object stands, a forward pass
               leaves mean and unbiased variance of its group alone in the buffers (momentum 1); `share` applies all groups'.
    local      the mean of the processes', each of which saw other rows; without it the first process's would be scored
    global     the same everywhere already (SyncBatchNorm)

    In one process nothing is touched.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, accelerator: Accelerator) -> None:
        self.network, self.recipe, self.accelerator = network, recipe, accelerator
        self.kind = recipe.training.batch_norm.partition(":")[0] if accelerator.num_processes > 1 else "global"
        # (norm, float32 [2 C]) of every forward pass since the last step: mean and variance of a group
        self.noted: list[tuple[_BatchNorm, torch.Tensor]] = []
        self.momentum: dict[_BatchNorm, float | None] = {}  # norm -> its own momentum
        self.kept: dict[_BatchNorm, tuple[torch.Tensor, float]] = {}  # float32 [2 C] after the last step
        norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
        for norm in norms if self.kind == "groups" else ():
            if norm.running_mean is not None:
                assert norm.num_batches_tracked is not None
                self.momentum[norm], norm.momentum = norm.momentum, 1.0
                self.kept[norm] = stacked(norm), norm.num_batches_tracked.item()
                norm.register_forward_hook(self.note)

    def note(self, norm: _BatchNorm, inputs: tuple, output: torch.Tensor) -> None:
        if norm.training:
            self.noted.append((norm, stacked(norm)))

    def share(self, rows: torch.Tensor) -> None:
        """To be called by all processes after the step on the batch `rows`."""
        if self.kind == "local":
            for buffer in self.network.buffers():
                if buffer.is_floating_point():
                    torch.distributed.all_reduce(buffer)
                    buffer /= self.accelerator.num_processes
        if self.noted:
            self.apply(*self.exchanged(rows))
            self.noted.clear()

    def exchanged(self, rows: torch.Tensor) -> tuple[list[_BatchNorm], torch.Tensor]:
        """(the norms in the order of a forward pass, float32 [G, sum of 2 C]: what they saw of each group of the batch)."""
        groups = len(training.batch_norm_groups(rows, int(self.recipe.training.batch_norm.partition(":")[2])))
        mine = training.part_of_process(groups, self.accelerator.process_index, self.accelerator.num_processes)
        passes = torch.cat([moments for _, moments in self.noted]).view(mine.stop - mine.start, -1)
        table = passes.new_zeros(groups, passes.shape[1])
        table[mine] = passes
        torch.distributed.all_reduce(table)  # others add zeros: the bits stay
        return [norm for norm, _ in self.noted[: len(self.noted) // len(passes)]], table

    def apply(self, norms: list[_BatchNorm], table: torch.Tensor) -> None:
        """Move the running statistics of `norms` by every row of `table`, as their own momentum says."""
        for group in table:
            for norm, moments in zip(norms, group.split([2 * norm.num_features for norm in norms])):
                (before, count), momentum = self.kept[norm], self.momentum[norm]
                share = 1 / (count + 1) if momentum is None else momentum  # None: the mean of all groups so far
                self.kept[norm] = (share * moments.double() + (1 - share) * before.double()).float(), count + 1
        for norm in norms:
            assert norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None
            kept, count = self.kept[norm]
            for buffer, value in zip((norm.running_mean, norm.running_var), kept.chunk(2)):
                buffer.copy_(value)
            norm.num_batches_tracked.fill_(count)


def stacked(norm: _BatchNorm) -> torch.Tensor:
    """float32 [2 C]: running mean and variance of a norm, copied."""
    assert norm.running_mean is not None and norm.running_var is not None
    return torch.cat([norm.running_mean, norm.running_var]).float()
