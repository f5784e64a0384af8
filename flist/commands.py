"""What the verbs of `zos flist` do."""

from __future__ import annotations

import argparse
import os
import re
import stat
import time
from pathlib import Path

from flist.build import BuildResult, plan_tree
from flist.build import build as build_image
from flist.errors import ManifestInvalid, RevisionNotNew
from flist.extract import extract as extract_tree
from flist.guard import RevisionGuard
from flist.manifest import FILE_MAX, REVISION_MAX, SignedManifest
from flist.names import (
    Floors,
    ImageName,
    NameInvalid,
    NameRecord,
    NameUnknown,
    SignedRecord,
    fetch_manifest,
    is_file,
    parse_record,
    read_record,
    resolve,
    sign_record,
    store_of,
)
from flist.sign import SignatureInvalid, sign_manifest, verify_manifest
from flist.store import ObjectInvalid, ObjectMissing, Store, open_store
from flist.verify import verify as verify_image
from flist.walk import open_tree, walk
from native.errors import ZosError
from zos_core.base.atomic_file import named_output, read_limited, write_atomic
from zos_core.base.document import Record
from zos_core.base.elevate import require_root
from zos_core.base.errors import UsageError
from zos_core.base.keyring import Keyring, key_id
from zos_core.base.paths import account, default_store
from zos_core.base.progress import size_text
from zos_core.base.size import read_size
from zos_core.base.text import printable
from zos_core.base.threads import in_thread
from zos_core.base.verbs import Console

__all__ = ["build", "extract", "inspect", "load_image", "mount", "unmount", "user_guard", "verify"]

BLOCK = 4096


class Built(Record, frozen=True, kw_only=True):
    """An image that was built. Sizes in bytes; `stored_bytes` is what came into the store as packs."""

    name: str
    tag: str
    digest: str
    revision: int
    store: str
    file: str | None
    inodes: int
    data_bytes: int
    blob_bytes: int
    units: int
    units_new: int
    meta_bytes: int
    stored_bytes: int
    mount_points: list[str]


class BuildPlan(Record, frozen=True, kw_only=True):
    """What a build would take in."""

    name: str
    revision: int
    store: str
    inodes: int
    data_bytes: int
    units: int
    mount_points: list[str]


class Signer(Record, frozen=True, kw_only=True):
    """A signature that a manifest carries; `trusted`: by a key of the keyring, and right."""

    key: str
    trusted: bool


class Inspected(Record, frozen=True, kw_only=True):
    """What an image says of itself."""

    name: str
    digest: str
    architecture: str
    revision: int
    expires_s: int | None
    previous: str | None
    blob_bytes: int
    units: int
    meta_bytes: int
    meta: str
    index: str
    signatures: list[Signer]


class MountReport(Record, frozen=True, kw_only=True):
    """An image was mounted."""

    digest: str
    directory: str
    provider: str
    reason: str


def user_guard() -> RevisionGuard:
    """How high revisions have been, as far as the calling user has seen."""
    user = account()
    return RevisionGuard(user.data_dir / "revisions", owner=user.owner)


async def load_image(
    text: str, store: Store, keyring: Keyring, *, unsigned: bool = False, floors: Floors | None = None
) -> SignedManifest:
    """The image that a person means: a .flist file, or a name in a store; its signature is verified.

    Args:
        text: a path that ends with .flist or exists, or a name.
        store: where names are looked up.
        keyring: whose trusted keys count, and whose publisher stands before a bare name.
        unsigned: do not ask a file for a signature.
        floors: how high revisions have been; the calling user's by default.

    Raises:
        UsageError: `unsigned` with a name.
        ZosError: it is not there, or not what it should be.
    """
    if is_file(text):
        signed = SignedManifest.parse(read_limited(Path(text), FILE_MAX))
        if not unsigned:
            verify_manifest(signed, trusted=keyring.trusted)
        return signed
    if unsigned:
        raise UsageError("--unsigned goes with a .flist FILE", hint="an image by its name is always signed")
    name = ImageName.parse(text, publisher=keyring.publisher())
    now_s = time.time_ns() // 1_000_000_000
    return await resolve(store, name, trusted=keyring.trusted, now_s=now_s, floors=floors or user_guard())


