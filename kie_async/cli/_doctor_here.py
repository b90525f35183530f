"""What ``kie doctor`` looks at on this machine: versions, settings, directories."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

import kie_async
from kie_async.cli._config import KIE, SETTINGS, Config, nearest
from kie_async.cli._doctor_says import Finding, fail, ok, skip, warn
from kie_async.cli._escape import clean
from kie_async.cli._exits import Refused

__all__ = ["extras", "file_system", "journals", "limits", "settings", "versions"]

PACKAGE = "kie_async"
KNOWN_VARIABLES = {"KIE_CONFIG", "KIE_HMAC_KEY"}
SHARED = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "vboxsf"}
"""File systems over a network: SQLite's locks and syncs cannot be relied upon there."""
FLEETING = {"tmpfs", "ramfs"}
LITTLE = 200 * 2**20
MOUNTS = Path("/proc/self/mountinfo")


def versions() -> Finding:
    """Tell the versions of what takes part."""
    told = [f"{PACKAGE} {kie_async.__version__}", f"Python {platform.python_version()}"]
    told += [f"{name} {_version(name)}" for name in ("aiohttp", "click", "rich")]
    return ok("versions", ", ".join([*told, f"{platform.system()} {platform.machine()}"]))


def extras() -> Finding:
    """Tell which extras are there: those whose packages are all installed."""
    try:
        about = metadata.metadata(PACKAGE)
    except metadata.PackageNotFoundError:
        return skip("extras", f"{PACKAGE} runs from its source and is not installed")
    there: list[str] = []
    missing: list[str] = []
    for extra in about.get_all("Provides-Extra") or []:
        needed = [
            re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0]
            for text in about.get_all("Requires-Dist") or []
            if re.search(rf"extra\s*==\s*['\"]{re.escape(extra)}['\"]", text)
        ]
        (there if all(map(_version, needed)) else missing).append(extra)
    told = f"{', '.join(there) or 'none'}"
    return ok("extras", told + (f"; not installed: {', '.join(missing)}" if missing else ""))


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def settings(config: Config) -> Iterator[Finding]:
    """Tell where settings come from, and whether the API is Kie's own."""
    changed = []
    for name in SETTINGS:
        try:
            value = config.get(name)
        except Refused as refused:
            yield fail("settings", str(refused), refused.step)
            continue
        if value.source != "default" and name != "api_key":
            changed.append(f"{name} ({value.source})")
    file = f"{clean(config.path, 2000)} {'read' if config.exists else 'not there'}"
    yield ok("settings", f"{', '.join(changed) or 'all defaults'}; file: {file}")
    known = {setting.env for setting in SETTINGS.values()} | KNOWN_VARIABLES
    for name in sorted(config.environ):
        if name.startswith("KIE_") and name not in known:
            told = f"the variable {clean(name)} is read by nothing{nearest(name, known)}"
            yield warn("settings", told, f"unset {clean(name)}")


def address(url: str, *, here: bool) -> Finding:
    """Say whose API it is."""
    if url == KIE:
        return ok("base URL", f"{url}, Kie's own")
    if here:
        return warn(
            "base URL",
            f"{url}: this machine, an emulator; nothing there is real or paid",
            "for the real one: unset KIE_BASE_URL (see kie config)",
        )
    return warn(
        "base URL", f"{url} is not {KIE}: your key is sent there", "is that meant? See: kie config"
    )


def limits(values: Mapping[str, object]) -> Finding:
    """Tell what is sent at most."""
    creates, polls = (str(values[name]).split("/") for name in ("create_rate", "poll_rate"))
    return ok(
        "limits",
        f"{creates[0]} creates in any {creates[1]} s, {values['max_concurrency']} at once; "
        f"{polls[0]} polls in {polls[1]} s; failed creates: {values['create_retry']}",
    )


def journals(directory: Path) -> Iterator[Finding]:
    """Tell whether a journal can be kept in *directory*, and is safe there."""
    shown = clean(directory.absolute(), 2000)
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"kie")
            file.flush()
            os.fsync(file.fileno())
        free = shutil.disk_usage(directory).free
    except OSError as error:
        told = f"{shown} cannot be written to: {error.strerror}"
        yield fail("journals", told, "put journals elsewhere: kie bulk --journal PATH")
        return
    kind = file_system(directory)
    told = f"{shown} can be written to, {free / 2**30:.1f} GiB free" + (f", {kind}" if kind else "")
    base = kind.partition(".")[0]
    if kind in SHARED or (base == "fuse" and kind != "fuse.fuseblk"):
        yield warn(
            "journals",
            f"{told}: a network or shared file system may lose a journal's locks and writes",
            "keep journals on a local disk: kie bulk --journal PATH",
        )
    elif kind in FLEETING:
        yield warn(
            "journals",
            f"{told}: it is memory, and a restart of the machine takes the journal",
            "keep journals on a disk: kie bulk --journal PATH",
        )
    elif free < LITTLE:
        yield warn("journals", told, "make room: a million tasks need about 1 GiB")
    else:
        yield ok("journals", told)


def file_system(directory: Path, mounts: Path = MOUNTS) -> str:
    """Return the type of the file system that *directory* is on, or "" if nothing tells."""
    try:
        where = str(directory.resolve())
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4])
        inside = where == point or where.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # of two on one place, the later one counts
            best, kind = point, after.split(" ")[0]
    return kind
