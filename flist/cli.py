"""The verbs of images and of the hub: declarations only; their handlers are imported when one is called."""

from __future__ import annotations

from zos_core.base.verbs import Group, Verb, argument

__all__ = ["FLIST", "HUB"]

IMAGE = argument("image", metavar="IMAGE", help="[hub/][publisher/]name[:tag][@digest], or a .flist file")
STORE = argument(
    "--store",
    metavar="DIR-or-URL",
    complete="dir",
    help="where the image is: a directory, or a hub such as http://127.0.0.1:7080 (default: your own store)",
)
UNSIGNED = argument("--unsigned", action="store_true", help="accept a .flist file that nobody you trust has signed")
DIRECTORY_STORE = argument(
    "--store", metavar="DIR", complete="dir", help="a directory, the store that has it (default: your own store)"
)

FLIST = Group(
    summary="Build, look at, verify, extract and mount images",
    details=(
        "An image, or flist, is a directory tree under a signed name. Its bytes are in a store, a directory such as\n"
        "your own, and are fetched when they are read. A hub serves a store over HTTP (`zos hub serve`)."
    ),
    verbs={
        "build": Verb(
            summary="Build a signed image from a directory tree, into a store",
            handler="flist.commands:build",
            arguments=(
                argument("tree", metavar="TREE", complete="dir", help="the root directory of the image"),
                argument(
                    "-o",
                    "--output",
                    metavar="FILE",
                    help="also write the image without its bytes there, a .flist file of a few hundred bytes",
                ),
                argument(
                    "--name",
                    complete="",
                    metavar="[PUBLISHER/]NAME[:TAG]",
                    help="name of the image (default: YOU/DIRECTORY:latest, YOU as `zos key show` has it)",
                ),
                argument(
                    "--revision",
                    type=int,
                    complete="",
                    metavar="N",
                    help="number of this version of the name; it only grows (default: the highest seen here + 1)",
                ),
                argument(
                    "--architecture",
                    choices=["x86_64", "aarch64"],
                    help="machines that it is for (default: as this one)",
                ),
                argument("--store", metavar="DIR", complete="dir", help="where it goes (default: your own store)"),
                argument(
                    "--anew",
                    action="store_true",
                    help="write every object again, over those that are there: mends a damaged store",
                ),
            ),
            plans=True,
            details=(
                "Signs with your own key, which is made on first use.\n"
                "The same tree gives the same image, byte for byte.\n"
                "Owners and modes are kept. A tree that only root can read needs sudo; key and store are still yours.\n"
                "Your own store is ~/.local/share/zos/store; root's is /var/lib/zos/store."
            ),
            examples=(
                ("zos flist build ./rootfs --name web", "build ./rootfs as YOU/web:latest into your store"),
                ('sudo "$(command -v zos)" flist build ./rootfs', "a tree that only root can read"),
                ("zos flist build ./rootfs -o web.flist --store /srv/store", "another store, and a file to hand on"),
            ),
        ),
        "inspect": Verb(
            summary="Show what an image is and who signed it",
            handler="flist.commands:inspect",
            arguments=(IMAGE, STORE),
            examples=(
                ("zos flist inspect web", "name, revision, digest, sizes, signatures"),
                ("zos flist inspect web --store http://127.0.0.1:7080", "what a hub has under this name"),
            ),
            details="A .flist file is shown whoever has signed it, a name only if you trust its publisher.",
        ),
        "verify": Verb(
            summary="Read a whole image and check every byte of it",
            handler="flist.commands:verify",
            arguments=(IMAGE, STORE, UNSIGNED),
            examples=(("zos flist verify web --store http://127.0.0.1:7080", "check what a hub serves"),),
            details="Every byte is fetched and compared with what was signed; the first that differs is an error.",
        ),
        "extract": Verb(
            summary="Make a directory tree from an image",
            handler="flist.commands:extract",
            arguments=(
                IMAGE,
                argument("directory", metavar="DIR", complete="dir", help="where: a new or an empty directory"),
                STORE,
                UNSIGNED,
                argument(
                    "--max-size",
                    metavar="SIZE",
                    complete="",
                    help="refuse an image of more bytes, such as 100G; K, M, G, T: powers of 1024 (default: 4G, or 16 "
                    "times what `zos flist inspect` calls data, if that is more)",
                ),
            ),
            examples=(
                ("zos flist extract web ./rootfs", "all files, owned by you"),
                ('sudo "$(command -v zos)" flist extract web ./rootfs', "with all owners, device nodes and attributes"),
            ),
        ),
        "cat": Verb(
            summary="Print one file of an image; only what holds it is fetched",
            handler="flist.cat:cat",
            arguments=(
                IMAGE,
                argument(
                    "path",
                    metavar="PATH",
                    complete="",
                    help="of a file in the image; symbolic links are followed there",
                ),
                STORE,
                UNSIGNED,
            ),
            examples=(("zos flist cat web /etc/os-release", "without mounting or extracting the image"),),
            details="Writes the file's own bytes, so it takes no --json.",
        ),
        "sign": Verb(
            summary="Add your own key's signature to an image",
            handler="flist.publisher_commands:sign",
            arguments=(IMAGE, DIRECTORY_STORE),
            examples=(
                ("zos flist sign web", "after `zos key import`: with the key that you have now"),
                ("zos flist sign theirs.flist", "vouch for an image that you have looked at"),
            ),
            details=(
                "`zos flist build` signs by itself. If the image is of your own publisher, its name is signed\n"
                "anew, too."
            ),
        ),
        "publish": Verb(
            summary="Send an image to a hub, from which others run it",
            handler="flist.publisher_commands:publish",
            arguments=(
                argument("image", metavar="IMAGE", help="[hub/][publisher/]name[:tag] in your store"),
                argument(
                    "--hub",
                    metavar="URL",
                    complete="",
                    help="where to (default: http:// and the hub in the name, else http://127.0.0.1:7080)",
                ),
                DIRECTORY_STORE,
            ),
            plans=True,
            examples=(
                ("zos flist publish web --hub https://hub.example", "only what the hub lacks is sent"),
                ("zos flist publish web", "if it was broken off, the same command goes on where it was"),
            ),
            details=(
                "The hub knows you by your own key. The first key that publishes under a publisher's name owns it\n"
                "there, unless the hub's operator says who may. Others see the whole new image, or nothing of it."
            ),
        ),
        "mount": Verb(
            summary="Mount an image on a directory; it is fetched while it is read",
            handler="flist.commands:mount",
            arguments=(
                IMAGE,
                argument("directory", metavar="DIR", complete="dir", help="where: a directory that exists"),
                STORE,
                UNSIGNED,
                argument(
                    "--provider",
                    choices=["file", "loop", "full", "extract"],
                    help="how it is mounted (default: the best that works here): file, loop: fetched while it is read; "
                    "full, extract: fetched before",
                ),
            ),
            examples=(
                (
                    "zos flist mount web /mnt --store http://127.0.0.1:7080",
                    "look at its files at once, by ls, cat and grep",
                ),
            ),
            details="Read-only. Needs root, and asks sudo for it. `zos flist unmount DIR` takes it off.",
        ),
        "unmount": Verb(
            summary="Take an image off a directory",
            handler="flist.commands:unmount",
            arguments=(argument("directory", metavar="DIR", complete="dir", help="where the image is mounted"),),
            examples=(("zos flist unmount /mnt", "free the directory, end the processes that served it"),),
            details="Needs root, and asks sudo for it.",
        ),
    },
)

