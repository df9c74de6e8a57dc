"""What every strategy owes the loop, built in or foreign."""

from __future__ import annotations

from importlib.metadata import entry_points

import numpy as np
import pytest

from fl.messages import FitRes, Parameters
from fl.proxy import ClientInfo
from fl.strategy import ENTRY_POINT_GROUP, Experience, Strategy, load_strategy
from profiler.errors import ClientFailure, UsageError

CLIENTS = [ClientInfo(f"device-{number}", "fast" if number % 2 else "slow") for number in range(8)]
CONFIG_KEYS = {"round", "epochs", "batch_size", "lr", "cutoff_s", "seed", "telemetry"}
MODEL = Parameters((np.arange(6, dtype=np.float32).reshape(2, 3), np.array(5, np.int64)))


def make(name: str, **options: object) -> Strategy:
    return load_strategy(name, **{"epochs": 2, "batch_size": 16, "lr": 0.01, "seed": 4, **options})


@pytest.fixture(params=sorted(entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def update(scale: float = 1.0, examples: int = 10) -> FitRes:
    weights = (MODEL.arrays[0] * scale).astype(np.float32)
    return FitRes(Parameters((weights, MODEL.arrays[1])), examples, {"fit.steps_done": 3})


def test_bears_the_name_it_is_chosen_by(name: str) -> None:
    assert make(name).name == name


@pytest.mark.parametrize("clients", [None, 3])
def test_assigns_clients_that_are_there_once_each(name: str, clients: int | None) -> None:
    strategy = make(name, clients=clients)
    known = {client.device for client in CLIENTS}
    for configure in (strategy.configure_fit, strategy.configure_evaluate):
        devices = [assignment.device for assignment in configure(1, CLIENTS)]
        assert len(devices) == (clients or len(CLIENTS)) == len(set(devices))
        assert set(devices) <= known


def test_sends_every_config_key_as_a_plain_scalar(name: str) -> None:
    for assignment in make(name).configure_fit(3, CLIENTS):
        assert set(assignment.config) >= CONFIG_KEYS
        assert all(type(value) in (bool, bytes, float, int, str) for value in assignment.config.values())
        assert (assignment.config["round"], assignment.config["epochs"], assignment.config["seed"]) == (3, 2, 4)


def test_the_deadline_comes_after_the_cutoff(name: str) -> None:
    for assignment in make(name).configure_fit(1, CLIENTS):
        cutoff_s = assignment.config["cutoff_s"]
        assert isinstance(cutoff_s, float)
        assert assignment.deadline_s is None or assignment.deadline_s > cutoff_s


def test_decides_the_same_again(name: str) -> None:
    for round_ in (1, 2, 30):
        first, second = make(name, clients=3), make(name, clients=3)
        assert first.configure_fit(round_, CLIENTS) == second.configure_fit(round_, CLIENTS[::-1])
        assert first.configure_fit(round_, CLIENTS) == first.configure_fit(round_, CLIENTS)


def test_nobody_there_means_nothing_to_do(name: str) -> None:
    strategy = make(name)
    assert strategy.configure_fit(1, []) == []
    assert strategy.configure_evaluate(1, []) == []


def test_folds_into_a_model_of_the_same_shapes_and_types(name: str) -> None:
    aggregator = make(name).aggregator(1, MODEL)
    aggregator.fold("a", update(1.0))
    aggregator.fold("b", update(3.0))
    result = aggregator.result()
    assert result is not None
    assert [(array.shape, array.dtype) for array in result.arrays] == [
        (array.shape, array.dtype) for array in MODEL.arrays
    ]
    assert all(isinstance(array, np.ndarray) and np.isfinite(array).all() for array in result.arrays)


def test_nothing_folded_means_no_model(name: str) -> None:
    assert make(name).aggregator(1, MODEL).result() is None


def test_agreement_stays_as_it_is(name: str) -> None:
    aggregator = make(name).aggregator(1, MODEL)
    for device in "abc":
        aggregator.fold(device, update())
    result = aggregator.result()
    assert result is not None
    for got, expected in zip(result.arrays, MODEL.arrays, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "bad",
    [
        FitRes(Parameters(()), 10),
        FitRes(Parameters((np.zeros((3, 2), np.float32), MODEL.arrays[1])), 10),
        FitRes(Parameters((np.full((2, 3), np.nan, np.float32), MODEL.arrays[1])), 10),
        FitRes(Parameters((MODEL.arrays[0].astype(np.int32), MODEL.arrays[1])), 10),
        FitRes(MODEL, 0, {"fit.steps_done": 3}),
    ],
    ids=["no tensors", "wrong shape", "not finite", "wrong type", "no examples"],
)
def test_refuses_a_bad_update_and_goes_on(name: str, bad: FitRes) -> None:
    with_bad, without = make(name).aggregator(1, MODEL), make(name).aggregator(1, MODEL)
    for aggregator in (with_bad, without):
        aggregator.fold("a", update(2.0))
    with pytest.raises(ClientFailure) as failure:
        with_bad.fold("culprit", bad)
    assert (failure.value.device, failure.value.phase) == ("culprit", "fit")
    results = []
    for aggregator in (with_bad, without):
        aggregator.fold("b", update(5.0, examples=30))
        result = aggregator.result()
        assert result is not None
        results.append([array.tobytes() for array in result.arrays])
    assert results[0] == results[1]


def test_a_round_leaves_the_model_it_began_with_alone(name: str) -> None:
    before = [array.copy() for array in MODEL.arrays]
    aggregator = make(name).aggregator(1, MODEL)
    aggregator.fold("a", update(9.0))
    aggregator.result()
    assert all(np.array_equal(one, other) for one, other in zip(MODEL.arrays, before, strict=True))


def after(strategy: Strategy, round_: int, model: Parameters) -> Parameters:
    aggregator = strategy.aggregator(round_, model)
    for device, scale in (("a", 0.5), ("b", 2.0), ("c", 1.5)):
        aggregator.fold(device, update(scale))
    result = aggregator.result()
    assert result is not None
    return result


def test_goes_on_from_its_state_as_if_it_had_never_stopped(name: str) -> None:
    one, other = make(name), make(name)
    model = after(one, 1, MODEL)
    kept = [array.copy() for array in one.state()]
    other.restore(kept)
    for got, expected in zip(after(other, 2, model).arrays, after(one, 2, model).arrays, strict=True):
        assert got.tobytes() == expected.tobytes()


def test_refuses_the_state_of_another(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        make(name).restore([np.zeros(3, np.float32)])


def test_what_it_learns_leaves_the_next_round_well_formed(name: str) -> None:
    strategy = make(name, clients=3)
    for round_ in range(1, 6):
        asked = strategy.configure_fit(round_, CLIENTS)
        assert len(asked) == 3
        took = [Experience(part.device, "fast", 2.0, 0.1, 0.1, 1.5, energy_j=3.0) for part in asked]
        strategy.observe(round_, took)
        assert [part.device for part in strategy.configure_evaluate(round_, CLIENTS)] == [part.device for part in asked]
    strategy.observe(6, [])
