"""MNIST folders: found in every usual layout, refused with the reason when damaged."""

import gzip
import struct
import tracemalloc
from pathlib import Path

import pytest

from pytest_dnnbench.errors import DataError
from pytest_dnnbench.mnist_files import find_mnist
from tests.digits import write_pair


def test_the_small_set_alone_is_split(tmp_path: Path) -> None:
    write_pair(tmp_path, "t10k", 1200, compress=True)
    files = find_mnist(tmp_path)
    assert (files.train_count, files.validate_count, files.held_out) == (200, 1000, 1000)
    assert "200 to train and 1000 to validate, cut from the 1200-image set" in files.split


def test_the_full_set_keeps_its_own_split_in_torchvisions_layout(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    write_pair(raw, "train", 30)
    write_pair(raw, "t10k", 20)
    files = find_mnist(tmp_path)
    assert files.split == "MNIST's own: 30 to train, 20 to validate"
    assert files.train_images.endswith("MNIST/raw/train-images-idx3-ubyte")


def test_real_mnist_is_read(shared_data: Path) -> None:
    assert find_mnist(shared_data / "mnist").train_count == 9000


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def scramble(path: Path) -> None:
    path.write_bytes(b"not idx" * 100)


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("t10k-images-idx3-ubyte.gz", truncate, "cannot be read"),
        ("t10k-images-idx3-ubyte.gz", scramble, "cannot be read"),
        ("t10k-labels-idx1-ubyte.gz", Path.unlink, "lies without its labels"),
        ("t10k-images-idx3-ubyte.gz", Path.unlink, "lies without its images"),
    ],
)
def test_a_damaged_folder_is_refused_with_the_file(
    tmp_path: Path, name: str, damage: object, reason: str
) -> None:
    write_pair(tmp_path, "t10k", 20, compress=True)
    assert callable(damage)
    damage(tmp_path / name)
    with pytest.raises(DataError, match=reason):
        find_mnist(tmp_path)


def test_an_uncompressed_truncated_file_says_how_much_is_missing(tmp_path: Path) -> None:
    write_pair(tmp_path, "t10k", 20)
    truncate(tmp_path / "t10k-images-idx3-ubyte")
    with pytest.raises(DataError, match="its header promises 15680 bytes, 15580 follow"):
        find_mnist(tmp_path)


@pytest.mark.parametrize("announced", [20, 200_000], ids=["as announced", "announced as large"])
def test_a_small_file_that_unpacks_to_gigabytes_is_not_unpacked(
    tmp_path: Path, announced: int
) -> None:
    write_pair(tmp_path, "t10k", 20, compress=True)
    images = tmp_path / "t10k-images-idx3-ubyte.gz"
    body = gzip.compress(bytes(64 * 2**20)) * 32  # 2 GiB in 2 MB
    images.write_bytes(gzip.compress(struct.pack(">IIII", 2051, announced, 28, 28)) + body)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"promises 15680 bytes, more follow|MNIST has at most"):
            find_mnist(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * 2**20


@pytest.mark.parametrize("kept", [0, 3, 4, 9, 15])
def test_a_file_cut_off_in_its_header_is_refused(tmp_path: Path, kept: int) -> None:
    write_pair(tmp_path, "t10k", 20)
    images = tmp_path / "t10k-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"not an IDX file of bytes|cut off in its header"):
        find_mnist(tmp_path)


def test_a_label_that_is_no_digit_is_refused(tmp_path: Path) -> None:
    write_pair(tmp_path, "t10k", 20)
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\x0a")
    with pytest.raises(DataError, match="the label 10 is no digit"):
        find_mnist(tmp_path)


def test_images_of_one_set_and_labels_of_another_are_refused(tmp_path: Path) -> None:
    write_pair(tmp_path, "t10k", 20)
    other = tmp_path / "other"
    other.mkdir()
    write_pair(other, "t10k", 21)
    (other / "t10k-labels-idx1-ubyte").rename(tmp_path / "t10k-labels-idx1-ubyte")
    with pytest.raises(DataError, match=r"20 images, .* 21 labels"):
        find_mnist(tmp_path)


def test_an_absent_or_empty_folder_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        find_mnist(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no MNIST files"):
        find_mnist(tmp_path)
