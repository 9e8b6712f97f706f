"""Pipeline parallelism: profiler, stages, weight stash, runtime."""
