"""Clients on phones of AWS Device Farm: an app and the test package that drives it, uploaded and run for each device.

Tested against botocore's own description of the service, and never seen live. The phones there hang on power, as far as
is known, so that no joules are taken from them: energy is missing. docs/fleets.md says what a user sees of this.
"""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from fl.security import is_loopback
from harness.device import DeviceSpec
from harness.launcher import DeviceCheck, JoinSpec
from harness.launchers.client_log import ClientLog
from harness.launchers.device_farm_client import RUN_PAUSE_S, DeviceFarm, Finished, HttpsTransfer, service
from harness.launchers.shared_options import check_names, missing_files, take_file, take_needed_file
from harness.launchers.threaded_session import ThreadedSession
from harness.spec import Table
from profiler.errors import DeviceError, SpecError

ENERGY_MISSING = "a phone of AWS Device Farm probably charges all the time: its battery does not tell what it draws"
USD_PER_MINUTE = 0.17
"""List price of a metered device minute (https://aws.amazon.com/device-farm/pricing); yours may differ."""
TEST_TYPES = {
    "APPIUM_PYTHON": ("APPIUM_PYTHON_TEST_PACKAGE", "APPIUM_PYTHON_TEST_SPEC"),
    "INSTRUMENTATION": ("INSTRUMENTATION_TEST_PACKAGE", "INSTRUMENTATION_TEST_SPEC"),
}
MAX_MINUTES = 150
_STOP_POLLS = 40
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ().,+_-]{0,63}")
_ARN = re.compile(r"arn:aws:devicefarm:[a-z0-9:-]{1,64}[A-Za-z0-9:/_-]{1,200}")
_ADDRESS = re.compile(r"[A-Za-z0-9_\[][A-Za-z0-9._:%\]-]{0,253}:\d{1,5}")

MakeFarm = Callable[[Callable[[float], bool]], DeviceFarm]


def real_farm(wait: Callable[[float], bool]) -> DeviceFarm:
    """Raises DeviceError without boto3."""
    return DeviceFarm(service(), HttpsTransfer(), wait)


class FarmSession(ThreadedSession):
    """One run there, of one device."""

    def __init__(self, device: DeviceSpec, join: JoinSpec, log: ClientLog, make_farm: MakeFarm, pause_s: float) -> None:
        super().__init__(device, join, log)
        self._make_farm = make_farm
        self._pause_s = pause_s
        self._farm: DeviceFarm | None = None
        self._uploads: list[str] = []
        self._pool: str | None = None
        self._thread.start()

    @property
    def facts(self) -> Mapping[str, Any]:
        options = self.device.options
        entry = {key: options[key] for key in ("project", "test_type", "models", "minutes", "metered")}
        return {"launcher": "device-farm", "energy_missing": ENERGY_MISSING, **entry, **self._facts}

    def stop(self, grace_s: float) -> None:
        """The run there is ended, as it costs; what it has left is still brought here."""
        self._stopping.set()
        self._thread.join()

    def _serve(self) -> int:
        try:
            self._farm = self._make_farm(self._stopping.wait)
            return self._run_there(self._farm)
        except DeviceError as error:
            raise DeviceError(f"{self.device.id}: {Exception.__str__(error)}", remedy=error.remedy) from None

    def _run_there(self, farm: DeviceFarm) -> int:
        run = farm.start(self._request(farm))
        self._log.note(f"a run is scheduled there, and costs from now on: {cost_text(self.device)}")
        try:
            finished = self._watch(farm, run)
        finally:
            ended = self._ended(farm, run)
        finished = ended or finished
        self._facts |= {"farm_result": finished.result, "device_minutes": finished.minutes}
        self._log.note(f"the run there ended: {finished.result}, {finished.minutes} device minutes")
        self._collect(farm, run)
        if finished.result == "PASSED":
            return 0
        return -signal.SIGTERM if finished.result == "STOPPED" else 1

    def _request(self, farm: DeviceFarm) -> dict[str, Any]:
        """Everything in its place there, and what `ScheduleRun` is told. Raises DeviceError."""
        options = self.device.options
        project = farm.project(options["project"])
        package, spec = TEST_TYPES[options["test_type"]]
        test = {"type": options["test_type"]}
        app = self._upload(farm, project, options["app"], "ANDROID_APP")
        test["testPackageArn"] = self._upload(farm, project, options["test_package"], package)
        if options["test_spec"] is not None:
            test["testSpecArn"] = self._upload(farm, project, options["test_spec"], spec)
        pool = options["pool"]
        if pool is None:
            pool = self._pool = farm.pool(project, f"fedmeter-{self.device.id}", options["models"])
        return {
            "projectArn": project,
            "appArn": app,
            "devicePoolArn": pool,
            "name": f"fedmeter-{self.device.id}",
            "test": test,
            "configuration": {
                "billingMethod": "METERED" if options["metered"] else "UNMETERED",
                "environmentVariables": [{"name": key, "value": value} for key, value in self._told().items()],
            },
            "executionConfiguration": {"jobTimeoutMinutes": options["minutes"], "videoCapture": False},
        }

    def _told(self) -> dict[str, str]:
        """What the test package finds in its environment. Never a secret: it can be read in AWS's console."""
        partition = self._join.partition
        return {
            "FEDMETER_SERVER": self.device.options["server"],
            "FEDMETER_DEVICE": self.device.id,
            "FEDMETER_WORKLOAD": self._join.workload,
            "FEDMETER_SHARD": str(self.device.shard),
            "FEDMETER_SHARDS": str(partition.shards),
        }

    def _upload(self, farm: DeviceFarm, project: str, path: str, kind: str) -> str:
        self._log.note(f"uploading {Path(path).name}")
        arn = farm.upload(project, Path(path), kind)
        self._uploads.append(arn)
        return arn

    def _watch(self, farm: DeviceFarm, run: str) -> Finished:
        """Until it has ended, or is to. Raises DeviceError."""
        last = ""
        while True:
            now = farm.look(run)
            if now.status != last:
                last = now.status
                self._log.note(f"the run there is {last}")
            if now.is_done or self._stopping.wait(self._pause_s):
                return now

    def _ended(self, farm: DeviceFarm, run: str) -> Finished | None:
        """See to it that the run costs nothing any more: how it ended, or None, saying so, where that is not known."""
        try:
            now = farm.look(run)
            if now.is_done:
                return now
            farm.stop(run)
            for _ in range(_STOP_POLLS):
                now = farm.look(run)
                if now.is_done:
                    return now
                time.sleep(self._pause_s / 5)
        except DeviceError as error:
            self._log.note(f"error: {error}")
        self._log.note("THE RUN THERE MAY STILL GO ON, AND COST: look at it in the AWS console, and stop it.")
        return None

    def _collect(self, farm: DeviceFarm, run: str) -> None:
        folder = self.log_path.with_name(f"{self.device.id}-farm")
        try:
            for line in farm.artifacts(run, folder):
                self._log.note(f"left out: {line}")
        except (DeviceError, OSError) as error:
            self._log.note(f"artefacts cannot be brought here: {error}")
            return
        self._facts["artefacts"] = sum(1 for _ in folder.iterdir())

    def _tidy_up(self) -> None:
        if self._farm is None:
            return
        try:
            self._farm.delete(pool=self._pool, uploads=self._uploads)
        except DeviceError as error:
            self._log.note(f"what was uploaded is still there: {error}")


