"""The API in memory, told the time: no socket, no clock.

A reading of what was captured of Kie, of its own: it shares no rule with the client.
"""

from __future__ import annotations

import heapq
import json
import math
import random
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit

from kie_async.emulator import _messages as words
from kie_async.emulator._books import Books, Create
from kie_async.emulator._callbacks import Callback, Ring, compose
from kie_async.emulator._faults import faulty
from kie_async.emulator._limits import gate
from kie_async.emulator._media import Media
from kie_async.emulator._messages import Answer, Request, blob, envelope, not_found
from kie_async.emulator._models import MODELS, complaint
from kie_async.emulator._rules import Rule, Rules, Strike, Visit
from kie_async.emulator._tasks import EmulatedTask, double_encoded, record
from kie_async.emulator._uploads import UPLOAD_ROUTES, Uploads

__all__ = ["EmulatedAPI"]

EPOCH = 1_790_000_000.0
LATER_FIELDS = ("creditsConsumed", "operationType", "successFlag", "paramJson", "response")
SOURCE_MODEL = "grok-imagine/text-to-image"

Durations = Callable[[random.Random], float]


class EmulatedAPI:
    """The API's state.  `answer` is all that a server needs.

    Times are seconds, told by the caller, and never go back.

    Args:
        seed: The same seed and requests give the same ids and durations.
        rate: Creates per seconds that the account may send; None for no limit.
        poll_rate: Looks at recordInfo per seconds; None for no limit.
        limiter: How the server counts: "log" (exact), "strict-log" (counts what it
            refuses, too), "counter", "fixed" or "bucket".
        credits: The balance at the start.
        api_key: The only key that is accepted.
        hmac_key: Signs the callbacks.
        durations: Called with a ``random.Random``, returns a task's seconds; or the median
            and the sigma of a log-normal distribution.
        result_life: Seconds until a result is gone: 14 days as documented.
        record_fields: "2026-09", or "2026-04": before credits and response came into it.
        epoch: Unix seconds at time 0, for the stamps of records.
        speed: How many of its seconds pass in one of the wall clock, which stamps follow.

    Attributes:
        books: What was really paid, refused and asked.
        tasks: Each task by its id.
        origin: Where its files are, without a slash at the end.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        rate: tuple[int, float] | None = (20, 10.0),
        poll_rate: tuple[int, float] | None = None,
        limiter: str = "log",
        credits: float = 1000.0,
        api_key: str = "emulator-key",
        hmac_key: str = "emulator-hmac-key",
        durations: Durations | tuple[float, float] = (1.5, 0.35),
        result_life: float = 14 * 86_400.0,
        record_fields: str = "2026-09",
        epoch: float = EPOCH,
        speed: float = 1.0,
    ) -> None:
        self.seed, self.credits, self.epoch, self.speed = seed, credits, epoch, speed
        self.api_key, self.hmac_key = api_key, hmac_key
        self.durations = durations if callable(durations) else _log_normal(*durations)
        self.record_fields = record_fields
        self.books = Books()
        self.tasks: dict[str, EmulatedTask] = {}
        self.origin = "http://127.0.0.1"
        self._ids = random.Random(f"ids {seed}")  # noqa: S311 - repeatable on purpose
        self._work = random.Random(f"work {seed}")  # noqa: S311 - repeatable on purpose
        self._rules = Rules(random.Random(f"rules {seed}"))  # noqa: S311 - repeatable
        self._creates = gate(limiter, *rate) if rate else None
        self._polls = gate(limiter, *poll_rate) if poll_rate else None
        self._ends: list[tuple[float, str]] = []
        self._rings: list[Ring] = []
        self.uploads = Uploads(uid=str(self._ids.randrange(10_000, 100_000)))
        self.media = Media(self.tasks, self.uploads, result_life)

    # -- what a test sets up ------------------------------------------------------------

    @property
    def rules(self) -> list[Rule]:
        """The faults, in the order in which they are tried."""
        return self._rules.rules

    def inject(self, rule: Rule) -> None:
        """Add a fault."""
        self._rules.rules.append(rule)

    def clear_rules(self) -> None:
        """Forget every fault."""
        self._rules.clear()

    def add_source_task(
        self,
        now: float = 0.0,
        task_id: str | None = None,
        *,
        model: str = SOURCE_MODEL,
        resolution: str | None = None,
    ) -> str:
        """Put a finished task on record, as if created a minute ago; return its id.

        Args:
            now: The time.
            task_id: The id; None makes one.
            model: What made it.
            resolution: Of its result: an upscale of "720p" to 1080p costs less.
        """
        task_id = task_id or self._new_id()
        given = {"prompt": "an evening", **({"resolution": resolution} if resolution else {})}
        self.tasks[task_id] = EmulatedTask(
            task_id,
            model,
            double_encoded(model, given, None),
            now - 60 * self.speed,
            now - 47 * self.speed,
            4.0,
            settled=True,
        )
        return task_id

    def _new_id(self) -> str:
        return f"{self._ids.getrandbits(128):032x}"

    # -- requests -----------------------------------------------------------------------

    def answer(self, request: Request, now: float) -> Answer:
        """Answer one request at time *now*."""
        return self.finish(self.begin(self.arrive(request, now)), now)

    def arrive(self, request: Request, now: float) -> Visit:
        """Count a request, of which no more than the headers need be there."""
        route = request.route
        strike = Strike(route, self.books.count(route, now), request, now)
        rule = self._rules.pick(strike, "early")
        return Visit(strike, rule, early=rule is not None)

    def begin(self, visit: Visit) -> Visit:
        """Find the fault that strikes a whole request before the work."""
        return (
            visit if visit.early else Visit(visit.strike, self._rules.pick(visit.strike, "before"))
        )

    def finish(self, visit: Visit, now: float, answer: Answer | None = None) -> Answer:
        """Do the work of a visit, unless a fault came first; return what goes back.

        Args:
            visit: From `begin`.
            now: The time, not before that of the visit.
            answer: The work's answer, where the caller did the work (a file).
        """
        strike, rule = visit.strike, visit.rule
        if rule is not None and rule.action not in {"delay", "headers"}:
            return faulty(rule, strike.request, None)
        self.settle(now)
        answer = answer or self._worked_on(strike.request, now)
        rule = self._rules.pick(strike, "after", answer)
        return answer if rule is None else faulty(rule, strike.request, answer)

    def strike(self, route: str, now: float, target: str = "", body: bytes = b"") -> Rule | None:
        """Count an event that is no request; return the rule that strikes it, if any."""
        told = Request(route, target, {}, body)
        return self._rules.pick(Strike(route, self.books.count(route, now), told, now), "before")

    def _worked_on(self, request: Request, now: float) -> Answer:
        route, asked = request.route, (request.method, request.path)
        if route in {"files", "renewed"}:
            return self.media.answer(request, now)
        if request.path == f"/api/{route}" and route in UPLOAD_ROUTES:
            unix = self.unix(now)
            return self.uploads.answer(request, self.origin, self.api_key, now, unix)
        works = {
            ("POST", "/api/v1/jobs/createTask"): self._create,
            ("GET", "/api/v1/jobs/recordInfo"): self._record,
            ("GET", "/api/v1/chat/credit"): self._credit,
            ("POST", "/api/v1/common/download-url"): self._download_url,
        }
        if asked not in works:
            return not_found()
        if request.headers.get("authorization") != f"Bearer {self.api_key}":
            if route == "createTask":
                self.books.refuse(now, 401)
            told = {"code": 401, "msg": words.UNAUTHORIZED}  # no `data`: captured 2026-10
            return Answer(body=blob(told))
        return works[asked](request, now)

    def _create(self, request: Request, now: float) -> Answer:
        self.books.arrivals.append(now)
        refusal = self._refusal(request, now)
        if refusal is not None:
            self.books.refuse(now, refusal[0])
            return envelope(*refusal)
        sent = json.loads(request.body)
        task_id = self._accept(
            sent["model"], sent["input"], sent.get("callBackUrl") or None, request, now
        )
        return envelope(200, "success", {"taskId": task_id, "recordId": task_id})

    def _refusal(self, request: Request, now: float) -> tuple[int, str] | None:
        """Return code and text if a create is not to be."""
        if "application/json" not in request.headers.get("content-type", ""):
            return 500, words.SERVER_EXCEPTION
        if self._creates is not None and not self._creates.admit(now):
            return 429, words.TOO_MANY
        try:
            sent = json.loads(request.body)
            name, given = sent["model"], sent["input"]
            model = MODELS.get(name)
            texts = (given.get("task_id", ""), sent.get("callBackUrl") or "")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return 500, words.SERVER_EXCEPTION  # wrong types
        if model is None:
            return 422, words.NO_MODEL
        if not all(isinstance(text, str) for text in texts):
            return 500, words.SERVER_EXCEPTION
        wrong = complaint(model, given)
        if wrong is None and self._price(name, given) > self.credits:
            wrong = 402, words.NO_FUNDS
        return wrong

    def _price(self, name: str, given: dict[str, Any]) -> float:
        """Return the credits: an upscale's depend on its source, which may be unknown."""
        source = self.tasks.get(given.get("task_id") or "")
        resolution = ""
        if source is not None:
            upscaled = source.model.endswith("/upscale")
            resolution = str(source.given.get("resolution", "720p" if upscaled else ""))
        return MODELS[name].price(given, resolution)

    def _accept(
        self, name: str, given: dict[str, Any], callback: str | None, request: Request, now: float
    ) -> str:
        """Reserve the credits and start the work."""
        task_id, price, model = self._new_id(), self._price(name, given), MODELS[name]
        task = EmulatedTask(
            task_id,
            name,
            double_encoded(name, given, callback),
            now,
            now + self.durations(self._work),
            price,
            source_id=given.get("task_id") or None,
            callback_url=callback,
            outputs=model.outputs(given),
            objects=model.objects,
        )
        self._befall(task, self.strike("task", now, str(task.source_id), request.body), now)
        self.tasks[task_id] = task
        self.credits -= price
        ref = urlsplit(callback).path.rpartition("/")[2] if callback else None
        payload = request.body.decode("utf-8", "replace")
        row = Create(now, task.source_id or name, task_id, ref, price, payload)
        self.books.accept(row, task.source_id)
        heapq.heappush(self._ends, (task.ends, task_id))
        if callback:
            self._ring_later(task, request, now)
        return task_id

    @staticmethod
    def _befall(task: EmulatedTask, rule: Rule | None, now: float) -> None:
        """Let a fault of the work befall a task."""
        match rule.action if rule is not None else None, rule:
            case "fail", Rule():
                task.fails = (str(rule.code), rule.msg)
            case "flip", Rule():
                task.fails = ("524", words.TIMED_OUT)
                task.recovers = task.ends + rule.seconds
            case "never", _:
                task.ends = math.inf
            case "slow", Rule():
                task.ends += rule.seconds
            case "late", Rule():
                task.visible = now + rule.seconds
            case "generating", _:
                task.busy = "generating"

    def settle(self, now: float) -> None:
        """Give back the credits of what has failed by *now*."""
        while self._ends and self._ends[0][0] <= now:
            _, task_id = heapq.heappop(self._ends)
            task = self.tasks[task_id]
            if task.ends <= now:
                self._settle(task)
            elif math.isfinite(task.ends):  # somebody made it longer meanwhile
                heapq.heappush(self._ends, (task.ends, task_id))

    def _settle(self, task: EmulatedTask) -> None:
        if task.fails and not task.settled:
            self.credits += task.credits
            self.books.refund(task.credits, task.source_id)
        task.settled = True

    def _record(self, request: Request, now: float) -> Answer:
        if self._polls is not None and not self._polls.admit(now):
            return envelope(429, words.TOO_MANY)
        task_id = request.query.get("taskId", "")
        if not task_id:
            return envelope(400, "taskId parameter is required")
        task = self.tasks.get(task_id)
        if task is None or now < task.visible:
            return envelope(422, words.NO_RECORD)
        return envelope(200, "success", self.describe(task, now))

    def describe(self, task: EmulatedTask, now: float) -> dict[str, Any]:
        """Return a task's record."""
        if now >= task.ends:
            self._settle(task)
        return self._told(task, now)

    def _told(self, task: EmulatedTask, now: float) -> dict[str, Any]:
        urls = self.result_urls(task)
        told = record(task, now, urls, epoch=self.epoch, speed=self.speed)
        if self.record_fields == "2026-04":
            told = {name: value for name, value in told.items() if name not in LATER_FIELDS}
        return told

    def result_urls(self, task: EmulatedTask) -> list[str]:
        """Return where a task's results can be fetched."""
        name = quote(task.task_id, safe="")
        return [f"{self.origin}/files/{name}-{n}.png" for n in range(task.outputs)]

    def unix(self, now: float) -> float:
        """Return the Unix seconds of *now*."""
        return self.epoch + now / self.speed

    def _credit(self, request: Request, now: float) -> Answer:
        return envelope(200, "success", round(float(self.credits), 2))

    def _download_url(self, request: Request, now: float) -> Answer:
        """Answer with a link of twenty minutes, or refuse what is not ours."""
        try:
            url = json.loads(request.body)["url"]
        except (ValueError, KeyError, TypeError, RecursionError):
            url = ""
        name = str(url).partition("?")[0].removeprefix(f"{self.origin}/files/")
        if not str(url).startswith(f"{self.origin}/files/") or not self.media.knows(name):
            return envelope(422, "url is wrong")
        token = f"{self._ids.getrandbits(64):016x}"
        return envelope(200, "success", f"{self.origin}{self.media.renew(name, token, now)}")

    # -- callbacks ----------------------------------------------------------------------

    def _ring_later(self, task: EmulatedTask, request: Request, now: float) -> None:
        rule = self.strike("callback", now, str(task.source_id), request.body)
        due = now if rule is not None and rule.action == "early" else task.ends
        if rule is not None:
            due += rule.delay * self.speed
        if math.isfinite(task.ends):
            heapq.heappush(self._rings, Ring(due, len(self.books.creates), task.task_id, rule))

    def next_callback(self) -> float | None:
        """Return when the next callback is due, if there is one."""
        return self._rings[0].due if self._rings else None

    def due_callbacks(self, now: float, unix: float | None = None) -> list[Callback]:
        """Return the callbacks that are due by *now*; each is returned once.

        Args:
            now: The time.
            unix: The wall clock that signs them; None takes the time since the epoch.
        """
        self.settle(now)
        due: list[Callback] = []
        while self._rings and self._rings[0].due <= now:
            ring = heapq.heappop(self._rings)
            task = self.tasks[ring.task_id]
            told = self._told(task, max(now, task.ends))
            stamp = self.unix(now) if unix is None else unix
            key, url = self.hmac_key, task.callback_url or ""
            due += compose(ring, url, told, hmac_key=key, unix=stamp)
        return due


def _log_normal(median: float, sigma: float) -> Durations:
    return lambda rng: rng.lognormvariate(math.log(median), sigma)
