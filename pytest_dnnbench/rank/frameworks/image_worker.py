"""What our frameworks share: their samples are images, from MNIST or synthetic, and a forward pass
runs in the case's precision."""

import torch

from pytest_dnnbench.case import Scalar
from pytest_dnnbench.messages import Sample
from pytest_dnnbench.rank import precision
from pytest_dnnbench.rank.worker import Worker


class ImageWorker(Worker):
    """A rank that trains an image classifier."""

    @property
    def sample(self) -> Sample:
        """As Worker.sample: an image."""
        return "img"

    def data_facts(self) -> dict[str, Scalar]:
        """As Worker.data_facts: source and split of the images."""
        files = self.request.data
        if files is None:
            return {"source": "synthetic"}
        return {"source": "mnist", "split": files.split}

    def autocast(self, dtype: torch.dtype = torch.float32) -> torch.autocast:
        """The context of one forward pass on images of this type."""
        return precision.autocast(self.case.precision, self.device, dtype)
