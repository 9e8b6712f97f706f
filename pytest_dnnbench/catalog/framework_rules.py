"""Which options of the built-in frameworks go together, with each other, with the form of a step
and with its device. Each rule takes a case and raises UsageError, before any rank starts.

Not here: the values that one option may have (frameworks.py), on how many ranks a framework runs
(FrameworkSpec.fits), and what depends on a model whose sizes
the catalog does not have (on the rank).
"""

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog.models import OWN_MODELS, SHARED_BY_RANKS
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.step_form import CONTIGUOUS


def ddp(case: Case) -> None:
    """Raises UsageError for what torch would fail on, late, and for what would do nothing."""
    hook, low_rank = case.options.get("hook", "none"), case.options.get("powersgd_rank", 1)
    if hook == "bf16" and case.device != "cuda":
        raise UsageError(
            "--dnn-ddp-hook bf16 needs CUDA: torch's hook works on NCCL only, and these are"
            f" {case.device} ranks; use fp16"
        )
    if case.options.get("static_graph") and case.form.accumulate > 1:
        raise UsageError(
            f"--dnn-ddp-static-graph with --dnn-accumulate {case.form.accumulate}: of a static"
            " graph torch exchanges gradients in every backward pass of its first step; leave one"
            " of them out"
        )
    if low_rank != 1 and hook != "powersgd":
        raise UsageError(
            f"--dnn-ddp-powersgd-rank {low_rank} is about --dnn-ddp-hook powersgd, and the hook is"
            f" {hook}: give --dnn-ddp-hook powersgd too, or leave it out"
        )
    if case.options.get("sync_batchnorm") and case.device != "cuda":
        raise UsageError(
            "--dnn-ddp-sync-batchnorm needs GPUs: torch's SyncBatchNorm takes no tensors of"
            f" {case.device} ranks; leave it out"
        )


def horovod(case: Case) -> None:
    """Raises UsageError for what says the same twice, and for what Horovod would abort on."""
    passes = case.options.get("backward_passes_per_step", 1)
    if passes != 1 and case.form.accumulate != 1:
        raise UsageError(
            f"--dnn-horovod-passes {passes} and --dnn-accumulate {case.form.accumulate} both say"
            " how many backward passes an update averages: leave the first out"
        )
    if case.options.get("op") == "adasum" and case.gpus > 1:
        raise UsageError(
            f"--dnn-horovod-op adasum on {case.gpus} ranks: Horovod has Adasum for MPI ranks only,"
            " and these meet through gloo, where it would abort; use average, or one rank"
            " (--dnn-gpu-counts 1)"
        )


def fsdp(case: Case) -> None:
    """Raises UsageError for what says the same twice, and for what would do nothing."""
    cast, reduce = case.options.get("param_dtype", "none"), case.options.get("reduce", "each")
    if case.precision == "bf16" and cast != "none":
        raise UsageError(
            f"--dnn-fsdp-param-dtype {cast} and --dnn-precision bf16 both choose the type of the"
            " forward pass: leave the first out, or give --dnn-precision fp32"
        )
    if reduce != "each" and case.form.accumulate == 1:
        raise UsageError(
            f"--dnn-fsdp-reduce {reduce} is about steps of several backward passes: give"
            " --dnn-accumulate N too, or leave it out"
        )


def tensor_parallel(case: Case) -> None:
    """Raises UsageError for a model of ours that so many ranks cannot share evenly."""
    ranks = int(case.options.get("ranks", 0)) or case.gpus
    count, parts = SHARED_BY_RANKS.get(OWN_MODELS.get(case.model, case.model), (0, ""))
    if count % ranks:
        raise UsageError(
            f"tp splits each layer of {case.model} among {ranks} ranks, which cannot share its"
            f" {count} {parts} evenly: give --dnn-gpu-counts or --dnn-tp-ranks a divisor of {count}"
        )


def torch_schedule(case: Case) -> None:
    """Raises UsageError for a layout that weights which are shared out cannot have."""
    if case.options.get("replicas") == "fsdp" and case.form.memory_format != CONTIGUOUS:
        raise UsageError(
            f"--dnn-schedule-replicas fsdp with --dnn-memory-format {case.form.memory_format}:"
            " the parts of the weights that ranks hold are laid out in rows: give"
            f" --dnn-memory-format {CONTIGUOUS}"
        )
