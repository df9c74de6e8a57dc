"""What the operating system lets one process have. Only mains and servers ask for more; a library's import does not."""

from __future__ import annotations

import logging
import sys

SPARE_FILES = 256  # records, logs, libraries, gRPC's own pipes

_log = logging.getLogger("fl")


def raise_open_files(wanted: int) -> int | None:
    """Raise this process's limit of open files to what it may have, and say how to get more where that is too few.

    Each client is one socket. Returns the limit that holds now, None where the system has none (getrlimit(2)).
    """
    if sys.platform == "win32":
        return None
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY in (soft, hard):
        return None
    if soft < hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (ValueError, OSError) as error:  # macOS has a second limit, kern.maxfilesperproc
            _log.info("the limit of open files stays at %d: %s", soft, error)
    if soft < wanted + SPARE_FILES:
        _log.warning(
            "at most %d open files: not enough for %d clients. Raise it with `ulimit -n`, LimitNOFILE= of the systemd"
            " unit, or /etc/security/limits.conf.",
            soft,
            wanted,
        )
    return soft
