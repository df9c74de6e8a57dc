"""The Android module, as far as a machine without Android sees it: types, manifest, extras; and apps over adb."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fl.workload import Partition
from harness.device import DeviceSpec
from harness.init import init
from harness.launcher import JoinSpec
from harness.launchers.adb import AdbLauncher
from harness.launchers.adb_app import start_line
from harness.launchers.adb_options import AdbOptions
from harness.spec import Table
from profiler.spec import tomllib
from tests.android.conftest import BUILD, ROOT
from tests.android.java_app import PACKAGE, install_app
from tests.android.java_client import Built, export_digits
from tests.fixtures.adb_server import AdbServer, running_adb
from tests.fixtures.battery_cases import change
from tests.harness.running import Bench, device_entry

pytestmark = pytest.mark.serial

ANDROID = ROOT / "fl" / "android"
NAMESPACE = "{http://schemas.android.com/apk/res/android}"
PHONE = ("battery/type=Battery", "battery/voltage_now=4000000", "usb/type=USB")
DISCHARGING = (*PHONE, "usb/online=0", "battery/status=Discharging", "battery/current_now=-345000")
CHARGING = (*PHONE, "usb/online=1", "battery/status=Charging", "battery/current_now=820000")
POWER_W = 1.38


@pytest.fixture(scope="module")
def checked(java: Built) -> Path:
    """The app's classes, compiled against the stubs and the core with lite messages."""
    subprocess.run(["make", "-s", "-C", str(ANDROID / "app"), f"BUILD={BUILD}", "check"], check=True, timeout=150)
    return BUILD


def test_the_module_is_type_checked_and_the_stubs_are_what_it_uses(checked: Path) -> None:
    assert (checked / "app-classes/fedmeter/app/TrainService.class").exists()
    sources = [path.read_text() for path in (ANDROID / "app/src").rglob("*.java")]
    needed = {
        name for text in sources for name in re.findall(r"\b((?:android|org\.tensorflow)\.[\w.]*?[A-Z]\w*)", text)
    }
    stubs = {str(path.relative_to(ANDROID / "stubs").with_suffix("")) for path in (ANDROID / "stubs").rglob("*.java")}
    command = ["jdeps", "-verbose:class", "-filter:none", str(checked / "stubs")]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    uses = {tuple(name.partition("$")[0] for name in pair) for pair in re.findall(r"^ +(\S+) +-> (\S+)", said, re.M)}
    made = {name.replace("/", ".") for name in stubs}
    while more := {other for one, other in uses if one in needed and other in made} - needed:
        needed |= more
    assert needed == made, "a stub that nothing uses would hide that the app has changed"


def test_what_the_client_needs_of_java_is_on_android(checked: Path, tmp_path: Path) -> None:
    """Android 8 has Java 8's library; whatever else is used must be among what D8 backports."""
    sources = [path for folder in ("core/src/main", "app/src/main") for path in (ANDROID / folder).rglob("*.java")]
    for path in sources:  # D8 takes Java 11's language, and javac takes it for its own library alone
        (tmp_path / path.name).write_text(path.read_text().replace("try (span) {", "try (Recorder.Open same = span) {"))
    jars = [f"/usr/share/java/{name}.jar" for name in ("grpc-api", "grpc-stub", "guava", "protobuf")]
    path = ":".join([str(checked / "messages"), str(checked / "stubs"), *jars])
    command = [
        "javac",
        "--release",
        "8",
        "-XDrawDiagnostics",
        "-Xmaxerrs",
        "1000",
        "-proc:none",
        "-nowarn",
        "-cp",
        path,
    ]
    files = [str(tmp_path / source.name) for source in sources]
    done = subprocess.run([*command, "-d", str(tmp_path), *files], capture_output=True, text=True, timeout=100)
    errors = [line for line in done.stderr.splitlines() if "compiler.err" in line]
    unknown = [_MEMBER.search(line) for line in errors]
    assert errors, "it does not see them any more"
    assert {"unseen: " + line for line, found in zip(errors, unknown, strict=True) if found is None} == set()
    assert {f"{found['type']}.{found['name']}" for found in unknown if found} <= BACKPORTED


_MEMBER = re.compile(r"kindname\.method, (?P<name>\w+),.*kindname\.\w+, java\.util\.(?P<type>\w+), null")
BACKPORTED = {"List.of", "List.copyOf", "Map.of", "Map.copyOf", "Set.of", "Set.copyOf"}
"""Of com.android.tools.r8.ir.desugar.BackportedMethodRewriter, as far as it is in use."""


