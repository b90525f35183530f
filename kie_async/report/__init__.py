"""A journal as one page to look at: self-contained, from the disk, without a network.

:func:`gather` walks through a journal in bounded memory, :func:`add_thumbnails` makes small
pictures of the results on disk (with Pillow, if it is there), and :func:`build_page` returns
the page.
"""

from __future__ import annotations

from kie_async.report._gather import PICTURES, VIDEOS, Entry, Figures, Report, gather
from kie_async.report._page import MARK, build_page
from kie_async.report._thumbnails import add_thumbnails, can_make_thumbnails

__all__ = [
    "MARK",
    "PICTURES",
    "VIDEOS",
    "Entry",
    "Figures",
    "Report",
    "add_thumbnails",
    "build_page",
    "can_make_thumbnails",
    "gather",
]
