"""The conformance suite of the log contract: an engine subclasses `LogSuite`, adds a URL, and must pass all of it.

    class TestMemoryLog(LogSuite):
        def url(self, tmp_path: Path) -> str:
            return f"memory://{uuid4().hex}"

What only some engines can do lies beside it, one mixin per capability: `MarksSuite` (checks_marks), `ProcessesSuite`
(many_processes), `BackupSuite` (lies in files), `StalledSuite` (can be stalled from outside).
"""

from __future__ import annotations

from tests.conformance.log_suite_append import AppendSuite
from tests.conformance.log_suite_care import BackupSuite, CareSuite
from tests.conformance.log_suite_closing import CancellationSuite, ClosingSuite
from tests.conformance.log_suite_compaction import CompactionSuite
from tests.conformance.log_suite_expect import ExpectSuite
from tests.conformance.log_suite_groups import GroupsSuite
from tests.conformance.log_suite_holders import HoldersSuite, TruncationSuite
from tests.conformance.log_suite_identity import IdentitySuite
from tests.conformance.log_suite_incarnations import IncarnationsSuite
from tests.conformance.log_suite_marks import MarksSuite, RegistrationSuite
from tests.conformance.log_suite_processes import ProcessesSuite
from tests.conformance.log_suite_reads import ReadsSuite
from tests.conformance.log_suite_retention import RetentionSuite
from tests.conformance.log_suite_stalled import StalledSuite
from tests.conformance.log_suite_topics import TopicsSuite
from tests.conformance.log_suite_waiting import WaitingSuite

__all__ = ["BackupSuite", "LogSuite", "MarksSuite", "ProcessesSuite", "StalledSuite"]


class LogSuite(
    TopicsSuite,
    AppendSuite,
    ExpectSuite,
    ReadsSuite,
    WaitingSuite,
    IdentitySuite,
    IncarnationsSuite,
    RegistrationSuite,
    TruncationSuite,
    HoldersSuite,
    RetentionSuite,
    GroupsSuite,
    CareSuite,
    CompactionSuite,
    ClosingSuite,
    CancellationSuite,
):
    """Every sentence that every engine keeps."""
