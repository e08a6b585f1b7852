"""Counters of requests, in windows of a minute, in this process's memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage.base import Storage
from limits.strategies import FixedWindowRateLimiter

from wetread.record.export.jobs import Throttled

_MOST_COUNTERS = 50_000


class Counts:
    """Windows of a minute. Each limit counts for itself what it is asked about."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._windows = _Windows(clock)
        self._limiter = FixedWindowRateLimiter(self._windows)
        self._items: dict[tuple[str, int], RateLimitItem] = {}

    def spend(self, limit: str, amount: int, key: str) -> None:
        """Raises Throttled."""
        if amount and not self._limiter.hit(self._item(limit, amount), key):
            raise self._throttled(limit, amount, key)

    def require(self, limit: str, amount: int, key: str) -> None:
        """Without counting. Raises Throttled."""
        if amount and not self._limiter.test(self._item(limit, amount), key):
            raise self._throttled(limit, amount, key)

    def add(self, limit: str, amount: int, key: str) -> None:
        if amount:
            self._limiter.hit(self._item(limit, amount), key)

    def _item(self, limit: str, amount: int) -> RateLimitItem:
        item = self._items.get((limit, amount))
        if item is None:
            item = self._items[limit, amount] = RateLimitItemPerMinute(amount, namespace=limit)
        return item

    def _throttled(self, limit: str, amount: int, key: str) -> Throttled:
        left_s = self._limiter.get_window_stats(self._item(limit, amount), key).reset_time - self._clock()
        wait_s = max(1, math.ceil(left_s))
        return Throttled(f"too many requests, or too many that were refused; come again in {wait_s} s", wait_s)


class _Windows(Storage):
    """Counters in memory, never more than a fixed number. The library's own starts a thread for each tidying up, which
    looks at every counter."""

    STORAGE_SCHEME = None

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._counters: dict[str, tuple[int, float]] = {}

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        now = self._clock()
        count, ends = self._counters.get(key, (0, 0.0))
        if ends <= now:
            self._counters.pop(key, None)
            count, ends = 0, now + expiry
            if len(self._counters) >= _MOST_COUNTERS:
                self._make_room(now)
        self._counters[key] = count + amount, ends
        return count + amount

    def get(self, key: str) -> int:
        count, ends = self._counters.get(key, (0, 0.0))
        return count if ends > self._clock() else 0

    def get_expiry(self, key: str) -> float:
        return self._counters.get(key, (0, self._clock()))[1]

    def check(self) -> bool:
        return True

    def reset(self) -> int | None:
        found = len(self._counters)
        self._counters.clear()
        return found

    def clear(self, key: str) -> None:
        self._counters.pop(key, None)

    def _make_room(self, now: float) -> None:
        """A dict keeps the order in which windows began, and all are of one length: the oldest end first."""
        oldest = list(itertools.islice(self._counters.items(), 100))
        for place, (key, (_, ends)) in enumerate(oldest):
            if place == 0 or ends <= now:
                del self._counters[key]
