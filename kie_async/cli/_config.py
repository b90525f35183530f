"""Settings: each from ``kie -c NAME=VALUE``, else the environment, else a file, else a default.

The file is TOML, one ``name = value`` a line, and belongs to the user.  It may hold the API
key only if nobody else can read it.
"""

from __future__ import annotations

import difflib
import os
import stat
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click
from attrs import define, field, frozen

from kie_async.cli._escape import clean
from kie_async.cli._exits import Exit, Refused
from kie_async.cli._rates import Rate
from kie_async.errors import UsageError
from kie_async.models import Secret, check_seconds
from kie_async.transport import check_address

__all__ = ["SETTINGS", "Config", "Setting", "Value", "config_path", "current", "nearest"]

LOG_LEVELS = ("off", "error", "warning", "info", "debug")
RETRIES = ("never", "rejected", "reported")
KIE = "https://api.kie.ai"
MOST_READ = 65536  # bytes: a settings file has some lines


class _Wrong(ValueError):  # noqa: N818 - it becomes a Refused with its place
    """A value that a setting cannot have; tells what it takes, and whether to show it."""

    def __init__(self, takes: str, *, show: bool = True) -> None:
        super().__init__(takes)
        self.show = show


@frozen(kw_only=True)
class Setting:
    """One setting.

    Attributes:
        name: As in the file; the environment has it as ``KIE_NAME``.
        read: Makes the value from text or from what TOML has; raises ``_Wrong``.
        default: The value if nobody says anything.
        secret: True if its text is never shown.
    """

    name: str
    read: Callable[[object], Any]
    default: Any
    secret: bool = False

    @property
    def example(self) -> str:
        """A value that it could have."""
        return "..." if self.default is None else str(self.default)

    @property
    def env(self) -> str:
        """The environment variable."""
        return f"KIE_{self.name.upper()}"


@frozen(kw_only=True)
class Value:
    """A setting's value; ``source`` is flag, environment, file or default."""

    setting: Setting
    value: Any
    source: str
    where: str = ""

    def shown(self) -> str:
        """Return it for people: a secret only as set or unset."""
        if self.setting.secret:
            return "unset" if self.value is None else "set"
        if isinstance(self.value, float):
            return f"{self.value:g}"
        return "-" if self.value is None else str(self.value)


def _text(value: object) -> str:
    # Shown in no message: an address may hold a password.
    if not isinstance(value, str) or not value or not value.isprintable():
        raise _Wrong("must be a text on one line", show=False)
    return value


def _seconds(value: object) -> float:
    try:
        return check_seconds(float(value) if isinstance(value, str) else value, "it")
    except (ValueError, UsageError):
        raise _Wrong("must be a number of seconds above zero") from None


def _count(value: object) -> int:
    try:
        count = int(value) if isinstance(value, str) and value.isdecimal() else value
    except ValueError:  # more digits than Python reads
        count = None
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= 10_000:
        raise _Wrong("must be a whole number from 1 to 10000")
    return count


def _rate(value: object) -> Rate:
    limit, _, window = value.partition("/") if isinstance(value, str) else ("", "", "")
    try:
        return Rate(_count(limit), _seconds(window))
    except _Wrong:
        raise _Wrong('must be a rate such as "20/10": so many in so many seconds') from None


