"""How the figures of the simulated devices were fitted to the paper's tables, and what they say of rows they never saw.

Mathur et al., "On-device Federated Learning with Flower", 2021 (arXiv 2104.03042). A round lasts as long as the slowest
of C clients: transfer + E[max of C windows], the windows being start-up plus a gamma variable (`harness.device_model`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq, least_squares
from scipy.stats import gamma

STEPS_PER_EPOCH = 157  # 5,000 images a client (50,000 over ten) in batches of 32; the paper does not give the batch
PHONE_STEPS_PER_EPOCH = 11  # four fifths of Office-31's 4,110 images over ten clients, in batches of 32
ROUNDS, PHONE_ROUNDS = 40, 20
TX2_MIN = {1: 17.63, 5: 36.83, 10: 80.32}  # Table 2a, by local epochs
TX2_KJ = {1: 10.21, 5: 50.54, 10: 100.95}
PHONES_MIN = {4: 30.7, 7: 31.3, 10: 31.8}  # Table 2b, by clients
PHONES_KJ = {4: 10.4, 7: 19.72, 10: 28.0}
CPU_MIN = {0.0: 102.0, 2.23: 89.15, 1.99: 80.34}  # Table 3, by cutoff in minutes; 0 is none

TRANSFER_S = 0.545
"""Download and upload of a TX2's fit call: between the 0.55 s that the ratio 1.00 of Table 3's last row asks for at
least and the 0.60 s that the ratio 1.11 of the row before allows at most."""
TX2_FIT_CV, STEP_CV = 0.005, 0.13  # guesses: ten equal boards; the step times of many trainers
SLOW_AFTER_S = 56.0  # when the fifth epoch is over
PHONE_TRANSFER_S = 2.0
PHONE_IDLE_W = 0.35


def longest_s(mean_s: float, cv: float, clients: int) -> float:
    """E[max] of so many gamma variables."""
    if cv == 0:
        return mean_s
    shape = cv**-2
    most_s = mean_s * (1 + 12 * cv)
    value, _ = quad(
        lambda t: 1 - gamma.cdf(t, shape, scale=mean_s / shape) ** clients, 0, most_s, limit=200, points=[mean_s]
    )
    return float(value)


@dataclass(frozen=True)
class Tx2:
    """What Table 2a says of a TX2's GPU."""

    start_s: float
    epoch_s: float
    slow_factor: float

    def round_s(self, epochs: int, clients: int = 10) -> float:
        cv = math.hypot(TX2_FIT_CV, STEP_CV / math.sqrt(epochs * STEPS_PER_EPOCH))
        window_s = self.start_s + longest_s(epochs * self.epoch_s, cv, clients)
        slow_s = max(0.0, window_s - SLOW_AFTER_S)
        return TRANSFER_S + window_s - slow_s + slow_s * self.slow_factor

    def total_min(self, epochs: int) -> float:
        return self.round_s(epochs) * ROUNDS / 60


def fit_tx2() -> Tx2:
    """Three unknowns, three rows: nothing is left over to check it with."""
    target_s = {epochs: minutes * 60 / ROUNDS for epochs, minutes in TX2_MIN.items()}

    def misses(x: np.ndarray) -> list[float]:
        made = Tx2(*x)
        return [made.round_s(epochs) - seconds for epochs, seconds in target_s.items()]

    return Tx2(*least_squares(misses, [18.0, 7.2, 1.8], xtol=1e-14, ftol=1e-14).x)


def fit_tx2_energy(rows: Sequence[int] = tuple(TX2_KJ)) -> tuple[float, float]:
    """Joules of a client above idle: of a round's transfer, and of an epoch, by relative least squares."""
    per_round = {epochs: TX2_KJ[epochs] * 1000 / ROUNDS / 10 for epochs in rows}
    matrix = np.array([[1 / joules, epochs / joules] for epochs, joules in per_round.items()])
    transfer_j, epoch_j = np.linalg.lstsq(matrix, np.ones(len(per_round)), rcond=None)[0]
    return float(transfer_j), float(epoch_j)


def fit_cpu_epoch_s() -> float:
    """A TX2's CPU from Table 3's row without a cutoff: one unknown, one row; the rows with one are predictions."""
    cv = math.hypot(TX2_FIT_CV, STEP_CV / math.sqrt(10 * STEPS_PER_EPOCH))
    window_s = CPU_MIN[0.0] * 60 / ROUNDS - TRANSFER_S
    return float(brentq(lambda epoch_s: longest_s(10 * epoch_s, cv, 10) - window_s, 10.0, 20.0))


def phone_round_s(mean_s: float, fit_cv: float, clients: int) -> float:
    cv = math.hypot(fit_cv, STEP_CV / math.sqrt(5 * PHONE_STEPS_PER_EPOCH))
    return PHONE_TRANSFER_S + longest_s(mean_s, cv, clients)


def fit_phones(rows: Sequence[int] = tuple(PHONES_MIN)) -> tuple[float, float]:
    """Mean seconds of a phone's window of five epochs, and its coefficient of variation."""
    target_s = {clients: PHONES_MIN[clients] * 60 / PHONE_ROUNDS for clients in rows}

    def misses(x: np.ndarray) -> list[float]:
        return [phone_round_s(x[0], x[1], clients) - seconds for clients, seconds in target_s.items()]

    mean_s, fit_cv = least_squares(misses, [83.0, 0.07], xtol=1e-14, ftol=1e-14).x
    return float(mean_s), float(abs(fit_cv))


def fit_phone_energy(mean_s: float, fit_cv: float) -> tuple[float, float, float]:
    """Joules above idle, of a round, of the first four phones, of the next three and of the last three."""
    above: list[float] = []
    n_before, total_j = 0, 0.0
    for clients, kj in PHONES_KJ.items():
        round_s = phone_round_s(mean_s, fit_cv, clients)
        total_j = kj * 1000 / PHONE_ROUNDS - clients * PHONE_IDLE_W * round_s
        known_j = sum(joules * n for joules, n in zip(above, (4, 3, 3), strict=False))
        above.append((total_j - known_j) / (clients - n_before))
        n_before = clients
    first, second, third = above
    return first, second, third


def main() -> None:
    tx2 = fit_tx2()
    print("TX2 GPU", tx2, "step_s", tx2.epoch_s / STEPS_PER_EPOCH, {e: tx2.total_min(e) for e in TX2_MIN})
    transfer_j, epoch_j = fit_tx2_energy()
    print("  transfer_j", transfer_j, "step_j", epoch_j / STEPS_PER_EPOCH)
    print("  kJ", {e: (transfer_j + epoch_j * e) * ROUNDS * 10 / 1000 for e in TX2_KJ})
    cpu_s = fit_cpu_epoch_s()
    print("TX2 CPU epoch_s", cpu_s, "step_s", cpu_s / STEPS_PER_EPOCH)
    mean_s, fit_cv = fit_phones()
    print("phones", mean_s, fit_cv, "step_s", mean_s / 5 / PHONE_STEPS_PER_EPOCH)
    print("  min", {c: phone_round_s(mean_s, fit_cv, c) * PHONE_ROUNDS / 60 for c in PHONES_MIN})
    print("  J", fit_phone_energy(mean_s, fit_cv))


if __name__ == "__main__":
    main()
