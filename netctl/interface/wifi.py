"""Real Wi-Fi radios through nl80211: what they say of their link, and limits set on them.

Attribute numbers are those of linux/nl80211.h.
"""

from __future__ import annotations

import contextlib
import struct
from dataclasses import dataclass
from typing import Literal, get_args

from airloom.errors import LinkError
from netctl.backends.kernel.generic_netlink import GenericNetlink
from netctl.backends.kernel.netlink import Netlink, attribute, attributes, nested

_SET_WIPHY, _GET_INTERFACE, _GET_STATION, _GET_SURVEY, _SET_TX_BITRATE_MASK = 2, 5, 17, 50, 57
_IFINDEX, _IFTYPE, _MAC, _STATION, _FREQUENCY, _SURVEY = 3, 5, 6, 21, 38, 84
_TX_RATES, _POWER_SETTING, _POWER_LEVEL, _CHANNEL_WIDTH = 90, 97, 98, 159
_AUTOMATIC, _FIXED = 0, 2
_RATE_16, _RATE_32 = 1, 5
_MASK_LEGACY, _MASK_HT = 1, 2
_BAND_2_GHZ, _BAND_5_GHZ = 0, 1
_WIDTHS_MHZ = {0: 20, 1: 20, 2: 40, 3: 80, 4: 160, 5: 160, 6: 5, 7: 10, 13: 320}

