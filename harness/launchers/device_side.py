"""What the ssh launcher does on a device, in the device's own interpreter: look around, install, run, supervise.

Sent as text, after which come a line of JSON that says what to do, and its payload; nothing of it is left there.
Standard library alone, and readable for Python 3.6, so that an interpreter that is too old can say so. Answers are
lines on stdout that begin with `MARK`: what a login shell prints besides is no answer. All else goes to stderr.
"""

import base64
import contextlib
import ctypes
import hashlib
import json
import os
import platform
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from typing import Any, Dict, List, Optional, Tuple

MARK = "fedmeter: "
COMPLETE = ".complete"
OUTPUT_BYTES = 200000
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
CUT_OFF_GRACE_S = 3.0
KEPT_S = 7 * 86400
MAX_SPOOL_BYTES, CHUNK_CHARS = 4 * 1024 * 1024, 256 * 1024
Request = Dict[str, Any]


def say(**answer: object) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(1, (MARK + json.dumps(answer) + "\n").encode())


def main(request: Request) -> None:
    """Carry out one request. What the machine refuses is an answer, too."""
    actions = {"look": look, "install": install, "run": run, "supervise": supervise}
    try:
        actions[request["do"]](request)
    except OSError as error:
        say(error=error.strerror or str(error), errno=error.errno, path=str(error.filename or ""))


# --- look ------------------------------------------------------------------------------------------------------------


def look(request: Request) -> None:
    """The interpreter, what of the named packages it has, and the place for ours; then its clock, a line for a line."""
    folder = os.path.abspath(os.path.expanduser(request["folder"]))
    os.makedirs(folder, mode=0o700, exist_ok=True)
    tag = "{}-cp{}{}-{}".format(request["name"], *sys.version_info[:2], platform.machine())
    site = os.path.join(folder, tag)
    say(
        python=list(sys.version_info[:3]),
        executable=sys.executable,
        machine=platform.machine(),
        system=platform.system(),
        folder=folder,
        site=site,
        is_there=os.path.exists(os.path.join(site, COMPLETE)),
        packages=dict((name, version_of(name)) for name in request["packages"]),
        has_pip=has_pip(),
        free_bytes=shutil.disk_usage(folder).free,
        came_from=os.environ.get("SSH_CONNECTION", "").split(" ")[0],
    )
    while sys.stdin.buffer.readline():
        say(clock_s=time.time())


def version_of(name: str) -> "Optional[str]":
    try:
        from importlib.metadata import PackageNotFoundError, version
    except ImportError:  # before Python 3.8
        return None
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def has_pip() -> bool:
    import importlib.util

    return importlib.util.find_spec("pip") is not None


# --- install ---------------------------------------------------------------------------------------------------------


def install(request: Request) -> None:
    """Unpack our wheel into a folder of its own, with what it needs beside it: all of it is there then, or none."""
    site = request["site"]
    sweep(os.path.dirname(site), ".partial-")
    partial = tempfile.mkdtemp(prefix=".partial-{}-".format(os.getpid()), dir=os.path.dirname(site))
    try:
        incoming, packages = os.path.join(partial, "incoming"), os.path.join(partial, "site")
        os.mkdir(incoming)
        paths = [receive(incoming, file) for file in request["files"]]
        with zipfile.ZipFile(paths[0]) as wheel:
            wheel.extractall(packages)
        if request["requirements"] and not pip_install(request, packages, incoming):
            return
        open(os.path.join(packages, COMPLETE), "w").close()
        try:
            os.rename(packages, site)
        except OSError:
            if not os.path.exists(os.path.join(site, COMPLETE)):  # nobody else was as fast
                raise
        say(installed=site)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def receive(folder: str, file: "Dict[str, Any]") -> str:
    """One file out of stdin. Raises OSError where it did not arrive as it was sent."""
    path = os.path.join(folder, os.path.basename(file["name"]))
    left, digest = file["bytes"], hashlib.sha256()
    with open(path, "wb") as out:
        while left:
            data = sys.stdin.buffer.read(min(left, 1 << 20))
            if not data:
                break
            digest.update(data)
            out.write(data)
            left -= len(data)
    if digest.hexdigest() != file["sha256"]:
        raise OSError(5, "did not arrive as it was sent", path)
    return path


