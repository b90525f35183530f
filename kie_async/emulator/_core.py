"""The API in memory, told the time: no socket, no clock.

A reading of what was captured of Kie, of its own: it shares no rule with the client.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from attrs import define, field, frozen

__all__ = ["Answer", "Books", "EmulatedAPI", "EmulatedTask", "Rule"]

PRICES = {"720p": 10.0, "1080p": 30.0}
EPOCH = 1_790_000_000.0
MODELS = (
    "grok-imagine/upscale",
    "grok-imagine/text-to-image",
    "grok-imagine/image-to-image",
    "grok-imagine/text-to-video",
    "grok-imagine/image-to-video",
    "grok-imagine/extend",
)
TOO_MANY = "Your call frequency is too high. Please try again later."
UNAUTHORIZED = (
    "Unauthorized – Authentication failed. Please check that your Authorization and "
    "Content-Type headers are correctly set."
)
NO_MODEL = (
    "The model name you specified is not supported. Please verify your input and use one of "
    "the supported models provided by KIE."
)
EXCEPTION = "Server exception, please try again later or contact customer service"


@frozen
class Answer:
    """What goes back, and what the wire shall do to it (see `Rule`)."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(factory=dict)
    fault: str | None = None
    delay: float = 0.0
    cut: int = 0


@frozen(kw_only=True)
class Rule:
    """One fault: where it strikes, when, and what it does.

    Args:
        route: "createTask", "recordInfo", "credit", "download-url", "files"; "task": the
            work itself, which then ends in ``fail`` with *code* and *msg*; "callback":
            with the actions "lost", "double", "early", "forged" and "delay".
        when: "before" the request is worked on, or "after" (a create is then paid).
        action: "fin", "rst", "silence", "garbage", "half-status", "half-headers",
            "extra" (bytes after the body), "cut" (after *cut* bytes), "html", "envelope",
            "bomb", "endless", "redirect", or "delay" alone.
        nth: Only these requests of the route, counted from 0.
        probability: Only this share of them.
        times: At most so often.
        until: Only before this time, in seconds since the start.
        match: Only requests whose body or query holds this text.
    """

    route: str
    action: str
    when: str = "before"
    nth: tuple[int, ...] | None = None
    probability: float = 1.0
    times: int | None = None
    until: float | None = None
    match: str = ""
    status: int = 200
    code: int = 500
    msg: str = "internal error, please try again later."
    delay: float = 0.0
    cut: int = 0


@define
class EmulatedTask:
    """A task, with what recordInfo tells of it."""

    task_id: str
    model: str
    param: str
    created: float
    ends: float
    credits: float
    fails: tuple[str, str] | None = None
    source_id: str | None = None
    callback_url: str | None = None
    settled: bool = False


@define
class Books:
    """What was paid, refused and asked: the truth that tests compare with."""

    paid: dict[str, int] = field(factory=dict)
    creates: list[tuple[float, str, str | None, str | None]] = field(factory=list)
    arrivals: list[float] = field(factory=list)
    refused: dict[int, int] = field(factory=dict)
    requests: dict[str, int] = field(factory=dict)
    polls: list[float] = field(factory=list)
    charged: float = 0.0
    refunded: float = 0.0

    def most_in_window(self, window: float) -> int:
        """Return the most accepted creates that any window held."""
        times = sorted(at for at, *_ in self.creates)
        most, first = 0, 0
        for last, at in enumerate(times):
            while times[first] <= at - window:
                first += 1
            most = max(most, last - first + 1)
        return most

    def snapshot(self) -> dict[str, Any]:
        """Return the books as JSON takes them."""
        return {
            "paid": self.paid,
            "accepted": len(self.creates),
            "tasks": [task_id for *_, task_id, _ref in self.creates],
            "refs": {ref: task_id for *_, task_id, ref in self.creates if ref},
            "refused": self.refused,
            "requests": self.requests,
            "charged": self.charged,
            "refunded": self.refunded,
        }