def _word(*allowed: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if value not in allowed:
            raise _Wrong(f"must be one of {', '.join(allowed)}")
        return str(value)

    return read


def _address(value: object) -> str:
    try:
        return check_address(_text(value), "").text
    except UsageError as error:
        raise _Wrong(error.message.strip(), show=False) from None  # it may hold a password


def _path(value: object) -> Path:
    try:
        return Path(_text(value)).expanduser()
    except RuntimeError:  # of a user that there is not
        raise _Wrong("names a home directory that there is not") from None


def _key(value: object) -> Secret:
    if not isinstance(value, str):
        raise _Wrong("must be a text")
    return Secret(value)


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting(name="api_key", read=_key, default=None, secret=True),
        Setting(name="base_url", read=_address, default=KIE),
        Setting(
            name="upload_url",
            read=_address,
            default=None,
        ),
        Setting(name="timeout", read=_seconds, default=900.0),
        Setting(name="request_timeout", read=_seconds, default=30.0),
        Setting(name="max_concurrency", read=_count, default=20),
        Setting(name="create_rate", read=_rate, default=Rate(20, 10)),
        Setting(name="poll_rate", read=_rate, default=Rate(8, 1)),
        Setting(
            name="create_retry",
            read=_word(*RETRIES),
            default="reported",
        ),
        Setting(name="out", read=_path, default=None),
        Setting(
            name="log_level",
            read=_word(*LOG_LEVELS),
            default="off",
        ),
    )
}


def nearest(name: str, names: Iterable[str]) -> str:
    """Return `` - did you mean X?`` for a misspelt name, or nothing."""
    known = {each.lower(): each for each in names}
    close = difflib.get_close_matches(name.lower(), known, 1)
    return f" - did you mean {known[close[0]]}?" if close else ""


def config_path(environ: Mapping[str, str]) -> Path:
    """Return where the file is, or would be.

    Raises:
        Refused: KIE_CONFIG begins with the home directory of nobody.
    """
    given, home = environ.get("KIE_CONFIG"), environ.get("XDG_CONFIG_HOME", "")
    try:
        if given:
            return Path(given).expanduser()
        # The specification has relative ones ignored.
        base = Path(home) if Path(home).is_absolute() else Path("~/.config").expanduser()
    except RuntimeError:
        if not given:  # a user who is only a number, as in some containers
            return Path(os.devnull)
        raise Refused(
            f"KIE_CONFIG names {clean(given, 2000)}, and there is no such home directory",
            Exit.USAGE,
            "name the whole path, or: unset KIE_CONFIG",
        ) from None
    return base / "kie" / "config.toml"


@define
class Config:
    """All settings of one command.

    Attributes:
        flags: Texts given as ``-c NAME=VALUE``.
        environ: The environment.
        path: The file, which may be missing.
        in_file: What is in it, read and checked.
    """

    flags: Mapping[str, str]
    environ: Mapping[str, str] = field(repr=False)  # a key may be in it
    path: Path
    in_file: Mapping[str, Any] = field(factory=dict)
    exists: bool = False

    @classmethod
    def load(cls, flags: Mapping[str, str], environ: Mapping[str, str]) -> Config:
        """Read the file, if there is one.

        Raises:
            Refused: It cannot be read, has what is no setting, or shows the key to others.
        """
        config = cls(flags, environ, config_path(environ))
        raw = _read(config.path, needed=bool(environ.get("KIE_CONFIG")))
        config.exists = raw is not None
        config.in_file = _checked(config.path, raw or {})
        return config

    def get(self, name: str) -> Value:
        """Return the value of a setting, and where it is from.

        Raises:
            Refused: The text of a flag or of the environment cannot be its value.
        """
        setting = SETTINGS[name]
        if name in self.flags:
            value = _parsed(setting, self.flags[name], f"-c {name}")
            return Value(setting=setting, value=value, source="flag", where=f"-c {name}=...")
        text = self.environ.get(setting.env)
        if text:  # an empty variable is an unset one
            value = _parsed(setting, text, setting.env)
            return Value(setting=setting, value=value, source="environment", where=setting.env)
        if name in self.in_file:
            value = self.in_file[name]
            return Value(setting=setting, value=value, source="file", where=str(self.path))
        return Value(setting=setting, value=setting.default, source="default")

    def all(self) -> list[Value]:
        """Return every setting."""
        return [self.get(name) for name in SETTINGS]


def current() -> Config:
    """Return the settings of the command that runs; the file is read once."""
    context = click.get_current_context(silent=True)
    if context is None:
        return Config.load({}, os.environ)
    meta = context.find_root().meta  # shared by a command and its group
    if "kie.config" not in meta:
        flags = context.find_root().params.get("settings") or {}
        meta["kie.config"] = Config.load(flags, os.environ)
    found: Config = meta["kie.config"]
    return found


