"""One connection to a device through the system's ssh: a master that carries commands and a reverse tunnel."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path

from harness.launchers.remote import END_S, RemoteConnection, Sink, Tail
from harness.launchers.ssh_options import SshOptions
from harness.launchers.tether import tethered

_POLL_S = 0.02
_NOTICE_S = 1.0

_KEYSCAN = (
    "Check its fingerprint by another way, then add it: ssh-keyscan HOST >> ~/.ssh/known_hosts; or accept_new = true"
)
# What ssh prints (OpenSSH 9.2, sshconnect.c and sshconnect2.c) -> what it means, and what to do.
_COMPLAINTS = (
    (
        "IDENTIFICATION HAS CHANGED",
        "its host key is not the one that is known",
        "Find out why before you go on: it may be another machine. A board that was set up anew: ssh-keygen -R HOST",
    ),
    ("host key is known for", "its host key is not known", _KEYSCAN),
    ("Host key verification failed", "its host key could not be verified", _KEYSCAN),
    (
        "Permission denied",
        "it refuses the key",
        "Put your public key there (ssh-copy-id HOST), and name it (identity = ...) or load it (ssh-add)",
    ),
    ("Could not resolve", "its name is not known", "Check 'host' in the fleet file"),
    ("Connection refused", "nothing listens there", "Check host and port, and that sshd runs there"),
    ("timed out", "it does not answer", "Check that it is up and reachable: ping HOST"),
    ("No route to host", "no way leads there", "Check that it is up and reachable: ping HOST"),
    ("Network is unreachable", "no way leads there", "Check this machine's network"),
    ("Bad owner or permissions", "ssh refuses a file of yours", "Make it yours alone: chmod 600 FILE"),
)


def explain(complaint: str) -> tuple[str, str]:
    """The reason and the remedy in what ssh has printed."""
    last = complaint.strip().splitlines()[-1] if complaint.strip() else "ssh ended without a word"
    for words, reason, remedy in _COMPLAINTS:
        if words in complaint:
            return f"{reason} ({last})", f"{remedy}."
    return f"ssh: {last}", "Try it by hand with 'ssh -v'."


class Connection(RemoteConnection):
    """`control` is the name of the master's socket, in a folder that only this user can look into."""

    def __init__(self, device: str, options: SshOptions, control: Path, sink: Sink) -> None:
        super().__init__(device, (options.python,), sink)
        self._options = options
        self._control = control
        self._master: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """Raises DeviceError. The process that holds the connection dies with this thread."""
        self._control.unlink(missing_ok=True)
        complaint = Tail()
        try:
            master = self._master = subprocess.Popen(
                tethered([*self._ssh("-N", "-o", "ControlMaster=yes", "-o", "ControlPersist=no"), self._options.host]),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise self.failure("connect", f"ssh cannot be started: {error}", "Install OpenSSH's client.") from None
        drain = threading.Thread(target=_drain, args=(master, complaint, self._sink), daemon=True)
        drain.start()
        # Name look-up, each hop's own time and the key exchange come on top of what ssh counts.
        until_s = time.monotonic() + 2 * self._options.connect_timeout_s
        while not self._control.exists() and master.poll() is None and time.monotonic() < until_s:
            if self._aborted.wait(_POLL_S):
                break
        if master.poll() is None and self._control.exists():
            return
        has_ended = master.poll() is not None
        self.close()
        drain.join(END_S)
        reason, remedy = explain(complaint.text if has_ended else "Connection timed out")
        raise self.failure("connect", f"{self._options.host}: {reason}", remedy.replace("HOST", self._options.host))

    def forward(self, address: str) -> int:
        forwarding = ["-O", "forward", "-R", f"127.0.0.1:0:{address}"]
        command = [*self._over_master(), *forwarding, self._options.host]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False)
        except subprocess.TimeoutExpired:
            raise self.failure("tunnel", "no answer", "Check the network.") from None
        told = done.stdout.decode(errors="replace").strip()
        if done.returncode or not told.isdigit():
            reason = done.stderr.decode(errors="replace")
            raise self.failure("tunnel", f"refused: {reason}", "Set AllowTcpForwarding yes in its sshd_config.")
        return int(told)

    def is_lost(self) -> bool:
        if self._master is None:
            return False
        try:
            self._master.wait(_NOTICE_S)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        """End the connection and all it carries; harmless where it has ended."""
        super().close()
        if self._master is not None:
            self._master.terminate()
            try:
                self._master.wait(END_S)
            except subprocess.TimeoutExpired:
                self._master.kill()
                self._master.wait()
        self._control.unlink(missing_ok=True)

    def _reaching(self, there: str) -> list[str]:
        return [*self._over_master(), "-T", self._options.host, there]

    def _explain(self, complaint: str) -> tuple[str, str]:
        return explain(complaint)

    def _ssh(self, *more: str) -> list[str]:
        return ["ssh", *self._options.ssh_arguments(), "-o", f"ControlPath={self._control}", *more]

    def _over_master(self) -> list[str]:
        """Without a master ssh would make a connection of its own, which nothing here knows of: it must not."""
        settings = (f"ControlPath={self._control}", "ControlMaster=no", "BatchMode=yes", "ProxyCommand=false")
        return ["ssh", "-F", "none", *(part for setting in settings for part in ("-o", setting))]


def _drain(master: subprocess.Popen[bytes], complaint: Tail, sink: Sink) -> None:
    stderr = master.stderr
    if stderr is not None:
        with stderr:
            while data := stderr.read1(65536):  # type: ignore[attr-defined]
                complaint.write(data)
                sink(data)
