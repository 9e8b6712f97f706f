"""Stands in for pip in builds of Horovod: downloads and compiles nothing."""
