"""A real MinIO that is full, or does not let the user write: what it does not take is named, and the rest is moved."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from minio.credentials.providers import StaticProvider
from minio.minioadmin import MinioAdmin
from nats.js.api import KeyValueConfig

import dynlog as library
from dynlog.testing.kinds import RunningServer
from tests.cli.process import Outcome, dynlog
from tests.migrate.migrating import body, bucket, put
from tests.nats_source.source import Writer, everything

pytestmark = pytest.mark.dynlog_stores("s3")
READING = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": ["arn:aws:s3:::*"]}


@dataclass
class Store:
    """A bucket of the server, and what an administrator does to it."""

    url: str
    nats: str
    folder: Path
    admin: MinioAdmin
    made: list[str]

    @property
    def bucket(self) -> str:
        """Its name."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    def bound(self, size: int) -> None:
        """Nothing of that size fits into the bucket."""
        self.admin.bucket_quota_set(self.bucket, size)

    def url_of(self, user: str, *writable: str) -> str:
        """The store for a new user, who may read all and write below those prefixes."""
        name, password = f"{self.bucket[:30]}-{user}", "not-much-of-a-secret"
        writing = {
            "Effect": "Allow", "Action": ["s3:PutObject", "s3:DeleteObject"],
            "Resource": [f"arn:aws:s3:::{self.bucket}/{prefix}*" for prefix in writable],
        }  # fmt: skip
        policy = {"Version": "2012-10-17", "Statement": [READING, *([writing] if writable else [])]}
        self.admin.user_add(name, password)
        self.made.append(name)
        self.admin.policy_add(name, policy=policy)
        self.admin.policy_set(name, user=name)
        split = urlsplit(self.url)
        return split._replace(netloc=f"{name}:{password}@{self.bucket}").geturl()

    async def migrate(self, command: str, objects: str | None = None) -> Outcome:
        """A command of the migration."""
        log = f"sqlite://{self.folder}/log.db"
        return await dynlog(
            "migrate", "nats", command, "--nats", self.nats, "--log", log, "--objects", objects or self.url
        )

    async def keys(self) -> list[str]:
        """What lies in it."""
        async with library.open_objects(self.url) as objects:
            return [info.key async for info in objects.list()]


@pytest_asyncio.fixture
async def store(
    minio_server: RunningServer, nats_server: Any, dynlog_objects_url: str, tmp_path: Path
) -> AsyncIterator[Store]:
    """The bucket; its users are gone in the end."""
    credentials = StaticProvider(minio_server.user, minio_server.password)
    admin = MinioAdmin(endpoint=minio_server.address, credentials=credentials, secure=False)
    store = Store(dynlog_objects_url, nats_server.url, tmp_path, admin, [])
    yield store
    for name in store.made:
        admin.user_remove(name)
        admin.policy_remove(name)


async def test_what_a_full_store_does_not_take_is_named_and_moved_once_there_is_room(
    store: Store, writer: Writer
) -> None:
    source = await bucket(writer, "weights")
    for name, size in (("a", 200_000), ("b", 10_000), ("c", 300_000), ("d", 10_000), ("e", 150_000)):
        await put(source, name, body(size))
    await (await writer.js.create_key_value(KeyValueConfig(bucket="settings"))).put("a", b"a")
    before = await everything(writer)
    store.bound(100_000)
    some = await store.migrate("apply")
    assert some.status == 3
    for name in ("a", "c", "e"):
        assert f"objects:weights: {name}: no space is left" in some.err
    assert some.err.splitlines()[-1].startswith("dynlog: error: 3 names not moved, first 'a': no space is left")
    assert await store.keys() == ["nats/weights/b", "nats/weights/d"]
    assert re.search(r"^kv:settings +settings +1 ", some.out, re.MULTILINE)
    store.admin.bucket_quota_clear(store.bucket)
    rest = await store.migrate("apply")
    assert (rest.status, rest.err) == (0, "")
    assert (await store.migrate("verify")).status == 0
    assert await everything(writer) == before


async def test_a_user_who_may_only_read_can_plan_and_an_apply_says_in_one_line_what_he_lacks(
    store: Store, writer: Writer
) -> None:
    source = await bucket(writer, "weights")
    for name in "abcdefgh":
        await put(source, name, body(10))
    reader = store.url_of("reader")
    plan = await store.migrate("plan", reader)
    assert (plan.status, "nats/weights/" in plan.out) == (0, True)
    denied = await store.migrate("apply", reader)
    assert denied.status == 1
    why, last = denied.err.splitlines()
    assert f"objects:weights: weights: bucket '{store.bucket}' forbids this to this user: grant it" in why
    assert last.startswith("dynlog: error: 1 name not moved, first 'weights'")
    assert await store.keys() == []


async def test_a_user_who_may_write_below_one_prefix_moves_what_goes_there(store: Store, writer: Writer) -> None:
    for name in ("allowed", "denied"):
        await put(await bucket(writer, name), "a", b"a")
    outcome = await store.migrate("apply", store.url_of("some", "nats/allowed/"))
    assert outcome.status == 3
    assert f"objects:denied: a: bucket '{store.bucket}' forbids this to this user" in outcome.err
    assert "objects:allowed" not in outcome.err
    assert await store.keys() == ["nats/allowed/a"]
