"""A limit on how often somebody may ask, as a bucket that fills again."""

import time
from collections import OrderedDict
from collections.abc import Callable

MOST_KEYS = 10_000  # that are remembered; the one that asked longest ago goes first


class RateLimit:
    """Buckets of requests by key.

    Args:
        burst: Requests that a full bucket holds.
        per_s: Requests that flow back in a second.
        clock: Seconds.
    """

    def __init__(
        self, burst: float, per_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.burst, self.per_s, self.clock = burst, per_s, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> bool:
        """Take a request from a bucket.

        Args:
            key: Whose bucket.

        Returns:
            Whether there was one.
        """
        now = self.clock()
        left, since = self._buckets.pop(key, (self.burst, now))
        left = min(self.burst, left + (now - since) * self.per_s)
        allowed = left >= 1
        self._buckets[key] = (left - allowed, now)
        while len(self._buckets) > MOST_KEYS:
            self._buckets.popitem(last=False)
        return allowed
