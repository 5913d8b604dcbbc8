"""Trees laid out as the boards' documentation gives them."""

from pathlib import Path

import pytest

from device_agent.sensors import BoardSensors, PowerRail, Temperature, Throttling


def lay_out(root: Path, files: dict[str, str]) -> BoardSensors:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return BoardSensors(root)


ORIN = {
    # Jetson Orin Nano, JetPack 6: the kernel's ina3221 driver.
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "sys/class/hwmon/hwmon0/name": "thermal_fan\n",
    "sys/class/hwmon/hwmon1/name": "ina3221\n",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_IN\n",
    "sys/class/hwmon/hwmon1/in1_input": "4976\n",
    "sys/class/hwmon/hwmon1/curr1_input": "1264\n",
    "sys/class/hwmon/hwmon1/in2_label": "VDD_CPU_GPU_CV\n",
    "sys/class/hwmon/hwmon1/in2_input": "4968\n",
    "sys/class/hwmon/hwmon1/curr2_input": "328\n",
    "sys/class/hwmon/hwmon1/in3_label": "VDD_SOC\n",
    "sys/class/hwmon/hwmon1/in3_input": "4968\n",
    "sys/class/hwmon/hwmon1/curr3_input": "312\n",
    # Shunt voltages and their sum are no rails.
    "sys/class/hwmon/hwmon1/in4_input": "12640\n",
    "sys/class/hwmon/hwmon1/in7_input": "19040\n",
    "sys/class/hwmon/hwmon1/in7_label": "sum of shunt voltages\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "47812\n",
    "sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "46093\n",
    # Zones of units that are switched off cannot be read.
    "sys/class/thermal/thermal_zone2/type": "cv0-thermal\n",
    "sys/devices/platform/gpu.0/load": "437\n",
}


def test_a_jetson_orin(tmp_path: Path) -> None:
    sensors = lay_out(tmp_path, ORIN)
    (tmp_path / "sys/class/thermal/thermal_zone2/temp").mkdir()
    assert sensors.model == "NVIDIA Jetson Orin Nano Developer Kit"
    reading = sensors.read()
    assert reading.rails == (
        PowerRail("VDD_IN", 4.976, 1.264),
        PowerRail("VDD_CPU_GPU_CV", 4.968, 0.328),
        PowerRail("VDD_SOC", 4.968, 0.312),
    )
    assert reading.power_watts == pytest.approx(6.29, abs=0.01)
    assert reading.temperatures == (
        Temperature("cpu-thermal", 47.812),
        Temperature("gpu-thermal", 46.093),
    )
    assert reading.gpu_percent == 43.7
    assert reading.throttling is None


def test_a_jetson_nano_with_nvidias_older_driver(tmp_path: Path) -> None:
    device = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    sensors = lay_out(
        tmp_path,
        {
            f"{device}/rail_name_0": "POM_5V_IN\n",
            f"{device}/in_voltage0_input": "5008\n",
            f"{device}/in_current0_input": "472\n",
            f"{device}/rail_name_1": "POM_5V_GPU\n",
            f"{device}/in_voltage1_input": "5000\n",
            f"{device}/in_current1_input": "0\n",
            f"{device}/rail_name_2": "NC\n",
            f"{device}/in_voltage2_input": "0\n",
            f"{device}/in_current2_input": "0\n",
            "sys/devices/gpu.0/load": "0\n",
        },
    )
    reading = sensors.read()
    # A rail that carries nothing is there, one that is not connected is not.
    assert reading.rails == (PowerRail("POM_5V_IN", 5.008, 0.472), PowerRail("POM_5V_GPU", 5, 0))
    assert reading.power_watts == pytest.approx(2.364, abs=0.001)
    assert reading.gpu_percent == 0.0


VCGENCMD = """#!/bin/sh
case $1 in
get_throttled) echo "throttled=0x50005" ;;
pmic_read_adc) cat <<'END'
     3V7_WL_SW_A current(0)=0.00780734A
       VDD_CORE_A current(7)=2.06400000A
   3V7_WL_SW_V volt(8)=3.72123200V
       VDD_CORE_V volt(15)=0.87646480V
          EXT5V_V volt(24)=5.14556000V
           BATT_V volt(25)=0.00634920V
END
;;
*) exit 1 ;;
esac
"""


def test_a_raspberry_pi_5(tmp_path: Path) -> None:
    sensors = lay_out(
        tmp_path,
        {
            "usr/bin/vcgencmd": VCGENCMD,
            "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
            "sys/class/hwmon/hwmon0/name": "cpu_thermal\n",
            "sys/class/hwmon/hwmon0/temp1_input": "58950\n",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "58950\n",
            "sys/class/hwmon/hwmon1/name": "rp1_adc\n",
            "sys/class/hwmon/hwmon1/temp1_input": "51234\n",
        },
    )
    (tmp_path / "usr/bin/vcgencmd").chmod(0o755)
    reading = sensors.read()
    assert reading.throttling == Throttling(
        under_voltage=True,
        frequency_capped=False,
        throttled=True,
        soft_temperature_limit=False,
        under_voltage_occurred=True,
        frequency_capped_occurred=False,
        throttled_occurred=True,
        soft_temperature_limit_occurred=False,
    )
    # EXT5V and BATT have a voltage only: what they carry is not known.
    assert [rail.name for rail in reading.rails] == ["3V7_WL_SW", "VDD_CORE"]
    assert reading.power_watts == pytest.approx(2.064 * 0.8764648 + 0.00780734 * 3.721232)
    assert [one.sensor for one in reading.temperatures] == ["cpu_thermal", "rp1_adc", "cpu-thermal"]


def test_a_raspberry_pi_4_tells_its_flags_by_sysfs_and_no_power(tmp_path: Path) -> None:
    sensors = lay_out(
        tmp_path,
        {
            "sys/devices/platform/soc/soc:firmware/get_throttled": "0\n",
            "usr/bin/vcgencmd": "#!/bin/sh\nexit 255\n",
        },
    )
    (tmp_path / "usr/bin/vcgencmd").chmod(0o755)
    reading = sensors.read()
    assert reading.throttling is not None
    assert not reading.throttling.throttled
    assert reading.rails == ()
    assert reading.power_watts is None


def test_what_a_board_lacks_is_absent_and_not_zero(tmp_path: Path) -> None:
    sensors = BoardSensors(tmp_path)
    reading = sensors.read()
    assert sensors.model is None
    assert (reading.temperatures, reading.rails) == ((), ())
    assert reading.power_watts is None
    assert reading.gpu_percent is None
    assert reading.throttling is None
