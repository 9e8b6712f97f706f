"""Benchmarks of distributed deep-network training as pytest cases. Importing this imports nothing
heavy."""

__version__ = "0.1.0"

__all__ = ["__version__"]
