"""The files of the stack in containers: each checked by the program that reads it where that can be had, and against
each other. No engine runs here: that the images start is not shown.
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from support.alert_rules import DASHBOARDS, ROOT, RULES
from support.real_programs import real_program
from tracewire.settings import describe_settings

COMPOSE: Final = ROOT / "compose.yaml"
FOLDER: Final = DASHBOARDS / "compose"
BUILT: Final = "tracewire"
WITHOUT_HEALTHCHECK: Final = {"otel-collector", "tempo"}
"""Their images hold no shell, and nothing else to ask them with."""
PINNED: Final = re.compile(r"v?\d+\.\d+\.\d+(-[\w.]+)?")
SECONDS: Final = 60


def stack() -> dict[str, Any]:
    """compose.yaml."""
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return loaded


SERVICES: Final[dict[str, Any]] = stack()["services"]


def run(*command: str | Path) -> str:
    """What the command says; it must succeed."""
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=SECONDS)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def ports_of(name: str) -> set[int]:
    """The ports at which other services reach this one: those that it publishes or exposes."""
    service = SERVICES[name]
    published = [one.rpartition(":")[2] for one in service.get("ports", ())]
    return {int(port) for port in (*published, *service.get("expose", ()))}


def addresses(text: str) -> set[tuple[str, int]]:
    """Each host and port in a text that is not this machine's."""
    found = re.findall(r"(?:https?|ws)://([a-z][\w-]*):(\d+)", text) + re.findall(r'"([a-z][\w-]*):(\d+)"', text)
    return {(host, int(port)) for host, port in found}


def without_comments(path: Path) -> str:
    """The file without what is only said."""
    return "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))


# By the programs that read them.


def test_compose_reads_the_stack() -> None:
    """By itself; it needs no engine for that."""
    docker = shutil.which("docker")
    plugin = docker and subprocess.run(
        [docker, "compose", "version"], capture_output=True, check=False, timeout=SECONDS
    )
    if not plugin or plugin.returncode:
        pytest.skip("Docker's compose plugin is missing: compose.yaml is not read by the program that it is for")
    assert "tracewire" in run(str(docker), "compose", "-f", COMPOSE, "config", "--services")


def test_prometheus_and_alertmanager_accept_the_configurations_of_the_stack(tmp_path: Path) -> None:
    """By their own checkers, with the paths as they are in the containers."""
    promtool = real_program("promtool", package="prometheus")
    token = tmp_path / "ops-token"
    token.write_text("x")
    text = (FOLDER / "prometheus.yaml").read_text()
    assert text.count("/run/tracewire/ops-token") == 1
    (tmp_path / "prometheus.yaml").write_text(text.replace("/run/tracewire/ops-token", str(token)))
    (tmp_path / "rules").symlink_to(RULES[0].parent)
    said = run(promtool, "check", "config", tmp_path / "prometheus.yaml")
    assert f"{len(RULES)} rule files found" in said
    amtool = real_program("amtool", package="prometheus-alertmanager")
    run(amtool, "check-config", FOLDER / "alertmanager.yaml")


# Against the shipped files.


def test_the_stacks_prometheus_is_the_shipped_one_but_for_addresses() -> None:
    """Every job of the shipped file is there, with its settings; more are, for what only the stack has."""
    shipped = yaml.safe_load((DASHBOARDS / "prometheus" / "prometheus.yaml").read_text())
    ours = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    more = {"static_configs", "authorization", "relabel_configs"}

    def jobs(config: Any) -> dict[str, Any]:
        return {
            job["job_name"]: {key: value for key, value in job.items() if key not in more}
            for job in config.pop("scrape_configs")
        }

    expected, found = jobs(shipped), jobs(ours)
    assert {name: found.get(name) for name in expected} == expected
    for config in (shipped, ours):
        config["alerting"]["alertmanagers"] = len(config["alerting"]["alertmanagers"])
    assert shipped == ours