# --- build ---------------------------------------------------------------------------------------------------------


async def build(arguments: argparse.Namespace, console: Console) -> None:
    """Build an image and give it its name in the store."""
    user = account()
    keyring = Keyring.of(user)
    key = keyring.own_key()
    tree = Path(arguments.tree)
    name = ImageName.parse(arguments.name or _name_of(tree), publisher=key.publisher)
    if name.hub is not None or name.digest is not None:
        raise UsageError("--name is [PUBLISHER/]NAME[:TAG]", hint="hub and digest are not chosen by the builder")
    output = named_output(Path(arguments.output)) if arguments.output else None
    async with open_store(arguments.store) as store:
        revision, previous = await _revision(store, name, keyring, arguments.revision, anew=arguments.anew)
        if console.plan:
            await _show_plan(tree, name, revision, store, console)
            return
        result = await build_image(
            tree,
            store,
            name=name.repository,
            revision=revision,
            architecture=arguments.architecture,
            prev=previous,
            anew=arguments.anew,
            sign=lambda signed: sign_manifest(signed, key),
            progress=console.progress(),
        )
        record = NameRecord(name=name.repository, tag=name.tag, digest=result.digest, revision=revision)
        await _give_name(store, name, record, keyring, asked=arguments.revision is not None, anew=arguments.anew)
    if output is not None:
        write_atomic(output, result.signed.encode(), owner=user.owner)
    _report(result, name, revision, store.name, arguments.output, console)
    if not console.json and key.public not in keyring.trusted(name.publisher):
        console.note(f"your key is not trusted for {name.publisher}: zos trust add {name.publisher} {key.id}")


def _name_of(tree: Path) -> str:
    """A name made from the directory's: what a name cannot have becomes a dash."""
    text = re.sub(r"[^a-z0-9._-]", "-", tree.resolve().name.lower())[:64].strip("._-")
    if not text:
        raise UsageError(f"{tree} gives no name to the image", hint="say --name")
    return text


async def _revision(
    store: Store, name: ImageName, keyring: Keyring, asked: int | None, *, anew: bool
) -> tuple[int, bytes | None]:
    """The revision to build, and the digest of the image that it replaces.

    The same revision may be built again: the image must come out the same, so it replaces what that one replaced.
    What was seen elsewhere counts as well: a store that was deleted does not begin at 1 again.
    """
    if asked is not None and not 1 <= asked <= REVISION_MAX:
        raise UsageError(f"--revision {asked} is not between 1 and {REVISION_MAX}", hint="leave it out, as most do")
    record = await _record(store, name, keyring, anew=anew)
    floor = user_guard().revisions.floor(name.repository, name.tag, trusted=keyring.trusted)
    highest = max(0 if record is None else record.revision, 0 if floor is None else floor.revision)
    if asked is not None and asked < highest:
        raise RevisionNotNew(f"{name} has revision {highest} already", hint=f"say --revision {highest + 1}, or nothing")
    if asked is None and highest == REVISION_MAX:
        raise RevisionNotNew(f"{name} has the highest revision that there is", hint="choose another name, or tag")
    if record is None:
        return asked or highest + 1, None
    if asked is None or asked > record.revision:
        return asked or highest + 1, record.digest
    try:
        return asked, (await fetch_manifest(store, record.digest)).manifest.prev
    except (NameUnknown, ManifestInvalid, ObjectInvalid) as damage:
        if not anew:
            raise
        if asked == 1:
            return asked, None  # the first replaced nothing
        raise RevisionNotNew(
            f"revision {asked} of {name} cannot be built again: what it replaced stood in its manifest, now damaged",
            hint="leave --revision out: --anew makes the next one",
            digest=record.digest.hex(),
        ) from damage


