"""The first released form of a snapshot is read for ever: body, manifest and dedupe table of schema 1."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from dynlog.dedupe import DedupeTable
from dynlog.manifests import Manifest
from dynlog.replay import DEDUPE_SECTION, STATE_SECTION
from dynlog.router.dump import dump_events
from dynlog.router.projection import RouterProjection
from dynlog.snapshot_body import decode_body

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "snapshot-v1"


def test_a_snapshot_of_the_first_form_restores_to_the_same_state() -> None:
    body = (FIXTURE / "body.bin").read_bytes()
    manifest = Manifest.model_validate_json((FIXTURE / "manifest.json").read_bytes())
    assert (manifest.size, manifest.sha256) == (len(body), hashlib.sha256(body).hexdigest())
    parts = list(decode_body([body]))
    router, dedupe = RouterProjection(), DedupeTable()
    router.restore(part for section, part in parts if section == STATE_SECTION)
    dedupe.restore(part for section, part in parts if section == DEDUPE_SECTION)
    assert router.schema == manifest.schema_version
    assert list(dump_events(router.index)) == json.loads((FIXTURE / "dump.json").read_bytes())
    assert len(dedupe) == 1
