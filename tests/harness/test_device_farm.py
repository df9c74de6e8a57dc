"""AWS Device Farm before botocore's own description of it (Stubber): each call and end, and no network."""

from __future__ import annotations

import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from fl.workload import Partition
from harness.device import DeviceSpec
from harness.launcher import JoinSpec
from harness.launchers.device_farm import DeviceFarmLauncher, FarmSession, cost_text
from harness.launchers.device_farm_client import DeviceFarm, HttpsTransfer, file_name, service
from harness.spec import Table
from profiler.errors import DeviceError, SpecError
from tests.harness.running import wait_until

boto3 = pytest.importorskip("boto3", reason="no boto3 here: pip install 'fedmeter[device-farm]'")
stub = pytest.importorskip("botocore.stub")

PREFIX = "arn:aws:devicefarm:us-west-2:123456789012"
PROJECT, POOL, RUN = (f"{PREFIX}:{kind}:0f1e2d3c-0000" for kind in ("project", "devicepool", "run"))
JOIN = JoinSpec("203.0.113.5:8443", "digits", Partition(shards=4))
URL = "https://prod.s3.us-west-2.amazonaws.com/x?signature=SECRET"


class Files:
    """A transfer that keeps what it was given, and gives what it holds."""

    def __init__(self, content: bytes = b"artefact") -> None:
        self.content = content
        self.sent: dict[str, bytes] = {}

    def put(self, url: str, path: Path) -> None:
        assert url == URL
        self.sent[path.name] = path.read_bytes()

    def get(self, url: str, path: Path, limit_bytes: int) -> int:
        if url != URL:
            raise OSError(f"no way to {url}")
        path.write_bytes(self.content)
        return len(self.content)


class Aws:
    """boto3's client with the answers that it will get, in their order."""

    def __init__(self) -> None:
        self.client = boto3.client(
            "devicefarm", region_name="us-west-2", aws_access_key_id="test", aws_secret_access_key="test"
        )
        self.stubber = stub.Stubber(self.client)
        self.stubber.activate()
        self.files = Files()

    def answers(self, operation: str, answer: dict[str, Any], request: dict[str, Any] | None = None) -> None:
        self.stubber.add_response(operation, answer, request)

    def farm(self, wait: Callable[[float], bool] = lambda _: False) -> DeviceFarm:
        return DeviceFarm(self.client, self.files, wait)

    def takes_upload(self, name: str, kind: str) -> None:
        arn = f"{PREFIX}:upload:{name}"
        request = {"projectArn": PROJECT, "name": name, "type": kind}
        self.answers("create_upload", {"upload": {"arn": arn, "url": URL, "status": "INITIALIZED"}}, request)
        self.answers("get_upload", {"upload": {"arn": arn, "status": "PROCESSING"}}, {"arn": arn})
        self.answers("get_upload", {"upload": {"arn": arn, "status": "SUCCEEDED"}}, {"arn": arn})

    def tells(self, status: str, result: str = "PENDING", **more: Any) -> None:
        self.answers("get_run", {"run": {"arn": RUN, "status": status, "result": result, **more}}, {"arn": RUN})

    def lists_artifacts(self, *artifacts: dict[str, Any]) -> None:
        self.answers("list_artifacts", {"artifacts": list(artifacts)}, {"arn": RUN, "type": "FILE"})
        for kind in ("LOG", "SCREENSHOT"):
            self.answers("list_artifacts", {"artifacts": []}, {"arn": RUN, "type": kind})

    def deletes(self, *names: str) -> None:
        self.answers("delete_device_pool", {}, {"arn": POOL})
        for name in names:
            self.answers("delete_upload", {}, {"arn": f"{PREFIX}:upload:{name}"})


@pytest.fixture
def aws() -> Iterator[Aws]:
    made = Aws()
    yield made
    made.stubber.assert_no_pending_responses()


