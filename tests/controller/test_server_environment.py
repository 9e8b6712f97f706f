"""The environment of the fork server: what the user has set, ours above and below it."""

from pytest_dnnbench.controller.server_environment import (
    DEFAULTS,
    changes,
    read_when_loaded,
    server_environment,
)


def test_the_users_values_stand_above_defaults_and_below_what_leases_and_loopback_need() -> None:
    variables = server_environment(
        {
            "MALLOC_MMAP_MAX_": "9",
            "CUDA_DEVICE_ORDER": "FASTEST_FIRST",
            "NCCL_SOCKET_IFNAME": "ib",
            "CUDA_DEVICE_MAX_CONNECTIONS": "1",
            "NCCL_COMM_ID": "10.0.0.1:5000",
        }
    )
    assert "NCCL_COMM_ID" not in variables
    assert variables["MALLOC_MMAP_MAX_"] == "9"
    assert variables["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert variables["NCCL_SOCKET_IFNAME"] == "=lo"
    assert variables["CUDA_DEVICE_MAX_CONNECTIONS"] == "32"
    assert set(DEFAULTS) <= set(variables)


def test_how_compute_threads_wait_is_left_to_the_user() -> None:
    """A setting of ours made launches on idle cores 7% slower than the user's own training."""
    assert "GOMP_SPINCOUNT" not in server_environment({})
    assert server_environment({"GOMP_SPINCOUNT": "5"})["GOMP_SPINCOUNT"] == "5"


def test_changes_are_what_is_new_different_or_gone() -> None:
    before = {"A": "1", "B": "1", "C": "1"}
    now = {"A": "1", "B": "2", "D": "", "GLOO_SOCKET_IFNAME": "x", "PYTEST_CURRENT_TEST": "t"}
    now["NCCL_COMM_ID"] = "10.0.0.1:5000"
    assert changes(before, now) == ({"B": "2", "D": ""}, ("C",))


def test_variables_that_libraries_read_when_loaded_are_told_from_others() -> None:
    variables = {"GOMP_SPINCOUNT": "1", "OMP_NUM_THREADS": "2", "LD_PRELOAD": "a", "NCCL_ALGO": "b"}
    assert read_when_loaded(variables) == {"GOMP_SPINCOUNT": "1", "LD_PRELOAD": "a"}
