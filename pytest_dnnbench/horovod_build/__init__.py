"""Builds Horovod against the installed torch: `dnnbench horovod`. No torch is
imported here.

Horovod's last release (0.28.1, 2023) does not build against a current torch by itself. Nothing in
its source is patched: the files in cmake/ tell its build what it does not ask for (C++20, fewer and
larger compilations), and the wheel is kept for the next environment with the same torch, Python,
platform and flags.

    command.py      what the user types; the order of the steps
    recipe.py       what the wheel depends on, and the key under which it is kept
    requisites.py   what the machine must have: torch, compiler, headers, CUDA toolkit, NCCL
    steps.py        the steps themselves, their log, and what a failure means
    wheel_store.py  where wheels are kept, safe for several builders at once
"""
