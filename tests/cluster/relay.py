"""What an engine's client is to a process elsewhere: runs COMMAND with pipes of its own, and passes
on what comes, as ssh and srun do. Its end is the end of the connection.

    python -m tests.cluster.relay COMMAND...
"""

import os
import subprocess
import sys
import threading

_BYTES = 1 << 16


def main() -> int:
    """The status of the command, as a shell gives it."""
    there = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert there.stdin is not None
    assert there.stdout is not None

    def pass_in(sink: int) -> None:
        _pass(0, sink)
        os.close(sink)

    threading.Thread(target=pass_in, args=(os.dup(there.stdin.fileno()),), daemon=True).start()
    there.stdin.close()
    _pass(there.stdout.fileno(), 1)
    status = there.wait()
    return status if status >= 0 else 128 - status


def _pass(source: int, sink: int) -> None:
    while data := os.read(source, _BYTES):
        while data:
            data = data[os.write(sink, data) :]


if __name__ == "__main__":
    sys.exit(main())
