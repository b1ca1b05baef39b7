"""A test says on which engines it runs; the command line narrows that, and what is not said has a default."""

from __future__ import annotations

from pathlib import Path

from tests.testing.user_project import INI, UserProject

NAMES_ITS_ENGINE = """
    def test_engine(dynlog_engine, dynlog_log_url):
        assert dynlog_log_url.startswith(dynlog_engine + "://")
"""
MARKED = """
    import pytest

    @pytest.mark.dynlog_engines("memory")
    def test_memory_only(dynlog_log_url): pass

    @pytest.mark.dynlog_engines("sqlite", "memory")
    def test_both(dynlog_log_url): pass

    def test_any(dynlog_log_url): pass

    def test_none(): pass
"""
USES_A_LOG = """
    import pytest
    from dynlog import Record

    @pytest.mark.asyncio
    @pytest.mark.parametrize("turn", [1, 2])
    async def test_log(dynlog_log, turn):
        await dynlog_log.create_topic("t")
        await dynlog_log.append("t", 0, [Record(parts=(b"here",))])
        batch = await dynlog_log.read(await dynlog_log.position("t", 0))
        assert [bytes(part) for part in batch.bodies[0]] == [b"here"]
        assert len(batch) == 1

    @pytest.mark.asyncio
    @pytest.mark.parametrize("turn", [1, 2])
    async def test_objects(dynlog_objects, turn):
        assert [item async for item in dynlog_objects.list()] == []
        await dynlog_objects.put("key", b"body")
        assert await dynlog_objects.get_bytes("key") == b"body"
"""


async def test_without_a_word_a_test_runs_on_what_needs_no_server(tmp_path: Path) -> None:
    done = await UserProject(tmp_path, NAMES_ITS_ENGINE).run()
    assert done.tests == {"test_engine[memory]": "PASSED", "test_engine[sqlite]": "PASSED"}, done.output


async def test_the_ini_file_replaces_the_default_and_the_environment_the_ini_file(tmp_path: Path) -> None:
    project = UserProject(tmp_path, NAMES_ITS_ENGINE, INI + "dynlog_engines = sqlite\n")
    assert (await project.run()).tests == {"test_engine[sqlite]": "PASSED"}
    assert (await project.run(DYNLOG_ENGINES="memory")).tests == {"test_engine[memory]": "PASSED"}


async def test_a_mark_says_on_which_engines_a_test_runs(tmp_path: Path) -> None:
    done = await UserProject(tmp_path, MARKED).run()
    assert set(done.tests) == {
        "test_memory_only[memory]", "test_both[sqlite]", "test_both[memory]",
        "test_any[memory]", "test_any[sqlite]", "test_none",
    }  # fmt: skip


async def test_the_command_line_narrows_the_marks_and_deselects_the_rest_without_a_skip(tmp_path: Path) -> None:
    done = await UserProject(tmp_path, MARKED).run("--dynlog-engines=sqlite")
    assert set(done.tests) == {"test_both[sqlite]", "test_any[sqlite]", "test_none"}
    assert "2 deselected" in done.output
    assert "skipped" not in done.output


async def test_an_engine_may_be_a_parameter_like_any_other(tmp_path: Path) -> None:
    done = await UserProject(
        tmp_path,
        """
        import pytest

        @pytest.mark.parametrize(("dynlog_engine", "more"), [("memory", 1), ("sqlite", 2)])
        def test_it(dynlog_log_url, more):
            assert dynlog_log_url.startswith({1: "memory", 2: "sqlite"}[more])
        """,
    ).run()
    assert done.tests == {"test_it[memory-1]": "PASSED", "test_it[sqlite-2]": "PASSED"}, done.output


async def test_an_engine_that_is_not_known_is_refused_by_name(tmp_path: Path) -> None:
    project = UserProject(tmp_path, NAMES_ITS_ENGINE)
    done = await project.run("--dynlog-engines=oracle")
    assert done.status != 0
    assert "'oracle' is not known; there are memory, sqlite, redis, kafka" in done.output


async def test_each_test_has_a_log_and_a_store_of_its_own_that_work(tmp_path: Path) -> None:
    done = await UserProject(tmp_path, USES_A_LOG).run()
    assert len(done.tests) == 8, done.output
    assert set(done.tests.values()) == {"PASSED"}, done.output
