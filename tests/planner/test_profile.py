"""Profiles: what makes one valid, both file formats, and errors that say where a file is wrong."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given

from pytest_dnnbench.errors import ProfileError
from pytest_dnnbench.planner.pipedream.text import format_text, parse_text
from pytest_dnnbench.planner.profile import Operator, Profile
from pytest_dnnbench.planner.profile_file import (
    format_json,
    parse_json,
    read_profile,
    write_profile,
)
from tests.planner.small_profiles import small_profiles

TIMES = (
    "forward_compute_time=1.500, backward_compute_time=3.000,"
    " activation_size=64.000, parameter_size=8.000"
)
TEXT = f"""node10 -- ReLU(inplace) -- {TIMES} -- stage_id=1
node9 -- Conv2d(3, 64, kernel_size=(3, 3)) -- {TIMES.replace("64.000", "[4; 8; 0.5]")}

\tnode9 -- node10
"""


def operator(name: str, forward_s: float = 1.0) -> Operator:
    return Operator(name, "Conv2d", forward_s, 2.0, 3.0, 4.0)


def test_pipedreams_text_is_read_with_its_units_and_numbers_in_order() -> None:
    profile = parse_text(TEXT)
    assert profile.operators == (
        Operator("node9", "Conv2d(3, 64, kernel_size=(3, 3))", 0.0015, 0.003, 12.5, 8.0),
        Operator("node10", "ReLU(inplace)", 0.0015, 0.003, 64.0, 8.0),
    )
    assert profile.edges == (("node9", "node10"),)


@pytest.mark.parametrize(
    ("line", "wrong", "message"),
    [
        (1, f"node10 -- ReLU -- {TIMES} -- stage_id=one", "'stage_id=one' is no stage"),
        (1, "node10 -- ReLU", "has 2 fields"),
        (
            1,
            f"node10 -- ReLU -- {TIMES.replace('1.500', 'fast')}",
            "forward_compute_time=fast: not a number",
        ),
        (
            1,
            f"node10 -- ReLU -- {TIMES.replace('64.000', '[1; x]')}",
            r"activation_size=[1; x]: not a number",
        ),
        (1, f"node10 -- ReLU -- {TIMES.replace('3.000', '-3.000')}", "backward_s is -0.003"),
        (1, f"node10 -- ReLU -- {TIMES.replace('3.000', 'nan')}", "backward_s is nan"),
        (
            1,
            f"node10 -- ReLU -- {TIMES.replace('parameter_size', 'weights')}",
            "parameter_size=NUMBER, in this order",
        ),
        (2, f"node10 -- Conv2d -- {TIMES}", "node10 appears twice"),
        (2, f"node 9 -- Conv2d -- {TIMES}", "'node 9' is empty, or holds white space"),
        (4, "\tnode9 -- node11", "there is no node node11"),
        (4, "\tnode9", "is no edge"),
        (5, "\tnode9 -- node10", "appears twice, first in line 4"),
    ],
)
def test_a_malformed_line_is_named_by_its_number(
    line: int, wrong: str, message: str, tmp_path: Path
) -> None:
    lines = TEXT.splitlines()
    lines[line - 1 : line] = [wrong]
    path = tmp_path / "graph.txt"
    path.write_text("\n".join(lines))
    with pytest.raises(
        ProfileError, match=f"{re.escape(str(path))}: line {line}: .*{re.escape(message)}"
    ):
        read_profile(path)


@given(small_profiles())
def test_both_formats_keep_the_graph_and_its_figures(profile: Profile) -> None:
    assert parse_json(format_json(profile)) == profile
    assert parse_text(format_text(profile)) == profile


def test_json_keeps_metadata_and_is_told_from_text_by_its_content(tmp_path: Path) -> None:
    profile = Profile(
        (operator("conv1"), operator("relu")),
        (("conv1", "relu"),),
        {"model": "tiny", "batch_size": 4},
    )
    write_profile(profile, tmp_path / "profile.json")
    (tmp_path / "odd.name").write_text((tmp_path / "profile.json").read_text())
    assert read_profile(tmp_path / "odd.name") == profile
    write_profile(profile, tmp_path / "profile.txt")
    assert read_profile(tmp_path / "profile.txt") == Profile(profile.operators, profile.edges)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "odd.name",
        "profile.json",
        "profile.txt",
    ]


def test_a_profile_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "profile.txt"
    path.write_text("old")
    with pytest.raises(ProfileError, match="the text format cannot hold"):
        write_profile(Profile((Operator("a", "two -- parts", 1, 1, 1, 1),), ()), path)
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema is 2, this version reads 1"),
        ({"operators": None}, r"got `null` - at `\$\.operators`; profile again"),
        ({"operators": [{"id": "conv1"}]}, r"missing .*`description` - at `\$\.operators\[0\]`"),
        ({"edges": [["conv1"]]}, r"of length 2, got 1 - at `\$\.edges\[0\]`"),
        ({"edges": [["conv1", "pool"]]}, "edge conv1 -- pool: there is no operator pool"),
        ({"metadata": []}, r"got `array` - at `\$\.metadata`"),
    ],
)
def test_a_malformed_json_profile_is_refused(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    document = json.loads(format_json(Profile((operator("conv1"),), ())))
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(document | change))
    with pytest.raises(ProfileError, match=message):
        read_profile(path)


@pytest.mark.parametrize(
    ("key", "value"), [("id", 1), ("forward_s", "1"), ("parameter_bytes", True)]
)
def test_a_json_node_of_wrong_types_is_refused(key: str, value: object) -> None:
    document = json.loads(format_json(Profile((operator("conv1"),), ())))
    document["operators"][0][key] = value
    with pytest.raises(ProfileError, match=rf"at `\$\.operators\[0\]\.{key}`"):
        parse_json(json.dumps(document))


def test_files_that_are_no_profile_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="cannot be read"):
        read_profile(tmp_path / "missing.json")
    (tmp_path / "half.json").write_text('{"schema": 1,\n"operators": [')
    with pytest.raises(ProfileError, match="line 2: not JSON"):
        read_profile(tmp_path / "half.json")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ProfileError, match="has no operators"):
        read_profile(tmp_path / "empty.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ProfileError, match="cannot be read"):
        read_profile(tmp_path / "binary")


def test_a_graph_with_a_cycle_is_refused() -> None:
    edges = (("a", "b"), ("b", "c"), ("c", "b"))
    with pytest.raises(ProfileError, match="operator b waits for a cycle"):
        Profile((operator("a"), operator("b"), operator("c")), edges)
    with pytest.raises(ProfileError, match="appears twice"):
        Profile((operator("a"), operator("a")), ())


def test_topological_order_follows_the_list_where_the_graph_leaves_a_choice() -> None:
    operators = tuple(operator(name) for name in ("d", "b", "a", "c"))
    profile = Profile(operators, (("a", "d"), ("b", "d")))
    assert [each.id for each in profile.in_topological_order()] == ["b", "a", "d", "c"]


def test_a_profile_of_another_shape_or_device_is_refused() -> None:
    profile = Profile(
        (operator("a"),), (), {"model": "resnet18", "image_size": 224, "device": "cpu"}
    )
    profile.require(model="resnet18", image_size=224)
    with pytest.raises(ProfileError, match="image_size 224, required is 28"):
        profile.require(model="resnet18", image_size=28)
    with pytest.raises(ProfileError, match="device 'cpu', required is 'cuda'"):
        profile.require(device="cuda")
    with pytest.raises(ProfileError, match="precision None"):
        profile.require(precision="float32")


def test_the_sum_of_the_parts_counts_forward_and_backward() -> None:
    assert Profile((operator("a"), operator("b", 0.5)), ()).parts_s == 5.5
