"""What is trained: workloads, their models and their data."""
