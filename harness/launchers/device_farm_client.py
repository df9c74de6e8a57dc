"""AWS Device Farm as far as a run needs it: uploads, a pool of one device, a run, its artefacts. No thread, no session.

Requests and answers as in the API reference (https://docs.aws.amazon.com/devicefarm/latest/APIReference). Credentials
come from boto3's own chain and are never looked at here. Names and addresses that the service tells are checked before
they become files or connections.
"""

from __future__ import annotations

import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from profiler.errors import DeviceError
from profiler.files import printable

REGION = "us-west-2"
"""The only one where Device Farm is offered."""
MAX_ARTIFACTS = 500
MAX_ARTIFACT_BYTES = 256 * 1024 * 1024
MAX_TOTAL_BYTES = 1024 * 1024 * 1024
MAX_PAGES = 50
UPLOAD_PAUSE_S, RUN_PAUSE_S = 2.0, 15.0
MAX_UPLOAD_POLLS = 300
DONE = "COMPLETED"
ARTIFACT_TYPES = ("FILE", "LOG", "SCREENSHOT")
_CHUNK_BYTES = 1024 * 1024
_TIMEOUT_S = 60.0
_PRIVATE = re.compile(r"arn:aws[A-Za-z0-9:/_.+=,@-]*|\b\d{12}\b")
_STRANGE = re.compile(r"[^A-Za-z0-9_-]+")
_INSTALL = "Install it: pip install 'fedmeter[device-farm]'."
_CREDENTIALS = (
    "boto3 finds credentials in AWS_PROFILE, ~/.aws, or the environment; they must allow devicefarm:*. "
    "'aws sts get-caller-identity' tells whose they are."
)


class Transfer(Protocol):
    """How files go to and come from the addresses that the service signs."""

    def put(self, url: str, path: Path) -> None:
        """Raises OSError."""
        ...

    def get(self, url: str, path: Path, limit_bytes: int) -> int:
        """How many bytes came. Raises OSError, also where there are more than the limit."""
        ...


class HttpsTransfer:
    """Over HTTPS to hosts of these endings alone, whatever address was told; no redirect is followed."""

    def __init__(self, hosts: Sequence[str] = (".amazonaws.com",), context: ssl.SSLContext | None = None) -> None:
        self._hosts = tuple(hosts)
        https = urllib.request.HTTPSHandler(context=context or ssl.create_default_context())
        self._opener = urllib.request.build_opener(https, _NoRedirect)

    def put(self, url: str, path: Path) -> None:
        headers = {"Content-Length": str(path.stat().st_size), "Content-Type": "application/octet-stream"}
        with path.open("rb") as body:
            request = urllib.request.Request(self._checked(url), body, headers, method="PUT")
            self._opener.open(request, timeout=_TIMEOUT_S).close()

    def get(self, url: str, path: Path, limit_bytes: int) -> int:
        n_bytes = 0
        with self._opener.open(self._checked(url), timeout=_TIMEOUT_S) as answer, path.open("xb") as out:
            while chunk := answer.read(_CHUNK_BYTES):
                n_bytes += len(chunk)
                if n_bytes > limit_bytes:
                    raise OSError(f"more than {limit_bytes} bytes")
                out.write(chunk)
        return n_bytes

    def _checked(self, url: str) -> str:
        try:
            parts = urlsplit(url)
            host = parts.hostname or ""
        except ValueError:
            raise OSError("an address that is none") from None
        if parts.scheme != "https" or not host.endswith(self._hosts) or parts.username is not None:
            raise OSError(f"an address that is not the service's: {printable(host, 80)}")
        return url


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Finished:
    """A run as it is: `status` is COMPLETED at its end, with `result` PASSED, FAILED, STOPPED, ..."""

    status: str
    result: str
    minutes: float | None

    @property
    def is_done(self) -> bool:
        return self.status == DONE


def service(region: str = REGION) -> Any:
    """boto3's client. Raises DeviceError without boto3, or where it cannot be made."""
    try:
        import boto3
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise DeviceError("boto3 is not installed", remedy=_INSTALL) from None
    try:
        return boto3.client("devicefarm", region_name=region)
    except BotoCoreError as error:
        raise DeviceError(f"AWS: {_told(error)}", remedy=_CREDENTIALS) from None


