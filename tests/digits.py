"""Makes small MNIST folders for tests: IDX files of random digits whose label can be read off the
image."""

import gzip
import random
import struct
from pathlib import Path


def write_pair(folder: Path, prefix: str, count: int, *, compress: bool = False) -> None:
    """Images where the row 2 * label is bright, and their labels."""
    draw = random.Random(0)
    labels = bytes(draw.randrange(10) for _ in range(count))
    images = b"".join(
        bytes(
            255 if row == 2 * label + 4 else draw.randrange(60)
            for row in range(28)
            for _ in range(28)
        )
        for label in labels
    )
    suffix = ".gz" if compress else ""
    for name, head, body in (
        (f"{prefix}-images-idx3-ubyte", struct.pack(">IIII", 2051, count, 28, 28), images),
        (f"{prefix}-labels-idx1-ubyte", struct.pack(">II", 2049, count), labels),
    ):
        content = head + body
        (folder / (name + suffix)).write_bytes(gzip.compress(content) if compress else content)