def _parsed(setting: Setting, value: object, place: str) -> Any:
    """Make the value, or refuse it with its place."""
    try:
        return setting.read(value)
    except _Wrong as wrong:
        shown = f", not {_repr(value)}" if wrong.show and not setting.secret else ""
        told = f"{place} {wrong}{shown}"
        raise Refused(clean(told), Exit.USAGE, "correct it, then: kie config") from None
    except UsageError:  # of a key: its text is not shown
        raise Refused(
            f"the API key in {place} holds white space, a newline or a character outside ASCII: "
            "copy it again without what surrounds it",
            Exit.AUTHENTICATION,
            "set it again: export KIE_API_KEY=..., then: kie credits",
        ) from None


def _repr(value: object) -> str:
    try:
        return f"{value!r:.60}"
    except ValueError:  # TOML has hexadecimal numbers that Python does not write as decimals
        return "so large a number"


def _checked(path: Path, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the file's values, each one's type looked at."""
    shown = clean(path, 2000)
    for name in raw:
        if name not in SETTINGS:
            raise Refused(
                f"{shown} has {clean(name)!r}, which is no setting{nearest(name, SETTINGS)}",
                Exit.USAGE,
                "correct the file; the settings are listed by: KIE_CONFIG=/dev/null kie config",
            )
    return {name: _parsed(SETTINGS[name], raw[name], f"{name} in {shown}") for name in raw}


def _read(path: Path, *, needed: bool) -> Mapping[str, Any] | None:
    """Return the file's content, or None if there is none."""
    shown = clean(path, 2000)
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            text = file.read(MOST_READ + 1)
    except FileNotFoundError:
        if not needed:
            return None
        raise Refused(
            f"KIE_CONFIG names {shown}, and there is no such file",
            Exit.USAGE,
            "make it, or: unset KIE_CONFIG",
        ) from None
    except OSError as error:
        raise Refused(
            f"cannot read {shown}: {error.strerror}", Exit.USAGE, "correct it, or: unset KIE_CONFIG"
        ) from None
    try:
        if len(text) > MOST_READ:
            raise ValueError("it is too long for a file of settings")
        raw = tomllib.loads(text.decode())
    except (ValueError, RecursionError) as error:  # a decoding error is a ValueError too
        raise Refused(
            f"cannot read {shown}: {_reason(error)}", Exit.USAGE, "it is TOML: name = value a line"
        ) from None
    if "api_key" in raw:
        _check_private(shown, status)
    return raw


def _reason(error: Exception) -> str:
    """Say where TOML stopped; the text of the file, which may hold a key, is not shown."""
    if isinstance(error, tomllib.TOMLDecodeError):
        _, _, place = str(error).rpartition("(at ")
        return f"it is no TOML at {place.rstrip(')')}" if place else "it is no TOML"
    if isinstance(error, UnicodeDecodeError):
        return "it is no UTF-8"
    return "it is too long" if isinstance(error, ValueError) else "it is nested too deeply"


def _check_private(shown: str, status: os.stat_result) -> None:
    """Refuse a key that others can read, as ssh does."""
    quoted = f"'{shown}'" if " " in shown else shown
    if os.name != "posix":
        raise Refused(
            f"{shown} holds api_key, and this system cannot show that nobody else reads it",
            Exit.AUTHENTICATION,
            "take it out, and set the environment variable KIE_API_KEY",
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise Refused(
            f"{shown} holds api_key, and others may read or write it (mode {mode:04o})",
            Exit.AUTHENTICATION,
            f"chmod 600 {quoted}",
        )
    if status.st_uid not in (os.geteuid(), 0):
        raise Refused(
            f"{shown} holds api_key, and belongs to another user",
            Exit.AUTHENTICATION,
            f"make it your own: chown $(id -u) {quoted}",
        )
