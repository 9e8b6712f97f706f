"""`dnnbench bisect`: the first version or commit that changed the speed of cases."""
