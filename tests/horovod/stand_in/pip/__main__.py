"""`python -m pip` with this folder's parent on PYTHONPATH.

Each call adds a line of JSON to the file $STAND_IN_CALLS: its arguments and its environment.
"download" and "wheel" make the file that pip would make. If $STAND_IN_OUTPUT is set, "wheel" prints
it and fails; if $STAND_IN_WAIT_FOR is set, "wheel" waits until that file exists.
"""

import json
import os
import sys
import time
from pathlib import Path

SOURCE = b"the source of Horovod"


def main(command: str, *arguments: str) -> int:
    """Returns the exit status."""
    call = {"command": command, "arguments": arguments, "environment": dict(os.environ)}
    with open(os.environ["STAND_IN_CALLS"], "a") as calls:
        calls.write(json.dumps(call) + "\n")
    if command == "download":
        _write(arguments[arguments.index("-d") + 1], "horovod-0.28.1.tar.gz", SOURCE)
    if command == "wheel":
        if output := os.environ.get("STAND_IN_OUTPUT"):
            print(output)
            return 1
        while (file := os.environ.get("STAND_IN_WAIT_FOR")) and not Path(file).exists():
            time.sleep(0.01)
        _write(arguments[arguments.index("-w") + 1], "horovod-0.28.1-py3.whl", b"whole")
    return 0


def _write(folder: str, name: str, content: bytes) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    Path(folder, name).write_bytes(content)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
