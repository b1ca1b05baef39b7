"""`open_log` and `open_objects`: the scheme decides, and what cannot be opened is named with what can."""

from __future__ import annotations

import pytest

from dynlog.errors import Closed, ConfigurationError, MissingDependency, UnknownScheme
from dynlog.open import LOG_ENGINES, OBJECT_STORES, open_log, open_objects


@pytest.mark.parametrize("url", ["kafkaesque://host", "file:///path", "postgres://me:hunter2@host"])
async def test_an_unknown_log_scheme_is_named_with_the_known_ones(url: str) -> None:
    with pytest.raises(UnknownScheme, match=r"memory://, sqlite://") as caught:
        async with open_log(url):
            pass
    assert url.split(":")[0] in str(caught.value)
    assert "hunter2" not in str(caught.value)


async def test_an_unknown_object_scheme_is_named_with_the_known_ones() -> None:
    with pytest.raises(UnknownScheme, match=r"no object store goes by sqlite://.*memory://, file://"):
        async with open_objects("sqlite:///x"):
            pass


@pytest.mark.parametrize("scheme", LOG_ENGINES)
async def test_every_log_engine_refuses_an_unknown_option_by_name(scheme: str, tmp_path: str) -> None:
    with pytest.raises(ConfigurationError, match="no_such_option"):
        async with open_log(f"{scheme}://{tmp_path if scheme != 'memory' else 'name'}/x.db?no_such_option=1"):
            pass


@pytest.mark.parametrize("scheme", OBJECT_STORES)
async def test_every_object_store_refuses_an_unknown_option_by_name(scheme: str, tmp_path: str) -> None:
    with pytest.raises(ConfigurationError, match="no_such_option"):
        async with open_objects(f"{scheme}://{tmp_path if scheme != 'memory' else 'name'}?no_such_option=1"):
            pass


@pytest.mark.parametrize("url", ["", "memory", "events.db"])
async def test_what_is_no_url_is_a_configuration_error(url: str) -> None:
    for opening in (open_log(url), open_objects(url)):
        with pytest.raises(ConfigurationError, match="not a URL"):
            async with opening:
                pass


async def test_a_log_is_closed_at_the_end_of_its_block_also_after_an_error() -> None:
    with pytest.raises(RuntimeError, match="inside"):
        async with open_log("memory://") as log:
            raise RuntimeError("inside")
    with pytest.raises(Closed):
        await log.topics()


async def test_an_engine_whose_package_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynlog.open.LOG_ENGINES", {"redis": "no_such_package_xyz.engine"})
    with pytest.raises(MissingDependency, match=r"no_such_package_xyz.*pip install 'dynlog\[redis\]'"):
        async with open_log("redis://host"):
            pass
