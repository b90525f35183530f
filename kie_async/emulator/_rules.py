"""Faults by rule: which request is struck, and by what."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from attrs import Attribute, define, field, frozen

from kie_async.emulator._messages import HEADERS, Answer, Request

__all__ = ["ACTIONS", "Rule", "Rules", "Strike", "Visit"]

Act = Callable[[Request, "Answer | None"], "bytes | Answer"]

_REQUEST = {
    "delay": "wait `delay` seconds before the work, or after it; nothing else",
    "fin": "close the connection without an answer",
    "rst": "reset the connection without an answer",
    "rst-early": "reset it when the headers are there, before the body is read",
    "unread": "read no byte of the body, and never answer",
    "silence": "never answer; the connection stays",
    "half-status": "stop in the status line, then `then`",
    "half-headers": "stop in the headers, then `then`",
    "cut": "stop after `cut` bytes of the body, then `then`; see `framing`",
    "garbage": "bytes that are no HTTP",
    "extra": "bytes after the body",
    "drip": "the body in pieces of `size` bytes, `gap` seconds apart",
    "drip-all": "headers and body in such pieces",
    "endless": "a chunked body that never ends",
    "bomb": "a gzip body that swells to `size` bytes",
    "gzip": "the body as gzip; cut short if `cut` is given",
    "not-gzip": "the body as it is, with the label gzip",
    "html": "an HTML page with HTTP `status`",
    "blocked": "403 and `error code: 1010`, as Cloudflare sends them",
    "status": "HTTP `status`; after the work with its body, before it without one",
    "envelope": "an envelope of `code`, `msg`, `data`, in HTTP `status`",
    "too-many": "the 429 envelope, as captured",
    "maintenance": "the 455 envelope, as documented",
    "maintained": "maintenance as people really saw it: code 500",
    "body": "`body` as it is, in HTTP `status`",
    "redirect": "HTTP 307 or `status`, to `location`",
    "wrong-type": "the body as text/html",
    "set-cookie": "a cookie with the answer",
    "headers": "`headers` with the answer; any other action takes them, too",
    "patch": "`data` written over the fields of the answer's data, and `drop` taken out",
    "weird-result": "`body` as the resultJson of a success, null if None; no response field",
    "backwards": "a finished task is told as still generating",
    "expired": "403 or `status`, as a storage says it; a renewed link still works",
    "no-range": "the whole file where a part was asked for",
    "wrong-range": "another part than was asked for, and a header that says so",
    "new-etag": "another ETag",
}
_TASK = {
    "fail": "it ends in fail, with `code` and `msg`",
    "flip": "it fails with 524 `generate task timeout.`, and `seconds` later is a success",
    "never": "it never ends",
    "slow": "it takes `seconds` longer",
    "late": "recordInfo does not know it for `seconds`",
    "generating": "it shows generating where others show waiting",
}
_CALLBACK = {
    "lost": "it is never posted",
    "double": "it is posted `copies` times",
    "delay": "it comes `delay` seconds late",
    "early": "it comes at once, before the task has ended or the create is answered",
    "forged": "it is signed with another key",
    "unsigned": "it has no signature",
    "stale": "it is rightly signed, for a time `seconds` ago",
    "foreign": "rightly signed, and its result leads to another host",
    "mixed": "rightly signed, and a second id field names another task",
    "backwards": "a second one follows that says generating",
    "garbage": "rightly signed, and its body is no JSON",
    "huge": "rightly signed, with `size` bytes more",
}
_CONNECT = {
    "fin": "close it as soon as it is made",
    "rst": "reset it as soon as it is made",
    "silence": "never read from it",
}
ACTIONS: Mapping[str, Mapping[str, str]] = {
    "request": _REQUEST,
    "task": _TASK,
    "callback": _CALLBACK,
    "connect": _CONNECT,
}

# These need to know the answer, so they come after the work whatever `when` says.
_AFTER = frozenset(
    {"cut", "drip", "drip-all", "extra", "gzip", "not-gzip", "wrong-type", "set-cookie"}
    | {"headers", "patch", "weird-result", "backwards", "no-range", "wrong-range", "new-etag"}
)
EVENTS = frozenset({"task", "callback", "connect"})  # these are no requests
EARLY = frozenset({"unread", "rst-early"})


def _check_action(rule: Rule, attribute: Attribute[Any], action: Any) -> None:
    known = ACTIONS.get(rule.route, _REQUEST)
    if not callable(action) and action not in known:
        raise ValueError(f"no action {action!r} for {rule.route!r}: one of {', '.join(known)}")


def _numbers(value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    return (value,) if isinstance(value, int) else tuple(value)


@frozen(kw_only=True, eq=False)
class Rule:
    """One fault: where it strikes, when, and what it does.

    Args:
        route: The last part of the path, such as "createTask", "recordInfo", "credit",
            "download-url", "file-stream-upload"; "files" and "renewed" for what is fetched;
            "connect" for connections; "task" for the work itself; "callback"; "*" for every
            request.
        action: A name from `ACTIONS`; or a callable that gets the request and the answer
            (None before the work), and returns an answer, or bytes to be written as they
            are.
        when: "before" the request is worked on, or "after": a create is then paid for.
        nth: Only these requests of the route, counted from 0.
        probability: Only this share of them.
        times: At most so often.
        since: Only from this time on, in the emulator's seconds.
        until: Only before this time.
        match: Only requests whose address or body holds this text; or a callable that gets
            the request.  For "task" and "callback": the source id and the create's body.
        status: The HTTP status of what is made up.
        code: The code of an envelope or a failure.
        msg: Its text.
        data: Its data, or what "patch" writes.
        body: Bytes or text of "body" and "weird-result".
        headers: Headers to add or replace.
        location: Where "redirect" leads.
        drop: Fields that "patch" takes out.
        delay: Real seconds before the answer, or before the work.
        gap: Real seconds between the pieces of "drip".
        size: Bytes, where an action has a size; 0 takes the action's own.
        cut: Bytes of the body that still come.
        then: What follows a part: "fin", "rst" or "silence".
        framing: How a cut body was announced: "length", "chunked" or "close".
        seconds: Seconds of a task or a stamp, in the emulator's time.
        copies: How many callbacks "double" sends.
    """

    route: str
    action: str | Act = field(validator=_check_action)
    when: str = "before"
    nth: tuple[int, ...] | None = field(default=None, converter=_numbers)
    probability: float = 1.0
    times: int | None = None
    since: float | None = None
    until: float | None = None
    match: str | Callable[[Request], bool] = ""
    status: int = 200
    code: int = 500
    msg: str = "internal error, please try again later."
    data: Any = None
    body: bytes | str | None = None
    headers: Mapping[str, str] = field(factory=dict)
    location: str = ""
    drop: tuple[str, ...] = field(default=(), converter=tuple)
    delay: float = 0.0
    gap: float = 0.05
    size: int = 0
    cut: int = 0
    then: str = "fin"
    framing: str = "length"
    seconds: float = 60.0
    copies: int = 2

    @property
    def phase(self) -> str:
        """When it is looked at: "early", "before" or "after"."""
        if self.route in EVENTS:
            return "before"
        if self.action in EARLY:
            return "early"
        return "after" if self.action in _AFTER else self.when


@frozen
class Strike:
    """A request, its number on its route, and the time."""

    route: str
    number: int
    request: Request
    now: float


@frozen
class Visit:
    """A request that has come: the fault that strikes before the work, if any.

    Attributes:
        strike: The request, its number and time.
        rule: The fault.
        early: True if the fault does not wait for the body.
    """

    strike: Strike
    rule: Rule | None = None
    early: bool = False

    @property
    def delay(self) -> float:
        """Real seconds to wait before the work."""
        return self.rule.delay if self.rule is not None and self.rule.action == "delay" else 0.0


@define
class Rules:
    """All faults, in their order: the first that fits strikes."""

    rng: random.Random
    rules: list[Rule] = field(factory=list)
    struck: dict[Rule, int] = field(factory=dict)  # kept: a new rule is no old one

    def pick(self, strike: Strike, phase: str, answer: Answer | None = None) -> Rule | None:
        """Return the rule that strikes, if any, and count it."""
        for rule in self.rules:
            if rule.phase == phase and self._fits(rule, strike) and _applies(rule, answer):
                self.struck[rule] = self.struck.get(rule, 0) + 1
                return rule
        return None

    def _fits(self, rule: Rule, strike: Strike) -> bool:
        if rule.route != strike.route and (rule.route != "*" or strike.route in EVENTS):
            return False
        return (
            (rule.nth is None or strike.number in rule.nth)
            and (rule.times is None or self.struck.get(rule, 0) < rule.times)
            and (rule.since is None or strike.now >= rule.since)
            and (rule.until is None or strike.now < rule.until)
            and _matches(rule, strike.request)
            and (rule.probability >= 1 or self.rng.random() < rule.probability)
        )

    def clear(self) -> None:
        """Forget every fault."""
        self.rules.clear()
        self.struck.clear()


def _matches(rule: Rule, request: Request) -> bool:
    if callable(rule.match):
        return rule.match(request)
    return not rule.match or request.holds(rule.match)


def _applies(rule: Rule, answer: Answer | None) -> bool:
    """Return whether there is something to change: a rule is not used up by less."""
    if rule.action == "patch" and answer is not None:
        return answer.headers.get("Content-Type") == HEADERS["Content-Type"]
    if rule.action in {"weird-result", "backwards"} and answer is not None:
        return b'"state":"success"' in answer.body
    if rule.action in {"no-range", "wrong-range"} and answer is not None:
        return answer.status == 206
    return True
