"""Uploads: the forms that are sent, and what is refused before."""

from __future__ import annotations

import email
import email.policy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async.errors import UsageError
from kie_async.protocol import MAX_UPLOAD, upload_bytes_request, upload_url_request


def parts(request) -> dict[str, bytes]:
    """Read a multipart form with another reader than our own writer."""
    head = f"Content-Type: {request.content_type}\r\n\r\n".encode()
    form = email.message_from_bytes(head + request.body, policy=email.policy.HTTP)
    found = {}
    for part in form.iter_parts():
        found[part.get_param("name", header="content-disposition")] = part.get_payload(decode=True)
    return found


@given(st.binary(min_size=1, max_size=2000))
def test_any_bytes_arrive_as_they_are(data):
    """Also such that look like a form of their own."""
    request = upload_bytes_request(data, "a.bin", folder="x/y")

    assert request.host == "upload"
    assert not request.paid
    assert request.body.count(data) >= 1
    boundary = request.content_type.partition("boundary=")[2].encode()
    assert request.body.split(b"\r\n\r\n", 3)[3] == data + b"\r\n--" + boundary + b"--\r\n"


def test_the_fields_are_the_documented_ones():
    """file, uploadPath without slashes around it, fileName."""
    found = parts(upload_bytes_request(b"data", "a.png", folder="/images/mine/"))

    assert found == {"uploadPath": b"images/mine", "fileName": b"a.png", "file": b"data"}


def test_a_url_is_handed_over():
    """As JSON; without a name Kie makes one."""
    request = upload_url_request("https://h/a.png", folder="x")

    assert json.loads(request.body) == {"fileUrl": "https://h/a.png", "uploadPath": "x"}
    assert request.path == "/api/file-url-upload"


@pytest.mark.parametrize(
    "make",
    [
        lambda: upload_bytes_request(b"", "a", folder="x"),
        lambda: upload_bytes_request("text", "a", folder="x"),
        lambda: upload_bytes_request(bytearray(MAX_UPLOAD + 1), "a", folder="x"),
        lambda: upload_bytes_request(b"d", "", folder="x"),
        lambda: upload_bytes_request(b"d", "a/b", folder="x"),
        lambda: upload_bytes_request(b"d", 'a"b', folder="x"),
        lambda: upload_bytes_request(b"d", "a\r\nb", folder="x"),
        lambda: upload_bytes_request(b"d", "..", folder="x"),
        lambda: upload_bytes_request(b"d", "a", folder=""),
        lambda: upload_bytes_request(b"d", "a", folder="../x"),
        lambda: upload_bytes_request(b"d", "a", folder="x\r\ny"),
        lambda: upload_bytes_request(b"d", "a", folder="x", mime_type="a\r\nb"),
        lambda: upload_url_request("ftp://h/a", folder="x"),
        lambda: upload_url_request("https://h/a", folder="x", file_name="a/b"),
    ],
)
def test_what_cannot_work_is_refused_before_it_is_sent(make):
    """No header or form can be injected by a name."""
    with pytest.raises(UsageError):
        make()
