"""The breakdown of a step: profiled steps after the timed ones, and what their time went into."""
