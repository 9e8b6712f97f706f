"""What was measured: reduced, typed, written and read."""
