"""What `dnnbench init` writes: cases to start from. The files themselves are in files/."""
