"""Builds Horovod against the installed torch: what `dnnbench horovod` runs.

A package of its own. No other part of pytest_dnnbench imports it but the command line, and nothing
here runs during a benchmark; whoever reads how cases are measured can pass it by. It is used once
per environment, before a case names the framework `horovod`: Horovod's last release (0.28.1, 2023)
does not build against a current torch by itself. Torch is not imported here.

Horovod's source is not patched. The files in cmake/ add to its build what it does not ask for:
C++20, and fewer and larger compilations (docs/horovod.md says what each of them saves). The wheel
is kept for the next environment with the same torch, Python, platform and flags.

    command.py      the command line, and the order of the steps
    recipe.py       what the wheel depends on, and the key under which it is kept
    requisites.py   what the machine must have: torch, compiler, headers, CUDA toolkit, NCCL
    steps.py        the steps, their log, and what a failure means
    wheel_store.py  where wheels are kept, safe for several builders at once
"""
