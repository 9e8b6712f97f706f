"""Extends pytest-dnnbench by a framework with an option and a metric of its own, and by a model."""