def device(folder: Path, **more: object) -> DeviceSpec:
    for name in ("fl.apk", "tests.zip", "spec.yml"):
        (folder / name).write_bytes(name.encode())
    entry: dict[str, object] = {
        "project": "fl",
        "app": str(folder / "fl.apk"),
        "test_package": str(folder / "tests.zip"),
        "test_spec": str(folder / "spec.yml"),
        "models": ["Pixel 8"],
        "server": "fl.example.org:8443",
        "minutes": 30,
        **more,
    }
    options = DeviceFarmLauncher.read_options(Table(entry, "fleet.toml [[device]]"))
    return DeviceSpec("p", "device-farm", "pixel8", 3, options=options)


def prepare(aws: Aws) -> None:
    """All up to the run."""
    aws.answers("list_projects", {"projects": [{"arn": PROJECT, "name": "fl"}]}, {})
    aws.takes_upload("fl.apk", "ANDROID_APP")
    aws.takes_upload("tests.zip", "APPIUM_PYTHON_TEST_PACKAGE")
    aws.takes_upload("spec.yml", "APPIUM_PYTHON_TEST_SPEC")
    rules = [
        {"attribute": "PLATFORM", "operator": "EQUALS", "value": '"ANDROID"'},
        {"attribute": "MODEL", "operator": "IN", "value": '["Pixel 8"]'},
    ]
    request = {"projectArn": PROJECT, "name": "fedmeter-p", "rules": rules, "maxDevices": 1}
    aws.answers("create_device_pool", {"devicePool": {"arn": POOL}}, request)
    told = {"SERVER": "fl.example.org:8443", "DEVICE": "p", "WORKLOAD": "digits", "SHARD": "3", "SHARDS": "4"}
    schedule = {
        "projectArn": PROJECT,
        "appArn": f"{PREFIX}:upload:fl.apk",
        "devicePoolArn": POOL,
        "name": "fedmeter-p",
        "test": {
            "type": "APPIUM_PYTHON",
            "testPackageArn": f"{PREFIX}:upload:tests.zip",
            "testSpecArn": f"{PREFIX}:upload:spec.yml",
        },
        "configuration": {
            "billingMethod": "METERED",
            "environmentVariables": [{"name": f"FEDMETER_{key}", "value": value} for key, value in told.items()],
        },
        "executionConfiguration": {"jobTimeoutMinutes": 30, "videoCapture": False},
    }
    aws.answers("schedule_run", {"run": {"arn": RUN}}, schedule)


def started(aws: Aws, folder: Path) -> FarmSession:
    launcher = DeviceFarmLauncher(folder, make_farm=lambda wait: aws.farm(), pause_s=0.01)
    return launcher.start(device(folder), JOIN)


def test_a_run_is_brought_there_watched_and_its_artefacts_are_fetched(aws: Aws, tmp_path: Path) -> None:
    prepare(aws)
    aws.tells("RUNNING")
    for _ in range(2):
        aws.tells("COMPLETED", "PASSED", deviceMinutes={"total": 12.5, "metered": 12.5, "unmetered": 0.0})
    evil = {"name": "../../../etc/passwd", "extension": "txt/../x", "url": URL}
    aws.lists_artifacts(evil, {"name": "log", "extension": "txt", "url": "http://elsewhere/"})
    aws.deletes("fl.apk", "tests.zip", "spec.yml")
    session = started(aws, tmp_path)
    wait_until(lambda: session.exit_status() is not None)
    log = (tmp_path / "p.log").read_text()
    assert session.exit_status() == 0, log
    assert aws.files.sent == {name: name.encode() for name in ("fl.apk", "tests.zip", "spec.yml")}
    assert [path.name for path in (tmp_path / "p-farm").iterdir()] == ["001-etc-passwd.txt-x"]
    assert "costs from now on: up to 30 device minutes, 5.10 USD" in log
    assert "left out: 002-log.txt" in log
    facts = session.facts
    assert (facts["farm_result"], facts["device_minutes"], facts["artefacts"]) == ("PASSED", 12.5, 1)
    assert "probably charges" in facts["energy_missing"]
    assert "123456789012" not in f"{facts}{log}"
    assert "SECRET" not in f"{facts}{log}"


