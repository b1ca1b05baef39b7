"""The two fixtures that are open while the test runs, for whichever plugin runs async tests: pytest-asyncio or anyio's.

Without either they fail the test that asks for them and name the fixtures that need no plugin.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from dynlog.log import Log
    from dynlog.objects import ObjectStore


def async_fixtures(plugins: pytest.PytestPluginManager) -> object:
    """A plugin with `dynlog_log` and `dynlog_objects`."""
    if plugins.hasplugin("asyncio"):
        import pytest_asyncio

        return _working(pytest_asyncio.fixture)  # in strict mode, too, it runs what it decorated itself
    return _working(pytest.fixture) if plugins.hasplugin("anyio") else _Refusing()


def _working(fixture: Callable[..., Any]) -> object:
    class AsyncFixtures:
        @fixture
        async def dynlog_log(self, dynlog_log_url: str) -> AsyncIterator[Log]:
            """An open log that is new for the test."""
            from dynlog.open import open_log

            async with open_log(dynlog_log_url) as log:
                yield log

        @fixture
        async def dynlog_objects(self, dynlog_objects_url: str) -> AsyncIterator[ObjectStore]:
            """An open object store that is new for the test."""
            from dynlog.open import open_objects

            async with open_objects(dynlog_objects_url) as store:
                yield store

    return AsyncFixtures()


class _Refusing:
    @pytest.fixture
    def dynlog_log(self) -> None:
        """Cannot be had without a plugin that runs async fixtures."""
        _refuse("dynlog_log", "open_log(dynlog_log_url)")

    @pytest.fixture
    def dynlog_objects(self) -> None:
        """Cannot be had without a plugin that runs async fixtures."""
        _refuse("dynlog_objects", "open_objects(dynlog_objects_url)")


def _refuse(name: str, instead: str) -> NoReturn:
    pytest.fail(
        f"{name} is an async fixture and no plugin runs those here: pip install pytest-asyncio, or use "
        f"`async with {instead}` in asyncio.run()",
        pytrace=False,
    )
