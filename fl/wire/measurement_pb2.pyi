# mypy: disable-error-code="type-arg, valid-type"
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Measurement(_message.Message):
    __slots__ = ("spans",)
    SPANS_FIELD_NUMBER: _ClassVar[int]
    spans: _containers.RepeatedCompositeFieldContainer[Span]
    def __init__(self, spans: _Optional[_Iterable[_Union[Span, _Mapping]]] = ...) -> None: ...

class Span(_message.Message):
    __slots__ = ("span_id", "name", "start_ns", "duration_s", "status", "parent_id", "total", "energies", "resources", "steps_s", "warmup_steps", "attributes")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Attribute
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Attribute, _Mapping]] = ...) -> None: ...
    SPAN_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    START_NS_FIELD_NUMBER: _ClassVar[int]
    DURATION_S_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    PARENT_ID_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    ENERGIES_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    STEPS_S_FIELD_NUMBER: _ClassVar[int]
    WARMUP_STEPS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    span_id: str
    name: str
    start_ns: int
    duration_s: float
    status: str
    parent_id: str
    total: Reading
    energies: _containers.RepeatedCompositeFieldContainer[Reading]
    resources: Resources
    steps_s: _containers.RepeatedScalarFieldContainer[float]
    warmup_steps: int
    attributes: _containers.MessageMap[str, Attribute]
    def __init__(self, span_id: _Optional[str] = ..., name: _Optional[str] = ..., start_ns: _Optional[int] = ..., duration_s: _Optional[float] = ..., status: _Optional[str] = ..., parent_id: _Optional[str] = ..., total: _Optional[_Union[Reading, _Mapping]] = ..., energies: _Optional[_Iterable[_Union[Reading, _Mapping]]] = ..., resources: _Optional[_Union[Resources, _Mapping]] = ..., steps_s: _Optional[_Iterable[float]] = ..., warmup_steps: _Optional[int] = ..., attributes: _Optional[_Mapping[str, Attribute]] = ...) -> None: ...

class Reading(_message.Message):
    __slots__ = ("rail", "energy_j", "energy_err_j", "provenance", "scope", "n_samples", "effective_hz", "coverage", "max_gap_s", "total_of", "reason")
    RAIL_FIELD_NUMBER: _ClassVar[int]
    ENERGY_J_FIELD_NUMBER: _ClassVar[int]
    ENERGY_ERR_J_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    N_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_HZ_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    MAX_GAP_S_FIELD_NUMBER: _ClassVar[int]
    TOTAL_OF_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    rail: str
    energy_j: float
    energy_err_j: float
    provenance: str
    scope: str
    n_samples: int
    effective_hz: float
    coverage: float
    max_gap_s: float
    total_of: _containers.RepeatedScalarFieldContainer[str]
    reason: str
    def __init__(self, rail: _Optional[str] = ..., energy_j: _Optional[float] = ..., energy_err_j: _Optional[float] = ..., provenance: _Optional[str] = ..., scope: _Optional[str] = ..., n_samples: _Optional[int] = ..., effective_hz: _Optional[float] = ..., coverage: _Optional[float] = ..., max_gap_s: _Optional[float] = ..., total_of: _Optional[_Iterable[str]] = ..., reason: _Optional[str] = ...) -> None: ...

class Resources(_message.Message):
    __slots__ = ("cpu_s", "peak_rss_bytes", "temperature_c", "frequency_hz", "gpu_use", "gpu_temperature_c", "gpu_frequency_hz", "throttling")
    CPU_S_FIELD_NUMBER: _ClassVar[int]
    PEAK_RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_C_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_HZ_FIELD_NUMBER: _ClassVar[int]
    GPU_USE_FIELD_NUMBER: _ClassVar[int]
    GPU_TEMPERATURE_C_FIELD_NUMBER: _ClassVar[int]
    GPU_FREQUENCY_HZ_FIELD_NUMBER: _ClassVar[int]
    THROTTLING_FIELD_NUMBER: _ClassVar[int]
    cpu_s: float
    peak_rss_bytes: int
    temperature_c: float
    frequency_hz: float
    gpu_use: float
    gpu_temperature_c: float
    gpu_frequency_hz: float
    throttling: str
    def __init__(self, cpu_s: _Optional[float] = ..., peak_rss_bytes: _Optional[int] = ..., temperature_c: _Optional[float] = ..., frequency_hz: _Optional[float] = ..., gpu_use: _Optional[float] = ..., gpu_temperature_c: _Optional[float] = ..., gpu_frequency_hz: _Optional[float] = ..., throttling: _Optional[str] = ...) -> None: ...

class Attribute(_message.Message):
    __slots__ = ("bool", "int", "double", "string")
    BOOL_FIELD_NUMBER: _ClassVar[int]
    INT_FIELD_NUMBER: _ClassVar[int]
    DOUBLE_FIELD_NUMBER: _ClassVar[int]
    STRING_FIELD_NUMBER: _ClassVar[int]
    bool: bool
    int: int
    double: float
    string: str
    def __init__(self, bool: bool = ..., int: _Optional[int] = ..., double: _Optional[float] = ..., string: _Optional[str] = ...) -> None: ...

class Samples(_message.Message):
    __slots__ = ("span_id", "start_ns", "rails")
    SPAN_ID_FIELD_NUMBER: _ClassVar[int]
    START_NS_FIELD_NUMBER: _ClassVar[int]
    RAILS_FIELD_NUMBER: _ClassVar[int]
    span_id: str
    start_ns: int
    rails: _containers.RepeatedCompositeFieldContainer[RailSamples]
    def __init__(self, span_id: _Optional[str] = ..., start_ns: _Optional[int] = ..., rails: _Optional[_Iterable[_Union[RailSamples, _Mapping]]] = ...) -> None: ...

class RailSamples(_message.Message):
    __slots__ = ("rail", "t_ns", "value", "every")
    RAIL_FIELD_NUMBER: _ClassVar[int]
    T_NS_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    EVERY_FIELD_NUMBER: _ClassVar[int]
    rail: str
    t_ns: _containers.RepeatedScalarFieldContainer[int]
    value: _containers.RepeatedScalarFieldContainer[float]
    every: int
    def __init__(self, rail: _Optional[str] = ..., t_ns: _Optional[_Iterable[int]] = ..., value: _Optional[_Iterable[float]] = ..., every: _Optional[int] = ...) -> None: ...
