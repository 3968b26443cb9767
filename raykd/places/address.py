"""Addresses: a URL that holds a secret is refused where it is given, because addresses are printed, logged and stored.

    s3://key:secret@bucket/a            user and password
    https://host/a?X-Amz-Signature=...  a token in the query

Credentials belong where fsspec looks for them: its configuration files, or the environment.
"""

from __future__ import annotations

import re

SECRETS = ("auth", "credential", "key", "passw", "pwd", "secret", "sig", "token")
"""Parts of the names of queries that carry them: X-Amz-Signature, sig, access_token, api_key ..."""
USER = re.compile(r"(\w://)[^/?#]*@")
QUERY = re.compile(r"[?&#]([^=&#]*)=")


def check_address(address: str) -> None:
    """Raise `ValueError`, without the secret, for a URL that holds one. Whatever is no URL passes."""
    if "://" not in address:
        return
    if USER.search(address):
        raise ValueError(f"{redacted(address)} holds a user or a password: {_RIGHT}")
    for name in QUERY.findall(address):
        if any(part in name.lower() for part in SECRETS):
            raise ValueError(f"{redacted(address)} holds a secret, {name!r}: {_RIGHT}")


def redacted(address: str) -> str:
    """The URL without user, password, query and fragment."""
    return re.split(r"[?#]", USER.sub(r"\1...@", address), maxsplit=1)[0]


_RIGHT = "it would be printed and stored; give credentials by the environment or by fsspec's configuration"
