"""What every workload owes client and server, built in or foreign."""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib.metadata import entry_points

import numpy as np
import pytest

from fl.datasets import ROOT_VARIABLE
from fl.messages import Array, Config
from fl.steps import StepControl
from fl.workload import ENTRY_POINT_GROUP, NumPyClient, Option, Partition, Workload, load_workload
from fl.workloads.export import export_whole
from fl.workloads.training import TorchWorkload
from profiler.clock import FakeClock
from profiler.errors import FedmeterError
from profiler.spec import tomllib
from tests.fixtures.data import made_cifar10, write_cifar10, write_mobilenetv2, write_office31
from tests.fixtures.documented import code_blocks, install
from tests.fixtures.threads import one_thread

PARTITION = Partition("iid", 12, seed=1)


# Small models, on a CPU whose results are the same every time; their data are made. `tumours` is that of the docs.
OPTIONS: dict[str, dict[str, Option]] = {
    "cifar10-resnet18": {"width": 4, "device": "cpu", "precision": "float32"},
    "tumours": {},
    "office31-mobilenetv2": {"image_size": 64, "device": "cpu", "weights": "made.pth"},
    "office31-mobilenetv2 in numpy": {"backend": "numpy"},
}


@pytest.fixture(scope="module", autouse=True)
def data_sets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    root = tmp_path_factory.mktemp("datasets")
    write_cifar10(root, made_cifar10(n_train=2400))
    write_office31(root / "office31", per_class=40)
    write_mobilenetv2(root / "made.pth")
    install(root, "tumours", *documented_workload())
    with one_thread(), pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root)
        patch.setenv(ROOT_VARIABLE, str(root))
        torch_twin = load_workload("office31-mobilenetv2", **OPTIONS["office31-mobilenetv2"])
        assert isinstance(torch_twin, TorchWorkload)
        export_whole(torch_twin, root / "office31-features")
        yield


def documented_workload() -> tuple[str, str]:
    """The module of docs/workloads.md, and its entry point as an installed package has it."""
    [module] = [block for block in code_blocks("workloads.md") if block.startswith("# tumours.py")]
    [toml] = [block for block in code_blocks("workloads.md") if block.startswith("[project.entry-points")]
    [(group, points)] = tomllib.loads(toml)["project"]["entry-points"].items()
    return module, "\n".join([f"[{group}]", *(f"{name} = {target}" for name, target in points.items())])


BUILT_IN = {entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)}


@pytest.fixture(scope="module", params=sorted(BUILT_IN | set(OPTIONS)))
def workload(request: pytest.FixtureRequest) -> Workload:
    name, _, _ = request.param.partition(" ")  # what follows tells apart what is chosen by options
    return load_workload(name, **OPTIONS.get(request.param, {}))


def config(workload: Workload, **changes: int | float) -> Config:
    defaults = workload.defaults
    base = {"round": 1, "epochs": 1, "batch_size": defaults.batch_size, "lr": defaults.lr, "seed": 7, "cutoff_s": 0.0}
    return {**base, **changes}


def same(left: list[Array], right: list[Array]) -> bool:
    return len(left) == len(right) and all(np.array_equal(one, other) for one, other in zip(left, right, strict=True))


def fit(workload: Workload, client: NumPyClient | None = None, **changes: int | float) -> list[Array]:
    client = client or workload.client(0, PARTITION)
    return client.fit(workload.initial_parameters(0), config(workload, **changes))[0]


def test_initial_parameters_follow_from_the_seed(workload: Workload) -> None:
    first = workload.initial_parameters(3)
    assert same(first, workload.initial_parameters(3))
    assert not same(first, workload.initial_parameters(4))
    assert all(np.isfinite(array).all() for array in first)


def test_evaluation_gives_loss_and_accuracy(workload: Workload) -> None:
    parameters = workload.initial_parameters(0)
    loss, accuracy = workload.evaluate(parameters)
    assert math.isfinite(loss)
    assert 0 <= accuracy <= 1
    assert (loss, accuracy) == workload.evaluate(parameters)
    assert same(parameters, workload.initial_parameters(0))


