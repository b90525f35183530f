"""The Kie API's rules, without any I/O.

Builds the requests to send and reads the answers that come back.  It opens no socket,
reads no clock and imports no HTTP library.

What Kie documents and what it does differ; captures win.  Every refusal that was ever
captured came as HTTP 200 with a JSON envelope whose ``code`` is not 200, so the envelope
is judged first and the HTTP status only where there is none.
"""

from kie_async.protocol._create import CreateAnswer, Verdict, judge_create, judge_silence
from kie_async.protocol._messages import Request, Response
from kie_async.protocol._reads import (
    lacks_result,
    read_credits,
    read_download_url,
    read_task,
    read_upload,
)
from kie_async.protocol._requests import (
    callback_reference,
    create_task_request,
    credits_request,
    download_url_request,
    get_task_request,
    with_reference,
)
from kie_async.protocol._uploads import MAX_UPLOAD, upload_bytes_request, upload_url_request

__all__ = [
    "MAX_UPLOAD",
    "CreateAnswer",
    "Request",
    "Response",
    "Verdict",
    "callback_reference",
    "create_task_request",
    "credits_request",
    "download_url_request",
    "get_task_request",
    "judge_create",
    "judge_silence",
    "lacks_result",
    "read_credits",
    "read_download_url",
    "read_task",
    "read_upload",
    "upload_bytes_request",
    "upload_url_request",
    "with_reference",
]