async def _record(store: Store, name: ImageName, keyring: Keyring, *, anew: bool) -> NameRecord | None:
    """What the name means in the store so far; `anew`: one that is damaged is none, but a stranger's is no damage."""
    try:
        data = await store.get(name.path)
        if anew:
            read_record(data, trusted=None)
    except ObjectMissing:
        return None
    except (NameInvalid, SignatureInvalid, ObjectInvalid):
        if anew:
            return None
        raise
    return parse_record(data, trusted=keyring.trusted)


async def _give_name(
    store: Store, name: ImageName, new: NameRecord, keyring: Keyring, *, asked: bool, anew: bool
) -> None:
    """Write the name's record, unless it is there; looks again, because another build may have ended meanwhile.

    `asked`: the revision was chosen by the caller.
    """
    record = await _record(store, name, keyring, anew=anew)
    if record is not None and (
        record.revision > new.revision or (record.revision == new.revision and record.digest != new.digest)
    ):
        raise RevisionNotNew(
            f"{name} has revision {record.revision} already, and it is another image",
            hint="leave --revision out" if asked else "another build was faster: build again",
            digest=record.digest.hex(),
        )
    key = keyring.own_key()
    signed, guard = SignedRecord(new, key.public), user_guard()
    await guard.check(store, signed, trusted=keyring.trusted)
    await store.put(name.path, sign_record(new, key))
    await guard.remember(signed)


async def _show_plan(tree: Path, name: ImageName, revision: int, store: Store, console: Console) -> None:
    root = open_tree(tree)
    try:
        walked = await in_thread(walk, root)
    finally:
        os.close(root)
    plan = BuildPlan(
        name=str(name),
        revision=revision,
        store=store.name,
        inodes=len(walked.tree.inodes),
        data_bytes=sum(inode.size for inode in walked.tree.inodes if stat.S_ISREG(inode.mode)),
        units=len(plan_tree(walked.tree)),
        mount_points=["/" + path.decode(errors="replace") for path in walked.mount_points],
    )
    console.emit(
        plan,
        f"would build {plan.name}, revision {plan.revision}, into {plan.store}\n"
        f"  {plan.inodes} inodes, {size_text(plan.data_bytes)}, {plan.units} units",
    )


def _report(
    result: BuildResult, name: ImageName, revision: int, store: str, output: str | None, console: Console
) -> None:
    for point in result.mount_points:
        console.warn(f"{printable(point)}: another file system is mounted there; in the image it is an empty directory")
    built = Built(
        name=name.repository,
        tag=name.tag,
        digest=result.digest.hex(),
        revision=revision,
        store=store,
        file=output,
        inodes=result.inodes,
        data_bytes=result.data_bytes,
        blob_bytes=result.blob_bytes,
        units=result.units,
        units_new=result.units_new,
        meta_bytes=result.meta_bytes,
        stored_bytes=result.stored_bytes,
        mount_points=list(result.mount_points),
    )
    console.emit(
        built,
        f"{name}  revision {revision}\n"
        f"  digest  {built.digest}\n"
        f"  tree    {built.inodes} inodes, {size_text(built.data_bytes)}\n"
        f"  image   {built.units} units, {built.units_new} of them new; {size_text(built.stored_bytes)} into {store}",
    )


# --- the others ----------------------------------------------------------------------------------------------------


def _where(arguments: argparse.Namespace, keyring: Keyring) -> str | None:
    return store_of(arguments.image, arguments.store, publisher=keyring.publisher())


