"""What `pip install dynlog` puts on a machine: all of the package, nothing of the house, and no broker's client."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.house.repository import LINKED, REPOSITORY, clean_copy, package_modules, project, tracked_files

BROKER_CLIENTS = {"aiokafka", "redis", "minio", "nats_py", "pyzmq", "fastapi", "uvicorn", "testcontainers"}

USE_BOTH_ENGINES = """
import asyncio, sys
import dynlog

async def main(path):
    for url in ("memory://", f"sqlite:///{path}"):
        async with dynlog.open_log(url) as log:
            await log.create_topic("t")
            await log.append("t", 0, [dynlog.Record(parts=(b"here",))])
            batch = await log.read(await log.position("t", 0))
            print(url.partition(":")[0], [bytes(part) for part in batch.bodies[0]])

print(dynlog.__file__)
asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, built by the pinned setuptools from a clean copy."""
    source, out = clean_copy(tmp_path_factory.mktemp("source")), tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


def wheel_files(built: Path) -> set[str]:
    with zipfile.ZipFile(wheel(built)) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def package_data() -> set[str]:
    data = {str(path) for path in tracked_files() if path.parts[:2] == ("dynlog", "data")}
    return data | {"dynlog/py.typed"}


def plain_pins(target: Path) -> Path:
    """constraints.txt without its hashes, which pip would demand of the wheel that was just built, too."""
    pins = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    target.write_text("\n".join(line.rstrip("\\ ") for line in pins if "--hash" not in line), encoding="utf-8")
    return target


def test_the_wheel_holds_every_module_and_data_file_once_and_nothing_else(built: Path) -> None:
    modules = {str(Path("dynlog", path) if path.parts[0] in LINKED else path) for path in package_modules()}
    assert {f"dynlog/{name}/__init__.py" for name in LINKED} <= modules
    assert wheel_files(built) == modules | package_data()


def test_the_wheel_of_the_sdist_is_the_wheel(built: Path, tmp_path: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    assert [path for path in source.rglob("*") if path.is_symlink()] == [], "a symlink may dangle where it is unpacked"
    assert {path.name for path in source.iterdir() if path.is_dir()} == {"dynlog", "dynlog.egg-info"}
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path / "out"),
        str(source),
    ]
    subprocess.run(command, capture_output=True, text=True, check=True)
    assert wheel_files(tmp_path / "out") == wheel_files(built)


def test_a_base_install_opens_both_engines_and_pulls_no_brokers_client(built: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True, capture_output=True)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    install = [*pip, "install", "--quiet", "--constraint", str(plain_pins(tmp_path / "pins.txt")), str(wheel(built))]
    installed = subprocess.run(install, capture_output=True, text=True, check=False)
    assert installed.returncode == 0, installed.stderr
    listed = subprocess.run([*pip, "list", "--format=freeze"], capture_output=True, text=True, check=True)
    names = {line.partition("==")[0].lower().replace("-", "_") for line in listed.stdout.split()}
    assert "dynlog" in names
    assert names.isdisjoint(BROKER_CLIENTS)

    used = subprocess.run(
        [python, "-I", "-c", USE_BOTH_ENGINES, tmp_path / "events.db"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert used.returncode == 0, used.stderr
    where, *lines = used.stdout.splitlines()
    assert Path(where).is_relative_to(environment)
    assert lines == ["memory [b'here']", "sqlite [b'here']"]

    command = subprocess.run([environment / "bin" / "dynlog", "--help"], capture_output=True, text=True, check=False)
    assert command.returncode == 0, command.stderr


def test_the_metadata_names_the_licence_and_the_python_that_is_needed() -> None:
    metadata = project()["project"]
    assert metadata["requires-python"] == ">=3.11"
    assert metadata["license"] == "Apache-2.0"
