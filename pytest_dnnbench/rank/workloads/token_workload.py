"""Language models: the next token after each of a sequence, trained by AdamW as nanoGPT and Llama
are. The tokens are uniform at random, or the bytes of a file.

Not here: the models (gpt.py, llama.py).
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from pytest_dnnbench.case import Scalar
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.messages import Sample
from pytest_dnnbench.rank.workloads.workload import Batch, DataShare, Workload
from pytest_dnnbench.text_file import TextFile

BYTES = 256
"""Different bytes: the smallest vocabulary that takes a text."""

PROOF_TOKENS = 64
"""In a sample of the proof, at most: the mathematics is the same and the time is shorter."""


class TokenWorkload(Workload):
    """A model of `context` positions and `vocabulary` tokens on samples of `sequence_length`
    tokens; 0 stands for the whole context. Blocks are the entries of the model's `blocks`. `heads`
    are those that a split of its attention must divide."""

    sample: Sample = "tok"
    output_name = "logits"
    clip_norm = 1.0
    proof_size = 2

    def __init__(
        self,
        make: Callable[[], nn.Module],
        *,
        vocabulary: int,
        context: int,
        heads: int,
        sequence_length: int = 0,
        text: TextFile | None = None,
    ) -> None:
        self._make = make
        self.heads = heads
        self.vocabulary = vocabulary
        self.sequence_length = sequence_length or context
        self.text = text
        if self.sequence_length > context:
            raise UsageError(
                f"--dnn-sequence-length is {sequence_length}: the model has {context} positions, so"
                " give at most that"
            )
        if text is not None:
            self._check_text(text)

    def _check_text(self, text: TextFile) -> None:
        if self.vocabulary < BYTES:
            raise UsageError(
                f"--dnn-text: the model has {self.vocabulary} tokens, and a text has {BYTES}"
                " different bytes: use a model with as many"
            )
        if len(text.part("validate")) <= self.sequence_length:
            raise UsageError(
                f"--dnn-text {text.path!r} has {text.size:,} bytes, of which the last tenth is for"
                f" validation: too few for a sequence of {self.sequence_length} tokens; give a"
                " longer text, or a smaller --dnn-sequence-length"
            )

    def model(self) -> nn.Module:
        """As Workload.model."""
        return self._make()

    def batch(self, size: int) -> Batch:
        """Uniform tokens, (size, sequence_length) of int64, and those that follow them."""
        return self._uniform(size, self.sequence_length)

    def proof_batch(self, size: int) -> Batch:
        """As `batch`, of at most PROOF_TOKENS tokens."""
        return self._uniform(size, min(self.sequence_length, PROOF_TOKENS))

    def _uniform(self, size: int, length: int) -> Batch:
        tokens = torch.randint(self.vocabulary, (size, length + 1))
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW at nanoGPT's settings; biases and the weights of norms do not decay."""
        matrices = [each for each in model.parameters() if each.dim() > 1]
        vectors = [each for each in model.parameters() if each.dim() <= 1]
        groups = [
            {"params": matrices, "weight_decay": 0.1},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=6e-4, betas=(0.9, 0.95)
        )

    def blocks(self, model: nn.Module) -> list[str]:
        """The layers between embedding and head."""
        return [f"blocks.{name}" for name, _ in model.get_submodule("blocks").named_children()]

    def split(self, model: nn.Module, ranks: int) -> dict[str, str]:
        """Heads and inner features of every block; embedding and head stay whole."""
        if self.heads % ranks:
            raise UsageError(
                f"the model has {self.heads} heads, which {ranks} ranks cannot share evenly: use a"
                f" number of GPUs that divides {self.heads}"
            )
        rows = ("attention.out", "feed_forward.down")
        return {
            name: "row" if name.endswith(rows) else "column"
            for name, layer in model.named_modules()
            if name.startswith("blocks.") and isinstance(layer, nn.Linear)
        }

    def sequence(self, model: nn.Module, ranks: int) -> dict[str, str]:
        """Norms run on parts of the sequence; attention, feed-forward and head take all of it."""
        for length in (self.sequence_length, min(self.sequence_length, PROOF_TOKENS)):
            if length % ranks:
                of_proof = " in the proof" if length != self.sequence_length else ""
                raise UsageError(
                    f"--dnn-tp-sequence: a sample has {length} tokens{of_proof}, which {ranks}"
                    " ranks cannot share evenly: use a number of GPUs, or --dnn-sequence-length,"
                    " that fits"
                )
        within = {
            "norm1": "part",
            "attention": "whole",
            "norm2": "part",
            "feed_forward": "whole",
        }
        blocks = self.blocks(model)
        ways = {f"{block}.{name}": way for block in blocks for name, way in within.items()}
        return {"blocks": "cut", **ways, "norm": "part", "head": "whole"}

    def batches(self, share: DataShare) -> Iterator[Batch] | None:
        """Sequences of the text from random places, without end; None without a text."""
        if self.text is None:
            return None
        return self._cut(self.text, share)

    def _cut(self, text: TextFile, share: DataShare) -> Iterator[Batch]:
        content, part = np.memmap(text.path, np.uint8, "r"), text.part(share.phase)
        length = self.sequence_length
        generator = np.random.default_rng((share.seed, share.shards, share.shard))
        while True:
            starts = generator.integers(part.start, part.stop - length, share.size)
            rows = np.stack([content[start : start + length + 1] for start in starts])
            tokens = torch.from_numpy(rows.astype(np.int64))
            inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
            yield (inputs.pin_memory(), targets.pin_memory()) if share.pinned else (inputs, targets)

    def data_facts(self) -> dict[str, Scalar]:
        """The tokens' source, and how many a sample has."""
        facts: dict[str, Scalar] = {
            "source": "synthetic",
            "sequence_length": self.sequence_length,
            "vocabulary": self.vocabulary,
        }
        if self.text is not None:
            facts |= {"source": "text", "bytes": self.text.size, "sha256": self.text.sha256}
        return facts
