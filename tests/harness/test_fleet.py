"""Fleet files: strict, sized to the host, and clear about what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.fleet import load_fleet, parse_fleet
from harness.relaunch import RelaunchPolicy
from profiler.errors import SpecError

DEVICE = '[[device]]\nid = "a"\nprocessor = "cpu"\n'


def parse(text: str, cores: int = 2) -> object:
    return parse_fleet(text, "lab.toml", cores=cores)


@pytest.mark.parametrize(("cores", "fast", "slow"), [(1, 1, 1), (2, 1, 2), (4, 2, 4), (64, 4, 8)])
def test_the_shipped_fleet_fits_the_host(cores: int, fast: int, slow: int) -> None:
    fleet = load_fleet("local", cores=cores)
    names = [device.id for device in fleet.devices]
    assert sum(name.startswith("fast-") for name in names) == fast
    assert sum(name.startswith("slow-") for name in names) == slow
    assert [device.shard for device in fleet.devices] == list(range(fast + slow))
    assert {device.processor for device in fleet.devices} == {"cpu", "cpu@0.4"}


def test_ids_are_numbered_and_options_reach_the_launcher() -> None:
    text = 'name = "lab"\n[[device]]\nid = "pi-{n}"\ncount = 3\nprocessor = "cpu"\ncpu_limit = 0.5\nthreads = 2\n'
    fleet = parse_fleet(text, "lab.toml", cores=1)
    assert [device.id for device in fleet.devices] == ["pi-0", "pi-1", "pi-2"]
    assert fleet.devices[0].options == {"cpu_limit": 0.5, "threads": 2}
    assert fleet.text == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "x"\n[[device]]\nid = "a"\nprocesor = "cpu"\n', "unknown key 'procesor'. Did you mean 'processor'"),
        ('name = "x"\n[[device]]\nid = "a"\n', "'processor' is missing"),
        ('name = "x"\n[[device]]\nid = "a"\nprocessor = "cpu"\ncpu_limt = 0.5\n', "Did you mean 'cpu_limit'"),
        (f'name = "x"\nsever = 1\n{DEVICE}', "unknown key 'sever'. Did you mean 'server'"),
        (f'name = "x"\n{DEVICE}[meter]\nrate = 5\n', "unknown key 'rate'"),
        ('name = "x"\n', "a fleet of zero clients"),
        ('name = "x"\n[[device]]\nid = "a-{n}"\ncount = 0\nprocessor = "cpu"\n', "a fleet of zero clients"),
        (f'name = "x"\n{DEVICE}count = 2\n', 'Use id = "a-{n}"'),
        (f'name = "x"\n{DEVICE}{DEVICE}', "device id 'a' is given twice"),
        (f'name = "x"\n{DEVICE}launcher = "locl"\n', "Did you mean 'local'"),
        (f'name = "x"\n{DEVICE}cpu_limit = "half"\n', "'cpu_limit' must be a number"),
        (f'name = "x"\n{DEVICE}cpu_limit = 0\n', "at least 0.05"),
        ('name = "x"\n[[device]]\nid = "../a"\nprocessor = "cpu"\n', "may hold letters"),
        ('name = "x"\n[[device]]\nid = "host"\nprocessor = "cpu"\n', "meaning of its own"),
        (f'name = "x"\n{DEVICE}count = {{ per_cores = 0, max = 1 }}\n', "per_cores"),
        (f'name = "x"\n{DEVICE}count = true\n', "'count' must be a whole number or a table"),
        ("name = ", "not valid TOML"),
        ('name = 3\n[[device]]\nid = "a"\n', "'name' must be a string, got 3"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(text)
    assert message in str(caught.value)
    assert "lab.toml" in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_fleet_that_does_not_exist_names_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no fleet 'locale'. Did you mean 'local'"):
        load_fleet("locale", cores=2)
    with pytest.raises(SpecError, match="cannot be read"):
        load_fleet(str(tmp_path / "none.toml"), cores=2)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match="not UTF-8"):
        load_fleet(str(tmp_path / "binary.toml"), cores=2)


def test_how_often_a_device_is_started_again() -> None:
    assert parse_fleet(f'name = "x"\n{DEVICE}', "f.toml", cores=2).relaunch == RelaunchPolicy()
    text = f'name = "x"\n{DEVICE}[relaunch]\nattempts = 0\npause_s = 1\nlongest_pause_s = 3.5\n'
    assert parse_fleet(text, "f.toml", cores=2).relaunch == RelaunchPolicy(0, 1.0, 3.5)
    for wrong, said in (("attempts = -1", "at least 0"), ("pause_s = nan", "at least 0"), ("attempt = 2", "attempts")):
        with pytest.raises(SpecError, match=said):
            parse_fleet(f'name = "x"\n{DEVICE}[relaunch]\n{wrong}\n', "f.toml", cores=2)
