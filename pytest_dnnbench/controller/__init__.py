"""The pytest side: starts ranks, collects their reports."""
