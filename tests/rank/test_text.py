"""Texts as data: their bytes are the tokens, each rank has its own, and a whole session says so."""

import json
from itertools import islice
from pathlib import Path

import pytest
import torch

from pytest_dnnbench.errors import DataError, UsageError
from pytest_dnnbench.rank.workloads import gpt
from pytest_dnnbench.rank.workloads.token_workload import TokenWorkload
from pytest_dnnbench.rank.workloads.workload import DataShare
from pytest_dnnbench.text_file import find_text

CASES = """
import pytest

@pytest.mark.parametrize("phase", ["train", "validate"])
def test_step(framework, model, gpus, phase, process_group, dnnbench):
    dnnbench.measure(framework, model, process_group(gpus), phase=phase)
"""


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Two thousand bytes, of which the last tenth is in capitals."""
    file = tmp_path / "text"
    file.write_bytes(
        bytes(range(97, 123)) * 69 + b"abcdef" + bytes(range(65, 91)) * 7 + b"ABCDEFGHIJKLMNOPQR"
    )
    return file


def batches(workload: TokenWorkload, shard: int, phase: str = "train") -> list[torch.Tensor]:
    made = workload.batches(DataShare(phase, 4, shard, 2, seed=0))
    assert made is not None
    pairs = list(islice(made, 3))
    assert all(torch.equal(inputs[:, 1:], targets[:, :-1]) for inputs, targets in pairs)
    return [inputs for inputs, _ in pairs]


def test_tokens_are_the_files_bytes(text: Path) -> None:
    workload = gpt.nano(sequence_length=16, text=find_text(str(text)))
    content = text.read_bytes()
    rows = torch.cat(batches(workload, 0))
    assert rows.shape == (12, 16)
    assert rows.dtype == torch.int64
    assert all(bytes(row.tolist()) in content for row in rows)
    assert not any(bytes(row.tolist()).isupper() for row in rows), "that is for validation"
    assert all(bytes(row.tolist()).isupper() for row in torch.cat(batches(workload, 0, "validate")))


def test_shards_differ_and_repeat_themselves(text: Path) -> None:
    workload = gpt.nano(sequence_length=16, text=find_text(str(text)))
    first, again, other = (torch.cat(batches(workload, shard)) for shard in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_text_that_cannot_be_used_is_refused(text: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(DataError, match=r"is empty: give a file with text in it"):
        find_text(str(tmp_path / "empty"))
    with pytest.raises(DataError, match=r"cannot be read .Is a directory."):
        find_text(str(tmp_path))
    text.write_bytes(b"short" * 100)
    with pytest.raises(UsageError, match=r"has 500 bytes, .* too few for a sequence of 128 tokens"):
        gpt.nano(text=find_text(str(text)))


def test_a_session_on_a_text_records_tokens_per_second(
    pytester: pytest.Pytester, text: Path
) -> None:
    pytester.makepyfile(CASES)
    arguments = (
        *(
            "--dnn-device=cpu",
            "--dnn-gpu-counts=2",
            "--dnn-frameworks=ddp",
            "--dnn-models=gpt-nano",
        ),
        *("--dnn-dataset=text", f"--dnn-text={text}", "--dnn-sequence-length=32"),
        *("--dnn-batch-size=2", "--dnn-launches=1", "--dnn-steps=3", "--dnn-warmup=1"),
    )
    result = pytester.runpytest_subprocess(*arguments, "--benchmark-json=out.json")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*tok/s*"])
    saved = json.loads((pytester.path / "out.json").read_text())
    for benchmark in saved["benchmarks"]:
        record = benchmark["extra_info"]["dnnbench"]
        assert record["metrics"]["throughput"]["unit"] == "tok/s"
        assert record["run"]["samples_per_update"] == 2 * 2 * 32
        assert (record["case"]["dataset"], record["case"]["sequence_length"]) == ("text", 32)
        data = record["run"]["data"]
        assert (data["source"], data["bytes"], data["sequence_length"]) == ("text", 2000, 32)
        assert data["sha256"] == find_text(str(text)).sha256
    images = ("--dnn-models=resnet18", "--dnn-sequence-length=0")
    result = pytester.runpytest_subprocess(*arguments, *images)
    result.stdout.fnmatch_lines(
        ["*--dnn-dataset text with 'torchvision.models:resnet18', which takes images: use*"]
    )