class DeviceFarm:
    """One project of one account. `client` is boto3's; `wait` pauses, and says whether nobody waits any more."""

    def __init__(self, client: Any, transfer: Transfer, wait: Callable[[float], bool]) -> None:
        self._client = client
        self._transfer = transfer
        self._wait = wait

    def identify(self, project: str) -> bool:
        """Whether there is such a project: what can be asked without a cost. Raises DeviceError."""
        return self._project(project) is not None

    def project(self, name: str) -> str:
        """The ARN of the project, made where there is none of that name. Raises DeviceError."""
        return self._project(name) or str(self._call("create_project", name=name)["project"]["arn"])

    def _project(self, name: str) -> str | None:
        return next((str(one["arn"]) for one in self._pages("list_projects", "projects") if one["name"] == name), None)

    def upload(self, project: str, path: Path, kind: str) -> str:
        """Bring a file there and wait until the service has looked at it; its ARN. Raises DeviceError."""
        made = self._call("create_upload", projectArn=project, name=path.name, type=kind)["upload"]
        try:
            self._transfer.put(str(made["url"]), path)
        except OSError as error:
            raise DeviceError(f"{path.name} cannot be uploaded: {_told(error)}", remedy="Check the network.") from None
        arn = str(made["arn"])
        for _ in range(MAX_UPLOAD_POLLS):
            now = self._call("get_upload", arn=arn)["upload"]
            if now["status"] == "SUCCEEDED":
                return arn
            if now["status"] == "FAILED":
                told = printable(str(now.get("message") or now.get("metadata") or "no reason given"), 300)
                raise DeviceError(f"{path.name} was refused: {told}", remedy=f"Check that it is a {kind}.")
            if self._wait(UPLOAD_PAUSE_S):
                raise DeviceError(f"{path.name}: nobody waits for the upload any more")
        raise DeviceError(f"{path.name} was not looked at in time", remedy="Try again later.")

    def pool(self, project: str, name: str, models: Sequence[str]) -> str:
        """A pool that gives one device of these models; its ARN. Raises DeviceError."""
        quoted = ", ".join(f'"{model}"' for model in models)  # which patterns keep from holding a quote
        rules = [
            {"attribute": "PLATFORM", "operator": "EQUALS", "value": '"ANDROID"'},
            {"attribute": "MODEL", "operator": "IN", "value": f"[{quoted}]"},
        ]
        made = self._call("create_device_pool", projectArn=project, name=name, rules=rules, maxDevices=1)
        return str(made["devicePool"]["arn"])

    def start(self, request: Mapping[str, Any]) -> str:
        """Schedule a run; its ARN. From now on it costs. Raises DeviceError."""
        return str(self._call("schedule_run", **request)["run"]["arn"])

    def look(self, run: str) -> Finished:
        """Raises DeviceError."""
        told = self._call("get_run", arn=run)["run"]
        minutes = told.get("deviceMinutes", {}).get("total")
        return Finished(str(told["status"]), str(told.get("result", "PENDING")), minutes)

    def stop(self, run: str) -> None:
        """Raises DeviceError."""
        self._call("stop_run", arn=run)

    def delete(self, *, pool: str | None, uploads: Sequence[str]) -> None:
        """What was made for one run. Raises DeviceError."""
        if pool is not None:
            self._call("delete_device_pool", arn=pool)
        for upload in uploads:
            self._call("delete_upload", arn=upload)

    def artifacts(self, run: str, folder: Path) -> list[str]:
        """Bring what the run has left into `folder`, which is made; a line for each that was left out."""
        left_out: list[str] = []
        folder.mkdir(exist_ok=True)
        n, left_bytes = 0, MAX_TOTAL_BYTES
        for kind in ARTIFACT_TYPES:
            for told in self._pages("list_artifacts", "artifacts", arn=run, type=kind):
                n += 1
                if n > MAX_ARTIFACTS:
                    return [*left_out, f"more than {MAX_ARTIFACTS} artefacts"]
                name = file_name(n, told)
                try:
                    limit_bytes = min(left_bytes, MAX_ARTIFACT_BYTES)
                    left_bytes -= self._transfer.get(str(told.get("url", "")), folder / name, limit_bytes)
                except OSError as error:
                    (folder / name).unlink(missing_ok=True)
                    left_out.append(f"{name}: {_told(error)}")
        return left_out

    def _pages(self, operation: str, key: str, **request: Any) -> Iterator[Mapping[str, Any]]:
        for _ in range(MAX_PAGES):
            answer = self._call(operation, **request)
            yield from answer.get(key, ())
            if not answer.get("nextToken"):
                return
            request["nextToken"] = answer["nextToken"]

    def _call(self, operation: str, **request: Any) -> Mapping[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer: Mapping[str, Any] = getattr(self._client, operation)(**request)
        except (BotoCoreError, ClientError) as error:
            raise DeviceError(f"{operation}: {_told(error)}", remedy=_CREDENTIALS) from None
        return answer


def file_name(n: int, told: Mapping[str, Any]) -> str:
    """A name of ours for an artefact: its number, and of the name that was told what can harm nobody."""
    name, extension = (_STRANGE.sub("-", str(told.get(key, "")))[:60].strip("-") for key in ("name", "extension"))
    return f"{n:03d}-{name or 'artefact'}.{extension or 'bin'}"


def _told(error: Exception) -> str:
    """What AWS, or the network, says, without account numbers and names of resources; signed addresses are no part."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP status {error.code}"
    return printable(_PRIVATE.sub("(hidden)", " ".join(str(error).split())), 300)
