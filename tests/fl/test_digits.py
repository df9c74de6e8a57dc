"""The digits workload: real data, a fixed test set, accuracy that grows with local work, and nothing global."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from fl.messages import Array, Config, FitRes, Parameters
from fl.partition import partition
from fl.steps import StepControl
from fl.strategies.fedavg import FedAvg
from fl.workload import Option, Partition, load_workload
from fl.workloads.digits import Digits
from fl.workloads.training import Examples, Source
from profiler.clock import FakeClock
from profiler.errors import UsageError
from tests.fixtures.threads import one_thread

THIRDS = Partition("iid", 3)


@pytest.fixture(scope="module")
def digits() -> Iterator[Digits]:
    with one_thread():
        yield Digits()


def everything(source: Source) -> Examples:
    return source.at(torch.arange(len(source.labels)))


def test_the_held_out_fifth_is_stratified_and_apart(digits: Digits) -> None:
    data = digits.data()
    train, test = (everything(source) for source in (data.train, data.test))
    assert (len(train), len(test)) == (1438, 359)
    assert np.bincount(test.labels).tolist() == pytest.approx([36] * 10, abs=1)
    assert (float(train.inputs.min()), float(train.inputs.max())) == (0.0, 1.0)
    assert train.inputs.shape[1:] == (1, 8, 8)
    assert torch.equal(everything(Digits().data().test).inputs, test.inputs)


def test_shards_are_those_of_the_partition(digits: Digits) -> None:
    expected = partition(digits.data().train.labels.numpy(), THIRDS)
    for shard in range(3):
        assert digits.client(shard, THIRDS).get_properties({})["examples"] == len(expected[shard]) in (479, 480)


def train(digits: Digits, epochs: int, rounds: int) -> list[float]:
    """Accuracy on the test set after each round of three clients."""
    strategy = FedAvg(epochs=epochs, batch_size=digits.defaults.batch_size, lr=digits.defaults.lr)
    clients = [digits.client(shard, THIRDS) for shard in range(3)]
    parameters, accuracies = Parameters(tuple(digits.initial_parameters(0))), []
    for round_ in range(1, rounds + 1):
        aggregator = strategy.aggregator(round_, parameters)
        for shard, client in enumerate(clients):
            config = {"round": round_, "epochs": epochs, "batch_size": 16, "lr": digits.defaults.lr, "seed": 0}
            arrays, examples, metrics = client.fit(list(parameters.arrays), config)
            aggregator.fold(str(shard), FitRes(Parameters(tuple(arrays)), examples, metrics))
        folded = aggregator.result()
        assert folded is not None
        parameters = folded
        accuracies.append(digits.evaluate(list(parameters.arrays))[1])
    return accuracies


def test_more_local_epochs_learn_more(digits: Digits) -> None:
    one = train(digits, epochs=1, rounds=digits.defaults.rounds)
    five = train(digits, epochs=5, rounds=1)
    assert 0.70 <= one[-1] <= 0.92
    assert five[0] > 0.88 > one[0]
    assert five[0] > one[-1]  # as many steps a client, and more


def test_global_generators_are_left_alone(digits: Digits) -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].tobytes()  # type: ignore[union-attr]
    client = digits.client(0, THIRDS)
    client.fit(digits.initial_parameters(1), {"epochs": 1, "batch_size": 256})
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.random.get_state()[1].tobytes() == numpy_state  # type: ignore[union-attr]


def test_initial_weights_have_the_layers_spread(digits: Digits) -> None:
    arrays = digits.initial_parameters(5)
    assert sum(array.size for array in arrays) == 338_058
    fan_ins = [9, 9, 64 * 9, 64 * 9, 2048, 2048, 128, 128]
    for array, fan_in in zip(arrays, fan_ins, strict=True):
        assert np.abs(array).max() <= fan_in**-0.5 * (1 + 1e-6)
    assert float(arrays[4].std()) == pytest.approx((3 * 2048) ** -0.5, rel=0.02)


def order_of_first_epoch(digits: Digits, shard: int, **config: int) -> list[int]:
    """By the order in which the first examples of each epoch reach the model."""
    seen: list[torch.Tensor] = []

    class Watched(Digits):
        def augment(self, inputs: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
            seen.append(inputs)
            return inputs

    client = Watched(hidden=1).client(shard, THIRDS)
    seen.clear()  # of the warm-up
    client.fit(Digits(hidden=1).initial_parameters(0), {"batch_size": 16, **config})
    shard_images = everything(digits.data().train).inputs[partition(digits.data().train.labels.numpy(), THIRDS)[shard]]
    where = {image.numpy().tobytes(): index for index, image in enumerate(shard_images)}
    return [where[image.numpy().tobytes()] for image in torch.cat(seen)]


def test_shuffling_follows_from_seed_round_and_shard(digits: Digits) -> None:
    base = order_of_first_epoch(digits, 0, seed=1, round=1)
    assert sorted(base) == list(range(480))
    assert order_of_first_epoch(digits, 0, seed=1, round=1) == base
    for other in (
        order_of_first_epoch(digits, 0, seed=2, round=1),
        order_of_first_epoch(digits, 0, seed=1, round=2),
        order_of_first_epoch(digits, 1, seed=1, round=1),
    ):
        assert other != base


def test_an_epoch_that_the_cutoff_leaves_out_hides_no_metrics(digits: Digits) -> None:
    class Ticking(FakeClock):
        def monotonic_ns(self) -> int:
            self.advance(0.01)
            return super().monotonic_ns()

    # 2 steps an epoch, and two looks at the clock a step: the cutoff falls into the second epoch's first step
    control = StepControl(Ticking(), cutoff_s=0.05, epochs=3)
    with control.active():
        _, _, metrics = digits.client(0, THIRDS).fit(digits.initial_parameters(0), {"epochs": 3, "batch_size": 240})
    assert (control.stopped_by, control.steps_done, control.steps_planned) == ("cutoff", 2, 6)
    assert isinstance(metrics["loss"], float)
    assert np.isfinite(metrics["loss"])


@pytest.mark.parametrize(
    ("config", "message"),
    [({"epochs": 0}, "'epochs' must be at least 1"), ({"batch_size": 0}, "'batch_size'"), ({"lr": "x"}, "'lr'")],
)
def test_refuses_a_senseless_config(digits: Digits, config: dict[str, int | str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        digits.client(0, THIRDS).fit(digits.initial_parameters(0), config)


def test_unknown_workload_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no 'digit' among fedmeter.workloads.*Did you mean 'digits'\?"):
        load_workload("digit")
    assert isinstance(load_workload("digits"), Digits)


def same(left: list[Array], right: list[Array]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(left, right, strict=True))


def test_own_evaluation_is_of_the_own_shard(digits: Digits) -> None:
    client = digits.client(2, THIRDS)
    loss, examples, metrics = client.evaluate(digits.initial_parameters(0), {})
    assert examples == 479
    assert metrics["loss"] == loss
    assert same(client.get_parameters({}), digits.initial_parameters(0))


def test_a_server_that_asks_for_the_first_model_gets_one_that_can_learn(digits: Digits) -> None:
    assert same(digits.client(0, THIRDS).get_parameters({}), digits.initial_parameters(0))


def test_the_proximal_term_holds_the_model_near_where_it_began() -> None:
    client = Digits().client(0, Partition(shards=4))
    start = Digits().initial_parameters(0)
    config: Config = {"epochs": 1, "lr": 0.01, "seed": 1, "round": 1}

    def moved(mu: float) -> float:
        arrays, _, _ = client.fit(start, config | {"proximal_mu": mu})
        return sum(float(((after - before) ** 2).sum()) for before, after in zip(start, arrays, strict=True)) ** 0.5

    free, held, tight = moved(0.0), moved(1.0), moved(10.0)
    assert tight < held < free
    with pytest.raises(UsageError, match="proximal_mu"):
        moved(-1.0)


def test_width_scales_the_model_and_hidden_replaces_it() -> None:
    def n_parameters(**options: int) -> int:
        return sum(array.size for array in load_workload("digits", **options).initial_parameters(0))

    assert n_parameters(width=64) == n_parameters() == 338_058
    assert n_parameters(width=16) < n_parameters() / 15
    assert n_parameters(hidden=32) == 64 * 32 + 32 + 32 * 10 + 10


def test_the_cheap_model_learns(digits: Digits) -> None:
    cheap = Digits(hidden=32)
    client = cheap.client(0, Partition())
    arrays, _, _ = client.fit(cheap.initial_parameters(0), {"epochs": 10, "batch_size": 8, "lr": 0.05})
    assert cheap.evaluate(arrays)[1] > 0.92


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "digits: width is a whole number from 1 to 1024, not 0"),
        ({"width": 2.5}, "width .* not 2.5"),
        ({"width": True}, "width .* not True"),
        ({"hidden": "32"}, "hidden .* not '32'"),
        ({"hidden": 8, "width": 16}, "Leave one of them out"),
        ({"widht": 8}, "'widht'.*Its options: width, hidden"),
    ],
)
def test_refuses_senseless_options(options: dict[str, Option], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_workload("digits", **options)