Kind = Literal[
    "unspecified", "ad hoc", "station", "access point", "access point VLAN", "WDS", "monitor", "mesh",
    "P2P client", "P2P owner", "P2P device", "OCB", "NAN",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a radio link; what its driver does not tell is None."""

    address: str
    signal_dbm: int | None
    """Of the last frame that came: the RSSI."""
    average_signal_dbm: int | None
    tx_rate_bps: int | None
    rx_rate_bps: int | None
    tx_packets: int | None
    tx_retries: int | None
    tx_failed: int | None
    rx_packets: int | None


@dataclass(frozen=True, slots=True)
class Radio:
    """A Wi-Fi interface, and whom it hears."""

    interface: str
    kind: Kind
    frequency_mhz: int | None
    width_mhz: int | None
    tx_power_dbm: float | None
    noise_dbm: int | None
    """On the channel in use."""
    peers: tuple[Peer, ...]


@dataclass(frozen=True, slots=True)
class RadioLimits:
    """What a radio may use; None and empty leave it as it is."""

    frequency_mhz: int | None = None
    tx_power_dbm: float | None = None
    rates_bps: tuple[int, ...] = ()
    """802.11a/b/g rates."""
    mcs: tuple[int, ...] = ()
    """802.11n's, 0 to 76."""

    def __post_init__(self) -> None:
        for rate in self.rates_bps:
            if rate % 500_000 or not 0 < rate <= 54_000_000:
                raise ValueError(
                    f"802.11a/b/g has rates like 6 Mbit/s and 5.5 Mbit/s, not {rate} bit/s"
                )
        if not all(0 <= one <= 76 for one in self.mcs):
            raise ValueError(f"802.11n has MCS 0 to 76, not {max(self.mcs)}")


class WiFi:
    """The Wi-Fi radios of one network namespace (None: the present one).

    Raises:
        UnsupportedConditionError: this kernel has no Wi-Fi.
    """

    def __init__(self, namespace: str | None = None) -> None:
        self._nl80211 = GenericNetlink("nl80211", namespace)
        self._netlink = Netlink(namespace)

    def __enter__(self) -> WiFi:
        return self

    def __exit__(self, *_: object) -> None:
        self._nl80211.close()
        self._netlink.close()

    def _named(self, interface: str) -> bytes:
        return attribute(_IFINDEX, struct.pack("=I", self._netlink.index(interface)))

    def read(self, interface: str) -> Radio:
        """What a radio says; LinkError where it is none."""
        named = self._named(interface)
        try:
            (found,) = self._nl80211.request(_GET_INTERFACE, named)
        except LinkError as error:
            raise LinkError(f"{interface} is no Wi-Fi interface ({error})") from error
        peers = [_peer(one) for one in self._nl80211.dump(_GET_STATION, named)]
        frequency = _number(found, _FREQUENCY)
        width = _number(found, _CHANNEL_WIDTH)
        power = _number(found, _POWER_LEVEL, "=i")
        return Radio(
            interface,
            get_args(Kind)[_number(found, _IFTYPE) or 0],
            frequency,
            None if frequency is None or width is None else _WIDTHS_MHZ.get(width),
            None if power is None else power / 100,
            self._noise_dbm(named),
            tuple(peers),
        )

    def _noise_dbm(self, named: bytes) -> int | None:
        with contextlib.suppress(LinkError):
            for one in self._nl80211.dump(_GET_SURVEY, named):
                survey = dict(attributes(one.get(_SURVEY, b"")))
                if 3 in survey and 2 in survey:
                    return int(struct.unpack("=b", survey[2][:1])[0])
        return None

    def limit(self, interface: str, limits: RadioLimits) -> None:
        """Set limits; LinkError, in the kernel's words, names the one that the driver refuses."""
        if limits.frequency_mhz is not None:
            tuned = attribute(_FREQUENCY, struct.pack("=I", limits.frequency_mhz))
            self._set(interface, f"be tuned to {limits.frequency_mhz} MHz", _SET_WIPHY, tuned)
        if limits.tx_power_dbm is not None:
            self._set_power(interface, limits.tx_power_dbm)
        if limits.rates_bps or limits.mcs:
            self._set_rates(interface, limits)

    def _set(self, interface: str, what: str, command: int, payload: bytes) -> None:
        try:
            self._nl80211.request(command, self._named(interface) + payload)
        except LinkError as error:
            raise LinkError(f"{interface} cannot {what}: {error}") from error

    def _set_power(self, interface: str, power_dbm: float | None) -> None:
        setting = attribute(
            _POWER_SETTING, struct.pack("=I", _AUTOMATIC if power_dbm is None else _FIXED)
        )
        what = "choose its power"
        if power_dbm is not None:
            what = f"send with {power_dbm:g} dBm"
            setting += attribute(_POWER_LEVEL, struct.pack("=i", round(power_dbm * 100)))
        self._set(interface, what, _SET_WIPHY, setting)

    def _set_rates(self, interface: str, limits: RadioLimits) -> None:
        legacy = bytes(rate // 500_000 for rate in limits.rates_bps)
        parts = [attribute(_MASK_LEGACY, legacy)] if limits.rates_bps or limits.mcs else []
        # Naming none of a kind forbids it: without a mask of HT, its rates would stay.
        parts += [attribute(_MASK_HT, bytes(limits.mcs))] if parts else []
        frequency = self.read(interface).frequency_mhz or 0
        band = _BAND_2_GHZ if frequency < 3000 else _BAND_5_GHZ
        # No mask at all allows all.
        mask = nested(_TX_RATES, nested(band, *parts)) if parts else b""
        what = "be limited to these rates (one of its network's basic rates must be among them)"
        self._set(interface, what, _SET_TX_BITRATE_MASK, mask)

    def restore(self, interface: str, before: RadioLimits, limits: RadioLimits) -> None:
        """Undo limits. The kernel does not tell earlier masks of rates: all are allowed again."""
        if limits.rates_bps or limits.mcs:
            self._set_rates(interface, RadioLimits())
        if limits.tx_power_dbm is not None:
            self._set_power(interface, None)
            # Automatic, unless that is not what it was.
            if self.read(interface).tx_power_dbm != before.tx_power_dbm:
                self._set_power(interface, before.tx_power_dbm)
        if limits.frequency_mhz is not None and before.frequency_mhz is not None:
            self.limit(interface, RadioLimits(frequency_mhz=before.frequency_mhz))


def differences(limits: RadioLimits, radio: Radio) -> list[str]:
    """How a radio differs from the limits that were set, where it tells."""
    pairs = (
        ("the frequency", limits.frequency_mhz, radio.frequency_mhz, "MHz"),
        ("the power", limits.tx_power_dbm, radio.tx_power_dbm, "dBm"),
    )
    return [
        f"{what} is {shown:g} {unit}, not {asked:g}"
        for what, asked, shown, unit in pairs
        if asked is not None and shown is not None and asked != shown
    ]


def _number(found: dict[int, bytes], kind: int, form: str = "=I") -> int | None:
    return None if kind not in found else int(struct.unpack_from(form, found[kind])[0])


def _peer(found: dict[int, bytes]) -> Peer:
    station = dict(attributes(found.get(_STATION, b"")))
    return Peer(
        ":".join(f"{byte:02x}" for byte in found[_MAC]),
        _number(station, 7, "=b"),
        _number(station, 13, "=b"),
        _rate_bps(station.get(8, b"")),
        _rate_bps(station.get(14, b"")),
        _number(station, 10),
        _number(station, 11),
        _number(station, 12),
        _number(station, 9),
    )


def _rate_bps(data: bytes) -> int | None:
    """Of a rate's attributes, which count in units of 100 kbit/s."""
    found = dict(attributes(data))
    rate = _number(found, _RATE_32)
    if rate is None:
        rate = _number(found, _RATE_16, "=H")
    return None if rate is None else rate * 100_000
