"""Our packages on a device, beside what the interpreter there has: the wheel of this very version, and what it needs.

Torch, or whatever else trains, is the device's own and is never installed. What the device has in a version that will
do is left alone; what is missing goes into our folder, which no other program there sees.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.launchers.remote import Answer, RemoteConnection
from profiler.errors import PreconditionError
from profiler.files import printable

PACKAGES = ("profiler", "fl")
OLDEST_PYTHON = (3, 10)
OLDEST = {"grpcio": (1, 60), "protobuf": (5, 28), "psutil": (5, 9), "numpy": (1, 26)}
NEEDED_BYTES, NEEDED_WITH_PACKAGES_BYTES = 32 * 1024 * 1024, 512 * 1024 * 1024
MAX_WHEEL_BYTES = 1024 * 1024 * 1024
LOOK_TIMEOUT_S, INSTALL_TIMEOUT_S = 60.0, 1800.0
_EXCHANGES = 5
_CHUNK_BYTES = 1024 * 1024
_LEFT_OUT = frozenset({"__pycache__", "android"})  # the Java client is no client in Python's
_EPOCH = (1980, 1, 1, 0, 0, 0)  # of all files, so that the same packages give the same wheel


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel in memory: ours is some hundred kB. `beside` are packages that it needs in one version, by name."""

    name: str
    content: bytes
    beside: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """Version and content: two states of one version are two places on a device; so are other versions beside."""
        _, version, *_ = self.name.split("-")
        own = f"fedmeter-{version}-{hashlib.sha256(self.content).hexdigest()[:12]}"
        return "-".join((own, *(f"{package}{release}" for package, release in self.beside)))


@dataclass(frozen=True, slots=True)
class Place:
    """What there is on a device. `clock_offset_s`: bounds of its wall clock less this machine's."""

    python: tuple[int, int, int]
    executable: str
    machine: str
    folder: str
    site: str
    is_there: bool
    packages: Mapping[str, str | None]
    has_pip: bool
    free_bytes: int
    came_from: str
    clock_offset_s: tuple[float, float]

    @classmethod
    def of(cls, answer: Answer, clock_offset_s: tuple[float, float]) -> Place:
        """Raises KeyError, TypeError or ValueError where it is no such answer."""
        major, minor, micro = (int(part) for part in answer["python"])
        return cls(
            python=(major, minor, micro),
            executable=str(answer["executable"]),
            machine=printable(str(answer["machine"]), 64),
            folder=str(answer["folder"]),
            site=str(answer["site"]),
            is_there=answer["is_there"] is True,
            packages={name: version and str(version)[:64] for name, version in dict(answer["packages"]).items()},
            has_pip=answer["has_pip"] is True,
            free_bytes=int(answer["free_bytes"]),
            came_from=str(answer["came_from"])[:64],
            clock_offset_s=clock_offset_s,
        )

    @property
    def environment(self) -> dict[str, str]:
        """What a Python of the device needs to find our packages."""
        return {"PYTHONPATH": self.site, "PYTHONUNBUFFERED": "1"}

    def facts(self) -> dict[str, Any]:
        """For the device's file."""
        low_s, high_s = self.clock_offset_s
        return {
            "python": ".".join(map(str, self.python)),
            "interpreter": printable(self.executable),
            "architecture": self.machine,
            "packages": self.site.rpartition("/")[2],
            "clock_offset_low_s": round(low_s, 6),
            "clock_offset_high_s": round(high_s, 6),
        }


# --- the wheel -------------------------------------------------------------------------------------------------------


def own_wheel() -> Wheel:
    """The device half of the packages that run here, changes that nobody has committed included.

    Format: PyPA, "Binary distribution format". Raises PreconditionError where fedmeter is not installed.
    """
    try:
        installed = distribution("fedmeter")
    except PackageNotFoundError:
        raise PreconditionError(
            "fedmeter is not installed here, so that there is nothing to bring to devices.",
            remedy="Install it (pip install --editable .), or name a wheel in the fleet file.",
        ) from None
    name = f"fedmeter-{installed.version}"
    members = {f"{package}/{path}": content for package in PACKAGES for path, content in _sources(package)}
    return Wheel(f"{name}-py3-none-any.whl", packed(name, {**members, **_metadata(installed, f"{name}.dist-info")}))


