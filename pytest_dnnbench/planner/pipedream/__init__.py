"""The original PipeDream's cost model and text format, kept to show that ours agrees with it."""
