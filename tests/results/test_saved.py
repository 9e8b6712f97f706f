"""The reader of saved files: bad input gets one error that names file and place, never a
verdict."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_dnnbench.errors import DataError
from pytest_dnnbench.results.baselines.baseline_source import read_baseline
from pytest_dnnbench.results.baselines.golden import Golden
from pytest_dnnbench.results.baselines.golden_file import golden_text, read_golden, write_golden
from pytest_dnnbench.results.baselines.golden_update import update_golden
from pytest_dnnbench.results.records.saved import read_saved
from pytest_dnnbench.results.records.verdict import Confirmation, Verdict
from tests.results.synthetic import NAME, file_of, record, save

# 10,000 for a thorough run: DNNBENCH_FUZZ=10000 pytest tests/results/test_saved.py
FUZZ = int(os.environ.get("DNNBENCH_FUZZ", "150"))
fuzzed = settings(
    max_examples=FUZZ,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def at(data: Any, path: str, value: Any) -> Any:
    """Sets the value at a dotted path."""
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    place = data
    for key in parents:
        place = place[key]
    place[last] = value
    return data


def test_a_saved_file_reads_back(tmp_path: Path) -> None:
    run = read_saved(save(tmp_path / "a.json"))
    assert list(run.cases) == [NAME]
    assert run.unfit is None
    assert run.cases == {NAME: record()}


def test_launches_of_a_confirmation_count(tmp_path: Path) -> None:
    made = record()
    confirmation = Confirmation(
        launches=1, per_launch={"throughput": [2900.0]}, disturbed=[None], first={}
    )
    made.verdict = Verdict(confirmation=confirmation)
    run = read_saved(save(tmp_path / "a.json", {NAME: made}))
    assert run.cases[NAME].measured("throughput").values[-1] == 2900.0
    assert len(run.cases[NAME].measured("step_time_s").values) == 3


WHERE = "benchmarks.0.extra_info.dnnbench"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            f"{WHERE}.schema",
            2,
            r"benchmarks\[0\].*schema 2 is newer than this version reads \(1\): update",
        ),
        (f"{WHERE}.schema", 0, r"schema 0 is unknown"),
        (
            f"{WHERE}.schema",
            "1",
            r"Expected `int`, got `str` - at `\$.benchmarks\[0\].extra_info.dnnbench.schema`",
        ),
        (
            f"{WHERE}.metrics.step_time_s.value",
            "fast",
            r"Expected `float`, got `str` - at `\$.benchmarks\[0\]",
        ),
        (
            f"{WHERE}.metrics.step_time_s.value",
            99.0,
            r"step_time_s: the value 99.0 is not the median of per_launch",
        ),
        (f"{WHERE}.metrics.step_time_s.per_launch", [], r"step_time_s: no launch"),
        (f"{WHERE}.metrics.step_time_s.per_launch", [True], r"Expected `float`, got `bool`"),
        (f"{WHERE}.metrics.step_time_s.better", "faster", r"Invalid enum value 'faster'"),
        (
            f"{WHERE}.case",
            [],
            r"Expected `object \| null`, got `array` - at `\$.*extra_info.dnnbench.case`",
        ),
        (
            f"{WHERE}.case.phase",
            "dream",
            r"benchmarks\[0\].extra_info.dnnbench.case: phase 'dream' is unknown",
        ),
        (
            f"{WHERE}.thresholds.throughput.relative",
            -3,
            r"thresholds.throughput.relative: -3.0 is not",
        ),
        (
            f"{WHERE}.thresholds.throughput.absolute",
            -3000.0,
            r"thresholds.throughput.absolute: -3000.0 is not finite and above zero",
        ),
        ("benchmarks", {}, r"Expected `array`, got `object` - at `\$.benchmarks`"),
        ("benchmarks.0.fullname", "a\nb", r"fullname: 'a\\nb' is not the name of a case"),
        ("benchmarks.0.extra_info", {}, r"holds no case of pytest-dnnbench"),
        ("dnnbench", None, r"no `dnnbench` section"),
        ("dnnbench", {"schema": 9, "new": 1}, r"dnnbench: schema 9 is newer"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    tmp_path: Path, path: str, value: Any, message: str
) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps(at(file_of({NAME: record()}), path, value)))
    with pytest.raises(DataError, match=message) as caught:
        read_saved(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"torch": "2.13.0"', '"torch": NaN', r"a.json, line \d+: not JSON, or cut off"),
        (
            '"per_launch": [',
            '"per_launch": [1e999, ',
            r"Number out of range - at `\$.benchmarks\[0\]",
        ),
        ("}", "", r"a.json, line \d+: not JSON, or cut off"),
    ],
)
def test_text_that_is_not_json_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    file = save(tmp_path / "a.json")
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        read_saved(file)


def test_a_case_that_appears_twice_is_refused(tmp_path: Path) -> None:
    data = file_of({NAME: record()})
    data["benchmarks"] *= 2
    (tmp_path / "a.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"benchmarks\[1\]: the case .* appears twice"):
        read_saved(tmp_path / "a.json")


def test_a_key_that_stands_twice_in_a_golden_file_is_refused(tmp_path: Path) -> None:
    path = _golden(tmp_path).path
    text = path.read_text()
    path.write_text(text.replace('"updated"', '"updated": "", "updated"', 1))
    with pytest.raises(DataError, match=r"golden.json, line \d+: duplicate key 'updated'"):
        read_baseline(path)


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    content = save(tmp_path / "whole.json").read_bytes()
    file = tmp_path / "a.json"
    for end in range(0, len(content), 41):
        file.write_bytes(content[:end])
        with pytest.raises(DataError, match=r"a\.json"):
            read_saved(file)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not a file"):
        read_saved(tmp_path)
    with pytest.raises(DataError, match="No such file"):
        read_saved(tmp_path / "none.json")
    (tmp_path / "deep.json").write_text('{"machine_info": ' + "[" * 100_000)
    with pytest.raises(DataError, match="nested too deeply"):
        read_saved(tmp_path / "deep.json")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(data: Any) -> list[list[Any]]:
    """The path of every value in a JSON document."""
    items = (
        data.items()
        if isinstance(data, dict)
        else enumerate(data)
        if isinstance(data, list)
        else []
    )
    return [[], *([key, *rest] for key, value in items for rest in places(value))]


def reads_or_refuses(path: Path) -> None:
    """The only two ends that reading may have; what was read holds only finite figures."""
    try:
        baseline = read_baseline(path)
    except DataError as error:
        assert str(path) in str(error)  # noqa: PT017 - the other end is as good
        return
    for name in baseline.names():
        assert name.isprintable()


@fuzzed
@given(data=st.data())
def test_any_edit_of_a_file_reads_or_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    saved = file_of({NAME: record()})
    golden = json.loads(golden_text(_golden(tmp_path)))
    document = data.draw(st.sampled_from([saved, golden]))
    *parents, last = data.draw(st.sampled_from(places(document)[1:]))
    place = document
    for key in parents:
        place = place[key]
    if data.draw(st.booleans()):
        place[last] = data.draw(values)
    else:
        del place[last]
    (tmp_path / "a.json").write_text(json.dumps(document))
    reads_or_refuses(tmp_path / "a.json")


@fuzzed
@given(data=st.data())
def test_any_damage_to_the_bytes_reads_or_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    content = save(tmp_path / "whole.json").read_bytes()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 40)))
    (tmp_path / "a.json").write_bytes(
        content[:start] + data.draw(st.binary(max_size=12)) + content[end:]
    )
    reads_or_refuses(tmp_path / "a.json")


@fuzzed
@given(content=st.binary(max_size=200) | values.map(lambda value: json.dumps(value).encode()))
def test_any_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json"):
        read_baseline(tmp_path / "a.json")


@pytest.mark.parametrize("number", ["1e999", "9" * 400])
@pytest.mark.parametrize("part", ["machine", "cases"])
def test_a_number_that_no_file_can_hold_is_refused_in_a_golden_file(
    tmp_path: Path, number: str, part: str
) -> None:
    path = _golden(tmp_path).path
    content = json.loads(path.read_text())
    facts = content["machine"] if part == "machine" else next(iter(content["cases"].values()))
    facts |= {"facts": {"partition": {"stages": 12345}}} if part == "cases" else {"sockets": 12345}
    path.write_text(json.dumps(content).replace("12345", number))
    with pytest.raises(DataError, match=r"golden.json, line 1: the number \S+ is too large"):
        read_golden(path)


def test_the_largest_number_is_written_again(tmp_path: Path) -> None:
    golden = _golden(tmp_path)
    [case] = golden.cases.values()
    case.facts["watts"] = sys.float_info.max
    write_golden(golden)
    assert read_golden(golden.path).cases.popitem()[1].facts["watts"] == sys.float_info.max


def _golden(tmp_path: Path) -> Golden:
    golden = Golden(tmp_path / "golden.json")
    update_golden(golden, read_saved(save(tmp_path / "run.json")))
    write_golden(golden)
    return read_golden(golden.path)
