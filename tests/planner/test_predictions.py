"""Predictions beside figures worked out by hand, and what they say of schedules and memory."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from pytest_dnnbench.__main__ import main
from pytest_dnnbench.catalog.frameworks import FRAMEWORKS
from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.planner.plan import read_plan
from pytest_dnnbench.planner.predict import plan_for
from pytest_dnnbench.planner.predictions import Prediction, predictions, unpredicted
from pytest_dnnbench.planner.profile import Operator, Profile
from pytest_dnnbench.planner.profile_file import write_profile
from pytest_dnnbench.planner.schedule import VARIANTS

MIB = 2**20


def chain(count: int = 4, **metadata: object) -> Profile:
    """Equal layers: 1 s forward, 2 s backward, 40 MiB of weights, 10 MiB of activations each."""
    operators = tuple(
        Operator(f"layer{n}", "Linear", 1, 2, 10 * MIB, 40 * MIB) for n in range(count)
    )
    edges = tuple((a.id, b.id) for a, b in pairwise(operators))
    return Profile(operators, edges, {"batch_size": 8, "update_s": 1.0, **metadata})


def predicted(
    profile: Profile, workers: list[int], bandwidths: list[float], **settings: object
) -> dict[str, Prediction]:
    plan = plan_for(profile, workers, bandwidths)
    rows = predictions(profile, plan, bandwidths, **settings)  # type: ignore[arg-type] # by name
    return {row.framework: row for row in rows}


TWO_NODES = ([2, 2], [1000.0 * MIB, 20.0 * MIB])
"""Of two GPUs. A ring of all four takes 2 * 3/4 * 40 / 20 = 3 s for the gradients of a layer, and
1.5 s to gather its weights or to reduce and scatter its gradients."""


def test_data_parallel_steps_are_those_worked_out_by_hand() -> None:
    """Each layer fills a bucket: forward 0-4, gradients ready at 6, 8, 10, 12, on the link 6-9,
    9-12, 12-15, 15-18; and the update."""
    rows = predicted(chain(), *TWO_NODES)
    assert rows["single"] == Prediction("single", "1", 1, 13.0, 1.0, (3 * 160 + 40) * MIB)
    ddp = rows["ddp"]
    assert (ddp.shape, ddp.minibatches, ddp.step_s) == ("dp4", 4, 19.0)
    assert ddp.efficiency == 13.0 / 19.0
    assert ddp.memory_bytes == (3 * 160 + 40 + 160) * MIB, "and the buckets"


def test_sharded_steps_are_those_worked_out_by_hand() -> None:
    """Each layer is a block of its own, a to d: G gathers, R reduces.

    compute    a 1.5-2.5  b 3-4  c 4.5-5.5  d 6-7 | d 7.5-9.5  c 9.5-11.5  b 12.5-14.5  a 15.5-17.5
    link       Ga 0-1.5  Gb -3  Gc -4.5  Gd -6 | Gd -7.5  Gc -9
               Rd 9.5-11  Gb -12.5  Rc -14  Ga -15.5  Rb -17  Ra 17.5-19
    """
    fsdp = predicted(chain(), *TWO_NODES)["fsdp"]
    assert (fsdp.shape, fsdp.minibatches) == ("dp4", 4)
    assert fsdp.step_s == pytest.approx(19.0 + 1 / 4)
    assert fsdp.memory_bytes == (3 * 160 / 4 + 40 + 3 * 40) * MIB


def test_pipelined_steps_are_those_worked_out_by_hand() -> None:
    """Two stages of two layers, one node each. Two messages at a time share the link between the
    nodes: 1 s each. The replicas average within a node: 2 * 1/2 * 80 / 1000 = 0.08 s.

    gpipe   0F0 0-2, 0F1 -4; 1F0 3-5, 1F1 -7, 1B0 -11, 1B1 -15; 0B0 12-16, 0B1 -20; update
    1f1b    0F0 0-2, 0F1 -4; 1F0 3-5, 1B0 -9, 1F1 -11, 1B1 -15; 0B0 10-14, 0B1 16-20; update
    mp      0F0 0-2; 1F0 3-5, 1B0 -9; 0B0 10-14; update
    """
    rows = predicted(chain(), *TWO_NODES)
    for name, until in (("gpipe", 20), ("1f1b", 20), ("mp", 14)):
        assert rows[name].shape == "pp2xdp2"
        assert rows[name].step_s == pytest.approx(until + 0.5 + 0.08)
    assert (rows["gpipe"].minibatches, rows["mp"].minibatches) == (4, 2)
    assert rows["gpipe"].memory_bytes == (3 * 80 + 2 * (20 + 10)) * MIB, "two inputs are kept"
    assert rows["1f1b"].memory_bytes == (3 * 80 + 2 * 20) * MIB, "of the first stage"


def test_latency_counts_in_every_round() -> None:
    fast = predicted(chain(), *TWO_NODES)
    slow = predicted(chain(), *TWO_NODES, latencies_s=[0.0, 0.5])
    assert slow["ddp"].step_s == fast["ddp"].step_s + 4 * 6 * 0.5, "2 * 3 rounds of four buckets"
    assert slow["mp"].step_s == pytest.approx(fast["mp"].step_s + 2 * 0.5)


def test_more_microbatches_fill_the_pipeline() -> None:
    few = predicted(chain(), [4], [1e12], microbatches=4)
    many = predicted(chain(), [4], [1e12], microbatches=32)
    assert few["1f1b"].efficiency < many["1f1b"].efficiency
    # Two pipelines of two: 32 rounds and one to fill, of 6 s each; and half of the update.
    assert many["1f1b"].shape == "pp2xdp2"
    assert many["1f1b"].efficiency == pytest.approx(13 * 64 / (4 * (33 * 6 + 0.5)), rel=1e-3)
    assert few["mp"] == many["mp"], "one at a time"


def test_what_does_not_fit_the_memory_comes_last_and_is_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = predicted(chain(), [4], [1e12], memory_bytes=650 * MIB)
    assert rows["ddp"].memory_bytes == 680 * MIB
    too_large = {"ddp", "pipedream-2bw", "pipedream-flush"}  # with a sum of gradients beside them
    assert {name for name, row in rows.items() if not row.fits} == too_large
    assert next(iter(rows)) == "single"
    assert {*[*rows][-3:]} == too_large
    assert all(row.fits for row in predicted(chain(), [4], [1e12]).values())
    path = tmp_path / "chain.json"
    write_profile(chain(), path)
    options = ["--profile", str(path), "--gpus", "4", "--bandwidth", "1T"]
    assert main(["plan", *options, "--memory", f"{650 * MIB}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    [ddp] = [line for line in lines if line.endswith("ddp")]
    assert ddp.split()[4:6] == ["!", "713.0"]
    assert "!: more than the memory of a GPU" in lines


def test_the_best_length_of_the_pipelines_is_taken_that_fits_the_memory() -> None:
    free = predicted(chain(), [4], [1e12], microbatches=4)["gpipe"]
    tight = predicted(chain(), [4], [1e12], microbatches=4, memory_bytes=250 * MIB)
    assert free.shape == "pp2xdp2"
    assert tight["gpipe"].shape == "pp4"
    assert "gpipe" not in predicted(chain(), [4], [1e12], memory_bytes=50 * MIB)


def test_one_worker_has_nothing_to_compare_with() -> None:
    rows = predicted(chain(), [1], [1.0])
    assert list(rows) == ["single"]
    assert unpredicted([*rows.values()]) == {}


def test_a_model_of_one_operator_has_no_pipelines() -> None:
    rows = predicted(chain(1), [2], [1e9])
    assert set(rows) == {"single", "ddp", "fsdp", *VARIANTS}
    assert unpredicted([*rows.values()])["gpipe"].startswith("no stages of the model")


def test_an_optimisers_state_is_the_profiles() -> None:
    adam = predicted(chain(optimiser_bytes=2 * 160 * MIB), [1], [1.0])
    assert adam["single"].memory_bytes == (4 * 160 + 40) * MIB


def test_loading_the_data_is_no_part_of_a_step() -> None:
    """PipeDream's profiles have an operator of the input; the planner leaves it out too."""
    plain = chain()
    loading = Operator("data", "Input", 100.0, 0.0, 1e9, 0.0)
    loaded = replace(
        plain,
        operators=(loading, *plain.operators),
        edges=(("data", plain.operators[0].id), *plain.edges),
    )
    assert predicted(loaded, [4], [1e9]) == predicted(plain, [4], [1e9])


