"""What a user's function returned on a rank, unpickled in the pytest process: within a time, and
without calling what a result has no business to call.

A pickle is a program: it names functions and classes and has them called. Results are values, so
from the standard library only the types of values may be named, from elsewhere whatever is there
(the user's classes, NumPy's arrays): `(os._exit, (0,))` is refused by name. The user's own code
may still be slow, so the pickle is read in a thread that is given up when the time is over.
"""

import io
import pickle
import sys
import threading
from enum import Enum
from typing import Any

from pytest_dnnbench.controller.rank_answer import Unreadable

_VALUES = {
    "builtins": (
        "bool bytearray bytes complex dict float frozenset int list object range set slice str"
        " tuple"
    ),
    "_codecs": "encode",  # of bytes in protocols 0 to 2
    "copyreg": "_reconstructor __newobj__ __newobj_ex__",
    "collections": "OrderedDict Counter defaultdict deque ChainMap",
    "datetime": "date datetime time timedelta timezone",
    "_decimal": "Decimal",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "ipaddress": "IPv4Address IPv6Address",
    "pathlib": "Path PosixPath PurePath PurePosixPath",
    "pathlib._local": "Path PosixPath PurePath PurePosixPath",
    "re": "_compile",
    "types": "SimpleNamespace",
    "uuid": "UUID SafeUUID",
    "array": "array _array_reconstructor",
}
"""The names of the standard library that a result may use."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The object of that name. Raises Unreadable where a result may not use it."""
        if (module, name) == ("builtins", "getattr"):
            return _enum_member
        if not _allowed(module, name):
            raise _refusal(module, name)
        value = super().find_class(module, name)
        # A module of the user's may have imported it: `their_module:time.sleep`.
        origin = getattr(value, "__module__", None)
        if isinstance(origin, str) and not _allowed(origin, getattr(value, "__qualname__", name)):
            raise _refusal(origin, name)
        return value


def unpickled(body: bytes, timeout_s: float) -> Any:
    """The object in a pickle. Raises Unreadable if it may not be read, cannot be read, or has not
    been within the time."""
    outcome: list[tuple[Any, BaseException | None]] = []

    def read() -> None:
        try:
            outcome.append((_Unpickler(io.BytesIO(body)).load(), None))
        except BaseException as error:
            outcome.append((None, error))

    reader = threading.Thread(target=read, name="dnnbench-unpickling", daemon=True)
    reader.start()
    reader.join(timeout_s)
    if not outcome:
        raise Unreadable(
            f"a result that could not be unpickled within the {timeout_s:.1f} s that were left"
            " (--dnn-timeout)"
        )
    value, error = outcome[0]
    if isinstance(error, Unreadable):
        raise error
    if error is not None:
        raise Unreadable(
            f"a result that cannot be unpickled here: {type(error).__name__}: {_text(error)}"
        ) from error
    return value


def _allowed(module: str, name: str) -> bool:
    if module.partition(".")[0] not in sys.stdlib_module_names:
        return True
    if name in _VALUES.get(module, "").split():
        return True
    value = getattr(sys.modules.get(module), name, None)
    return isinstance(value, type) and issubclass(value, BaseException)


def _enum_member(owner: Any, name: str) -> Any:
    """What pickles of some versions of Python ask of `getattr`, and nothing else."""
    if not (isinstance(owner, type) and issubclass(owner, Enum)):
        raise _refusal("builtins", "getattr")
    return owner[name]


def _refusal(module: str, name: str) -> Unreadable:
    return Unreadable(
        f"a result that would call {module}.{name}: return values (numbers, text, containers,"
        " arrays, objects of your own classes), not what has to be called to be made"
    )


def _text(error: BaseException) -> str:
    try:
        return str(error)[:500]
    except Exception:
        return "(no text)"
