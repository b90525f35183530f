"""Which result URLs are fetched at all: scheme, port, host, credentials."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urljoin

from yarl import URL

from kie_async.errors import DownloadError, UsageError

__all__ = ["Links", "host_names", "refused"]


class Links:
    """Reads URLs; what it returns is what is connected to, so there is no second reading.

    Args:
        hosts: Names that are allowed, with all names below them; None allows any.
        allow_private: Allow http and any port; the guard at the socket keeps that to
            private addresses.
    """

    def __init__(self, hosts: frozenset[str] | None, *, allow_private: bool) -> None:
        self._hosts = hosts
        self._allow_private = allow_private

    def read(self, text: str, *, base: URL | None = None) -> URL:
        """Return the URL to open.

        Raises:
            DownloadError: It is none, or not one that is fetched.
        """
        url = _parsed(text, base)
        if url is None:
            raise refused("it is no address")
        if url.scheme not in ("https", "http") or not url.raw_host:
            raise refused("only https is fetched")
        if url.raw_user is not None or url.raw_password is not None:
            raise refused("it holds credentials")
        self._check_port(url)
        if self._hosts is not None and not _listed(url.raw_host, self._hosts):
            raise refused(f"the host {url.raw_host} is not among those allowed")
        return url

    def _check_port(self, url: URL) -> None:
        if url.scheme == "http" and (url.port == 443 or not self._allow_private):
            raise refused("only https is fetched")
        if url.port != 443 and not self._allow_private:
            raise refused("only port 443 is used")


def _parsed(text: str, base: URL | None) -> URL | None:
    if not isinstance(text, str) or not text.isprintable() or "\\" in text or " " in text:
        return None
    try:
        if base is not None:
            text = urljoin(str(base), text)
        # A signature may cover the exact text: what is ASCII is sent as it is.
        url = URL(text, encoded=text.isascii())
        return url if url.port != 0 else None  # asking for the port checks it
    except (ValueError, TypeError):  # yarl says TypeError to some broken authorities
        return None


def host_names(hosts: Iterable[str] | None) -> frozenset[str] | None:
    """Return the allow-list in one form.

    Raises:
        UsageError: It is a text, or an entry is no plain host name.
    """
    if hosts is None:
        return None
    names = [] if isinstance(hosts, str) else [name.strip().lower().rstrip(".") for name in hosts]
    if not names or any(
        not name or not name.isascii() or set(name) & set("/:@ ") for name in names
    ):
        raise UsageError("hosts is a list of host names, such as ['example.com']")
    return frozenset(names)


def _listed(host: str, names: frozenset[str]) -> bool:
    """True if *host* is one of *names* or below one, label by label."""
    labels = host.lower().rstrip(".").split(".")
    return any(".".join(labels[start:]) in names for start in range(len(labels)))


def refused(why: str) -> DownloadError:
    """Return the error for a URL that is not fetched; the URL itself is not shown."""
    return DownloadError(f"a result URL is not fetched: {why}", retryable=False)
