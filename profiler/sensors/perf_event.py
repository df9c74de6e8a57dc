"""perf_event_open(2), as far as an energy counter needs it: one event on one processor, counting all that runs there.

Neither Python nor a library of its own offers this system call. Numbers and layout: arch/x86/entry/syscalls/ and
include/uapi/linux/perf_event.h of the Linux kernel, which keeps both stable.
"""

from __future__ import annotations

import errno
import os
import platform
import struct
from collections.abc import Callable

OpenEvent = Callable[[int, int, int], int]
"""(type, config, cpu) to a descriptor that `read_event` reads. Raises OSError."""

_SYSCALLS = {("x86_64", 8): 298, ("x86_64", 4): 336, ("i386", 4): 336, ("i686", 4): 336}  # by machine, pointer bytes
# struct perf_event_attr, version 0 (64 bytes): type, size, config, sample_period, sample_type, read_format, flags,
# wakeup_events, bp_type, config1. Kernels of any age take it: `size` says which version it is.
_ATTR = struct.Struct("=IIQQQQQIIQ")
_READ_FORMAT_TIME_ENABLED = 1  # PERF_FORMAT_TOTAL_TIME_ENABLED
_FLAG_CLOEXEC = 8  # PERF_FLAG_FD_CLOEXEC
_READING = struct.Struct("=QQ")
_ALL_PROCESSES = -1
_NO_GROUP = -1


def attributes(event_type: int, config: int) -> bytes:
    """struct perf_event_attr of a plain counter that starts at once and is read with the time it was enabled."""
    return _ATTR.pack(event_type, _ATTR.size, config, 0, 0, _READ_FORMAT_TIME_ENABLED, 0, 0, 0, 0)


def open_event(event_type: int, config: int, cpu: int) -> int:
    """A descriptor of an event that counts for every process on one processor, closed on exec. Raises OSError.

    EACCES: kernel.perf_event_paranoid forbids it. EPERM or ENOSYS: a seccomp filter does, or there are no events.
    """
    import ctypes

    number = _SYSCALLS.get((platform.machine(), struct.calcsize("P")))
    if number is None:
        raise OSError(errno.ENOSYS, f"no perf_event_open known for {platform.machine()}")
    attr = ctypes.create_string_buffer(attributes(event_type, config), _ATTR.size)
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    file = syscall(
        ctypes.c_long(number),
        attr,
        ctypes.c_int(_ALL_PROCESSES),
        ctypes.c_int(cpu),
        ctypes.c_int(_NO_GROUP),
        ctypes.c_ulong(_FLAG_CLOEXEC),
    )
    if file < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(file)


def read_event(file: int) -> tuple[int, int]:
    """The count, and the nanoseconds the event has been counting. Raises OSError, or ValueError where it is dead.

    A perf descriptor has no position: read(2) gives the present count each time, pread(2) fails.
    """
    data = os.read(file, _READING.size)
    if len(data) != _READING.size:  # the kernel reads an event in its error state as the end of a file
        raise ValueError(f"{len(data)} bytes instead of a count")
    count, enabled_ns = _READING.unpack(data)
    return count, enabled_ns
