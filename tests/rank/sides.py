"""A step that two sides share, and what side B's copy of it has that side A's has not: written into
two folders, of which side B's comes first on its ``sys.path``."""

SIDE_CAUSES = ("operator", "collective", "loader", "synchronisation")

_STEP = """
import time

import torch
import torch.distributed as dist


class Step:
    def __init__(self, cause):
        self.cause, self.works = cause if PLANTED else "", cause == "synchronisation"
        self.small, self.large = torch.full((256, 256), 1e-3), torch.ones(1 << 22)
        self.batches = iter(torch.utils.data.DataLoader(Samples(self.cause), batch_size=None))

    def __call__(self):
        product = next(self.batches) @ self.small
        for _ in range(40 if self.cause == "operator" else 0):
            product = product @ self.small
        dist.all_reduce(self.large if self.cause == "collective" else product)
        for number in range(2):
            # Each rank works in a turn of its own, at the same time unless they wait in between.
            if self.works and dist.get_rank() == number:
                time.sleep(0.03)
            if self.cause == "synchronisation":
                dist.barrier()


class Samples(torch.utils.data.Dataset):
    def __init__(self, cause):
        self.cause = cause

    def __len__(self):
        return 1 << 20

    def __getitem__(self, index):
        if self.cause == "loader":
            time.sleep(0.06)
        return torch.ones(256, 256)
"""


def step_module(*, planted: bool) -> str:
    """The code of a side's module; its `Step` takes the name of a cause, and has it if planted."""
    return f"PLANTED = {planted}\n{_STEP}"
