"""A folder to put on PYTHONPATH: modules that stand in for tools and record how they are called."""
