"""How fast a server is asked: adaptive concurrency per URL, a budget per minute, and a breaker per teacher.

Three independent pieces, each a small state machine:

- `Gate`, one per URL and shared by the teachers behind it: how many requests may be in flight;
- `Pacer`, one per teacher: requests and tokens per minute, where the recipe gives a budget;
- `Breaker`, one per teacher and URL: parks a server that only fails, and probes it.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress

Clock = Callable[[], float]

LONGEST_REST_S = 600.0
"""For longer than this nobody is waited for: a server that asks for more, or only refuses for so long, is left."""


async def rest(seconds: float, ended: asyncio.Event) -> None:
    """Sleep, but wake when ``ended`` is set."""
    with suppress(TimeoutError):
        await asyncio.wait_for(ended.wait(), seconds)


class Gate:
    """Adaptive concurrency. Grows while throughput does, and cuts when the server says that it has too much to do.

    A window is as many completions as are in flight, and `WINDOW_S` at least. By Little's law throughput grows in
    proportion to concurrency until the server is full; after that only latency grows. So the limit is raised by half
    per window as long as a raise brings at least a quarter of its proportional gain, is taken back when it does not,
    and is tried again `PATIENCE` windows later. Refusals (429, 503) cut it by a third, but only when they are more
    than a quarter of a window: a rarer refusal does not depend on load, or costs less than a cut.

    A cut after which refusals go on says that a minute's budget is used up rather than that there are too many at
    once. Where the server asks for no pause, one of 1, 2, 4, ... 60 seconds is kept then, and refusals after it cut
    again at once; each answer takes a step back.
    """

    START, WINDOW_S, PATIENCE = 64, 0.2, 5
    LONGEST_PAUSE_S = 60.0
    FEWEST = 32  # refusals are judged as a share of at least so many answers

    def __init__(self, most: int, clock: Clock) -> None:
        self.most, self.limit = most, float(min(self.START, most))
        self.in_flight = 0
        self._clock = clock
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._pause_until = 0.0
        self._before: tuple[float, float] | None = None  # limit and throughput of the window before the last raise
        self._hold = self._cuts = 0
        self._strain = 0  # cuts, less the answers since
        self._start_window()

    def _start_window(self) -> None:
        self._since, self._done, self._refused, self._busiest = self._clock(), 0, 0, 0

    @property
    def has_room(self) -> bool:
        """Whether a request need not wait for another to be answered."""
        return self.in_flight < int(self.limit) and not self._waiters

    @property
    def pause_s(self) -> float:
        """For how long nothing is sent (seconds)."""
        return max(0.0, self._pause_until - self._clock())

    async def enter(self, ended: asyncio.Event) -> int:
        """Wait for a free place, first come first served; return a ticket to hand to `leave`.

        Once ``ended`` is set no pause is kept, because nothing will be sent.
        """
        if self.has_room:
            self.in_flight += 1
        else:
            await self._queue()
        while self.pause_s and not ended.is_set():
            try:
                await rest(self.pause_s, ended)
            except asyncio.CancelledError:
                self.give_back()
                raise
        self._busiest = max(self._busiest, self.in_flight)
        return self._cuts

    async def _queue(self) -> None:
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.give_back()  # the place was given in the moment of giving up
            raise

    def give_back(self) -> None:
        """Give a place back unused."""
        self.in_flight -= 1
        while self._waiters and self.in_flight < int(self.limit):
            place = self._waiters.popleft()
            if not place.done():
                self.in_flight += 1
                place.set_result(None)

    def leave(self, ticket: int, *, overload: bool, retry_after_s: float | None = None) -> None:
        """Give a place back after an answer, and say whether the server refused for having too much to do."""
        self.give_back()
        self._done += 1
        if overload:
            self._refused += ticket == self._cuts  # one burst, one cut: what was sent before a cut counts no more
            fewest = 0.0 if self._strain else max(self._done, self.FEWEST, self.limit / 2) / 4
            if self._refused > fewest:
                self._cut(retry_after_s)
            return
        self._strain = max(0, self._strain - 1)
        if self._done >= self.limit and self._clock() - self._since >= self.WINDOW_S:
            self._adjust()

    def _cut(self, retry_after_s: float | None) -> None:
        self.limit = max(1.0, self.limit * 2 / 3)
        if retry_after_s is None:
            retry_after_s = min(2.0 ** (self._strain - 1), self.LONGEST_PAUSE_S) if self._strain else 0.0
        self._pause_until = self._clock() + min(retry_after_s, LONGEST_REST_S)
        self._strain = min(self._strain + 1, 7)  # 2**6 seconds are more than the longest pause
        self._before, self._hold, self._cuts = None, self.PATIENCE, self._cuts + 1
        self._start_window()

    def _adjust(self) -> None:
        throughput = (self._done - self._refused) / (self._clock() - self._since)
        if self._before is not None:
            limit, rate = self._before
            hoped = self.limit / limit - 1
            if throughput < rate * (1 + hoped / 4):
                self.limit, self._hold = limit, self.PATIENCE
            self._before = None
        if self._hold > 0:
            self._hold -= 1
        elif self._busiest >= int(self.limit) < self.most:
            self._before = (self.limit, throughput)
            self.limit = min(float(self.most), self.limit * 1.5 + 1)
        self._start_window()


class Pacer:
    """Spreads requests, and the tokens that they turn out to use, evenly over a minute."""

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None, clock: Clock) -> None:
        self._request_s = 60 / requests_per_minute if requests_per_minute else 0.0
        self._token_s = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._clock = clock
        self._next_request = self._next_token = 0.0

    async def wait(self, ended: asyncio.Event) -> None:
        """Wait for this request's turn, unless ``ended`` is set first."""
        now = self._clock()
        turn = max(now, self._next_request)
        self._next_request = turn + self._request_s
        wait = max(turn, self._next_token) - now
        if wait > 0:
            await rest(wait, ended)

    def used(self, tokens: int) -> None:
        """Count the tokens of a reply against the budget."""
        self._next_token = max(self._clock(), self._next_token) + tokens * self._token_s


