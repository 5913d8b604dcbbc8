"""The laws of the radio model: further is weaker, weaker is slower, airtime is shared and no more."""

import itertools
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netctl.radio.cell import Cell, Station, conditions, share_airtime
from netctl.radio.mobility import Recorded, Static, random_waypoint, waypoints
from netctl.radio.propagation import LogDistance, RicianFading, Shadowing, noise_dbm
from netctl.radio.rates import CQI_TABLE_2, WIFI_20_MHZ, Cellular, WiFi

PATH = LogDistance(2.4e9, exponent=3.0)
distances = st.floats(1, 10_000)


@given(distances, distances)
def test_path_loss_grows_with_distance(one: float, other: float) -> None:
    near, far = sorted((one, other))
    assert PATH.loss_db(near) <= PATH.loss_db(far)


def test_path_loss_is_friis_at_a_metre_and_thirty_db_a_decade_beyond() -> None:
    assert PATH.loss_db(1) == pytest.approx(40.05, abs=0.05)
    assert PATH.loss_db(100) - PATH.loss_db(10) == pytest.approx(30)


def test_noise_in_20_mhz_is_what_radios_are_specified_by() -> None:
    assert noise_dbm(20e6, 7) == pytest.approx(-94, abs=0.1)


def test_shadowing_has_its_deviation_and_correlation() -> None:
    shadow = Shadowing(6, decorrelation_m=20, seed=1)
    values = [shadow.after_m(10) for _ in range(20_000)]
    assert statistics.pstdev(values) == pytest.approx(6, rel=0.05)
    assert statistics.correlation(values[:-1], values[1:]) == pytest.approx(
        math.exp(-0.5), abs=0.03
    )


@pytest.mark.parametrize("k", [0.0, 3.0, 20.0])
def test_fading_neither_adds_nor_takes_power_on_average(k: float) -> None:
    fading = RicianFading(k, doppler_hz=10, seed=2)
    powers = [10 ** (fading.after_s(1.0) / 10) for _ in range(20_000)]
    assert statistics.fmean(powers) == pytest.approx(1, rel=0.04)


@pytest.mark.parametrize("table", [Cellular(), WiFi()])
@given(st.floats(-20, 60), st.floats(-20, 60))
def test_a_better_snr_is_never_slower(table: Cellular | WiFi, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert table.at(low).rate_bps <= table.at(high).rate_bps


def test_tables_end_where_the_standards_do() -> None:
    assert Cellular(gap_db=0).threshold_db(15) == pytest.approx(22.3, abs=0.1)
    assert Cellular().at(60).rate_bps == pytest.approx(CQI_TABLE_2[-1] * 20e6 * 0.86)
    wifi = WiFi()
    for index, (sensitivity_dbm, _) in enumerate(WIFI_20_MHZ):
        assert wifi.at(sensitivity_dbm - wifi.noise_dbm).index == index
    assert wifi.at(-82.1 - wifi.noise_dbm).rate_bps == 0


rates = st.dictionaries(
    st.sampled_from("abcdef"), st.one_of(st.just(0.0), st.floats(1, 1e8)), min_size=1
)
demands = st.dictionaries(st.sampled_from("abcdef"), st.one_of(st.just(0.0), st.floats(1e-3, 1e8)))


@given(rates, demands)
def test_airtime_is_shared_fairly_and_never_more_than_there_is(
    phy: dict[str, float], demand: dict[str, float]
) -> None:
    got = share_airtime(phy, demand)
    airtime = {name: got[name] / phy[name] for name in phy if phy[name] > 0}
    assert sum(airtime.values()) <= 1 + 1e-9
    for name in phy:
        assert got[name] <= demand.get(name, math.inf) + 1e-6
    # Whoever is not satisfied has as much of the time as anybody else.
    unmet = [n for n in airtime if got[n] < min(phy[n], demand.get(n, math.inf)) * (1 - 1e-9)]
    for name in unmet:
        assert airtime[name] >= max(airtime.values()) - 1e-9


def test_a_slow_station_does_not_slow_the_others_down() -> None:
    got = share_airtime({"fast": 50e6, "slow": 5e6}, {})
    assert got == {"fast": pytest.approx(25e6), "slow": pytest.approx(2.5e6)}


def test_paths_are_walked_at_their_speed() -> None:
    path = waypoints([(0, 0), (30, 0), (30, 40)], speed_m_per_s=2)
    assert path.at(7.5) == (15, 0)
    assert path.at(25) == (30, 20)
    assert path.at(1000) == (30, 40)


def test_random_waypoints_stay_in_the_area_and_repeat_by_seed() -> None:
    walk = random_waypoint((100, 50), (1, 2), pause_s=3, duration_s=500, seed=4)
    assert walk == random_waypoint((100, 50), (1, 2), pause_s=3, duration_s=500, seed=4)
    for time_s in range(0, 500, 7):
        x, y = walk.at(time_s)
        assert 0 <= x <= 100
        assert 0 <= y <= 50


def test_a_path_whose_times_go_back_is_refused() -> None:
    with pytest.raises(ValueError, match="times increase"):
        Recorded(((1, (0, 0)), (1, (1, 1))))


def cells() -> list[Cell]:
    return [
        Cell(name, (x, 0), 30, LogDistance(2e9, 3.5), 20e6) for name, x in (("a", 0), ("b", 800))
    ]


def test_a_station_hands_over_once_between_two_cells_with_a_gap() -> None:
    station = Station(
        waypoints([(50, 0), (750, 0)], 20), cells(), Cellular(), shadowing_db=0.0, rician_k=1e6
    )
    states = [station.at(n * 0.01) for n in range(3600)]
    serving = [state.cell for state in states]
    changes = sum(before != after for before, after in itertools.pairwise(serving))
    assert (serving[0], serving[-1], changes) == ("a", "b", 1)
    gap = [state for state in states if state.handing_over]
    assert len(gap) == pytest.approx(5, abs=1)
    assert not conditions(gap[0]).up
    # Past the middle by the hysteresis, not at it.
    assert 50 + 20 * gap[0].time_s > 400


def test_a_far_station_has_a_slower_and_later_link_than_a_near_one() -> None:
    def at(distance_m: float) -> float:
        station = Station(
            Static((distance_m, 0)), cells()[:1], Cellular(), shadowing_db=0, rician_k=1e6
        )
        found = conditions(station.at(0))
        return (found.rate_bps or 0) if found.up else 0.0

    assert at(50) > at(300) > at(5000) == 0