def test_a_run_that_is_not_needed_any_more_is_stopped(aws: Aws, tmp_path: Path) -> None:
    prepare(aws)
    watching = threading.Event()
    look = aws.client.get_run

    def told_and_seen(**request: Any) -> Any:
        watching.set()
        return look(**request)

    aws.client.get_run = told_and_seen
    aws.tells("RUNNING")
    aws.tells("RUNNING")
    aws.answers("stop_run", {"run": {"arn": RUN}}, {"arn": RUN})
    aws.tells("STOPPING")
    aws.tells("COMPLETED", "STOPPED")
    aws.lists_artifacts()
    aws.deletes("fl.apk", "tests.zip", "spec.yml")
    launcher = DeviceFarmLauncher(tmp_path, make_farm=lambda wait: aws.farm(), pause_s=5.0)
    session = launcher.start(device(tmp_path), JOIN)
    assert watching.wait(30)
    session.stop(0.0)
    assert session.exit_status() == -15


def test_a_run_that_cannot_be_stopped_is_shouted_about(aws: Aws, tmp_path: Path) -> None:
    prepare(aws)
    for _ in range(2):
        aws.stubber.add_client_error("get_run", "ServiceAccountException", f"no access to {RUN}")
    aws.deletes("fl.apk", "tests.zip", "spec.yml")
    session = started(aws, tmp_path)
    wait_until(lambda: session.exit_status() is not None)
    log = (tmp_path / "p.log").read_text()
    assert session.exit_status() == 3
    assert "MAY STILL GO ON, AND COST" in log
    assert "123456789012" not in log


def test_an_upload_that_is_refused_is_told_with_its_reason_and_nothing_is_scheduled(aws: Aws, tmp_path: Path) -> None:
    aws.answers("list_projects", {"projects": []}, {})
    aws.answers("create_project", {"project": {"arn": PROJECT}}, {"name": "fl"})
    arn = f"{PREFIX}:upload:fl.apk"
    aws.answers("create_upload", {"upload": {"arn": arn, "url": URL}})
    aws.answers(
        "get_upload", {"upload": {"arn": arn, "status": "FAILED", "message": "APK is not signed"}}, {"arn": arn}
    )
    session = started(aws, tmp_path)
    wait_until(lambda: session.exit_status() is not None)
    assert session.exit_status() == 3
    assert "fl.apk was refused: APK is not signed" in (tmp_path / "p.log").read_text()


def test_projects_are_looked_for_on_every_page(aws: Aws) -> None:
    others = [{"arn": f"{PROJECT}-other", "name": "other"}]
    aws.answers("list_projects", {"projects": others, "nextToken": "next"}, {})
    aws.answers("list_projects", {"projects": [{"arn": PROJECT, "name": "fl"}]}, {"nextToken": "next"})
    assert aws.farm().project("fl") == PROJECT


def test_the_check_asks_for_the_project_and_tells_the_cost(aws: Aws, tmp_path: Path) -> None:
    aws.answers("list_projects", {"projects": []}, {})
    spec = device(tmp_path)
    outcome = DeviceFarmLauncher.check(spec, make_farm=lambda wait: aws.farm())
    assert outcome.ok
    assert "project 'fl' will be made; up to 30 device minutes, 5.10 USD" in outcome.detail
    aws.stubber.add_client_error("list_projects", "AccessDeniedException", f"User: {PREFIX} is not authorized")
    outcome = DeviceFarmLauncher.check(spec, make_farm=lambda wait: aws.farm())
    assert not outcome.ok
    assert "User: (hidden) is not authorized" in outcome.detail
    (tmp_path / "fl.apk").unlink()
    assert "no such file" in DeviceFarmLauncher.check(spec).detail


def test_without_boto3_the_remedy_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(DeviceError, match="boto3 is not installed") as caught:
        service()
    assert "fedmeter[device-farm]" in caught.value.remedy
    outcome = DeviceFarmLauncher.check(device(tmp_path))
    assert not outcome.ok
    assert "fedmeter[device-farm]" in outcome.detail