class EmulatedAPI:
    """The API's state.  ``answer`` is all that a server needs.

    Args:
        seed: The same seed and requests give the same ids and durations.
        rate: Creates per seconds that an account may send.
        credits: The balance at the start.
        api_key: The only key that is accepted.
        durations: Called with a ``random.Random``; returns a task's seconds.
        epoch: Unix seconds at time 0, for the stamps of records.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        rate: tuple[int, float] = (20, 10.0),
        credits: float = 1000.0,
        api_key: str = "emulator-key",
        durations: Callable[[random.Random], float] | None = None,
        epoch: float = EPOCH,
    ) -> None:
        self.epoch = epoch
        self.rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self.rate = rate
        self.credits = credits
        self.api_key = api_key
        self.durations = durations or (lambda rng: rng.lognormvariate(0.4, 0.35))
        self.tasks: dict[str, EmulatedTask] = {}
        self.books = Books()
        self.rules: list[Rule] = []
        self.struck: dict[int, int] = {}
        self._window: list[float] = []
        self.origin = "http://127.0.0.1"

    def add_source_task(self, now: float = 0.0, task_id: str | None = None) -> str:
        """Put a finished text-to-image task on record, as if created earlier."""
        task_id = task_id or self._new_id()
        param = _param("grok-imagine/text-to-image", {"prompt": "an evening"}, None)
        self.tasks[task_id] = EmulatedTask(
            task_id, "grok-imagine/text-to-image", param, now - 60, now - 47, 4.0, settled=True
        )
        return task_id

    def _new_id(self) -> str:
        return f"{self.rng.getrandbits(128):032x}"

    def inject(self, rule: Rule) -> None:
        """Add a fault."""
        self.rules.append(rule)

    def clear_rules(self) -> None:
        """Forget every fault."""
        self.rules.clear()
        self.struck.clear()

    # -- requests ---------------------------------------------------------------------

    def answer(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, now: float
    ) -> Answer:
        """Answer one request at time *now*, in seconds."""
        parts = urlsplit(target)
        rule = self.strike(parts.path.rpartition("/")[2], now, target, body)
        if rule is not None and rule.when == "before":
            return self.faulty(rule, Answer(200, b""))
        result = self._worked_on(method, parts.path, parse_qs(parts.query), headers, body, now)
        return result if rule is None else self.faulty(rule, result)

    def strike(self, route: str, now: float, target: str, body: bytes) -> Rule | None:
        """Count a request of *route*; return the rule that strikes it, if any."""
        number = self.books.requests.get(route, 0)
        self.books.requests[route] = number + 1
        return self._rule(route, number, now, target, body)

    def _rule(self, route: str, number: int, now: float, target: str, body: bytes) -> Rule | None:
        for index, rule in enumerate(self.rules):
            struck = self.struck.get(index, 0)
            if (
                rule.route == route
                and (rule.nth is None or number in rule.nth)
                and (rule.times is None or struck < rule.times)
                and (rule.until is None or now < rule.until)
                and (not rule.match or rule.match in target or rule.match.encode() in body)
                and (rule.probability >= 1 or self.rng.random() < rule.probability)
            ):
                self.struck[index] = struck + 1
                return rule
        return None

    def faulty(self, rule: Rule, answer: Answer) -> Answer:
        """Return what *rule* makes of an answer."""
        body, status, headers = answer.body, answer.status, dict(answer.headers)
        if rule.action == "envelope":
            body, status = _envelope(rule.code, rule.msg), rule.status
        elif rule.action == "html":
            body = b"<html><body><h1>Bad gateway</h1></body></html>"
            status, headers = rule.status, {"Content-Type": "text/html"}
        elif rule.action == "redirect":
            status, headers = 307, {"Location": rule.msg}
        fault = None if rule.action in {"envelope", "html", "redirect", "delay"} else rule.action
        return Answer(status, body, headers, fault, rule.delay, rule.cut)

    def _worked_on(
        self,
        method: str,
        path: str,
        query: dict[str, list[str]],
        headers: Mapping[str, str],
        body: bytes,
        now: float,
    ) -> Answer:
        known = {name.lower(): value for name, value in headers.items()}
        if known.get("authorization") != f"Bearer {self.api_key}":
            return Answer(200, json.dumps({"code": 401, "msg": UNAUTHORIZED}).encode())
        if (method, path) == ("POST", "/api/v1/jobs/createTask"):
            return Answer(200, self._create(known, body, now))
        if (method, path) == ("GET", "/api/v1/jobs/recordInfo"):
            return Answer(200, self._record(query.get("taskId", [""])[0], now))
        if (method, path) == ("GET", "/api/v1/chat/credit"):
            return Answer(200, _envelope(200, "success", round(self.credits, 2)))
        if (method, path) == ("POST", "/api/v1/common/download-url"):
            return Answer(200, self._download_url(body))
        return Answer(404, b"<html>404 page not found</html>", {"Content-Type": "text/html"})

    def _create(self, headers: Mapping[str, str], body: bytes, now: float) -> bytes:
        self.books.arrivals.append(now)
        if "application/json" not in headers.get("content-type", ""):
            return self._refuse(500, EXCEPTION)
        limit, window = self.rate
        self._window = [at for at in self._window if at > now - window]
        if len(self._window) >= limit:
            return self._refuse(429, TOO_MANY)
        try:
            sent = json.loads(body)
            model, given = sent["model"], sent["input"]
        except (ValueError, KeyError, TypeError):
            return self._refuse(500, EXCEPTION)
        if model not in MODELS or not isinstance(given, dict):
            return self._refuse(422, NO_MODEL)
        wanted = "task_id" if model in ("grok-imagine/upscale", "grok-imagine/extend") else "prompt"
        if not given.get(wanted):
            return self._refuse(500, f"{wanted} is required")
        price = PRICES.get(str(given.get("resolution")), 10.0) if wanted == "task_id" else 4.0
        if price > self.credits:
            return self._refuse(
                402,
                "Credits insufficient : Your current balance isn’t enough to run this request. "
                "Please top up to continue.",
            )
        self._window.append(now)
        task_id = self._accept(model, given, sent.get("callBackUrl"), price, now)
        return _envelope(200, "success", {"taskId": task_id, "recordId": task_id})

    def _accept(
        self, model: str, given: dict[str, Any], callback: str | None, price: float, now: float
    ) -> str:
        task_id = self._new_id()
        ends = now + self.durations(self.rng)
        source = given.get("task_id")
        self.tasks[task_id] = EmulatedTask(
            task_id,
            model,
            _param(model, given, callback),
            now,
            ends,
            price,
            source_id=source,
            callback_url=callback,
        )
        failure = self.strike("task", now, str(source), b"")
        if failure is not None:
            self.tasks[task_id].fails = (str(failure.code), failure.msg)
        self.credits -= price
        self.books.charged += price
        ref = callback.rpartition("/")[2] if callback else None
        self.books.creates.append((now, str(source or model), task_id, ref))
        if source:
            self.books.paid[source] = self.books.paid.get(source, 0) + 1
        return task_id

    def _refuse(self, code: int, msg: str) -> bytes:
        self.books.refused[code] = self.books.refused.get(code, 0) + 1
        return _envelope(code, msg)

    def _record(self, task_id: str, now: float) -> bytes:
        self.books.polls.append(now)
        task = self.tasks.get(task_id)
        if task is None:
            return _envelope(422, "recordInfo is null")
        return _envelope(200, "success", self.describe(task, now))

    def describe(self, task: EmulatedTask, now: float) -> dict[str, Any]:
        """Return a task's record, with the fields that were captured until 2026-09."""
        over = now >= task.ends
        state, flag, result = "waiting", 0, ""
        if over:
            self._settle(task)
            state, flag = ("fail", 3) if task.fails else ("success", 1)
            if not task.fails:
                result = json.dumps({"resultUrls": self.result_urls(task)})
        data: dict[str, Any] = {
            "taskId": task.task_id,
            "model": task.model,
            "state": state,
            "param": task.param,
            "resultJson": result,
            "failCode": task.fails[0] if over and task.fails else None,
            "failMsg": task.fails[1] if over and task.fails else None,
            "costTime": round(task.ends - task.created) if over else None,
            "completeTime": int((self.epoch + task.ends) * 1000) if over else None,
            "createTime": int((self.epoch + task.created) * 1000),
            "creditsConsumed": 0.0 if over and task.fails else task.credits,
            "operationType": task.model,
            "successFlag": flag,
            "paramJson": task.param,
        }
        if result:
            data["response"] = json.loads(result)
        return data

    def _settle(self, task: EmulatedTask) -> None:
        """Give the credits of a failed task back, once."""
        if task.fails and not task.settled:
            self.credits += task.credits
            self.books.refunded += task.credits
        task.settled = True

    def result_urls(self, task: EmulatedTask) -> list[str]:
        """Return where a task's results can be fetched."""
        count = 6 if task.model.endswith("text-to-image") and not task.settled else 1
        return [f"{self.origin}/files/{task.task_id}-{n}.png" for n in range(count)]

    def _download_url(self, body: bytes) -> bytes:
        try:
            url = json.loads(body)["url"]
        except (ValueError, KeyError, TypeError):
            return _envelope(422, "url is wrong")
        if not str(url).startswith(f"{self.origin}/files/"):
            return _envelope(422, "url is wrong")
        return _envelope(200, "success", f"{url}?renewed=1")


def _param(model: str, given: Mapping[str, Any], callback: str | None) -> str:
    """Write the parameters as live records hold them: JSON inside JSON."""
    outer: dict[str, Any] = {"input": json.dumps(given), "model": model}
    if callback:
        outer["callBackUrl"] = callback
    return json.dumps(outer)


def _envelope(code: int, msg: str, data: Any = None) -> bytes:
    return json.dumps({"code": code, "msg": msg, "data": data}, ensure_ascii=False).encode()
