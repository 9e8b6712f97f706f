"""Training tasks as users have them: several inputs, outputs of any shape, losses, optimisers and
schedulers of their own. The package treats them as a user's own."""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau, StepLR

from pytest_dnnbench import Workload
from pytest_dnnbench.rank.workloads.gpt import GptSizes, gpt
from pytest_dnnbench.rank.workloads.mlp import Mlp


class TwoTowers(nn.Module):
    """Takes two inputs by name and returns a dict. One tower is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 8), nn.Linear(5, 8)
        self.norm, self.head = nn.BatchNorm1d(8), nn.Linear(8, 1)
        self.left.requires_grad_(False)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, Any]:
        """The score, and what it was made of."""
        hidden = self.norm(torch.tanh(self.left(left) + self.right(right)))
        return {"score": self.head(hidden).squeeze(1), "hidden": (hidden,)}


class Ranking(Workload):
    """Two inputs, a dict of outputs, a regression, AdamW in two groups, warm-up, clipping."""

    clip_norm = 0.1

    def model(self) -> nn.Module:
        """Two towers."""
        return TwoTowers()

    def batch(self, size: int) -> Any:
        """Two inputs by name, and scores."""
        left, right = torch.randn(size, 6), torch.randn(size, 5)
        return {"left": left, "right": right}, left.sum(1) - right.sum(1)

    def loss(self, output: Any, targets: torch.Tensor) -> torch.Tensor:
        """Squared error, and a penalty on what is hidden."""
        hidden: torch.Tensor = output["hidden"][0]
        return mse_loss(output["score"], targets) + 0.01 * hidden.square().mean()

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW; biases do not decay."""
        trained = [each for each in model.parameters() if each.requires_grad]
        return torch.optim.AdamW(
            [
                {"params": [each for each in trained if each.dim() > 1], "weight_decay": 0.1},
                {"params": [each for each in trained if each.dim() <= 1], "weight_decay": 0.0},
            ],
            lr=1e-2,
        )

    def scheduler(self, optimizer: torch.optim.Optimizer) -> LRScheduler:
        """A linear warm-up over ten updates."""
        return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 10))


class LateDecay(Ranking):
    """Its rate changes after the proof is over."""

    def scheduler(self, optimizer: torch.optim.Optimizer) -> LRScheduler:
        """A step after thirty updates."""
        return StepLR(optimizer, 30)


class Tuples(Workload):
    """Two inputs in their order, two outputs in a tuple, RMSprop."""

    class Model(nn.Module):
        """A bilinear form."""

        def __init__(self) -> None:
            super().__init__()
            self.form = nn.Bilinear(3, 4, 5)
            self.drop = nn.Dropout(0.5)

        def forward(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, ...]:
            """Logits, and half of them."""
            logits = self.drop(self.form(left, right))
            return logits, logits / 2

    def model(self) -> nn.Module:
        """A bilinear form."""
        return self.Model()

    def batch(self, size: int) -> Any:
        """Two inputs, and pairs of labels."""
        labels = torch.randint(5, (2, size))
        return (torch.randn(size, 3), torch.randn(size, 4)), [labels[0], labels[1]]

    def loss(self, output: Any, targets: Any) -> torch.Tensor:
        """The sum of both heads' cross entropies."""
        return cross_entropy(output[0], targets[0]) + cross_entropy(output[1], targets[1])

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """RMSprop with momentum."""
        return torch.optim.RMSprop(model.parameters(), lr=1e-3, momentum=0.9)


class Words(Workload):
    """Tokens, an embedding tied to the head, dropout, the default loss and SGD; clipped."""

    sample = "tok"
    clip_norm = 0.5

    class Model(nn.Module):
        """A bag of words that came before."""

        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(17, 8)
            self.mix, self.drop = nn.Linear(8, 8), nn.Dropout(0.2)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            """Logits, (batch, sequence, 17)."""
            summed = self.table(tokens).cumsum(1)
            return nn.functional.linear(self.drop(torch.tanh(self.mix(summed))), self.table.weight)

    def model(self) -> nn.Module:
        """A bag of words."""
        return self.Model()

    def batch(self, size: int) -> Any:
        """Tokens, and those that follow."""
        tokens = torch.randint(17, (size, 7))
        return tokens[:, :-1], tokens[:, 1:]


class TiedWords(Words):
    """The head is a layer of its own, whose weight is the embedding's."""

    def model(self) -> nn.Module:
        """A bag of words with a head."""
        return _Tied()


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.mix = nn.Embedding(17, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 17, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.mix(self.table(tokens).cumsum(1))))  # type: ignore[no-any-return] # a module's call


def words() -> Workload:
    """A workload of a function that does not say what it returns."""
    return Words()


class NotAPair(Words):
    """Its batch has no targets."""

    def batch(self, size: int) -> Any:
        """Tokens alone."""
        return torch.randint(17, (size, 6))


class NoTensor(Words):
    """Its inputs are text."""

    def batch(self, size: int) -> Any:
        """Text."""
        return "text", torch.randint(17, (size,))


class LossPerToken(Words):
    """Its loss is not a mean."""

    def loss(self, output: Any, targets: Any) -> torch.Tensor:
        """One loss per token."""
        return cross_entropy(output.flatten(0, 1), targets.flatten(), reduction="none")


class NeedsClosure(Words):
    """An optimiser that runs the model again."""

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """L-BFGS."""
        return torch.optim.LBFGS(model.parameters())


class NoOptimiser(Words):
    """Returns the class."""

    def optimizer(self, model: nn.Module) -> Any:
        """No optimiser."""
        return torch.optim.SGD


