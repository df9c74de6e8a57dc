"""Clients of Flower's own classes as NumPyClients, by their shape: nothing of Flower is imported.

A `NumPyClient` takes arrays and a config. A `Client` (flwr/client/client.py) takes one instruction with `.parameters`
(`.tensors`, a list of bytes, and `.tensor_type`) and `.config`, and returns a result with `.status`, `.parameters`,
`.num_examples`, `.metrics` or `.loss` (flwr/common/typing.py). Tensors are NPY there, as on the wire.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from fl.messages import Array, Code, Config, Scalar
from fl.wire.tensors import TENSOR_TYPE, decode_tensors, encode_tensor
from fl.workload import NumPyClient
from profiler.errors import FedmeterError, UsageError


@dataclass(frozen=True)
class Tensors:
    """Flower's `Parameters`: encoded tensors and how they are encoded."""

    tensors: list[bytes]
    tensor_type: str


@dataclass(frozen=True)
class Instruction:
    """Flower's FitIns and EvaluateIns; its GetPropertiesIns and GetParametersIns have no parameters."""

    config: dict[str, Scalar]
    parameters: Tensors | None = None


def as_numpy_client(client: object) -> NumPyClient:
    """The client itself, or a Flower `Client` behind the same calls. Raises UsageError where it can neither."""
    fit = getattr(client, "fit", None)
    if not callable(fit) or not callable(getattr(client, "evaluate", None)):
        raise UsageError(
            f"{type(client).__name__} is no client: it has no fit and evaluate.",
            remedy="Derive it from fl.NumPyClient, or pass a Flower NumPyClient or Client.",
        )
    return FlowerClient(client) if _n_arguments(fit) == 1 else cast(NumPyClient, client)


def _n_arguments(method: Callable[..., object]) -> int:
    """Positional parameters without a default, `self` not among them; 2 where they cannot be told."""
    try:
        parameters = inspect.signature(method).parameters.values()
    except (ValueError, TypeError):
        return 2
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(one.kind in kinds and one.default is one.empty for one in parameters)


class FlowerClient:
    """A Flower `Client` as a NumPyClient. A status other than OK becomes a FedmeterError with its message."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def get_properties(self, config: Config) -> dict[str, Scalar]:
        return dict(_accepted("get_properties", self._client.get_properties(Instruction(dict(config)))).properties)

    def get_parameters(self, config: Config) -> list[Array]:
        return _arrays(_accepted("get_parameters", self._client.get_parameters(Instruction(dict(config)))).parameters)

    def fit(self, parameters: list[Array], config: Config) -> tuple[list[Array], int, dict[str, Scalar]]:
        result = _accepted("fit", self._client.fit(_work(parameters, config)))
        return _arrays(result.parameters), result.num_examples, _metrics(result)

    def evaluate(self, parameters: list[Array], config: Config) -> tuple[float, int, dict[str, Scalar]]:
        result = _accepted("evaluate", self._client.evaluate(_work(parameters, config)))
        return float(result.loss), result.num_examples, _metrics(result)


def _work(parameters: list[Array], config: Config) -> Instruction:
    tensors = Tensors([encode_tensor(array) for array in parameters], TENSOR_TYPE)
    return Instruction(dict(config), tensors)


def _accepted(phase: str, result: Any) -> Any:
    status = getattr(result, "status", None)
    if status is None:
        raise UsageError(f"{phase} returned {type(result).__name__}, which has no status as Flower's results have.")
    number = getattr(status.code, "value", status.code)
    if number != Code.OK.value:
        raise FedmeterError(f"{phase}: {_code_name(number)}: {str(status.message)[:1000]}")
    return result


def _code_name(number: object) -> str:
    names = {code.value: code.name for code in Code}
    return names.get(number, f"status {number!r:.40}") if isinstance(number, int) else f"status {number!r:.40}"


def _arrays(parameters: Any) -> list[Array]:
    """Copies, since what is decoded is read-only. Raises WireError for what is no NPY tensor."""
    return [array.copy() for array in decode_tensors(parameters.tensors)]


def _metrics(result: Any) -> dict[str, Scalar]:
    return dict(result.metrics) if isinstance(result.metrics, Mapping) else {}
