"""The verbs of keys and trust: declarations only; their handlers are imported when one is called."""

from __future__ import annotations

from zos_core.base.verbs import Group, Verb, argument

__all__ = ["KEY", "TRUST"]

PUBLISHER = argument(
    "publisher",
    metavar="PUBLISHER",
    complete="zos_core.base.commands:publisher_names",
    help="whose images: the first part of PUBLISHER/name",
)

KEY = Group(
    summary="Show, export and import your own key, which signs what you build",
    verbs={
        "show": Verb(
            summary="Show your own public key and the publisher's name that it signs for",
            handler="zos_core.base.commands:key_show",
            examples=(
                ("zos key show", "PUBLISHER and KEY, which others give to `zos trust add`; and the file of the key"),
            ),
            details="The key is made on first use, with your login name as the publisher. Nothing secret is shown.",
        ),
        "export": Verb(
            summary="Write your own key, the secret included, to a file that only you can read",
            handler="zos_core.base.commands:key_export",
            arguments=(
                argument("file", metavar="FILE", help="a new file, which gets mode 0600; - is stdout"),
                argument("--force", action="store_true", help="replace FILE if it exists"),
            ),
            examples=(
                ("zos key export /media/stick/zos-key.json", "keep a copy, or carry it to another machine"),
                ("zos key export - | age -p > zos-key.age", "keep it encrypted"),
            ),
            details="Whoever has the file signs in your name. It is not encrypted: keep it as you keep an ssh key.",
        ),
        "import": Verb(
            summary="Make an exported key your own, and trust it",
            handler="zos_core.base.commands:key_import",
            arguments=(
                argument("file", metavar="FILE", help="what `zos key export` wrote, or a pipe; - is stdin"),
                argument(
                    "--replace",
                    action="store_true",
                    help="even if you have another key already, which signs no more then",
                ),
            ),
            examples=(
                ("zos key import /media/stick/zos-key.json", "on a new machine"),
                ("zos key import <(gpg -d key.gpg)", "one that you keep encrypted, which never reaches the disk"),
                ("zos key import other.json --replace", "the key that you had stays trusted for what it signed"),
            ),
        ),
    },
)

TRUST = Group(
    summary="Say whose images you accept: publishers and their keys",
    verbs={
        "add": Verb(
            summary="Accept images of a publisher that are signed with a key",
            handler="zos_core.base.commands:trust_add",
            arguments=(
                PUBLISHER,
                argument("key", metavar="KEY", complete="", help="ed25519: and 64 hexadecimal digits (`zos key show`)"),
            ),
            examples=(
                (
                    "zos trust add jane ed25519:8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c",
                    "jane/web may run here now",
                ),
            ),
            details="A publisher may have up to 16 keys. Get the key in a way that you trust: by phone, on paper.",
        ),
        "list": Verb(
            summary="List the publishers and keys that are trusted",
            handler="zos_core.base.commands:trust_list",
            examples=(("zos trust list --json", "one line of JSON for each key"),),
        ),
        "remove": Verb(
            summary="Stop accepting a publisher, or one of its keys",
            handler="zos_core.base.commands:trust_remove",
            arguments=(
                PUBLISHER,
                argument(
                    "key", metavar="KEY", nargs="?", complete="", help="the key (default: every key of the publisher)"
                ),
            ),
            examples=(("zos trust remove jane", "accept no key of jane's; containers that run already run on"),),
        ),
    },
)
