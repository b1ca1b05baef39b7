"""What every object store promises, one scenario per sentence; a store's test file subclasses this and adds a URL."""

from __future__ import annotations

from tests.conformance.object_suite_bodies import BodiesSuite
from tests.conformance.object_suite_keys import ExpirySuite, KeysSuite
from tests.conformance.object_suite_races import RacesSuite
from tests.conformance.object_suite_uploads import UploadsSuite


class ObjectSuite(BodiesSuite, KeysSuite, ExpirySuite, RacesSuite, UploadsSuite):
    """All of it."""
