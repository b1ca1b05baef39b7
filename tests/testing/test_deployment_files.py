"""What we give people to deploy is valid by the schemas of those who run it, and says what our programs understand."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from dynlog.testing.kinds import KINDS
from tests.house.repository import REPOSITORY

KUBERNETES_VERSION = "1.37"
MANIFESTS = sorted((REPOSITORY / "examples" / "kubernetes").glob("*.yaml"))
COMPOSE = REPOSITORY / "docker-compose.yml"


def objects() -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in MANIFESTS:
        for item in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            yield path, item


def containers() -> list[dict[str, Any]]:
    found = []
    for _, item in objects():
        pod = item["spec"]["template"]["spec"] if "template" in item.get("spec", {}) else {}
        found += [*pod.get("initContainers", []), *pod.get("containers", [])]
    return found


def our_commands() -> set[tuple[tuple[str, ...], frozenset[str]]]:
    """(command, its options) of each container of ours."""
    services = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"].values()
    arguments = [c["args"] for c in containers() if c["image"].startswith("registry.example.com/dynlog:")]
    arguments += [service["command"] for service in services if service["image"] == "dynlog"]
    return {(tuple(args[:2]), frozenset(word for word in args if word.startswith("--"))) for args in arguments}


def compose_problems(path: Path) -> str:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize(
    ("path", "item"), list(objects()), ids=lambda value: getattr(value, "stem", "") or value["kind"]
)
def test_a_manifest_is_valid_by_the_strict_schema_of_kubernetes(path: Path, item: dict[str, Any]) -> None:
    kubernetes_validate.validate(item, KUBERNETES_VERSION, strict=True)


def test_a_manifest_with_a_misspelt_field_would_not_pass() -> None:
    _, wrong = next((path, item) for path, item in objects() if item["kind"] == "Deployment")
    wrong["spec"]["template"]["spec"]["containers"][0]["redinessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="redinessProbe"):
        kubernetes_validate.validate(wrong, KUBERNETES_VERSION, strict=True)


def test_the_compose_file_is_valid_by_the_compose_specification(tmp_path: Path) -> None:
    assert compose_problems(COMPOSE) == ""
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(COMPOSE.read_text(encoding="utf-8").replace("healthcheck:", "healthchek:"), encoding="utf-8")
    assert "healthchek" in compose_problems(wrong)


def test_a_user_of_the_compose_file_has_the_servers_that_we_test_with() -> None:
    services = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    assert set(KINDS) <= set(services)
    for kind in KINDS.values():
        assert services[kind.name]["image"].removesuffix("-alpine") == kind.image
        assert all(port.startswith("127.0.0.1:") for port in services[kind.name]["ports"])


@pytest.mark.parametrize(
    ("command", "options"),
    sorted(our_commands()),
    ids=lambda value: "" if isinstance(value, frozenset) else " ".join(value),
)
def test_what_a_container_of_ours_is_told_to_do_our_program_understands(
    command: tuple[str, ...], options: frozenset[str]
) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "dynlog.cli", *command, "--help"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert shown.returncode == 0, shown.stderr
    assert {option for option in options if option not in shown.stdout} == set()


def test_whoever_makes_the_topic_first_makes_the_same_one() -> None:
    made = [container["args"] for container in containers() if container["name"] == "topic"]
    assert len(made) == 2, "the router and the workers come up in any order"
    assert made[0] == made[1]


def test_the_router_is_probed_where_it_answers_and_runs_as_nobody() -> None:
    (router,) = (container for container in containers() if container["name"] == "router")
    assert router["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert router["livenessProbe"]["httpGet"]["path"] == "/healthz"
    dockerfile = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    final = dockerfile.rpartition("\nFROM ")[2]
    assert "\nUSER 10001" in final
