"""What a machine can find: its speed, its noise, and what to change. `dnnbench machine`."""
