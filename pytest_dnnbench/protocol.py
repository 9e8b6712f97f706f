"""What the pytest process and its ranks must agree on where they run different copies of this
package: the fields of every message between them.

Nobody counts versions: the protocol is a digest of the messages themselves, so that it changes
whenever they do. A leaf.
"""

import dataclasses
import hashlib
import typing

from pytest_dnnbench import frames, messages
from pytest_dnnbench.rank_status import RANK_PHASES

_MESSAGES = (
    frames.SpawnMessage,
    frames.RankError,
    messages.Place,
    messages.RunRequest,
    messages.FunctionRequest,
    messages.Correctness,
    messages.PlanDecision,
    messages.RankReport,
)


def protocol() -> str:
    """The digest: equal for two copies whose messages have the same fields, of the same types, in
    the same order."""
    described = {f"{kind.__qualname__}({_fields(kind)})" for kind in _with_parts(_MESSAGES)} | {
        frames.FRAME_HEAD.format,
        repr(sorted(frames.MOST_BYTES)),
        repr([*RANK_PHASES]),
    }
    return hashlib.sha256("\n".join(sorted(described)).encode()).hexdigest()[:12]


def _fields(kind: type) -> str:
    hints = typing.get_type_hints(kind)
    return ", ".join(f"{field.name}: {hints[field.name]}" for field in dataclasses.fields(kind))


def _with_parts(kinds: typing.Iterable[type]) -> set[type]:
    """These dataclasses and all that their fields have in them."""
    reached: set[type] = set()
    waiting: list[typing.Any] = [*kinds]
    while waiting:
        kind = waiting.pop()
        waiting += typing.get_args(kind)
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind not in reached:
            reached.add(kind)
            waiting += typing.get_type_hints(kind).values()
    return reached
