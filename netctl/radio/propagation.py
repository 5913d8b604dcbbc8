"""How strongly a transmitter is received: log-distance path loss, shadowing, fading, noise."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

_LIGHT_M_PER_S = 299_792_458.0
_THERMAL_NOISE_DBM_PER_HZ = -174.0
"""At 290 K."""


@dataclass(frozen=True, slots=True)
class LogDistance:
    """Path loss grows by 10·n dB for each tenfold of the distance beyond 1 m (Rappaport, eq. 4.69)."""

    frequency_hz: float
    exponent: float = 3.0

    def loss_db(self, distance_m: float) -> float:
        """Free space up to a metre, then by the exponent; nearer than 0.1 m counts as that."""
        at_one_metre = 20 * math.log10(4 * math.pi * self.frequency_hz / _LIGHT_M_PER_S)
        return at_one_metre + 10 * self.exponent * math.log10(max(distance_m, 0.1))


class Shadowing:
    """Log-normal shadowing along a path, correlated over a distance (Gudmundson 1991).

    The correlation of two points d apart is exp(-d / `decorrelation_m`).
    """

    def __init__(self, deviation_db: float, decorrelation_m: float, seed: int) -> None:
        self._deviation_db = deviation_db
        self._decorrelation_m = decorrelation_m
        self._draw = random.Random(seed)
        self._value_db = self._draw.gauss(0, deviation_db)

    def after_m(self, moved_m: float) -> float:
        """The shadowing, in dB, so far along the path from where it was last asked for."""
        correlation = math.exp(-moved_m / self._decorrelation_m)
        fresh = self._draw.gauss(0, self._deviation_db)
        self._value_db = correlation * self._value_db + math.sqrt(1 - correlation**2) * fresh
        return self._value_db


class RicianFading:
    """Power of a channel with one steady path and many scattered ones; K = 0 is Rayleigh's.

    The scattered part is a Gaussian process whose correlation over time is that of Clarke's model to
    first order: exp(-(t / coherence)²).
    """

    def __init__(self, k: float, doppler_hz: float, seed: int) -> None:
        if k < 0:
            raise ValueError(f"K must be zero or more, not {k}")
        self._k = k
        # Where Clarke's autocorrelation has fallen to half (Rappaport, eq. 5.40).
        self._coherence_s = 9 / (16 * math.pi * max(doppler_hz, 1e-9))
        self._draw = random.Random(seed)
        self._real, self._imaginary = self._draw.gauss(0, 1), self._draw.gauss(0, 1)

    def after_s(self, passed_s: float) -> float:
        """The gain, in dB, of which the power averages to 1, so much later."""
        correlation = math.exp(-((passed_s / self._coherence_s) ** 2))
        fresh = math.sqrt(1 - correlation**2)
        self._real = correlation * self._real + fresh * self._draw.gauss(0, 1)
        self._imaginary = correlation * self._imaginary + fresh * self._draw.gauss(0, 1)
        steady = math.sqrt(self._k / (self._k + 1))
        scattered = math.sqrt(1 / (2 * (self._k + 1)))
        power = (steady + scattered * self._real) ** 2 + (scattered * self._imaginary) ** 2
        return 10 * math.log10(max(power, 1e-9))


def noise_dbm(bandwidth_hz: float, noise_figure_db: float = 7.0) -> float:
    """Thermal noise in a band, as a receiver of this noise figure has it."""
    return _THERMAL_NOISE_DBM_PER_HZ + 10 * math.log10(bandwidth_hz) + noise_figure_db