def pip_install(request: Request, packages: str, incoming: str) -> bool:
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--no-cache-dir"]
    command += ["--quiet", "--prefer-binary", "--target", packages]
    if request["offline"]:
        command += ["--no-index", "--find-links", incoming]
    environment = dict(os.environ, TMPDIR=incoming)  # /tmp of a board is often a small RAM disk
    done = subprocess.run(
        command + request["requirements"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )
    if done.returncode:
        say(pip_failed=done.stdout.decode("utf-8", "replace")[-4000:])
    return done.returncode == 0


def sweep(folder: str, prefix: str) -> None:
    """Remove what processes that were killed have left: folders are named after who made them."""
    for name in os.listdir(folder):
        owner = name[len(prefix) :].split("-")[0]
        if name.startswith(prefix) and owner.isdigit() and not os.path.exists("/proc/" + owner):
            shutil.rmtree(os.path.join(folder, name), ignore_errors=True)


# --- run -------------------------------------------------------------------------------------------------------------


def run(request: Request) -> None:
    """A command, to its end; its output."""
    environment = dict(os.environ, **request["environment"])
    done = subprocess.run(
        request["command"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=environment,
        timeout=request["timeout_s"],
    )
    say(status=done.returncode, output=done.stdout.decode("utf-8", "replace")[:OUTPUT_BYTES])


# --- supervise -------------------------------------------------------------------------------------------------------


def supervise(request: Request) -> None:
    """Run a client for as long as stdin is open and somebody is heard there; leave neither process nor file behind.

    Its secrets are in files of a folder that only its user can read, which is gone when it ends.
    """
    folder, spool = request["folder"], request.get("spool")
    before = left_spool(spool, request.get("now_s"))
    sweep(folder, ".run-")
    own = tempfile.mkdtemp(prefix=".run-{}-".format(os.getpid()), dir=folder)
    orders = queue.SimpleQueue()  # type: queue.SimpleQueue[str]
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: orders.put("closed"))
    try:
        for name, content in request["files"].items():
            write_secret(os.path.join(own, os.path.basename(name)), base64.b64decode(content))
        environment = dict(os.environ, **request["environment"])
        if request["files"]:
            environment[request["files_variable"]] = own
        status, is_cut_off = supervised(request["command"], environment, own, orders, request["patience_s"])
    finally:
        shutil.rmtree(own, ignore_errors=True)
    hand_over(spool, before, is_cut_off)
    say(ended=status)
    os._exit(0)  # an orderly end would wait for the thread that reads stdin, and fail


def left_spool(path: "Optional[str]", now_s: "Optional[float]") -> bytes:
    """What an earlier client could not send; the place for the next one's, where those of long ago are removed.

    Of long ago by this clock and by that of whoever asks (`now_s`): this one may have been set since.
    """
    earlier_s = time.time() if now_s is None else min(now_s, time.time())
    if path is None:
        return b""
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    before = take_file(path)
    for name in os.listdir(folder):
        with contextlib.suppress(OSError):
            if earlier_s - os.path.getmtime(os.path.join(folder, name)) > KEPT_S:
                os.unlink(os.path.join(folder, name))
    return before


def take_file(path: str) -> bytes:
    """Its whole lines; it is gone then. Empty where there is none."""
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_SPOOL_BYTES)
        os.unlink(path)
    except OSError:
        return b""
    return content[: content.rfind(b"\n") + 1]


def hand_over(path: "Optional[str]", before: bytes, is_cut_off: bool) -> None:
    """Say what clients could not send, or leave it to whoever asks next, where nobody is there."""
    if path is None:
        return
    own = take_file(path)
    if is_cut_off and before + own:
        with contextlib.suppress(OSError):
            write_secret(path, (before + own)[:MAX_SPOOL_BYTES])
    if not is_cut_off:
        for which, content in (("before", before), ("own", own)):
            for start in range(0, len(content), CHUNK_CHARS):
                say(spool=content[start : start + CHUNK_CHARS].decode("ascii", "replace"), of=which)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(path))


def write_secret(path: str, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(content)


def supervised(
    command: "List[str]",
    environment: "Dict[str, str]",
    folder: str,
    orders: "queue.SimpleQueue[str]",
    patience_s: float,
) -> "Tuple[int, bool]":
    """The exit status, negative where a signal ended it, and whether nobody was heard any more."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=2,
        stderr=2,
        start_new_session=True,
        preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL),  # there is one thread as yet
    )
    say(started=process.pid)
    threading.Thread(target=listen, args=(orders,), daemon=True).start()
    threading.Thread(target=wait_for, args=(process, orders), daemon=True).start()
    grace_s, is_cut_off = wait_for_the_end(orders, patience_s)
    if grace_s is not None:
        signal_group(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    signal_group(process, signal.SIGKILL)
    status = process.wait()
    end_descendants()
    return status, is_cut_off


def wait_for_the_end(orders: "queue.SimpleQueue[str]", patience_s: float) -> "Tuple[Optional[float], bool]":
    """None once the client has ended by itself, else how long it may take to; and whether nobody is there."""
    while True:
        try:
            order = orders.get(timeout=patience_s)
        except queue.Empty:
            sys.stderr.write("supervisor: the connection is silent: ending the client\n")
            return CUT_OFF_GRACE_S, True
        if order == "ended":
            return None, False
        if order.startswith("stop "):
            return float(order[5:]), False
        if order == "closed":
            return CUT_OFF_GRACE_S, True


def listen(orders: "queue.SimpleQueue[str]") -> None:
    while True:
        line = sys.stdin.buffer.readline(100)
        orders.put(line.decode("ascii", "replace").strip() if line else "closed")
        if not line:
            return


def wait_for(process: "subprocess.Popen[bytes]", orders: "queue.SimpleQueue[str]") -> None:
    process.wait()
    orders.put("ended")


def signal_group(process: "subprocess.Popen[bytes]", number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def end_descendants() -> None:
    """Also those that left the group: whoever loses its parent becomes a child of this process."""
    for _ in range(1000):
        for pid in children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.01)
        except ChildProcessError:
            return


def children() -> "List[int]":
    own, found = str(os.getpid()), []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open("/proc/{}/stat".format(name)) as stat:
                if stat.read().rsplit(")", 1)[1].split()[1] == own:
                    found.append(int(name))
    return found


def prctl(option: int, value: int) -> None:
    if sys.platform in ("linux", "android"):
        ctypes.CDLL(None).prctl(option, value)


if __name__ == "__main__":
    main(json.loads(sys.stdin.buffer.readline().decode()))
