"""How fast bytes must come: so many a second, averaged over each minute spent waiting for them. Pure."""

__all__ = ["MinimumRate"]


class MinimumRate:
    """Watches one sender, which must give ``min_rate`` bytes a second on average.

    Only the time spent waiting for the sender counts: while whoever takes the bytes is slow, nobody asks for more,
    and that is not the sender's fault.
    """

    WINDOW = 60.0

    def __init__(self, min_rate: int) -> None:
        self._min_rate = min_rate
        self._waited = 0.0
        self._arrived = 0

    def is_met(self, waited: float, arrived: int) -> bool:
        """Note that ``arrived`` bytes came after ``waited`` seconds: false where a whole minute was too slow."""
        self._waited += waited
        self._arrived += arrived
        if self._waited < self.WINDOW:
            return True
        enough = self._arrived >= self._min_rate * self._waited
        self._waited, self._arrived = 0.0, 0
        return enough
