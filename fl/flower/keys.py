"""What the mod and the strategy call things in Flower's records."""

from __future__ import annotations

from typing import Any, Literal

Phase = Literal["fit", "evaluate"]

PHASES: dict[str, Phase] = {"train": "fit", "evaluate": "evaluate"}  # by Flower's message type
RECORD_NAME = "fedmeter"  # of the ConfigRecord with text and bytes
DEVICE, PROCESSOR, MACHINE, CUTOFF = "device", "processor", "machine", "cutoff_s"
TRAINED_WITH = ("epochs", "batch_size", "lr", "seed")

# Until a node has told its processor, it is sent the cutoffs of all.
PROCESSORS_KEY, CUTOFFS_KEY = "fedmeter.processors", "fedmeter.cutoffs_s"
HOST_CPU_KEY = "host_cpu_s"  # span attribute: CPU seconds that all processes of the machine used meanwhile


def phase_of(message: Any) -> Phase | None:
    """Of a Flower message, whose type is `train`, `train.<action>`, `query`, ...; None for what is not metered."""
    return PHASES.get(str(message.metadata.message_type).partition(".")[0])


def number_of(value: object) -> float | None:
    """A metric that is one number."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