class WaitsForMetric(Words):
    """A scheduler that follows the validation."""

    def scheduler(self, optimizer: torch.optim.Optimizer) -> LRScheduler:
        """On a plateau."""
        return ReduceLROnPlateau(optimizer)


class _Centred(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.sub_(parameter.grad.mean())
        return super().step(closure)


class ChangesGradients(Words):
    """Its optimiser writes into the gradients."""

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """SGD of centred gradients."""
        return _Centred(model.parameters(), lr=0.1)


class OwnLog(torch.optim.AdamW):
    """Needs an argument that no parameter group has."""

    def __init__(self, params: Any, log: str) -> None:
        super().__init__(params, lr=1e-3)
        self.log = log


class NeedsArgument(Words):
    """An optimiser that Horovod cannot make anew."""

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW with a log."""
        return OwnLog(model.parameters(), "log")


class WideAdam(Workload):
    """Eight million weights, updated by AdamW: what a proof holds of them shows."""

    def model(self) -> nn.Module:
        """Two wide layers."""
        return nn.Sequential(nn.Linear(784, 10_000), nn.Linear(10_000, 10))

    def batch(self, size: int) -> Any:
        """Vectors and labels."""
        return torch.randn(size, 784), torch.randint(10, (size,))

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(model.parameters())


class _Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(17, 8).to(torch.bfloat16), nn.Linear(8, 17)

    def forward(self, tokens: torch.Tensor) -> Any:
        return self.head(self.table(tokens).to(self.head.weight.dtype))


class TwoTypes(Words):
    """One block whose weights are of two types."""

    def model(self) -> nn.Module:
        """The block, and nothing else."""
        return nn.Sequential(_Mixed())


small_gpt = partial(gpt, GptSizes(2, 4, 16, context=32))
"""Four heads, so that two and four ranks can split it."""


class SplitsNothing(Words):
    """Names a layer that is not there."""

    def split(self, model: nn.Module, ranks: int) -> dict[str, str]:
        """A misspelt name."""
        return {"nowhere": "column"}


class CutsNothing(Mlp):
    """Can be split, and names a part that is not there for its sequence."""

    def __init__(self) -> None:
        super().__init__(8, 2)

    def sequence(self, model: nn.Module, ranks: int) -> dict[str, str]:
        """A misspelt name."""
        return {"nowhere": "cut"}


class _Line(Workload):
    """A regression by one layer; what is wrong with it, a subclass says."""

    def model(self) -> Any:
        """One layer."""
        return nn.Linear(3, 1)

    def batch(self, size: int) -> Any:
        """Vectors, and their sums."""
        inputs = torch.randn(size, 3)
        return inputs, inputs.sum(1, keepdim=True)

    def loss(self, output: Any, targets: Any) -> torch.Tensor:
        """Squared error."""
        return mse_loss(output, targets)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(model.parameters())


class OtherParameters(_Line):
    """Its optimiser updates another model, so that its own never changes."""

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Of one parameter of its own model, and of those of another."""
        own, other = list(model.parameters()), list(nn.Linear(3, 1).parameters())
        return torch.optim.SGD([{"params": own[:1]}, {"params": other}], lr=0.1)


class NoModel(_Line):
    """Forgets the return."""

    def model(self) -> Any:
        """Nothing."""


class AlwaysSeven(_Line):
    """Does not look at the size."""

    def batch(self, size: int) -> Any:
        """Seven."""
        return super().batch(7)


class NoSamples(_Line):
    """Its minibatch is empty in the proof."""

    def proof_batch(self, size: int) -> Any:
        """Nothing."""
        return super().batch(0)


class NotANumber(_Line):
    """Its inputs hold NaN, and so does its loss."""

    def batch(self, size: int) -> Any:
        """NaN."""
        inputs, targets = super().batch(size)
        return inputs * float("nan"), targets


class Detached(_Line):
    """Its loss is cut off from the model."""

    def loss(self, output: Any, targets: Any) -> torch.Tensor:
        """Squared error."""
        return super().loss(output.detach(), targets)


class NegativeNorm(_Line):
    """Would turn gradients round."""

    clip_norm = -1.0


class NormInWords(_Line):
    """Its clipping is text."""

    clip_norm: Any = "1.0"


class ProofOfNothing(_Line):
    """Its proof has no sample."""

    proof_size = 0


class Apples(_Line):
    """Counts what has no unit."""

    sample: Any = "apples"


class HalfASample(_Line):
    """Counts halves."""

    def samples(self, inputs: Any) -> Any:
        """A half."""
        return 0.5


class DataThatEnds(_Line):
    """Three minibatches of real data."""

    def batches(self, share: Any) -> Any:
        """Three, and no more."""
        return [self.batch(share.size)] * 3


class DataTooShort(_Line):
    """Its minibatches lack a sample."""

    def batches(self, share: Any) -> Any:
        """One sample less than asked for."""
        return iter([self.batch(share.size - 1)])


class NoData(_Line):
    """Its real data is a number."""

    def batches(self, share: Any) -> Any:
        """Five."""
        return 5


class SplitInPlace(_Line):
    """Layers that tp splits, whose outputs and sums are changed in place."""

    class Model(nn.Module):
        """A feed-forward, a residual and a norm."""

        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 8)
            self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
            self.last = nn.Sequential(nn.Dropout(0.2, inplace=True), nn.Linear(8, 1))

        def forward(self, value: torch.Tensor) -> Any:
            """A number of each sample."""
            value = self.first(value)
            value = self.down(torch.relu_(self.up(value))).add_(value).tanh_()
            return self.last(value + 1.0)

    def model(self) -> nn.Module:
        """The feed-forward."""
        return self.Model()

    def split(self, model: nn.Module, ranks: int) -> dict[str, str]:
        """Both layers."""
        return {"up": "column", "down": "row"}
