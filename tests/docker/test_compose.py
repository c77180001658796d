"""The trial on one machine, and the units for systemd: who reaches whom, and what a process may do."""

import configparser
import json
import os
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.docker import recipes
from tests.ports import free_port

SITES = (1, 2, 3)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((recipes.FOLDER / "compose.yml").read_text(encoding="utf-8"))
    return found


def test_it_is_a_coordinator_three_hospitals_and_an_archive_each(compose: dict[str, Any]) -> None:
    wanted = {"coordinator", *(f"hospital-{n}" for n in SITES), *(f"pacs-{n}" for n in SITES)}
    assert set(compose["services"]) == wanted


def test_a_hospital_reaches_its_archive_and_the_coordinator_and_nobody_else(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert all(network["internal"] for network in compose["networks"].values())
    assert not any("ports" in one or "network_mode" in one for one in services.values())
    for number in SITES:
        own = set(services[f"hospital-{number}"]["networks"])
        reached = {name for name, one in services.items() if own & set(one["networks"])}
        assert reached == {f"hospital-{number}", f"pacs-{number}", "coordinator"}
        assert {name for name, one in services.items() if f"lan-{number}" in one["networks"]} == {
            f"hospital-{number}",
            f"pacs-{number}",
        }


def test_every_container_has_no_rights_and_writes_its_own_volume_alone(compose: dict[str, Any]) -> None:
    volumes = []
    for name, one in compose["services"].items():
        assert one["read_only"] is True, name
        assert one["cap_drop"] == ["ALL"], name
        assert one["security_opt"] == ["no-new-privileges:true"], name
        assert one["tmpfs"][0].startswith("/tmp:"), name  # noqa: S108
        assert not {"privileged", "cap_add", "environment", "env_file", "devices"} & set(one), name
        assert "healthcheck" in one, name
        volumes += [volume.split(":")[0] for volume in one["volumes"] if not volume.endswith(":ro")]
    assert sorted(volumes) == sorted(compose["volumes"])


def test_its_images_are_those_of_the_dockerfiles_with_their_own_commands(compose: dict[str, Any]) -> None:
    for name, image in (("coordinator", "coordinator"), *((f"hospital-{n}", "hospital") for n in SITES)):
        service, last = compose["services"][name], recipes.stages(image)[-1]
        assert (recipes.FOLDER / service["build"]["context"]).resolve() == recipes.HOUSE
        assert service["build"]["dockerfile"] == f"docker/{image}.Dockerfile"
        assert service["command"] == last.form("CMD")
        assert service["healthcheck"]["test"][1:] == last.form("HEALTHCHECK")


@pytest.mark.system("orthanc")
def test_an_archive_starts_with_the_settings_of_the_trial(tmp_path: Path, compose: dict[str, Any]) -> None:
    settings = json.loads((recipes.FOLDER / "orthanc.json").read_text(encoding="utf-8"))
    mounted = compose["services"]["pacs-1"]["volumes"]
    assert f"pacs-1:{settings['StorageDirectory']}" in mounted
    web, dimse = free_port(), free_port()
    settings |= {"StorageDirectory": str(tmp_path / "db"), "IndexDirectory": str(tmp_path / "db")}
    settings |= {"HttpPort": web, "DicomPort": dimse, "RemoteAccessAllowed": False}
    settings["Plugins"] = [place for place in settings["Plugins"] if Path(place).exists()]
    file = tmp_path / "orthanc.json"
    file.write_text(json.dumps(settings))
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(["Orthanc", str(file)], stdout=log, stderr=log)
    try:
        assert studies(web, process) == []
    finally:
        process.terminate()
        process.wait(20)


def studies(port: int, process: subprocess.Popen[bytes]) -> object:
    """What the archive answers over DICOMweb, as soon as it does."""
    session = requests.Session()
    session.trust_env = False
    for _ in range(200):
        assert process.poll() is None
        try:
            answer = session.get(f"http://127.0.0.1:{port}/dicom-web/studies", timeout=5)
        except requests.ConnectionError:
            time.sleep(0.1)
            continue
        return answer.json() if answer.content else []
    raise AssertionError("the archive did not answer")


def unit(name: str) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(recipes.FOLDER / "systemd" / f"{name}.service", encoding="utf-8")
    return parser["Service"]


@pytest.mark.parametrize(("name", "group"), [("fedward-node", "node"), ("fedward-coordinator", "server")])
def test_under_systemd_it_writes_its_state_alone_and_has_no_rights(name: str, group: str) -> None:
    service = unit(name)
    wanted = {
        "ProtectSystem": "strict",
        "NoNewPrivileges": "yes",
        "UMask": "0077",
        "Restart": "on-failure",
        "ReadWritePaths": "/var/lib/fedward",
        "CapabilityBoundingSet": "",
        "User": "fedward",
    }
    assert wanted.items() <= dict(service).items()
    command = shlex.split(service["ExecStart"])
    assert command[:3] == ["/opt/fedward/bin/fedward", group, "start"]
    assert command[3].startswith("/var/lib/fedward/")
    assert service["RestartPreventExitStatus"].split() == ["6"]
    assert os.sep not in service["StateDirectory"]