HUB = Group(
    summary="Serve images to those who run them",
    verbs={
        "serve": Verb(
            summary="Serve a store over HTTP, and take what is published",
            handler="flist.hub.commands:serve",
            arguments=(
                argument(
                    "--store",
                    metavar="DIR",
                    complete="dir",
                    help="a directory that exists, which is served (default: your own store)",
                ),
                argument(
                    "--listen",
                    metavar="ADDR:PORT",
                    complete="",
                    default="127.0.0.1:7080",
                    help="where to listen; port 0: any free one (default: 127.0.0.1:7080, for this machine alone)",
                ),
                argument(
                    "--publishers",
                    metavar="FILE",
                    help="who may publish (default: the first key that publishes under a publisher's name owns it)",
                ),
                argument(
                    "--name",
                    action="append",
                    default=[],
                    complete="",
                    metavar="HOST[:PORT]",
                    help="what publishers call this hub, where that is not the address of --listen; may be repeated",
                ),
                argument("--read-only", action="store_true", help="let nobody publish"),
            ),
            details=(
                "Runs until Ctrl-C or SIGTERM. Statistics are at /v1/statistics, the API at /openapi.json.\n"
                "--publishers takes a JSON file, which is read again when it changes:\n"
                '  {"version": 1, "publishers": {"jane": ["ed25519:..."]}}'
            ),
            statuses="0 after SIGTERM, 130 after Ctrl-C, else the error's (docs/errors.md)",
            examples=(
                ("zos hub serve", "your own store, for this machine alone"),
                ("zos hub serve --store /srv/store --listen 0.0.0.0:7080", "to the network"),
                (
                    "zos hub serve --name hub.example --publishers who.json",
                    "behind a proxy of that name; who may publish is in the file",
                ),
            ),
        ),
    },
)
