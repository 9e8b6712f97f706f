"""Shared by the suite of cases and the tests: pytest's own plugin for testing plugins."""

pytest_plugins = ["pytester"]