def test_microbatches_are_at_least_one() -> None:
    with pytest.raises(PlanError, match="0 microbatches: give at least 1"):
        predicted(chain(), [2], [1.0], microbatches=0)


def test_the_command_prints_them_below_the_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = tmp_path / "profile.json"
    write_profile(chain(), profile)
    arguments = ["--gpus", "2x2", "--bandwidth", "1G,21M", "--latency", "0,1e-3"]
    assert main(["plan", "--profile", str(profile), *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    begin = lines.index("predicted steps, minibatches of 8 samples")
    head, alone, *others = (line.split() for line in lines[begin + 2 :])
    assert head == [
        *("minibatches", "step", "ms", "samples/s", "efficiency", "memory", "MB"),
        *("shape", "framework"),
    ]
    assert alone == ["1", "13000.000", "0.6", "100.0%", "545.3", "1", "single"]
    assert {row[-1] for row in others if row} > {"ddp", "fsdp", "pipedream", "gpipe", "zero-bubble"}
    rows = others[: others.index([])]
    rates = [float(row[2]) for row in rows]
    assert rates == sorted(rates, reverse=True)
    reasons = [" ".join(row) for row in others[len(rows) + 1 :]]
    assert reasons[-1].startswith("not predicted: tp: what ranks that split layers exchange")
    assert {row[-1] for row in rows} | {each.split(": ")[1] for each in reasons} == {
        each.name for each in FRAMEWORKS if each.name != "single"
    }


def test_programs_get_them_beside_a_plan_that_can_still_be_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile, plan = tmp_path / "profile.json", tmp_path / "plan.json"
    write_profile(chain(), profile)
    assert main(["plan", "--profile", str(profile), "--gpus=2", "--bandwidth=1e9", "--json"]) == 0
    plan.write_text(capsys.readouterr().out)
    document = json.loads(plan.read_text())
    assert document["predictions"][0] == {
        "framework": "single",
        "shape": "1",
        "minibatches": 1,
        "step_s": 13.0,
        "efficiency": 1.0,
        "memory_bytes": 545259520,
        "fits": True,
    }
    assert "tp" in document["not_predicted"]
    assert read_plan(plan).replicas == tuple(s["replicas"] for s in document["stages"])


def test_a_profile_without_an_update_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = tmp_path / "profile.txt"
    write_profile(chain(), profile)
    assert main(["plan", "--profile", str(profile), "--gpus=2", "--bandwidth=1e9"]) == 0
    out = capsys.readouterr().out
    assert "minibatches/s" in out
    assert "without the time of an update, which this profile does not have" in out
