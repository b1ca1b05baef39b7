"""Operator, account and user of a NATS server in operator mode, as ``nsc`` makes them: JWTs signed with nkeys."""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path
from typing import Any

import nkeys

UNLIMITED = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
JETSTREAM = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)


class Key:
    """A key pair of one kind."""

    def __init__(self, prefix: int) -> None:
        self.seed = bytes(nkeys.encode_seed(os.urandom(32), prefix))
        self._pair = nkeys.from_seed(bytearray(self.seed))
        self.public = self._pair.public_key.decode()

    def jwt(self, subject: Key, name: str, claims: dict[str, Any]) -> str:
        """What this key says of another."""
        said = {
            "jti": base64.b32encode(os.urandom(20)).decode(), "iat": int(time.time()), "iss": self.public,
            "sub": subject.public, "name": name, "nats": {"version": 2, **claims},
        }  # fmt: skip
        signed = b".".join(
            _encoded(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, said)
        )
        return (signed + b"." + _encoded(self._pair.sign(signed))).decode()


def _encoded(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def operator_mode(folder: Path) -> tuple[str, Path, Path]:
    """Lines of a server's configuration, credentials that it takes, and ones of a user whom nobody vouches for."""
    operator, account, user = (
        Key(prefix) for prefix in (nkeys.PREFIX_BYTE_OPERATOR, nkeys.PREFIX_BYTE_ACCOUNT, nkeys.PREFIX_BYTE_USER)
    )
    system, stranger = (Key(nkeys.PREFIX_BYTE_ACCOUNT) for _ in range(2))
    own = operator.jwt(operator, "operator", {"type": "operator"})
    of_account = operator.jwt(
        account, "fleet", {"type": "account", "limits": {**UNLIMITED, **JETSTREAM, "wildcards": True}}
    )
    of_system = operator.jwt(system, "SYS", {"type": "account", "limits": {**UNLIMITED, "wildcards": True}})
    lines = (
        f"operator: {own}\nsystem_account: {system.public}\nresolver: MEMORY\n"
        f"resolver_preload: {{ {account.public}: {of_account}, {system.public}: {of_system} }}"
    )
    files = []
    for number, issuer in enumerate((account, stranger)):
        said = issuer.jwt(user, "migrator", {"type": "user", "subs": -1, "data": -1, "payload": -1})
        file = folder / f"{number}.creds"
        file.write_text(
            f"-----BEGIN NATS USER JWT-----\n{said}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n",
            encoding="ascii",
        )
        files.append(file)
    return lines, files[0], files[1]
