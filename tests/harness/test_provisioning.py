"""What is brought to a device: which wheel, which packages beside it, and why one cannot take them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from harness.launchers.provisioning import Place, Wheel, check_place, own_wheel, requirements, wheels_in
from harness.launchers.ssh_connection import Connection
from harness.launchers.ssh_options import SshOptions
from harness.spec import Table
from profiler.errors import DeviceError, PreconditionError

GOOD = {"grpcio": "1.60.0", "protobuf": "5.28.3", "psutil": "5.9.8", "numpy": "2.4.6", "tomli": None, "torch": "2.4.0"}


WHEEL = Wheel("fedmeter-0.1.0-py3-none-any.whl", b"ours")
WITH_FLOWER = Wheel(WHEEL.name, WHEEL.content, (("flwr", "1.42.0"),))


def place(
    *,
    python: tuple[int, int, int] = (3, 11, 2),
    packages: dict[str, str | None] | None = None,
    is_there: bool = False,
    has_pip: bool = True,
    free_bytes: int = 10**10,
) -> Place:
    return Place(
        python=python,
        executable="/usr/bin/python3",
        machine="aarch64",
        folder="/home/pi/.cache/fedmeter",
        site="/home/pi/.cache/fedmeter/fedmeter-0.1.0-0123-cp311-aarch64",
        is_there=is_there,
        packages=GOOD | (packages or {}),
        has_pip=has_pip,
        free_bytes=free_bytes,
        came_from="10.0.0.1",
        clock_offset_s=(-0.1, 0.1),
    )


@pytest.fixture
def connection(tmp_path: Path) -> Connection:
    options = SshOptions.read(Table({"host": "pi.lab"}, "fleet.toml"))
    return Connection("pi", options, tmp_path / "0", lambda _: None)


def test_what_is_there_and_new_enough_stays() -> None:
    assert requirements(place(), WHEEL) == []
    assert requirements(place(packages={"protobuf": "4.21.12", "psutil": None}), WHEEL) == [
        "protobuf>=5.28",
        "psutil>=5.9",
    ]
    assert requirements(place(packages={"grpcio": "1.9.1"}), WHEEL) == ["grpcio>=1.60"], "numbers, not texts"
    assert requirements(place(python=(3, 10, 12)), WHEEL) == ["tomli>=2"]


def test_a_numpy_1_stays_a_numpy_1_since_torch_was_built_for_it() -> None:
    assert requirements(place(packages={"numpy": "1.21.5"}), WHEEL) == ["numpy>=1.26,<2"]
    assert requirements(place(packages={"numpy": None}), WHEEL) == ["numpy>=1.26"]


def test_torch_is_never_installed() -> None:
    assert requirements(place(packages={"torch": None}), WHEEL) == []


def test_what_is_wanted_in_one_version_is_brought_in_that_and_in_no_other() -> None:
    assert requirements(place(packages={"flwr": None}), WITH_FLOWER) == ["flwr==1.42.0"]
    assert requirements(place(packages={"flwr": "1.41.0"}), WITH_FLOWER) == ["flwr==1.42.0"]
    assert requirements(place(packages={"flwr": "1.42.0"}), WITH_FLOWER) == []
    assert "flwr" not in " ".join(requirements(place(packages={"flwr": None}), WHEEL))


def test_what_it_needs_in_turn_leaves_a_numpy_1_alone() -> None:
    """Pip brings a numpy of its own beside flwr, which would be a numpy 2."""
    jetson = {"numpy": "1.26.4", "flwr": None}
    assert requirements(place(packages=jetson), WITH_FLOWER) == ["flwr==1.42.0", "numpy>=1.26,<2"]
    assert requirements(place(packages={**jetson, "flwr": "1.42.0"}), WITH_FLOWER) == []


def test_packages_with_other_versions_beside_them_lie_elsewhere() -> None:
    labels = {WHEEL.label, WITH_FLOWER.label, Wheel(WHEEL.name, WHEEL.content, (("flwr", "1.24.0"),)).label}
    assert len(labels) == 3
    assert WITH_FLOWER.label == f"{WHEEL.label}-flwr1.42.0"


@pytest.mark.parametrize(
    ("lacking", "reason", "remedy"),
    [
        (place(python=(3, 8, 10)), "Python 3.8.10 at /usr/bin/python3 is too old", "JetPack 4 and 5"),
        (place(has_pip=False, packages={"psutil": None}), "no pip to install psutil>=5.9", "apt install python3-pip"),
        (place(free_bytes=10**7), "10 MB are free below /home/pi/.cache/fedmeter, 34 MB are needed", "set 'folder'"),
        (place(free_bytes=10**8, packages={"numpy": None}), "100 MB are free", "Free some"),
    ],
)
def test_what_a_device_lacks_is_told_with_a_remedy(
    connection: Connection, lacking: Place, reason: str, remedy: str
) -> None:
    with pytest.raises(DeviceError, match="pi: provision: ") as caught:
        check_place(connection, lacking, WHEEL)
    assert reason in str(caught.value)
    assert remedy in str(caught.value)


def test_what_is_there_already_needs_neither_pip_nor_space(connection: Connection) -> None:
    check_place(connection, place(is_there=True, has_pip=False, free_bytes=0, packages={"psutil": None}), WHEEL)


def test_the_wheel_is_the_device_half_of_what_runs_here() -> None:
    wheel = own_wheel()
    with zipfile.ZipFile(io.BytesIO(wheel.content)) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert archive.read("fl/client.py") == (Path(__file__).parents[2] / "fl" / "client.py").read_bytes()
        points = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    assert {name.partition("/")[0] for name in names} == {
        "fl",
        "profiler",
        wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info",
    }
    assert "fedmeter.sensors" in points
    assert any(name.startswith("profiler/devices/") for name in names), "data come along"
    assert own_wheel() == wheel, "the same packages give the same wheel"


def test_an_empty_wheelhouse_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PreconditionError, match=r"no wheels there\. pip download"):
        wheels_in(tmp_path)
    (tmp_path / "a-1-py3-none-any.whl").touch()
    assert [path.name for path in wheels_in(tmp_path)] == ["a-1-py3-none-any.whl"]
