"""Laws of the streaming weighted mean, and what it refuses."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fl.aggregate import MAX_EXAMPLES, WeightedMean
from fl.messages import Array, Code, FitRes, Parameters
from profiler.errors import ClientFailure

FLOATS = st.floats(-1e6, 1e6, width=32)
WEIGHTS = st.integers(1, 10**6)


def params(*arrays: Any) -> Parameters:
    return Parameters(tuple(np.asarray(array) for array in arrays))


def update(weight: Any, *arrays: Any) -> FitRes:
    return FitRes(params(*arrays), weight)


def mean_of(template: Parameters, updates: list[FitRes]) -> tuple[Array, ...]:
    mean = WeightedMean(template)
    for index, one in enumerate(updates):
        mean.fold(f"d{index}", one)
    result = mean.result()
    assert result is not None
    return result.arrays


def same_bits(left: tuple[Array, ...], right: tuple[Array, ...]) -> bool:
    return [(a.dtype, a.shape, a.tobytes()) for a in left] == [(a.dtype, a.shape, a.tobytes()) for a in right]


@st.composite
def updates_of(draw: st.DrawFn, dtype: Any = np.float64, same_weight: bool = False) -> list[FitRes]:
    count = draw(st.integers(1, 7))
    shape = draw(hnp.array_shapes(max_dims=3, max_side=4))
    weight = draw(WEIGHTS)
    return [
        update(weight if same_weight else draw(WEIGHTS), draw(hnp.arrays(dtype, shape, elements=FLOATS)))
        for _ in range(count)
    ]


def test_worked_example() -> None:
    template = params(np.zeros(1))
    assert mean_of(template, [update(1, [1.0]), update(2, [4.0])])[0].tolist() == [3.0]


def test_nothing_folded_gives_nothing() -> None:
    assert WeightedMean(params([1.0])).result() is None


@settings(max_examples=80, deadline=None)
@given(updates_of(), st.randoms(use_true_random=False))
def test_arrival_order_does_not_matter(updates: list[FitRes], random: Any) -> None:
    template = updates[0].parameters
    shuffled = updates.copy()
    random.shuffle(shuffled)
    scale = max(float(np.abs(one.parameters.arrays[0]).max()) for one in updates)
    first, second = mean_of(template, updates)[0], mean_of(template, shuffled)[0]
    assert np.abs(first - second).max() <= 1e-12 * scale


@settings(max_examples=80, deadline=None)
@given(updates_of(same_weight=True))
def test_equal_weights_give_the_plain_mean(updates: list[FitRes]) -> None:
    arrays = np.stack([one.parameters.arrays[0] for one in updates])
    got = mean_of(updates[0].parameters, updates)[0]
    np.testing.assert_allclose(got, arrays.mean(axis=0), rtol=1e-12, atol=1e-12 * np.abs(arrays).max())


@settings(max_examples=80, deadline=None)
@given(updates_of())
def test_weights_as_numpy_averages(updates: list[FitRes]) -> None:
    arrays = np.stack([one.parameters.arrays[0] for one in updates])
    expected = np.average(arrays, axis=0, weights=[one.num_examples for one in updates])
    got = mean_of(updates[0].parameters, updates)[0]
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12 * np.abs(arrays).max())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8, np.uint8, np.int32, np.int64, np.uint64, np.bool_])
@settings(max_examples=40, deadline=None)
@given(data=st.data(), weight=st.integers(1, MAX_EXAMPLES))
def test_one_client_is_the_identity(dtype: type[Any], data: st.DataObject, weight: int) -> None:
    if np.dtype(dtype).kind in "iu":
        info = np.iinfo(dtype)
        elements: Any = st.integers(max(int(info.min), -(2**50)), min(int(info.max), 2**50))
    elif np.dtype(dtype).kind == "f":
        elements = hnp.from_dtype(np.dtype(dtype), allow_nan=False, allow_infinity=False)
    else:
        elements = st.booleans()
    array = data.draw(hnp.arrays(dtype, 5, elements=elements))
    # Adding to the sum's +0.0 makes a -0.0 positive; that is the one bit that is let go.
    np.testing.assert_array_equal(mean_of(params(array), [update(weight, array)])[0], array, strict=True)


@settings(max_examples=80, deadline=None)
@given(hnp.arrays(np.float64, 5, elements=st.floats(-1e280, 1e280)), WEIGHTS)
def test_one_client_is_the_identity_to_the_last_bit_but_one_in_float64(array: Array, weight: int) -> None:
    got = mean_of(params(array), [update(weight, array)])[0]
    assert np.all(np.abs(got - array) <= np.spacing(np.abs(array)))


def test_integer_counters_survive_with_their_type() -> None:
    """Flower's in-place mean makes 0 of them: it casts the weight to the tensor's type."""
    template = params(np.zeros(2, np.float32), np.int64(0))
    arrays = mean_of(template, [update(479, np.ones(2, np.float32), np.int64(30)) for _ in range(3)])
    assert (arrays[1].dtype, arrays[1].shape, int(arrays[1])) == (np.int64, (), 30)
    rounded = mean_of(params(np.int32([0])), [update(1, np.int32([1])), update(2, np.int32([3]))])
    assert rounded[0].tolist() == [2]  # 7 / 3 = 2.33


def test_booleans_follow_the_majority() -> None:
    votes = [update(1, [True, False]), update(3, [False, False]), update(1, [True, True])]
    assert mean_of(params([False, False]), votes)[0].tolist() == [False, False]
    assert mean_of(params([False]), [update(1, [False]), update(2, [True])])[0].tolist() == [True]


def test_result_has_the_type_of_the_model_whatever_the_precision_of_the_update() -> None:
    arrays = mean_of(params(np.zeros(1, np.float16)), [update(3, np.array([1.5]))])
    assert (arrays[0].dtype, arrays[0].tolist()) == (np.float16, [1.5])


def test_the_largest_values_of_a_type_do_not_overflow() -> None:
    for dtype in (np.float16, np.float32):
        top = np.full(3, np.finfo(dtype).max, dtype)
        assert same_bits(mean_of(params(top), [update(MAX_EXAMPLES, top)] * 3), (top,))


def test_keeps_no_update_and_no_view_of_one() -> None:
    array = np.ones(4, np.float32)
    mean = WeightedMean(params(np.zeros(4, np.float32)))
    mean.fold("a", update(1, array))
    array[:] = 7
    result = mean.result()
    assert result is not None
    assert result.arrays[0].tolist() == [1, 1, 1, 1]
    held = weakref.ref(array)
    del array
    gc.collect()
    assert held() is None


def test_empty_and_scalar_tensors() -> None:
    template = params(np.zeros((0, 3), np.float32), np.float32(0))
    arrays = mean_of(template, [update(1, np.zeros((0, 3), np.float32), np.float32(2))])
    assert (arrays[0].shape, float(arrays[1])) == ((0, 3), 2.0)


GOOD = np.ones((2, 2), np.float32)
BAD = {
    "sent 1 tensors; the model has 2": update(1, GOOD),
    "sent 3 tensors; the model has 2": update(1, GOOD, np.int64(1), GOOD),
    r"tensor 0 has shape \(2, 3\)": update(1, np.ones((2, 3), np.float32), np.int64(1)),
    r"tensor 1 has shape \(1,\)": update(1, GOOD, np.int64([1])),
    "tensor 0 is int32; the model has float32": update(1, np.ones((2, 2), np.int32), np.int64(1)),
    "tensor 1 is uint64; the model has int64": update(1, GOOD, np.uint64(1)),
    "tensor 1 is float64; the model has int64": update(1, GOOD, np.float64(1)),
    "tensor 0 is object": update(1, np.full((2, 2), None), np.int64(1)),
    "tensor 0 is complex64": update(1, GOOD.astype(np.complex64), np.int64(1)),
    "tensor 0 holds values that are not finite": update(1, np.where(np.eye(2), np.nan, GOOD).astype("f4"), np.int64(1)),
    "not finite, or outside -3.40": update(1, np.array([[1, 2], [3, np.inf]], np.float32), np.int64(1)),
    "or outside": update(1, np.full((2, 2), -1e39), np.int64(1)),
    "tensor 1 holds values": update(1, GOOD, np.int64(2**50 + 1)),
    "num_examples is 0;": update(0, GOOD, np.int64(1)),
    "num_examples is -5": update(-5, GOOD, np.int64(1)),
    "num_examples is 1000000001": update(MAX_EXAMPLES + 1, GOOD, np.int64(1)),
    "num_examples is 1.5, which is no whole number": update(1.5, GOOD, np.int64(1)),
    "answered FIT_NOT_IMPLEMENTED: no data": FitRes(
        params(GOOD, np.int64(1)), 1, {}, Code.FIT_NOT_IMPLEMENTED, "no data"
    ),
}


@pytest.mark.parametrize("reason", BAD)
@pytest.mark.parametrize("folded", [0, 1, 2])
def test_a_bad_update_is_refused_whole(reason: str, folded: int) -> None:
    mean = WeightedMean(params(np.zeros((2, 2), np.float32), np.int64(0)))
    for number in range(folded):
        mean.fold("good", update(3 + number, GOOD * (number + 0.1), np.int64(number)))
    before = mean.result()
    with pytest.raises(ClientFailure, match=reason) as failure:
        mean.fold("phone-7", BAD[reason])
    assert (failure.value.device, failure.value.phase) == ("phone-7", "fit")
    after = mean.result()
    if before is None or after is None:
        assert before is after is None
    else:
        assert same_bits(before.arrays, after.arrays)


def test_float64_models_are_bounded_far_below_overflow() -> None:
    mean = WeightedMean(params(np.zeros(1)))
    with pytest.raises(ClientFailure, match="outside"):
        mean.fold("a", update(1, [1e300]))
    mean.fold("a", update(1, np.float32([3e38])))  # a lower precision than the model's is welcome
    result = mean.result()
    assert result is not None
    assert result.arrays[0].tolist() == [float(np.float32(3e38))]
