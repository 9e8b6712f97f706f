"""An engine of another package, held against what an engine is to give (engines.py): what it raises
or returns otherwise is one line that names it, before anything is measured."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pytest_dnnbench.controller.engines import Engine, EngineFactory, described_end
from pytest_dnnbench.errors import UsageError


@dataclass(frozen=True, slots=True)
class CheckedEngine:
    """Implements engines.Engine by an engine of the name `name`."""

    name: str
    engine: Engine

    def nodes(self) -> list[str]:
        """As Engine.nodes: at least one name, none twice."""
        nodes = self._texts("nodes", self.engine.nodes)
        if not nodes or len(set(nodes)) < len(nodes):
            raise UsageError(
                f"the engine {self.name!r} has the nodes {nodes!r}: let nodes() return each node's"
                " name once, and raise UsageError where there is none"
            )
        return nodes

    def command(self, node: str, program: Sequence[str]) -> list[str]:
        """As Engine.command."""
        return self._texts("command", lambda: self.engine.command(node, program))

    def ended(self, status: int) -> str:
        """As Engine.ended. What goes wrong here must not hide that a node was lost."""
        try:
            meaning: object = self.engine.ended(status)
        except Exception as error:
            return f"{described_end(status)} (and {self.name}.ended raised {error!r})"
        return meaning if isinstance(meaning, str) and meaning else described_end(status)

    def _texts(self, method: str, called: Callable[[], object]) -> list[str]:
        with _naming(self.name, f"{method}()"):
            texts = called()
        if isinstance(texts, (list, tuple)) and all(isinstance(text, str) for text in texts):
            return list(texts)
        raise UsageError(
            f"the engine {self.name!r} returned {texts!r} from {method}(): let it return a list of"
            " texts"
        )


def checked_engine(
    name: str, factory: EngineFactory, nodes: tuple[str, ...], command: tuple[str, ...]
) -> Engine:
    """The engine that another package's function makes. Raises UsageError."""
    with _naming(name, "its function"):
        engine = factory(nodes, command)
    lacks = [
        method
        for method in ("nodes", "command", "ended")
        if not callable(getattr(engine, method, None))
    ]
    if lacks:
        raise UsageError(
            f"the engine {name!r} is {engine!r}, without {', '.join(lacks)}: let its function"
            " return an object with the methods nodes(), command(node, program), ended(status)"
        )
    return CheckedEngine(name, engine)


@contextmanager
def _naming(engine: str, what: str) -> Iterator[None]:
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"the engine {engine!r}: {what} raised {type(error).__name__}: {error}"
        ) from error
