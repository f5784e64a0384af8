"""What the verbs of a publisher do: `zos flist sign` and `zos flist publish`."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from flist.commands import load_image, user_guard
from flist.manifest import FILE_MAX, SignedManifest
from flist.names import ImageName, NameUnknown, fetch_manifest, is_file, parse_record, read_record, sign_record
from flist.publish import publish as publish_image
from flist.sign import UntrustedPublisher, sign_manifest, verify_manifest
from flist.store import DirectoryStore, HttpStore, ObjectMissing, StoreReadOnly, open_store
from zos_core.base.atomic_file import named_output, read_limited, write_atomic
from zos_core.base.client import Client
from zos_core.base.document import Record
from zos_core.base.errors import UsageError
from zos_core.base.keyring import Keyring
from zos_core.base.paths import account
from zos_core.base.progress import size_text
from zos_core.base.request_signature import Signer
from zos_core.base.verbs import Console

__all__ = ["publish", "sign"]

HUB_DEFAULT = "http://127.0.0.1:7080"


class Signed(Record, frozen=True, kw_only=True):
    """An image that carries a signature of the own key now."""

    name: str
    digest: str
    key: str
    where: str


async def sign(arguments: argparse.Namespace, console: Console) -> None:
    """Add a signature of the own key to an image; of one's own publisher, to its name as well.

    Raises:
        StoreReadOnly: the store is behind a URL.
    """
    user = account()
    keyring = Keyring.of(user)
    key = keyring.own_key()
    if is_file(arguments.image):
        path = named_output(Path(arguments.image))
        signed = sign_manifest(SignedManifest.parse(read_limited(path, FILE_MAX)), key)
        write_atomic(path, signed.encode(), mode=path.stat().st_mode & 0o777, owner=user.owner)
        where = str(path)
    else:
        name = ImageName.parse(arguments.image, publisher=key.publisher)
        async with open_store(arguments.store) as store:
            if not isinstance(store, DirectoryStore):
                raise StoreReadOnly(
                    f"{store.name} takes no signatures from here", hint="sign in a directory, then publish"
                )
            signed = sign_manifest(await load_image(arguments.image, store, keyring), key)
            await store.put(f"manifest/{signed.digest.hex()}", signed.encode())
            if name.digest is None and name.publisher == key.publisher:
                record = parse_record(await store.get(name.path), trusted=keyring.trusted)
                await store.put(name.path, sign_record(record, key))
            where = store.name
    console.emit(
        Signed(name=signed.manifest.name, digest=signed.digest.hex(), key=key.id, where=where),
        f"{signed.manifest.name} {signed.digest.hex()} is signed by {key.id}",
    )


async def publish(arguments: argparse.Namespace, console: Console) -> None:
    """Publish an image of a directory store to a hub.

    Raises:
        UsageError: a file, a digest, or a store behind a URL.
        RemoteProblem, Unreachable, RequestTimeout: the hub refuses, or does not answer.
    """
    if is_file(arguments.image):
        raise UsageError("an image is published by its name", hint="`zos flist build --name` gives it one")
    keyring = Keyring.of()
    key = keyring.own_key()
    name = ImageName.parse(arguments.image, publisher=key.publisher)
    if name.digest is not None:
        raise UsageError("a name is published, not a digest", hint="leave the digest out")
    url = arguments.hub or (f"http://{name.hub}" if name.hub else HUB_DEFAULT)
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url!r} is no hub", hint=f"such as {HUB_DEFAULT}")
    async with open_store(arguments.store) as store:
        if not isinstance(store, DirectoryStore):
            raise UsageError("an image is published from a directory", hint="--store DIR, or your own store")
        try:
            data = await store.get(name.path)
        except ObjectMissing as error:
            raise NameUnknown(
                f"{name} is not in {store.name}", hint="`zos flist build --name` puts it there; --store says where"
            ) from error
        record = read_record(data, trusted=keyring.trusted)
        image = await fetch_manifest(store, record.record.digest)
        if record.public != key.public or key.public not in [each.key for each in image.signatures]:
            raise UntrustedPublisher(
                f"{name} is not signed by your own key",
                hint=f"zos flist sign {shlex.quote(arguments.image)}",
                key=key.id,
            )
        verify_manifest(image, trusted=keyring.trusted)
        if console.plan:
            console.emit(record.record, f"would publish {name}, revision {record.record.revision}, to {url}")
            return
        async with Client(url, signer=Signer(key)) as client:
            result = await publish_image(store, image, record.record, data, client, progress=console.progress())
    async with HttpStore(url) as hub:
        guard = user_guard()
        await guard.learn(hub, name, trusted=keyring.trusted)
        await guard.check(hub, record, trusted=keyring.trusted)
    console.emit(
        result,
        f"{name} revision {result.revision} is at {url}\n"
        f"  sent  {result.objects_sent} of {result.objects} objects, {size_text(result.bytes_sent)}\n"
        f"  log   leaf {result.index}",
    )
