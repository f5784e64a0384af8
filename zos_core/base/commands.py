"""What the verbs of `zos key` and `zos trust` do."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from zos_core.base.atomic_file import named_output, read_limited, write_atomic
from zos_core.base.document import Record
from zos_core.base.errors import KeyExists
from zos_core.base.keyring import KEY_FILE_BYTES_MAX, Keyring, key_id, parse_key_id
from zos_core.base.paths import account
from zos_core.base.verbs import Console

__all__ = [
    "key_export",
    "key_import",
    "key_show",
    "publisher_names",
    "trust_add",
    "trust_list",
    "trust_remove",
]

STDOUT = "-"
"""In the place of a file: stdout, or stdin."""


class KeyShown(Record, frozen=True, kw_only=True):
    """An own key; `file` is where it lies, or where it was written to."""

    publisher: str
    key: str
    file: str


class TrustShown(Record, frozen=True, kw_only=True):
    """A key that is, or was, trusted for a publisher; `own` if it is one's own."""

    publisher: str
    key: str
    own: bool = False


def publisher_names(words: Sequence[str]) -> list[str]:
    """The trusted publishers, for completion."""
    return sorted(Keyring.of().publishers())


def key_show(arguments: argparse.Namespace, console: Console) -> None:
    """Show the own key."""
    keyring = Keyring.of()
    key = keyring.own_key()
    console.emit(
        KeyShown(publisher=key.publisher, key=key.id, file=str(keyring.path)),
        f"{key.publisher} {key.id}\n{keyring.path}",
    )


def key_export(arguments: argparse.Namespace, console: Console) -> None:
    """Write the own key to a file, or to stdout.

    Raises:
        KeyExists: the file is there.
        UsageError: something else is there.
        KeyInvalid: there is no own key yet.
    """
    user = account()
    keyring = Keyring.of(user)
    data = keyring.export()
    if arguments.file == STDOUT:
        print(data.decode(), end="", file=console.out, flush=True)
        return
    path = Path(arguments.file).absolute()
    if arguments.force:
        path = named_output(path)
    try:
        write_atomic(path, data, 0o600, owner=user.owner, exclusive=not arguments.force)
    except FileExistsError as error:
        raise KeyExists(f"{path} is there already", hint="choose another name, or say --force") from error
    key = keyring.own_key()
    console.emit(
        KeyShown(publisher=key.publisher, key=key.id, file=str(path)),
        f"{path}: the secret key of {key.publisher}, not encrypted; whoever has it signs in that name",
    )


def key_import(arguments: argparse.Namespace, console: Console) -> None:
    """Make an exported key the own one.

    Raises:
        KeyExists: there is another own key, and --replace was not said.
        DocumentInvalid, FileTooLarge: the file is no exported key.
        FileNotRegular: it is neither a file nor a pipe to which somebody writes.
    """
    keyring = Keyring.of()
    if arguments.file == STDOUT:
        data = sys.stdin.buffer.read(KEY_FILE_BYTES_MAX + 1)
    else:
        data = read_limited(Path(arguments.file), KEY_FILE_BYTES_MAX, pipe=True)
    key = keyring.import_key(data, replace=arguments.replace)
    console.emit(
        KeyShown(publisher=key.publisher, key=key.id, file=str(keyring.path)), f"you are {key.publisher} {key.id}"
    )


def trust_add(arguments: argparse.Namespace, console: Console) -> None:
    """Trust a key for a publisher."""
    public = parse_key_id(arguments.key)
    Keyring.of().trust(arguments.publisher, public)
    console.emit(
        TrustShown(publisher=arguments.publisher, key=key_id(public)), f"{arguments.publisher} {key_id(public)}"
    )


def trust_list(arguments: argparse.Namespace, console: Console) -> None:
    """List the trusted keys, one line for each."""
    keyring = Keyring.of()
    own = keyring.own_key().id if keyring.path.exists() else None
    for publisher, keys in sorted(keyring.publishers().items()):
        for key in keys:
            mark = "  (your own)" if key == own else ""
            console.emit(TrustShown(publisher=publisher, key=key, own=key == own), f"{publisher} {key}{mark}")


def trust_remove(arguments: argparse.Namespace, console: Console) -> None:
    """Trust a publisher, or one of its keys, no more."""
    public = None if arguments.key is None else parse_key_id(arguments.key)
    for gone in Keyring.of().distrust(arguments.publisher, public):
        console.emit(
            TrustShown(publisher=arguments.publisher, key=key_id(gone)),
            f"{arguments.publisher} {key_id(gone)} is not trusted any more",
        )
