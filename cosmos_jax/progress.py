"""What a long command says while it works."""

import time


class Progress:
    """Prints how far a command is and how long it will take, every few seconds and at the end."""

    def __init__(self, what: str, total: int, unit: str, every: float | int = 5):
        """Begins to count.

        Args:
            what: the work, for the line's begin.
            total: units in all.
            unit: what is counted, in the plural.
            every: seconds between lines.
        """
        self._head, self._total, self._unit, self._every = what, total, unit, every
        self._done, self._begun = 0, time.monotonic()
        self._said = self._begun

    def add(self, count: int) -> None:
        """Notes that `count` more units are done."""
        self._done += count
        now = time.monotonic()
        if now - self._said < self._every and self._done < self._total:
            return
        self._said, spent = now, max(now - self._begun, 1e-3)
        left = spent / max(self._done, 1) * (self._total - self._done)
        rest = f"{duration(left)} left" if self._done < self._total else f"in {duration(spent)}"
        print(
            f"{self._head}: {self._done:,} of {self._total:,} {self._unit}, "
            f"{self._done / spent:.3g} a second, {rest}",
            flush=True,
        )


def duration(seconds: float | int) -> str:
    """Seconds in words: 45 s, 12 min, 3 h 05 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