def read_wheel(path: Path) -> Wheel:
    """Raises PreconditionError."""
    if not re.fullmatch(r"fedmeter-[A-Za-z0-9.!+_]+-py3-none-any\.whl", path.name):
        raise PreconditionError(f"{path} is no wheel of fedmeter's: fedmeter-VERSION-py3-none-any.whl.")
    try:
        if path.stat().st_size > MAX_WHEEL_BYTES:
            raise PreconditionError(f"{path} is larger than {MAX_WHEEL_BYTES} bytes: no wheel of fedmeter's.")
        content = path.read_bytes()
    except OSError as error:
        raise PreconditionError(f"{path} cannot be read: {error.strerror}.") from None
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise PreconditionError(f"{path} is damaged: no zip archive.", remedy="Build it again.")
    return Wheel(path.name, content)


def packed(name: str, members: Mapping[str, bytes]) -> bytes:
    """A wheel of these members, with the list of them that the format wants."""
    record = f"{name}.dist-info/RECORD"
    lines = [f"{path},sha256={_digest(content)},{len(content)}" for path, content in sorted(members.items())]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, content in [*sorted(members.items()), (record, "\n".join([*lines, f"{record},,", ""]).encode())]:
            member = zipfile.ZipInfo(path, _EPOCH)
            member.external_attr = 0o644 << 16
            archive.writestr(member, content, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")


def _sources(package: str) -> Iterator[tuple[str, bytes]]:
    spec = find_spec(package)
    for location in (spec and spec.submodule_search_locations) or ():
        folder = Path(location)
        for path in folder.rglob("*"):
            if path.is_file() and _LEFT_OUT.isdisjoint(path.parts):
                yield path.relative_to(folder).as_posix(), path.read_bytes()


def _metadata(installed: Distribution, folder: str) -> dict[str, bytes]:
    generator = "Wheel-Version: 1.0\nGenerator: fedmeter\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    texts = {name: installed.read_text(name) or "" for name in ("METADATA", "entry_points.txt")}
    return {f"{folder}/{name}": text.encode() for name, text in {**texts, "WHEEL": generator}.items()}


# --- looking, installing ---------------------------------------------------------------------------------------------


def look(connection: RemoteConnection, folder: str, wheel: Wheel, clock: Any) -> Place:
    """What the device has. `clock()` is this machine's wall clock in seconds. Raises DeviceError."""
    packages = [*OLDEST, "torch", "tomli", *dict(wheel.beside)]
    request = {"do": "look", "folder": folder, "name": wheel.label, "packages": packages}
    running = connection.command(request, isolated=False)
    try:
        answer = connection.checked("look", _received(running, LOOK_TIMEOUT_S), running)
        bounds = []
        for _ in range(_EXCHANGES):
            before_s = clock()
            running.send(b"\n")
            told = connection.checked("look", _received(running, LOOK_TIMEOUT_S), running)
            bounds.append((float(told["clock_s"]) - clock(), float(told["clock_s"]) - before_s))
        return Place.of(answer, min(bounds, key=lambda bound: bound[1] - bound[0]))
    except (KeyError, TypeError, ValueError) as error:
        raise connection.failure("look", f"it answered nonsense: {error!r}", "Check 'python'.") from None
    finally:
        connection.end(running)


def _received(running: Any, timeout_s: float) -> Answer | None:
    try:
        answer: Answer | None = running.receive(timeout_s)
    except TimeoutError:
        return None
    return answer


def check_place(connection: RemoteConnection, place: Place, wheel: Wheel) -> None:
    """Raises DeviceError where nothing of ours could run."""
    if place.python < OLDEST_PYTHON:
        raise connection.failure(
            "provision",
            f"Python {'.'.join(map(str, place.python))} at {place.executable} is too old: 3.10 is the oldest",
            "Set 'python' to a newer one. JetPack 4 and 5: run a container, or a foreign client.",
        )
    missing = requirements(place, wheel)
    if missing and not place.is_there and not place.has_pip:
        raise connection.failure(
            "provision",
            f"{place.executable} has no pip to install {', '.join(missing)}",
            "Install it (sudo apt install python3-pip), or those packages.",
        )
    needed_bytes = NEEDED_WITH_PACKAGES_BYTES if missing else NEEDED_BYTES
    if not place.is_there and place.free_bytes < needed_bytes:
        raise connection.failure(
            "provision",
            f"{place.free_bytes / 1e6:.0f} MB are free below {place.folder}, {needed_bytes / 1e6:.0f} MB are needed",
            "Free some, or set 'folder' to a place with more.",
        )


def requirements(place: Place, wheel: Wheel) -> list[str]:
    """What is to be installed there, as pip takes it.

    A numpy 1 is replaced by a numpy 1: what was built for it, such as a board's torch, does not load with numpy 2. Pip
    brings all that a package of `beside` needs, as if nothing were there.
    """
    wanted = [f"{name}=={version}" for name, version in wheel.beside if place.packages.get(name) != version]
    brings_all = bool(wanted)
    for name, oldest in OLDEST.items():
        version = place.packages.get(name)
        is_numpy_1 = name == "numpy" and version is not None and _release(version) < (2,)
        if version is None or _release(version) < oldest or (brings_all and is_numpy_1):
            cap = ",<2" if is_numpy_1 else ""
            wanted.append(f"{name}>={'.'.join(map(str, oldest))}{cap}")
    if place.python < (3, 11) and place.packages.get("tomli") is None:
        wanted.append("tomli>=2")
    return wanted


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def install(connection: RemoteConnection, place: Place, wheel: Wheel, wheelhouse: Path | None) -> None:
    """Bring our packages where they are not yet. Raises DeviceError, PreconditionError for a bad wheelhouse."""
    check_place(connection, place, wheel)
    if place.is_there:
        return
    missing = requirements(place, wheel)
    extra = wheels_in(wheelhouse) if missing and wheelhouse is not None else []
    request = {
        "do": "install",
        "site": place.site,
        "files": [_described(wheel.name, wheel.content), *(_described(path.name, path) for path in extra)],
        "requirements": missing,
        "offline": wheelhouse is not None,
    }
    payload = _payload(wheel, extra)
    answer = connection.ask("provision", request, timeout_s=INSTALL_TIMEOUT_S, payload=payload)
    if "pip_failed" in answer:
        raise _pip_failure(connection, missing, str(answer["pip_failed"]), wheelhouse)


def _pip_failure(
    connection: RemoteConnection, missing: Sequence[str], output: str, wheelhouse: Path | None
) -> PreconditionError:
    lines = [line for line in output.splitlines() if "ERROR" in line] or output.splitlines() or ["no reason given"]
    reason = f"pip cannot install {', '.join(missing)}: {lines[0].strip()[:300]}"
    if "No space left" in output:
        return connection.failure("provision", reason, "Free some, or set 'folder' to a place with more.")
    if wheelhouse is not None:
        remedy = f"Put wheels for that machine and Python into {wheelhouse} (pip download --platform ...)."
    else:
        remedy = "Check its way to the package index; without one, set 'wheelhouse' to a folder of wheels."
    return connection.failure("provision", reason, remedy)


def wheels_in(folder: Path) -> list[Path]:
    """Raises PreconditionError where there are none, or more than a device should be sent."""
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise PreconditionError(f"wheelhouse {folder}: no wheels there.", remedy=f"pip download -d {folder} fedmeter")
    if sum(path.stat().st_size for path in wheels) > MAX_WHEEL_BYTES:
        raise PreconditionError(f"wheelhouse {folder}: more than {MAX_WHEEL_BYTES} bytes of wheels.")
    return wheels


def _described(name: str, content: bytes | Path) -> dict[str, Any]:
    if isinstance(content, bytes):
        return {"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    digest = hashlib.sha256()
    for chunk in _chunks(content):
        digest.update(chunk)
    return {"name": name, "bytes": content.stat().st_size, "sha256": digest.hexdigest()}


def _payload(wheel: Wheel, extra: Sequence[Path]) -> Iterator[bytes]:
    yield wheel.content
    for path in extra:
        yield from _chunks(path)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