def test_the_stacks_alertmanager_is_the_shipped_one_but_for_receivers() -> None:
    """Routes, grouping and inhibition are the same."""
    shipped = yaml.safe_load((DASHBOARDS / "alertmanager" / "alertmanager.yaml").read_text())
    ours = yaml.safe_load((FOLDER / "alertmanager.yaml").read_text())
    for config in (shipped, ours):
        for receiver in config["receivers"]:
            for hook in receiver["webhook_configs"]:
                hook["url"] = re.sub(r"//[^/]+/", "//somewhere/", hook["url"])
    assert shipped == ours


def test_traces_leave_through_the_collector_into_tempo() -> None:
    """Tempo listens where the Collector sends, and the Collector where Tracewire does."""
    tempo = yaml.safe_load((DASHBOARDS / "tempo.yaml").read_text())
    (endpoint,) = (one["endpoint"] for one in tempo["distributor"]["receivers"]["otlp"]["protocols"].values())
    collector = SERVICES["otel-collector"]["environment"]
    assert collector["OTELCOL_BACKEND_ENDPOINT"] == f"http://tempo:{endpoint.rpartition(':')[2]}"
    assert SERVICES["tracewire"]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://otel-collector:4318"
    data = {volume.partition(":")[2] for volume in SERVICES["tempo"]["volumes"]}
    storage = tempo["storage"]["trace"]
    for path in (storage["wal"]["path"], storage["local"]["path"]):
        assert any(path.startswith(f"{place}/") for place in data)


# In itself.


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_pinned_kept_up_and_asked_how_it_is(name: str) -> None:
    """An exact version, a restart policy, a healthcheck, or a reason for none; logs that do not fill the disk."""
    service = SERVICES[name]
    image, _, version = service["image"].partition(":")
    assert PINNED.fullmatch(version), f"{image} is not pinned"
    assert service["restart"] == ("no" if name == "prepare" else "unless-stopped")
    assert service["logging"]["options"]["max-size"]
    if image != BUILT and name not in WITHOUT_HEALTHCHECK:
        assert service["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", [name for name in SERVICES if SERVICES[name]["image"].startswith(BUILT)])
def test_what_is_ours_runs_with_nothing_that_it_does_not_need(name: str) -> None:
    """No root but where files are given away, a file system that it cannot write, no capabilities."""
    service = SERVICES[name]
    assert service["user"] == ("0:0" if name == "prepare" else "10001:10001")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert ("cap_add" in service) == (name == "prepare")


def test_published_ports_are_on_loopback_and_each_is_published_once() -> None:
    """Nobody on the network reaches any of it."""
    published = [one for service in SERVICES.values() for one in service.get("ports", ())]
    assert {one.rpartition(":")[0].rpartition(":")[0] for one in published} == {"127.0.0.1"}
    assert len(set(published)) == len(published) >= 5
    assert all("network_mode" not in service or name == "prepare" for name, service in SERVICES.items())


def test_there_is_no_secret_in_the_files() -> None:
    """What holds one names a file in a volume; nothing has a password."""
    for path in (COMPOSE, *FOLDER.glob("*.yaml"), DASHBOARDS / "tempo.yaml", ROOT / "Dockerfile"):
        said = r"(?i)(?:password|passwd|secret|token|api_?key)\w*[ \t]*[:=][ \t]*(\S+)"
        found = re.findall(said, without_comments(path))
        assert [value for value in found if not value.startswith("/")] == [], path


def test_whatever_is_mounted_is_there() -> None:
    """Files of this repository, read-only; named volumes that are declared."""
    declared = set(stack()["volumes"])
    used = set()
    for name, service in SERVICES.items():
        for volume in service.get("volumes", ()):
            source, _, *mode = volume.split(":")
            if not source.startswith("./"):
                used.add(source)
                continue
            assert mode == ["ro"], (name, volume)
            assert (ROOT / source).exists(), volume
    assert used == declared


