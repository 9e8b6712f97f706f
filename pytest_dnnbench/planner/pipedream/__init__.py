"""The original PipeDream's cost model and text format, kept to show that our planner agrees with
them. Reached from the `plan` command and from files in its format only."""
