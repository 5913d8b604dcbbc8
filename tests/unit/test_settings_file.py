from pathlib import Path

import pytest

from airloom.errors import ConfigurationError
from airloom.settings_file import Settings, load_yaml
from cloud_agent.config import CloudAgentSettings
from device_agent.config import DeviceSettings
from netctl.daemon.settings import DaemonSettings
from testbed.scenario import Scenario

GOOD = """\
name: tiny
cloud:
  model: {path: cloud.gguf}
devices:
  - name: one
    model: {path: one.gguf}
    link:
      uplink: {rate: 1 Mbit/s, delay: 20 ms}
      downlink: {rate: 2 Mbit/s, delay: 20 ms}
"""


def load(folder: Path, text: str) -> Scenario:
    path = folder / "scenario.yaml"
    path.write_text(text, encoding="utf-8")
    return load_yaml(path, Scenario)


def test_a_good_scenario_is_read_in_si_units_with_paths_beside_the_file(tmp_path: Path) -> None:
    scenario = load(tmp_path, GOOD)
    uplink = scenario.devices[0].link.conditions().uplink
    assert (uplink.rate_bps, uplink.delay_ms) == (1_000_000, 20.0)
    assert scenario.cloud.model.path == tmp_path / "cloud.gguf"


@pytest.mark.parametrize(
    ("old", "new", "line", "field", "says"),
    [
        ("delay: 20 ms}\n      downlink", "delay: 20}\n      downlink", 8, "uplink.delay", "unit"),
        ("1 Mbit/s", "1 Mbps", 8, "uplink.rate", "Mbit/s"),
        ("name: one\n", "name: One!\n", 5, "devices.0.name", "match"),
        ("name: one\n", "name: air\n", 1, "", "taken"),
        ("uplink: {", "uplink: {jitter: 30 ms, ", 8, "uplink", "before it was sent"),
        ("    link:\n", "    lnk: 1\n    link:\n", 7, "devices.0.lnk", "no such field"),
        ("name: tiny", "name: tiny\nname: twice", 2, "", "written twice"),
        ("cloud:\n", "cloud: [\n", None, "", "YAML"),
        ("  model: {path: cloud.gguf}", "  model: {}", 3, "cloud.model.path", "required"),
    ],
)
def test_an_error_names_file_line_and_field(
    tmp_path: Path, old: str, new: str, line: int | None, field: str, says: str
) -> None:
    assert old in GOOD
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, GOOD.replace(old, new, 1))
    assert caught.value.source == tmp_path / "scenario.yaml"
    if line is not None:
        assert caught.value.line == line
    assert field in (caught.value.field or "")
    assert says in caught.value.problem


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.yaml.*No such file"):
        load_yaml(tmp_path / "nowhere.yaml", Scenario)


@pytest.mark.parametrize("kind", [DeviceSettings, CloudAgentSettings, DaemonSettings])
def test_a_schema_says_what_each_setting_is(kind: type[Settings]) -> None:
    schema = kind.model_json_schema()
    definitions = {kind.__name__: schema, **schema["$defs"]}
    # A field that is a group of settings is described by the group.
    unexplained = {
        f"{name}.{field}"
        for name, definition in definitions.items()
        for field, value in definition["properties"].items()
        if not (value.get("description") or "$ref" in str(value))
    }
    assert not unexplained
    assert all(definition.get("description") for definition in definitions.values())
