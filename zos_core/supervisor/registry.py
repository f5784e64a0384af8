"""The containers' documents, one file each: `<name>.json`, written before the step that it describes.

They lie apart from the containers' layers, since a container may be called `x.json` beside another called `x`.
"""

from __future__ import annotations

from pathlib import Path

from zos_core.base.atomic_file import read_limited, write_atomic
from zos_core.base.document import decode_json, encode_json
from zos_core.base.threads import in_thread
from zos_core.containers.document import ContainerState

__all__ = ["Registry"]

# A request carries at most 4096 arguments; a frame of 16 MiB bounds them all.
DOCUMENT_BYTES_MAX = 32 * 1024 * 1024


class Registry:
    """Kept states by name; the file system is the truth, this object its only writer."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def load(self) -> dict[str, ContainerState]:
        """Read every kept state.

        Raises:
            DocumentInvalid: a file is not what this version or an earlier one wrote; nothing is guessed.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

        def read_all() -> dict[str, ContainerState]:
            states = {}
            for path in sorted(self._directory.glob("*.json")):
                data = read_limited(path, DOCUMENT_BYTES_MAX)
                state = decode_json(data, ContainerState, what=str(path))
                states[state.name] = state
            return states

        return await in_thread(read_all)

    async def save(self, state: ContainerState, *, durable: bool = True) -> None:
        """Replace the document of a container, atomically.

        Without `durable` it may be lost in a power cut, though never torn by a crash of ours: what it says of
        namespaces, cgroups and links would be gone with them.
        """
        await in_thread(write_atomic, self._path(state.name), encode_json(state), mode=0o600, durable=durable)

    async def delete(self, name: str) -> None:
        """Forget a container."""
        await in_thread(self._path(name).unlink, missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.json"
