"""The books: what was really created, charged, refused and asked.

Tests compare with them, so nothing here depends on what a client was told.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from attrs import define, field

__all__ = ["Books", "Create", "Paid", "Posted"]


class Paid(dict[str, int]):
    """How often each source was paid for; ``paid(source_id)`` is 0 for an unknown one."""

    def __call__(self, source_id: str) -> int:
        """Return how often *source_id* was paid for."""
        return self.get(source_id, 0)


class Create(NamedTuple):
    """One accepted create: money was reserved.

    Attributes:
        at: The emulator's seconds.
        source_id: Its source task, or the model where there is none.
        task_id: The new task.
        ref: The last path part of its callBackUrl.
        price: Credits.
        payload: The body as it came.
    """

    at: float
    source_id: str
    task_id: str
    ref: str | None = None
    price: float = 0.0
    payload: str = ""


class Posted(NamedTuple):
    """One callback that was posted, or lost on purpose.

    Attributes:
        at: The emulator's seconds.
        task_id: Its task.
        ref: The last path part of the address.
        status: The HTTP status of the answer; None if there was none.
        fault: The fault that struck it, or "".
    """

    at: float
    task_id: str
    ref: str
    status: int | None
    fault: str


@define
class Books:
    """What was paid, refused and asked: the truth that tests compare with.

    Attributes:
        paid: Accepted creates per source task; a dict that can be called, too.
        creates: Each accepted create.
        arrivals: When createTask was asked, refused or not; faults before the work are
            not in it.
        refused: How many creates got which code.
        refusals: When creates were refused, and the code.
        requests: How many requests each route had, in whatever way they ended.
        times: When each route was asked.
        charged: Credits taken.
        refunded: Credits given back.
        returned: How often each source's money was given back.
        callbacks: Each callback that was posted or lost.
        connections: How many connections were made.
        open_now: How many are open.
        most_open: The most that were open at once.
    """

    paid: Paid = field(factory=Paid)
    creates: list[Create] = field(factory=list)
    arrivals: list[float] = field(factory=list)
    refused: dict[int, int] = field(factory=dict)
    refusals: list[tuple[float, int]] = field(factory=list)
    requests: dict[str, int] = field(factory=dict)
    times: dict[str, list[float]] = field(factory=dict)
    charged: float = 0.0
    refunded: float = 0.0
    returned: dict[str, int] = field(factory=dict)
    callbacks: list[Posted] = field(factory=list)
    connections: int = 0
    open_now: int = 0
    most_open: int = 0

    @property
    def polls(self) -> list[float]:
        """When recordInfo was asked."""
        return self.times.get("recordInfo", [])

    def count(self, route: str, now: float) -> int:
        """Count a request of *route*; return its number, from 0."""
        number = self.requests.get(route, 0)
        self.requests[route] = number + 1
        self.times.setdefault(route, []).append(now)
        return number

    def connected(self) -> None:
        """Count a connection."""
        self.connections += 1
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)

    def accept(self, create: Create, source_id: str | None) -> None:
        """Book a create and its price."""
        self.creates.append(create)
        self.charged += create.price
        if source_id:
            self.paid[source_id] = self.paid(source_id) + 1

    def refund(self, credits: float, source_id: str | None) -> None:
        """Book money that goes back."""
        self.refunded += credits
        if source_id:
            self.returned[source_id] = self.returned.get(source_id, 0) + 1

    def refuse(self, now: float, code: int) -> None:
        """Book a create that was refused."""
        self.refused[code] = self.refused.get(code, 0) + 1
        self.refusals.append((now, code))

    def most_in_window(self, window: float, *, of: str = "creates") -> int:
        """Return the most accepted creates that any *window* held.

        Args:
            window: Seconds; one of both ends belongs to it.
            of: "creates", "arrivals", or a route such as "recordInfo".
        """
        times = {"creates": [row.at for row in self.creates], "arrivals": self.arrivals}
        ordered = sorted(times.get(of, self.times.get(of, [])))
        most, first = 0, 0
        for last, at in enumerate(ordered):
            while ordered[first] <= at - window:
                first += 1
            most = max(most, last - first + 1)
        return most

    @property
    def refs(self) -> dict[str, dict[str, Any]]:
        """What each callback reference has: creates, task ids, credits, callbacks."""
        told: dict[str, dict[str, Any]] = {}
        for row in list(self.creates):
            if row.ref:
                empty = {"creates": 0, "task_ids": [], "charged": 0.0, "callbacks": 0}
                entry = told.setdefault(row.ref, empty)
                entry["creates"] += 1
                entry["task_ids"].append(row.task_id)
                entry["charged"] += row.price
        for posted in list(self.callbacks):
            if posted.ref in told and posted.fault != "lost":
                told[posted.ref]["callbacks"] += 1
        return told

    def snapshot(self) -> dict[str, Any]:
        """Return the books as JSON takes them."""
        return {
            "paid": dict(self.paid),
            "returned": dict(self.returned),
            "accepted": len(self.creates),
            "creates": [row._asdict() for row in list(self.creates)],
            "tasks": [row.task_id for row in list(self.creates)],
            "refs": self.refs,
            "refused": {str(code): number for code, number in self.refused.items()},
            "refusals": [list(row) for row in list(self.refusals)],
            "requests": dict(self.requests),
            "times": {route: list(times) for route, times in list(self.times.items())},
            "charged": self.charged,
            "refunded": self.refunded,
            "callbacks": [row._asdict() for row in list(self.callbacks)],
            "connections": self.connections,
            "open_now": self.open_now,
            "most_open": self.most_open,
            "most_in_10_s": self.most_in_window(10.0),
        }