def test_fit_returns_a_trained_model_of_the_same_shape(workload: Workload) -> None:
    initial = workload.initial_parameters(0)
    for array in initial:
        array.flags.writeable = False  # as they come from the network
    arrays, examples, metrics = workload.client(0, PARTITION).fit(initial, config(workload))
    assert [(array.shape, array.dtype) for array in arrays] == [(array.shape, array.dtype) for array in initial]
    assert not same(arrays, initial)
    assert same(initial, workload.initial_parameters(0))
    assert type(examples) is int
    assert examples > 0
    assert all(isinstance(key, str) and type(value) in (bool, bytes, float, int, str) for key, value in metrics.items())


def test_training_lowers_the_loss(workload: Workload) -> None:
    before, _ = workload.evaluate(workload.initial_parameters(0))
    after, _ = workload.evaluate(fit(workload, workload.client(0, Partition("iid", 3)), epochs=4))
    assert after < before


def test_the_result_does_not_change_under_its_owner(workload: Workload) -> None:
    client = workload.client(0, PARTITION)
    first = fit(workload, client)
    kept = [array.copy() for array in first]
    fit(workload, client, round=2)
    assert same(first, kept)


def test_same_inputs_same_update(workload: Workload) -> None:
    client = workload.client(0, PARTITION)
    first = fit(workload, client)
    assert same(first, fit(workload, client))
    assert same(first, fit(workload))
    assert not same(first, fit(workload, round=2))
    assert not same(first, fit(workload, seed=8))
    assert not same(first, fit(workload, workload.client(1, PARTITION)))


def test_iterates_through_steps(workload: Workload) -> None:
    control = StepControl(FakeClock(), cutoff_s=None, epochs=2)
    with control.active():
        fit(workload, epochs=2)
    assert control.used
    assert control.steps_planned is not None
    assert control.steps_done == control.steps_planned > 0
    assert control.steps_done % 2 == 0


def test_obeys_the_cutoff_and_returns_partial_work(workload: Workload) -> None:
    class Ticking(FakeClock):
        """A second passes with every look at the clock."""

        def monotonic_ns(self) -> int:
            self.advance(1.0)
            return super().monotonic_ns()

    control = StepControl(Ticking(), cutoff_s=1e-3, epochs=2)
    with control.active():
        partial = fit(workload, epochs=2)
    assert (control.stopped_by, control.steps_done) == ("cutoff", 1)
    assert not same(partial, workload.initial_parameters(0))
    assert not same(partial, fit(workload, epochs=2))


def test_client_evaluation(workload: Workload) -> None:
    loss, examples, metrics = workload.client(0, PARTITION).evaluate(workload.initial_parameters(0), config(workload))
    assert math.isfinite(loss)
    assert type(examples) is int
    assert examples > 0
    accuracy = metrics["accuracy"]
    assert isinstance(accuracy, float)
    assert 0 <= accuracy <= 1


def test_properties_and_parameters(workload: Workload) -> None:
    client = workload.client(0, PARTITION)
    assert all(type(value) in (bool, bytes, float, int, str) for value in client.get_properties({}).values())
    shapes = [array.shape for array in workload.initial_parameters(0)]
    assert [array.shape for array in client.get_parameters({})] == shapes


@pytest.mark.parametrize("shard", [-1, PARTITION.shards])
def test_refuses_a_shard_that_is_not_there(workload: Workload, shard: int) -> None:
    with pytest.raises(FedmeterError, match=str(shard)):
        workload.client(shard, PARTITION)


def test_refuses_a_model_that_is_not_its_own(workload: Workload) -> None:
    parameters = workload.initial_parameters(0)
    for wrong in (parameters[:-1], [*parameters, parameters[0]], [array.reshape(-1) for array in parameters]):
        with pytest.raises(FedmeterError):
            workload.client(0, PARTITION).fit(wrong, config(workload))
        with pytest.raises(FedmeterError):
            workload.evaluate(wrong)
