"""Save results: whole or absent, under names of ours, never over something else."""

from __future__ import annotations

from kie_async.files._downloader import Downloader
from kie_async.files._names import check_template, file_name, safe_stem

__all__ = ["Downloader", "check_template", "file_name", "safe_stem"]
