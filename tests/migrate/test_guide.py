"""The operator's guide says what its commands say."""

from __future__ import annotations

from pathlib import Path

from tests.migrate.guide import GUIDE, lasting, with_outputs


async def test_every_output_in_the_guide_is_what_its_command_says_today(tmp_path: Path) -> None:
    page = GUIDE.read_text(encoding="utf-8")
    assert "10,519 on 3 workers" in page, "what Dynamo's own router had"
    assert lasting(await with_outputs(page, tmp_path)) == lasting(page), "python -m tests.migrate.guide writes it anew"
