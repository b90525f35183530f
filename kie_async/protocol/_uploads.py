"""Build the requests of the upload host: a file's bytes, or an address to fetch it from."""

from __future__ import annotations

import hashlib
import json

from kie_async.errors import UsageError
from kie_async.protocol._messages import Request

__all__ = ["MAX_UPLOAD", "upload_bytes_request", "upload_url_request"]

MAX_UPLOAD = 100 * 2**20
"""Bytes of an upload, at most: what the documents advise for files from a URL."""


def upload_bytes_request(
    data: bytes, file_name: str, *, folder: str, mime_type: str = "application/octet-stream"
) -> Request:
    """Build a multipart upload of *data*.

    Raises:
        UsageError: It is empty or too large, or a name cannot stand in the form.
    """
    if not isinstance(data, bytes | bytearray | memoryview) or not len(data):
        raise UsageError("an upload needs bytes, and at least one")
    if len(data) > MAX_UPLOAD:
        raise UsageError(f"an upload has at most {MAX_UPLOAD} bytes; use upload_url for more")
    content = bytes(data)
    # A boundary that follows from the content cannot stand in it by chance or on purpose.
    boundary = f"kie-async-{hashlib.sha256(content).hexdigest()}"
    fields = {"uploadPath": _folder(folder), "fileName": _name(file_name)}
    head = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    head += (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; '
        f'filename="{_name(file_name)}"\r\nContent-Type: {_mime(mime_type)}\r\n\r\n'
    )
    return Request(
        method="POST",
        path="/api/file-stream-upload",
        body=head.encode() + content + f"\r\n--{boundary}--\r\n".encode(),
        host="upload",
        content_type=f"multipart/form-data; boundary={boundary}",
    )


def upload_url_request(url: str, *, folder: str, file_name: str | None = None) -> Request:
    """Build the request that lets Kie fetch a file from *url* (within 30 s, documented).

    Raises:
        UsageError: It is no http(s) URL, or a name cannot work.
    """
    if not isinstance(url, str) or not url.startswith(("https://", "http://")):
        raise UsageError("url must be an http(s) address")
    payload = {"fileUrl": url, "uploadPath": _folder(folder)}
    if file_name is not None:
        payload["fileName"] = _name(file_name)
    body = json.dumps(payload).encode()
    return Request(method="POST", path="/api/file-url-upload", body=body, host="upload")


def _name(text: object) -> str:
    bad = not isinstance(text, str) or not text or len(text) > 200 or not text.isprintable()
    if bad or set(str(text)) & set('"/\\') or text in {".", ".."}:
        raise UsageError(f"file_name must be a plain name without a path, not {text!r:.60}")
    return str(text)


def _folder(text: object) -> str:
    if not isinstance(text, str) or not text.isprintable() or '"' in text or "\\" in text:
        raise UsageError(f"folder must be a plain path such as 'images/mine', not {text!r:.60}")
    parts = [part for part in text.split("/") if part]
    if not parts or any(part in {".", ".."} for part in parts):
        raise UsageError(f"folder must be a plain path such as 'images/mine', not {text!r:.60}")
    return "/".join(parts)


def _mime(text: object) -> str:
    if not isinstance(text, str) or not text.isascii() or not text.isprintable() or ";" in text:
        raise UsageError(f"mime_type must be one such as 'image/png', not {text!r:.60}")
    return text
