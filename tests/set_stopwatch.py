"""A stopwatch that a test sets, in place of those of rank/stopwatch.py."""


class SetStopwatch:
    """Reads `now`, in seconds."""

    now = 0.0

    def mark(self) -> float:
        """The time that was set."""
        return self.now

    def settle(self) -> None:
        """Nothing is outstanding."""

    def seconds(self, start: float, end: float) -> float:
        """The difference."""
        return end - start