def test_without_gradle_or_sdk_the_apk_is_not_built_and_it_is_said_why(tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    command = ["make", "-s", "-C", str(ANDROID / "app"), "GRADLE=no-such-gradle", f"ANDROID_HOME={tmp_path}", "apk"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0
    assert "Gradle 8.9 or later" in done.stderr
    assert "Android SDK" in done.stderr


def test_the_manifest_names_what_is_there_and_lets_only_adb_start_the_service() -> None:
    manifest = ElementTree.parse(ANDROID / "app/src/main/AndroidManifest.xml").getroot()
    parts = {part.get(f"{NAMESPACE}name"): part for part in manifest.iter() if part.tag in ("activity", "service")}
    for name in parts:
        assert (ANDROID / f"app/src/main/java/fedmeter/app/{str(name).removeprefix('.')}.java").exists()
    service = parts[".TrainService"]
    assert service.get(f"{NAMESPACE}exported") == "true"
    assert service.get(f"{NAMESPACE}permission") == "android.permission.DUMP", "or any app could give it a server"
    assert service.get(f"{NAMESPACE}foregroundServiceType") == "specialUse"
    asked = {str(part.get(f"{NAMESPACE}name")).rpartition(".")[2] for part in manifest.iter("uses-permission")}
    assert asked == {
        *("INTERNET", "WAKE_LOCK", "POST_NOTIFICATIONS"),
        *("FOREGROUND_SERVICE", "FOREGROUND_SERVICE_SPECIAL_USE"),
    }
    gradle = (ANDROID / "app/build.gradle").read_text()
    assert f"applicationId = '{PACKAGE}'" in gradle
    assert "namespace = 'fedmeter.app'" in gradle


def documented() -> dict[str, object]:
    """The entry of docs/fleets.md for this app."""
    page = (ROOT / "docs/fleets.md").read_text()
    [block] = [block for block in page.split("\n\n") if f'package = "{PACKAGE}"' in block]
    return {"serial": "R1", **tomllib.loads(block)}


def intent(java: Built, words: list[str]) -> subprocess.CompletedProcess[str]:
    command = ["java", "-cp", f"{java.test_classes}:{java.jar}", "fedmeter.client.Intent", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_app_understands_what_the_launcher_sends_by_the_documented_entry(java: Built) -> None:
    options = AdbOptions.read(Table(documented(), "fleet.toml"))
    device = DeviceSpec("phone-3", "adb", "pixel9", 3, options=AdbLauncher.read_options(Table(documented(), "f")))
    join = JoinSpec("0.0.0.0:8443", "office31-mobilenetv2", Partition(shards=4), Path("keys"))
    secrets = f"/data/data/{PACKAGE}/files/fedmeter-tls"
    words = start_line(options, device, join, "192.168.1.2:8443", secrets).split()
    assert words[:4] == ["am", "start-foreground-service", "-n", f"{PACKAGE}/.TrainService"]
    done = intent(java, words[4:])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        *("server 192.168.1.2:8443", "device phone-3", "shard 3", "workload office31-mobilenetv2"),
        *(f"tls {secrets}", "features features-3.npy", "head dense"),
    ]
    wrong = intent(java, [*words[4:], "--es", "shards", "4"])
    assert wrong.returncode == 2
    assert "extra shards is not known. There are base," in wrong.stderr


EXPERIMENT = """name = "short"
workload = "digits"
rounds = 2
idle_s = 0.5
[workload_options]
hidden = 32
[sweep]
epochs = [3]
"""
EXTRAS = {
    "server": "{server}",
    "device": "{id}",
    "shard": "{shard}",
    "workload": "{workload}",
    "tls": "{tls}",
    "classes": 10,
    "hidden": 32,
}


@pytest.fixture
def adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AdbServer]:
    with running_adb(tmp_path / "adb", monkeypatch, "192.168.1.20:5555", "192.168.1.21:5555") as server:
        yield server


@pytest.mark.timeout(180)
def test_apps_and_python_clients_train_in_one_fleet_and_their_joules_are_in_the_results(
    java: Built, adb: AdbServer, tmp_path: Path
) -> None:
    """Two phones whose app is the Java client, one on its battery and one on its charger, beside Python's, by TLS."""
    pytest.importorskip("cryptography")
    init(tmp_path / "keys", [], None, [])
    export_digits(tmp_path / "files", 3)
    entries = [device_entry(id="here", processor="cpu")]
    for n, (phone, files) in enumerate(zip(adb.phones.values(), (DISCHARGING, CHARGING), strict=True)):
        change(tmp_path / f"sys-{n}", files)
        supplies = tmp_path / f"sys-{n}/sys/class/power_supply"
        install_app(phone, java, tmp_path / "files", supplies)
        entries.append(
            device_entry(id=f"phone-{n}", processor="phone", launcher="adb", serial=phone.serial, client="app",
                         package=PACKAGE, component=f"{PACKAGE}/.TrainService", service=True, reverse=True)
            + "extras = { " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in EXTRAS.items()) + " }\n"
        )  # fmt: skip
    phone.charge()  # the last of them, for whoever asks it over adb
    (tmp_path / "fleet.toml").write_text('name = "apps"\n[server]\ntls = "keys"\n' + "".join(entries))
    (tmp_path / "experiment.toml").write_text(EXPERIMENT)
    bench = Bench(tmp_path)
    done = bench.run()
    assert done.returncode == 0, done.stderr
    assert not bench.records("failure")
    fits = {(row["device"], row["round"]): row for row in bench.records("span") if row["name"] == "fit"}
    assert set(fits) == {(device, round_) for device in ("here", "phone-0", "phone-1") for round_ in (1, 2)}
    for round_ in (1, 2):
        metered, charging = fits["phone-0", round_], fits["phone-1", round_]
        assert (metered["provenance"], metered["energy_scope"]) == ("integrated", "device")
        assert abs(metered["energy_j"] - POWER_W * metered["duration_s"]) <= metered["energy_err_j"]
        assert metered["steps_done"] == metered["steps_planned"] > 0
        assert (charging["provenance"], charging.get("energy_j")) == ("missing", None)
        assert "charging: usb" in charging["energy_reason"].lower()
    for phone, joules in zip(adb.phones.values(), (r"\d+\.\d J", "joules unknown: .*charging: usb.*"), strict=True):
        shown = (phone.folder / "packages" / PACKAGE / "out").read_text().splitlines()
        phases = [line.partition(",")[0] for line in shown]
        assert list(dict.fromkeys(phases)) == ["starting", "joining", "waiting", "fitting", "evaluating", "done"]
        assert re.fullmatch(rf"done, round 2, {joules}", shown[-1]), shown[-1]
        assert not phone.processes()
        assert not (phone.folder / "packages" / PACKAGE / "data/files/fedmeter-tls").exists(), "secrets do not stay"