class DeviceFarmLauncher:
    """A run there for each device. Options: see `read_options`; `make_farm` stands for the way to AWS."""

    shares_host: ClassVar[bool] = False

    def __init__(self, log_dir: Path, *, make_farm: MakeFarm = real_farm, pause_s: float = RUN_PAUSE_S) -> None:
        self._log_dir = log_dir
        self._make_farm = make_farm
        self._pause_s = pause_s

    @classmethod
    def read_options(cls, entry: Table) -> dict[str, Any]:
        options: dict[str, Any] = {
            "project": entry.take("project", str),
            "app": take_needed_file(entry, "app", ".apk"),
            "test_type": entry.take("test_type", str, "APPIUM_PYTHON"),
            "test_package": take_needed_file(entry, "test_package", ".zip", ".apk"),
            "test_spec": take_file(entry, "test_spec", ".yml", ".yaml"),
            "models": entry.take("models", list, []),
            "pool": entry.take("pool", str, None),
            "server": entry.take("server", str),
            "minutes": entry.take("minutes", int),
            "metered": entry.take("metered", bool, True),
        }
        entry.at_least("minutes", options["minutes"], 1)
        _check(entry, options)
        return options

    @classmethod
    def cores(cls, device: DeviceSpec) -> float:
        return 0.0

    @classmethod
    def check(cls, device: DeviceSpec, *, make_farm: MakeFarm = real_farm) -> DeviceCheck:
        options = device.options
        if missing := missing_files(options):
            return DeviceCheck(False, f"no such file: {', '.join(missing.values())}")
        try:
            has_project = make_farm(threading.Event().wait).identify(options["project"])
        except DeviceError as error:
            return DeviceCheck(False, str(error))
        project = f"project '{options['project']}' {'is there' if has_project else 'will be made'}"
        return DeviceCheck(True, f"{project}; {cost_text(device)}; energy will be missing: {ENERGY_MISSING}")

    def start(self, device: DeviceSpec, join: JoinSpec) -> FarmSession:
        """Returns at once; how it goes shows in the session's status and log."""
        if join.tls is not None and not device.foreign:
            raise DeviceError(
                f"{device.id}: start: keys and token of this fleet are not uploaded to AWS.",
                remedy="Set foreign = true, with 'foreign_address' for its port, and put ca.pem into the app.",
            )
        if is_loopback(join.address):
            raise DeviceError(
                f"{device.id}: start: the server listens on {join.address}, which no phone of AWS reaches.",
                remedy="Let it listen on a public address: [server] address, and 'server' of the device.",
            )
        log = ClientLog(self._log_dir / f"{device.id}.log")
        return FarmSession(device, join, log, self._make_farm, self._pause_s)

    def close(self) -> None:
        pass


def cost_text(device: DeviceSpec) -> str:
    """What a run may cost at most, by the list price."""
    minutes = device.options["minutes"]
    if not device.options["metered"]:
        return f"up to {minutes} device minutes of a slot that you pay for"
    return f"up to {minutes} device minutes, {minutes * USD_PER_MINUTE:.2f} USD at {USD_PER_MINUTE} USD each"


def _check(entry: Table, options: Mapping[str, Any]) -> None:
    if options["test_type"] not in TEST_TYPES:
        raise SpecError(f"{entry.where}: test_type = {options['test_type']!r}; it is one of {', '.join(TEST_TYPES)}.")
    if options["minutes"] > MAX_MINUTES:
        raise SpecError(f"{entry.where}: minutes = {options['minutes']}; Device Farm ends a run after {MAX_MINUTES}.")
    check_names(entry, options, {"project": _NAME, "server": _ADDRESS, "pool": _ARN})
    for model in options["models"]:
        if not isinstance(model, str) or not _MODEL.fullmatch(model):
            raise SpecError(f"{entry.where}: models: {model!r} is no model's name.")
    if bool(options["models"]) == (options["pool"] is not None):
        raise SpecError(f"{entry.where}: give 'models', or the ARN of a device pool of one device as 'pool'.")