async def inspect(arguments: argparse.Namespace, console: Console) -> None:
    """Show a manifest."""
    keyring = Keyring.of()
    async with open_store(_where(arguments, keyring)) as store:
        signed = await load_image(arguments.image, store, keyring, unsigned=is_file(arguments.image))
    manifest = signed.manifest
    trusted = keyring.trusted(manifest.name.partition("/")[0])
    try:
        good: bytes | None = verify_manifest(signed, trusted=keyring.trusted)
    except ZosError:
        good = None
    signers = [
        Signer(key=key_id(each.key), trusted=good is not None and each.key in trusted) for each in signed.signatures
    ]
    shown = Inspected(
        name=manifest.name,
        digest=signed.digest.hex(),
        architecture=manifest.architecture,
        revision=manifest.revision,
        expires_s=manifest.expires_s,
        previous=manifest.prev.hex() if manifest.prev else None,
        blob_bytes=manifest.index.blocks * BLOCK,
        units=manifest.index.units,
        meta_bytes=manifest.meta.size,
        meta=manifest.meta.blake3.hex(),
        index=manifest.index.root.hex(),
        signatures=signers,
    )
    lines = [
        f"{shown.name}  revision {shown.revision}, {shown.architecture}",
        f"  digest    {shown.digest}",
        f"  replaces  {shown.previous or '-'}",
        f"  data      {size_text(shown.blob_bytes)} in {shown.units} units, index {shown.index}",
        f"  metadata  {size_text(shown.meta_bytes)}, {shown.meta}",
        *(f"  signed    {each.key}{' (trusted)' if each.trusted else ' (NOT trusted)'}" for each in signers),
    ]
    if not signers:
        lines.append("  signed    by nobody")
    console.emit(shown, "\n".join(lines))


async def verify(arguments: argparse.Namespace, console: Console) -> None:
    """Check every byte of an image."""
    keyring = Keyring.of()
    async with open_store(_where(arguments, keyring)) as store:
        signed = await load_image(arguments.image, store, keyring, unsigned=arguments.unsigned)
        trusted = None if arguments.unsigned else keyring.trusted
        result = await verify_image(store, signed, trusted=trusted, progress=console.progress())
    console.emit(
        result,
        f"{result.name} revision {result.revision} is whole: {result.inodes} inodes, {result.units} units,"
        f" {size_text(result.bytes_verified)}, signed by {result.signed_by or 'nobody (not asked)'}",
    )


def _bytes_max(text: str) -> int:
    size = read_size(text)
    if size is None:
        raise UsageError(f"--max-size {text[:40]!r} is no size", hint="write 100G, 512M or bytes")
    return size


async def extract(arguments: argparse.Namespace, console: Console) -> None:
    """Make a tree."""
    keyring = Keyring.of()
    directory = Path(arguments.directory)
    async with open_store(_where(arguments, keyring)) as store:
        signed = await load_image(arguments.image, store, keyring, unsigned=arguments.unsigned)
        bytes_max = None if arguments.max_size is None else _bytes_max(arguments.max_size)
        result = await extract_tree(store, signed, directory, bytes_max=bytes_max, progress=console.progress())
    if not result.owners_kept:
        console.note("owners are yours, and setuid bits are dropped: only root can keep the image's")
    if result.devices_skipped or result.xattrs_skipped:
        console.note(
            f"left out: {result.devices_skipped} device nodes, {result.xattrs_skipped} extended attributes (root only)"
        )
    console.emit(result, f"{directory}: {result.inodes} inodes, {size_text(result.bytes_written)}")


async def mount(arguments: argparse.Namespace, console: Console) -> None:
    """Mount an image on a directory of this machine."""
    from flist import hostmount

    require_root("zos flist mount makes a mount")
    keyring = Keyring.of()
    directory = Path(arguments.directory)
    where = _where(arguments, keyring) or str(default_store())
    async with open_store(where) as store:
        signed = await load_image(arguments.image, store, keyring, unsigned=arguments.unsigned)
    mounted = await hostmount.mount(signed, where, directory, provider=arguments.provider)
    report = MountReport(
        digest=mounted.digest, directory=str(directory), provider=mounted.provider, reason=mounted.reason
    )
    console.emit(report, f"{signed.manifest.name} is on {directory}, by provider {report.provider}: {report.reason}")


async def unmount(arguments: argparse.Namespace, console: Console) -> None:
    """Take an image off a directory."""
    from flist import hostmount

    require_root("zos flist unmount takes a mount away")
    await hostmount.unmount(Path(arguments.directory))
    console.note(f"{arguments.directory} is free")