class Breaker:
    """Parks a server after `TRIP` failures in a row, then lets one probe through after 1, 2, 4, ... seconds."""

    TRIP, LONGEST_PAUSE_S = 12, 30.0

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures, self._pause_s = 0, 1.0
        self._next_probe = 0.0
        self.parked_since: float | None = None
        self.reason = ""

    @property
    def parked(self) -> bool:
        """Whether the server is left alone at the moment."""
        return self.parked_since is not None

    def probe_in(self) -> float:
        """Seconds until the next probe may be sent; 0 if a request may be sent now."""
        return max(0.0, self._next_probe - self._clock()) if self.parked else 0.0

    def probing(self) -> None:
        """A probe is being sent: the next one is a pause away."""
        self._pause_s = min(self._pause_s * 2, self.LONGEST_PAUSE_S)
        self._next_probe = self._clock() + self._pause_s

    def succeeded(self) -> None:
        """The server answered, if only to refuse."""
        self._failures, self._pause_s, self.parked_since = 0, 1.0, None

    def failed(self, reason: str) -> None:
        """The server could not be reached, broke down, or did not answer in time."""
        self._failures += 1
        self.reason = reason
        if self._failures >= self.TRIP and not self.parked:
            self.parked_since = self._clock()
            self._next_probe = self._clock() + self._pause_s


def backoff_s(attempt: int, retry_after_s: float | None, draw: random.Random) -> float:
    """Pause before a request is sent again (seconds): Retry-After, else 0.25, 0.5, 1, ... 30 with half of it random.

    A server that has been wrong in its Retry-After six times is given both.
    """
    grown = float(min(30.0, 0.25 * 2 ** min(attempt - 1, 9)) * (0.5 + 0.5 * draw.random()))
    if retry_after_s is None:
        return grown
    return min(retry_after_s, LONGEST_REST_S) * (1 + 0.1 * draw.random()) + (grown if attempt > 6 else 0.0)
