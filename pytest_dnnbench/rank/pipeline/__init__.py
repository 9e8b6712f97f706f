"""Pipeline parallelism: planning a case, cutting a model, stages, weight stash, runtime."""
