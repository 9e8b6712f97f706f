"""The store of wheels: complete or absent, whatever happens to a builder."""

import fcntl
import json
from pathlib import Path

import pytest

from pytest_dnnbench.horovod_build.wheel_store import WheelStore


@pytest.fixture
def store(tmp_path: Path) -> WheelStore:
    """An empty store."""
    made = WheelStore(tmp_path / "store")
    made.folder.mkdir()
    return made


def kept(store: WheelStore, key: str, content: bytes = b"wheel") -> Path:
    with store.scratch(key) as folder:
        (folder / "horovod-0.28.1-py3.whl").write_bytes(content)
        (folder / "build.log").write_text("all is well\n")
        return store.keep(
            key, folder / "horovod-0.28.1-py3.whl", folder / "build.log", {"torch": "2.13.0"}
        )


def test_a_kept_wheel_is_found_again_with_its_facts_and_log(store: WheelStore) -> None:
    assert store.find("k1") is None
    wheel = kept(store, "k1")
    assert store.find("k1") == wheel
    assert store.find("k2") is None
    assert json.loads((wheel.parent / "recipe.json").read_text()) == {"torch": "2.13.0"}
    assert (wheel.parent / "build.log").read_text() == "all is well\n"


def test_a_newer_wheel_replaces_an_older_one_and_nothing_else_stays(store: WheelStore) -> None:
    kept(store, "k1", b"old")
    assert kept(store, "k1", b"new").read_bytes() == b"new"
    assert [path.name for path in store.folder.iterdir()] == ["k1"]


def test_a_failed_build_leaves_its_log_and_nothing_that_looks_like_a_wheel(
    store: WheelStore,
) -> None:

    def fail(folder: Path) -> None:
        (folder / "half.whl").write_bytes(b"")
        (folder / "build.log").write_text("the end\n")
        raise RuntimeError

    with pytest.raises(RuntimeError), store.scratch("k1") as scratch:
        fail(scratch)
    assert store.find("k1") is None
    assert [path.name for path in store.folder.iterdir()] == ["k1.failed.log"]
    assert store.failure_log("k1").read_text() == "the end\n"


def test_a_builder_that_died_does_not_block_the_next(store: WheelStore) -> None:
    with (store.folder / "k1.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
    (store.folder / "k1.building-x1").mkdir()
    (store.folder / "k2.building-x2").mkdir()
    with store.turn("k1", lambda: pytest.fail("nobody builds")):
        assert not (store.folder / "k1.building-x1").exists(), "what it left is removed"
        assert (store.folder / "k2.building-x2").exists(), "another key may be at work"
