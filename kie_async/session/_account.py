"""What a session does with the account itself: balance, addresses, uploads."""

from __future__ import annotations

import asyncio
import ipaddress
import mimetypes
import os
from pathlib import Path
from urllib.parse import urlsplit

from kie_async.errors import UsageError
from kie_async.models import UploadedFile
from kie_async.protocol import (
    MAX_UPLOAD,
    Request,
    credits_request,
    read_credits,
    read_upload,
    upload_bytes_request,
    upload_url_request,
)
from kie_async.session._engine import SHORT_DEADLINE, Engine

__all__ = ["AccountCalls", "on_this_machine", "upload_host"]

UPLOAD_URL = "https://kieai.redpandaai.co"

UPLOAD_DEADLINE = 600.0
"""Seconds for an upload, by default: a hundred megabytes on a slow line."""
FOLDER = "kie-async"
"""Where uploads go if nothing is said."""


class AccountCalls:
    """The calls of a session that create no task and cost nothing."""

    _engine: Engine

    async def get_credits(self, *, timeout: float = SHORT_DEADLINE) -> float:
        """Return the account's balance in credits; one is half a US cent."""
        return await self._engine.call(credits_request(), read_credits, timeout)

    async def get_download_url(self, url: str, *, timeout: float = SHORT_DEADLINE) -> str:
        """Return an address for a result that works for 20 minutes."""
        return await self._engine.get_download_url(url, timeout)

    async def upload_file(
        self,
        path: Path | str,
        *,
        folder: str = FOLDER,
        file_name: str | None = None,
        timeout: float = UPLOAD_DEADLINE,
    ) -> UploadedFile:
        """Upload a file of at most 100 MB; its ``download_url`` goes into an input.

        Kie deletes uploads after one to three days (the documents differ).  A name that
        exists in the folder is overwritten.  Safe to repeat: an upload is free.

        Raises:
            UsageError: It is no readable file, empty or too large; nothing was sent.
            KieError: The upload host refused, or could not be reached.
        """
        source = Path(path)

        def read() -> bytes | None:
            try:
                if source.stat().st_size > MAX_UPLOAD:
                    raise UsageError(f"{source} has more than {MAX_UPLOAD} bytes: use upload_url")
                return source.read_bytes()
            except OSError:
                return None

        data = await asyncio.to_thread(read)
        if data is None:
            raise UsageError(f"{source} cannot be read")
        return await self.upload_bytes(
            data, file_name or source.name, folder=folder, timeout=timeout
        )

    async def upload_bytes(
        self,
        data: bytes,
        file_name: str,
        *,
        folder: str = FOLDER,
        timeout: float = UPLOAD_DEADLINE,
    ) -> UploadedFile:
        """Upload bytes under a name; as :meth:`upload_file`."""
        mime_type = mimetypes.guess_type(file_name)[0] or "application/octet-stream"
        request = upload_bytes_request(data, file_name, folder=folder, mime_type=mime_type)
        return await self._upload(request, timeout)

    async def upload_url(
        self,
        url: str,
        *,
        folder: str = FOLDER,
        file_name: str | None = None,
        timeout: float = UPLOAD_DEADLINE,
    ) -> UploadedFile:
        """Let Kie fetch a file from *url*; as :meth:`upload_file`."""
        return await self._upload(
            upload_url_request(url, folder=folder, file_name=file_name), timeout
        )

    async def _upload(self, request: Request, timeout: float) -> UploadedFile:
        return await self._engine.call(request, read_upload, timeout, request_timeout=timeout)


def upload_host(given: str | None, base_url: str) -> str:
    """Return the upload host: an emulator serves it too, Kie has another one for it."""
    named = given or os.environ.get("KIE_UPLOAD_URL")
    if named:
        return named
    return base_url if on_this_machine(base_url) else UPLOAD_URL


def on_this_machine(url: str) -> bool:
    """True for an address on loopback: an emulator's, whose results are here too."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
