"""Uploads: base64, multipart and by URL, answered alike (as captured)."""

from __future__ import annotations

import base64
import binascii
import datetime
import json
import mimetypes
import re

from attrs import define, field

from kie_async.emulator._messages import Answer, Request, blob

__all__ = ["UPLOAD_ROUTES", "Uploads"]

UPLOAD_ROUTES = ("file-base64-upload", "file-stream-upload", "file-url-upload")
# What stands for a file elsewhere: the emulator sends nothing to the network.
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAA"
    "AABJRU5ErkJggg=="
)
SUCCESS = "File uploaded successfully"


@define
class Uploads:
    """The files that were uploaded, by their path.

    Args:
        uid: The account's number in every path.
        files: Data and media type of each, and when it goes.
        life: Seconds that a file is kept: 24 hours or 3 days, the documents differ.
    """

    uid: str
    life: float = 86_400.0
    files: dict[str, tuple[bytes, str, float]] = field(factory=dict)

    def answer(
        self, request: Request, origin: str, api_key: str, now: float, unix: float
    ) -> Answer:
        """Store what a request brings, and answer it."""
        if request.headers.get("authorization") != f"Bearer {api_key}":
            return _refusal(401, "Authentication failed: Invalid API Key")
        if request.method != "POST":
            return _refusal(405, "Method not allowed")
        try:
            fields, data, name = _read(request)
        except (ValueError, binascii.Error):
            return _refusal(500, "Server exception, please try again later")
        if "missing" in fields:
            return _refusal(400, f"Missing required parameter: {fields['missing']}")
        folder = fields["uploadPath"].strip("/")
        name = fields.get("fileName") or name or f"{len(self.files):08x}.png"
        path = f"kieai/{self.uid}/{folder}/{name.rpartition('/')[2]}"
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        self.files[path] = (data, kind, now + self.life)
        stored = {
            "success": True,
            "fileName": name.rpartition("/")[2],
            "filePath": path,
            "downloadUrl": f"{origin}/files/{path}",
            "fileSize": len(data),
            "mimeType": kind,
            "uploadedAt": datetime.datetime.fromtimestamp(unix, datetime.UTC).isoformat(),
        }
        told = {"success": True, "code": 200, "msg": SUCCESS, "data": stored}
        return Answer(body=blob(told))


def _refusal(code: int, msg: str) -> Answer:
    return Answer(body=blob({"success": False, "code": code, "msg": msg}))


def _read(request: Request) -> tuple[dict[str, str], bytes, str]:
    """Return the fields, the data and the name that a request brings."""
    if request.route == "file-stream-upload":
        fields, data, name = _multipart(request)
        return _complete(fields, ("file", "uploadPath")), data, name
    sent = json.loads(request.body)
    if not isinstance(sent, dict):
        raise ValueError("not an object")
    fields = {name: str(value) for name, value in sent.items() if value not in (None, "")}
    if request.route == "file-url-upload":
        fields = _complete(fields, ("fileUrl", "uploadPath"))
        return fields, PIXEL, fields.get("fileUrl", "").partition("?")[0].rpartition("/")[2]
    fields = _complete(fields, ("base64Data", "uploadPath"))
    text = fields.pop("base64Data", "")
    return fields, base64.b64decode(text.partition(",")[2] or text, validate=True), ""


def _complete(fields: dict[str, str], wanted: tuple[str, ...]) -> dict[str, str]:
    missing = next((name for name in wanted if name not in fields), None)
    return fields if missing is None else {"missing": missing}


def _multipart(request: Request) -> tuple[dict[str, str], bytes, str]:
    kind = request.headers.get("content-type", "")
    found = re.search(r'boundary="?([^";]+)', kind)
    if found is None:
        raise ValueError("no boundary")
    fields, data, filename = {}, b"", ""
    for part in (b"\r\n" + request.body).split(b"\r\n--" + found[1].encode())[1:]:
        head, _, body = part.partition(b"\r\n\r\n")
        name = _parameter(head, "name")
        if name == "file":
            data, filename = body, _parameter(head, "filename")
            fields["file"] = filename
        elif name:
            fields[name] = body.decode()
    return fields, data, filename


def _parameter(head: bytes, name: str) -> str:
    found = re.search(rf'[; ]{name}="([^"]*)"', head.decode("utf-8", "replace"))
    return found[1] if found else ""
