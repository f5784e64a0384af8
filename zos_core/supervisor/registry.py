"""The containers' documents, one file each: `<name>.json`, written before the step that it describes.

They lie apart from the containers' layers, since a container may be called `x.json` beside another called `x`.
"""

from __future__ import annotations

import logging
from pathlib import Path

from native.errors import ZosError
from zos_core.base.atomic_file import TEMPORARY_PREFIX, read_limited, write_atomic
from zos_core.base.document import decode_json, encode_json
from zos_core.base.threads import in_thread
from zos_core.containers.document import RUN_BYTES_MAX, ContainerState, Failure, ImageRequest, RunRequest

__all__ = ["Registry"]

log = logging.getLogger("zos.supervisor")

# The request, and as much again for what came of it.
DOCUMENT_BYTES_MAX = 2 * RUN_BYTES_MAX


class Registry:
    """Kept states by name; the file system is the truth, this object its only writer."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def load(self) -> dict[str, ContainerState]:
        """Read every kept state, and take away what a killed writer left.

        A document that cannot be read becomes a container that has ended and says so: the others go on, its layers
        stay until somebody removes it, and nothing is guessed. A power cut may leave an empty one (`save`).
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

        def read_all() -> dict[str, ContainerState]:
            for path in self._directory.glob(f"{TEMPORARY_PREFIX}*"):
                path.unlink(missing_ok=True)
            states = {}
            for path in sorted(self._directory.glob("*.json")):
                state = _read(path)
                states[state.name] = state
            return states

        return await in_thread(read_all)

    async def save(self, state: ContainerState, *, durable: bool = True) -> None:
        """Replace the document of a container, atomically.

        Without `durable` it may be lost in a power cut, or empty, though never torn by a crash of ours: what it says of
        namespaces, cgroups and links would be gone with them.
        """
        await in_thread(write_atomic, self._path(state.name), encode_json(state), mode=0o600, durable=durable)

    async def delete(self, name: str) -> None:
        """Forget a container."""
        await in_thread(self._path(name).unlink, missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.json"


def _read(path: Path) -> ContainerState:
    name = path.name.removesuffix(".json")
    try:
        state = decode_json(read_limited(path, DOCUMENT_BYTES_MAX), ContainerState, what=str(path))
        if state.name == name:
            return state
        why = f"{path} is the document of {state.name!r}"
    except (ZosError, OSError) as error:
        why = str(error)
    log.error("the document of %s cannot be read: %s", name, why)
    return ContainerState(
        name=name,
        owner_uid=0,
        request=RunRequest(request_id="0" * 32, name=name, image=ImageRequest(store="/"), args=[]),
        status="exited",
        generation=0,
        created_ns=path.stat().st_mtime_ns,
        failure=Failure(
            code="container.document-damaged",
            message=f"what the node kept of this container cannot be read: {why}",
            hint=f"its files are in the container's `upper` directory still; zos rm {name} removes them",
        ),
    )
