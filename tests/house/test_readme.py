"""What README.md tells a reader to type works, each marked block, in the order of the page."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.readme import Block, MarkerError, runnable_blocks
from tests.house.repository import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCK_TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


@pytest.mark.parametrize("block", runnable_blocks(README), ids=lambda block: f"line-{block.line}-{block.language}")
def test_a_marked_block_of_the_readme_runs(block: Block, folder: Path) -> None:
    done = run(block, folder)
    assert done.returncode == 0, f"README.md:{block.line}\n{done.stdout}\n{done.stderr}"


def test_the_readme_shows_how_to_embed_router_state_and_that_snippet_is_run() -> None:
    assert [block for block in runnable_blocks(README) if block.language == "python" and "RouterState" in block.text]


def run(block: Block, folder: Path) -> subprocess.CompletedProcess[str]:
    commands = Path(sys.executable).parent
    interpreter = [sys.executable, "-"] if block.language == "python" else ["bash", "-euo", "pipefail", "-s"]
    return subprocess.run(
        interpreter, input=block.text, cwd=folder, capture_output=True, text=True, check=False,
        timeout=BLOCK_TIMEOUT_S, env={**os.environ, "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip


PAGE = """
<!-- run -->
```bash
echo made > file
```
```bash
exit 7   # not marked
```
<!-- run -->
```python
print(open("file").read())
```
"""


def test_only_marked_blocks_run_and_they_share_a_folder(tmp_path: Path) -> None:
    blocks = runnable_blocks(PAGE)
    assert [(block.language, block.line) for block in blocks] == [("bash", 4), ("python", 11)]
    outcomes = [run(block, tmp_path) for block in blocks]
    assert [done.returncode for done in outcomes] == [0, 0]
    assert outcomes[1].stdout.strip() == "made"


def test_a_block_that_fails_half_way_fails(tmp_path: Path) -> None:
    assert run(Block("bash", 1, "false | true\necho on\n"), tmp_path).returncode != 0


@pytest.mark.parametrize("page", ["<!-- run -->\ntext", "<!-- run -->\n```json\n{}\n```", "<!-- run -->\n```bash\nls"])
def test_a_marker_that_runs_nothing_is_an_error(page: str) -> None:
    with pytest.raises(MarkerError):
        runnable_blocks(page)
