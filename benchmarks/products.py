"""The step of disturbed_machine.py, for its ranks: products of matrices in one thread."""

import torch


class Products:
    """So many products in a step."""

    def __init__(self, products: int) -> None:
        self.products, self.square = products, torch.full((320, 320), 1e-3)

    def __call__(self) -> None:
        product = self.square
        for _ in range(self.products):
            product = product @ self.square