def test_every_address_is_a_service_and_a_port_that_it_has() -> None:
    """In the stack itself, in Prometheus's, Alertmanager's and Grafana's configurations."""
    files = [COMPOSE, *FOLDER.glob("*.yaml"), *sorted((DASHBOARDS / "provisioning").rglob("*.yaml"))]
    for path in files:
        for host, port in addresses(without_comments(path)):
            assert host in SERVICES, f"{path.name}: {host}"
            assert port in ports_of(host), f"{path.name}: {host}:{port}"
    assert len(addresses(without_comments(FOLDER / "prometheus.yaml"))) >= 6


def test_a_service_waits_for_those_that_it_cannot_start_without() -> None:
    """By their health where they have one; secrets are made before anybody reads them."""
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            expected = {"prepare": "service_completed_successfully"}.get(needed) or (
                "service_started" if needed in WITHOUT_HEALTHCHECK else "service_healthy"
            )
            assert how["condition"] == expected, (name, needed)
        reads = any("ops-token" in volume or "tracewire-data" in volume for volume in service.get("volumes", ()))
        assert not reads or name == "prepare" or "prepare" in needs(name), name


def needs(name: str) -> set[str]:
    """What a service waits for, and what those wait for."""
    direct = set(SERVICES[name].get("depends_on", ()))
    return direct.union(*(needs(one) for one in direct))


def test_prometheus_brings_the_token_that_the_server_asks_for() -> None:
    """One file of one volume, made by the first start, for server, gate and Prometheus."""
    place = "/run/tracewire/ops-token"
    assert SERVICES["tracewire"]["environment"]["TRACEWIRE_OPS_TOKEN_FILE"] == place
    assert f"--token={place}" in SERVICES["prepare"]["command"]
    assert f"--token-file={place}" in SERVICES["ops"]["command"]
    jobs = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())["scrape_configs"]
    assert [job["authorization"] for job in jobs if "authorization" in job] == [{"credentials_file": place}]
    for name in ("prepare", "tracewire", "ops", "prometheus"):
        assert any(volume.startswith("ops-token:/run/tracewire") for volume in SERVICES[name]["volumes"])


def test_instances_are_named_by_the_address_that_a_browser_reaches() -> None:
    """The links of alerts and boards are made of it: where the gate is published."""
    (job, *_) = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())["scrape_configs"]
    assert job["relabel_configs"] == [{"target_label": "instance", "replacement": "127.0.0.1:9464"}]
    assert SERVICES["ops"]["ports"] == ["127.0.0.1:9464:9464"]


def test_the_servers_settings_exist_and_canary_and_drills_are_on() -> None:
    """A misspelt variable would stop the server."""
    known = {setting.variable for setting in describe_settings()}
    for name in ("tracewire", "visitor"):
        named = [key for key in SERVICES[name]["environment"] if key.startswith("TRACEWIRE_")]
        assert {key.removesuffix("_FILE") for key in named} <= known
    assert {"--canary", "--drills"} <= set(SERVICES["tracewire"]["command"])


def test_the_collector_is_of_the_version_that_the_tests_run() -> None:
    """The image, and the manifest of the one that is built."""
    manifest = ROOT / "tests" / "collector" / "builder.yaml"
    version = yaml.safe_load(manifest.read_text())["dist"]["version"]
    assert SERVICES["otel-collector"]["image"].endswith(f":{version}")


def test_the_image_is_made_of_what_is_pinned() -> None:
    """The lock's hashes, an exact base, a user of its own, a healthcheck on /ready, the project's version."""
    text = (ROOT / "Dockerfile").read_text()
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", bases[0])
    assert "--require-hashes -r requirements.lock" in text
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert "/ready" in text
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert SERVICES["tracewire"]["image"] == f"tracewire:{version[1]}"
    ignored = (ROOT / ".dockerignore").read_text().split()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    for source in " ".join(copied).split():
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored, source
