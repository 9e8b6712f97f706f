"""Times each operator of a model on one device, and traces how operators depend on each other."""
