"""Where MNIST's files lie in a folder, and whether they are whole. Checked before a rank is
started; no torch here.

The format (IDX): four bytes of magic, where the last counts the dimensions, then one big-endian
32-bit length per dimension, then unsigned bytes. Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST
database of handwritten digits".
"""

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pytest_dnnbench.errors import DataError

SPLIT_SEED = 0
"""Seed of the permutation that cuts the 10,000-image set; its two halves differ in difficulty, so
it is shuffled."""

MOST_BYTES = 60_000 * 28 * 28
"""Of the largest file of MNIST, the images to train on, without its header."""

_HELD_OUT = 1000
_FOLDERS = ("", "MNIST/raw", "raw")


@dataclass(frozen=True, slots=True)
class MnistFiles:
    """The files of a usable MNIST folder.

    With the full set, `train_*` and `validate_*` are MNIST's own two. With only the 10,000-image
    set both name that, and `held_out` of its images, drawn by a permutation with SPLIT_SEED, are
    for validation.
    """

    train_images: str
    train_labels: str
    validate_images: str
    validate_labels: str
    train_count: int
    validate_count: int
    held_out: int = 0

    @property
    def split(self) -> str:
        """What trains and what validates, in words, for the record."""
        if not self.held_out:
            return f"MNIST's own: {self.train_count} to train, {self.validate_count} to validate"
        whole = self.train_count + self.validate_count
        return (
            f"{self.train_count} to train and {self.validate_count} to validate, cut from"
            f" the {whole}-image set"
            f" by a permutation with seed {SPLIT_SEED}"
        )


def find_mnist(folder: str | Path) -> MnistFiles:
    """The MNIST files below `folder` (its own, torchvision's MNIST/raw, plain or gzipped), each
    checked whole.

    Raises DataError when images or labels are missing, truncated, of another format, or do not
    belong together.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise DataError(
            f"data folder {str(root)!r} does not exist: give the folder that holds the MNIST files"
        )
    test = _pair(root, "t10k")
    if test is None:
        raise DataError(
            f"no MNIST files in {str(root)!r}: t10k-images-idx3-ubyte and"
            " t10k-labels-idx1-ubyte (or .gz) are needed"
            " there or in its MNIST/raw; --dnn-download fetches them"
        )
    images, labels, count = test
    train = _pair(root, "train")
    if train is not None:
        return MnistFiles(train[0], train[1], images, labels, train[2], count)
    if count <= _HELD_OUT:
        raise DataError(
            f"{images}: {count} images are too few to hold out {_HELD_OUT} for validation"
        )
    return MnistFiles(images, labels, images, labels, count - _HELD_OUT, _HELD_OUT, _HELD_OUT)


def read_idx(path: str | Path) -> bytes:
    """The uncompressed content of an IDX file, gzipped or not. Raises DataError when it cannot be
    read, or holds more or less than its header promises. No more is read than that, and no more
    than MOST_BYTES: a small gzip may hold gigabytes."""
    try:
        with _opened(path) as file:
            magic = file.read(4)
            if magic[:3] != b"\0\0\x08" or magic[3:] not in (b"\1", b"\3"):
                raise DataError(f"{path} is not an IDX file of bytes; fetch the file again")
            lengths = file.read(4 * magic[3])
            if len(lengths) < 4 * magic[3]:
                raise DataError(f"{path} is cut off in its header; fetch the file again")
            promised = math.prod(struct.unpack(f">{magic[3]}I", lengths))
            if promised > MOST_BYTES:
                raise DataError(
                    f"{path}: its header promises {promised:,} bytes, and MNIST has at most"
                    f" {MOST_BYTES:,}; fetch the file again"
                )
            # One byte more than promised shows that more follow; at the end gzip checks its sum.
            body = file.read(promised + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}; fetch the file again") from error
    if len(body) != promised:
        follow = "more" if len(body) > promised else len(body)
        raise DataError(
            f"{path} is truncated or damaged: its header promises {promised} bytes,"
            f" {follow} follow; fetch the file again"
        )
    return magic + lengths + body


def _pair(root: Path, prefix: str) -> tuple[str, str, int] | None:
    images = _locate(root, f"{prefix}-images-idx3-ubyte")
    labels = _locate(root, f"{prefix}-labels-idx1-ubyte")
    if images is None and labels is None:
        return None
    if images is None or labels is None:
        absent, present = ("images", labels) if images is None else ("labels", images)
        raise DataError(f"{present} lies without its {absent}: put the {prefix} {absent} beside it")
    count, height, width = _shape(images, 3)
    (label_count,) = _shape(labels, 1)
    if (height, width) != (28, 28):
        raise DataError(
            f"{images}: images of {height}x{width} pixels, and MNIST's have 28x28;"
            " fetch the file again"
        )
    if count != label_count:
        raise DataError(
            f"{images} holds {count} images, {labels} {label_count} labels:"
            " they do not belong together; fetch both again"
        )
    return str(images), str(labels), count


def _locate(root: Path, name: str) -> Path | None:
    candidates = (root / folder / (name + suffix) for folder in _FOLDERS for suffix in ("", ".gz"))
    return next((path.resolve() for path in candidates if path.is_file()), None)


def _shape(path: Path, dimensions: int) -> tuple[int, ...]:
    content = read_idx(path)
    if content[3] != dimensions:
        raise DataError(
            f"{path} is not an IDX file of {dimensions} dimensions of bytes; fetch the file again"
        )
    if dimensions == 1 and (largest := max(content[8:], default=0)) > 9:
        raise DataError(f"{path}: the label {largest} is no digit; fetch the file again")
    return struct.unpack(f">{dimensions}I", content[4 : 4 + 4 * dimensions])


def _opened(path: str | Path) -> IO[bytes]:
    return gzip.open(path, "rb") if str(path).endswith(".gz") else Path(path).open("rb")  # type: ignore[return-value] # a GzipFile reads as a file does