def test_keys_are_not_uploaded_and_a_server_must_be_reachable(tmp_path: Path) -> None:
    launcher, spec = DeviceFarmLauncher(tmp_path), device(tmp_path)
    with pytest.raises(DeviceError, match="are not uploaded to AWS"):
        launcher.start(spec, JoinSpec("203.0.113.5:1", "digits", Partition(), tmp_path))
    with pytest.raises(DeviceError, match="no phone of AWS reaches"):
        launcher.start(spec, JoinSpec("127.0.0.1:1", "digits", Partition()))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"minutes": 200}, "ends a run after 150"),
        ({"minutes": 0}, "at least 1"),
        ({"models": ['Pixel"]']}, "no model's name"),
        ({"models": []}, "give 'models'"),
        ({"pool": POOL}, "give 'models'"),
        ({"pool": "mine", "models": []}, "pool = 'mine' is no such thing"),
        ({"app": "fl.exe"}, "no file of that kind"),
        ({"test_type": "BUILTIN_FUZZ"}, "it is one of APPIUM_PYTHON"),
        ({"server": "http://x"}, "no such thing"),
    ],
)
def test_options_are_checked(tmp_path: Path, more: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        device(tmp_path, **more)


def test_a_slot_is_paid_for_already(tmp_path: Path) -> None:
    assert "USD" not in cost_text(device(tmp_path, metered=False))


@pytest.mark.parametrize("name", ["..", "/etc/passwd", "a\0b", "", "x" * 500, "-rf", "con:stream", "Ωmega", ".hidden"])
def test_names_of_artefacts_are_ours(name: str) -> None:
    made = file_name(7, {"name": name, "extension": name})
    assert made.startswith("007-")
    assert len(made) < 130
    assert set(made) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
    assert ".." not in made


# --- the real transfer, before a real HTTPS server -------------------------------------------------------------------


class _Store(BaseHTTPRequestHandler):
    got: dict[str, bytes]

    def do_PUT(self) -> None:
        self.server.got[self.path] = self.rfile.read(int(self.headers["Content-Length"]))  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:9/")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"x" * 5000)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def store(tmp_path: Path) -> Iterator[tuple[HTTPServer, HttpsTransfer]]:
    pytest.importorskip("cryptography")
    from harness.init import init

    init(tmp_path / "keys", [], None, [])
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trusting = ssl.create_default_context(cafile=tmp_path / "keys/ca.pem")
    serving.load_cert_chain(tmp_path / "keys/server.pem", tmp_path / "keys/server.key")
    server = HTTPServer(("127.0.0.1", 0), _Store)
    server.got = {}  # type: ignore[attr-defined]
    server.socket = serving.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server, HttpsTransfer(("localhost",), trusting)
    server.shutdown()
    thread.join()
    server.server_close()


def test_files_go_and_come_over_https_within_bounds(store: tuple[HTTPServer, HttpsTransfer], tmp_path: Path) -> None:
    server, transfer = store
    (tmp_path / "fl.apk").write_bytes(b"apk")
    base = f"https://localhost:{server.server_port}"
    transfer.put(f"{base}/up", tmp_path / "fl.apk")
    assert server.got == {"/up": b"apk"}  # type: ignore[attr-defined]
    assert transfer.get(f"{base}/down", tmp_path / "down", 5000) == 5000
    with pytest.raises(OSError, match="more than 4999 bytes"):
        transfer.get(f"{base}/down", tmp_path / "large", 4999)
    with pytest.raises(FileExistsError):
        transfer.get(f"{base}/down", tmp_path / "down", 5000)
    with pytest.raises(OSError, match="302"):
        transfer.get(f"{base}/moved", tmp_path / "moved", 5000)


@pytest.mark.parametrize(
    "url",
    ["http://localhost/", "file:///etc/passwd", "https://localhost.evil.org/", "https://u@localhost/", "https://[", ""],
)
def test_addresses_that_are_not_the_services_are_refused(url: str, tmp_path: Path) -> None:
    hosts: Sequence[str] = ("localhost",)
    with pytest.raises(OSError, match="an address that"):
        HttpsTransfer(hosts).get(url, tmp_path / "x", 10)
    assert not (tmp_path / "x").exists()
