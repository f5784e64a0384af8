"""The verbs of images and of the hub: declarations only; their handlers are imported when one is called."""

from __future__ import annotations

from zos_core.base.verbs import Group, Verb, argument

__all__ = ["FLIST", "HUB"]

IMAGE = argument("image", metavar="IMAGE", help="[publisher/]name[:tag][@digest] in the store, or a .flist file")
STORE = argument(
    "--store",
    metavar="DIR-or-URL",
    complete="dir",
    help="a directory, or a hub such as http://127.0.0.1:7080 (default: your own store)",
)
UNSIGNED = argument("--unsigned", action="store_true", help="accept a .flist FILE that nobody you trust has signed")

FLIST = Group(
    summary="Build, look at, verify, extract and mount images",
    verbs={
        "build": Verb(
            summary="Build a signed image from a directory tree, into a store",
            handler="flist.commands:build",
            arguments=(
                argument("tree", metavar="TREE", complete="dir", help="the root directory of the image"),
                argument("-o", "--output", metavar="FILE", help="write the image's .flist file there, too"),
                argument(
                    "--name",
                    complete="",
                    metavar="[PUBLISHER/]NAME[:TAG]",
                    help="default: YOU/the directory's name:latest",
                ),
                argument(
                    "--revision",
                    type=int,
                    complete="",
                    metavar="N",
                    help="default: one more than the highest seen here",
                ),
                argument("--architecture", choices=["x86_64", "aarch64"], help="default: this machine's"),
                argument("--store", metavar="DIR", complete="dir", help="default: your own store"),
            ),
            plans=True,
            details=(
                "Signs with your own key, which is made on first use.\n"
                "The same tree gives the same image, byte for byte.\n"
                "Owners are kept. What only root can read is read with sudo; key and store are yours also then.\n"
                "Your own store: ~/.local/share/zos/store, of root /var/lib/zos/store."
            ),
            examples=(
                ("zos flist build ./rootfs --name web", "build ./rootfs as YOU/web:latest into your store"),
                ('sudo "$(command -v zos)" flist build ./rootfs', "a tree with files of other owners"),
                ("zos flist build ./rootfs -o web.flist --store /srv/store", "another store, and a file to hand on"),
            ),
        ),
        "inspect": Verb(
            summary="Show what an image is and who signed it",
            handler="flist.commands:inspect",
            arguments=(IMAGE, STORE),
            examples=(("zos flist inspect web", "name, digest, sizes, signatures"),),
        ),
        "verify": Verb(
            summary="Read a whole image and check every byte of it",
            handler="flist.commands:verify",
            arguments=(IMAGE, STORE, UNSIGNED),
            examples=(("zos flist verify web --store http://127.0.0.1:7080", "check what a hub serves"),),
        ),
        "extract": Verb(
            summary="Make a directory tree from an image",
            handler="flist.commands:extract",
            arguments=(
                IMAGE,
                argument("directory", metavar="DIR", complete="dir", help="new or empty"),
                STORE,
                UNSIGNED,
                argument(
                    "--max-size",
                    metavar="SIZE",
                    complete="",
                    help="write at most so much, such as 100G (default: 4G, or 16 times the blob if that is more)",
                ),
            ),
            examples=(
                ("zos flist extract web ./rootfs", "all files, yours"),
                ('sudo "$(command -v zos)" flist extract web ./rootfs', "with all owners, times and attributes"),
            ),
        ),
        "cat": Verb(
            summary="Print one file of an image; only what holds it is fetched",
            handler="flist.cat:cat",
            arguments=(
                IMAGE,
                argument("path", metavar="PATH", complete="", help="in the image; symbolic links are followed there"),
                STORE,
                UNSIGNED,
            ),
            examples=(("zos flist cat web /etc/os-release", "without mounting or extracting it"),),
        ),
        "sign": Verb(
            summary="Add a signature of your own key to an image",
            handler="flist.publisher_commands:sign",
            arguments=(
                IMAGE,
                argument("--store", metavar="DIR", complete="dir", help="default: your own store"),
            ),
            examples=(
                ("zos flist sign web", "after `zos key import`: with the key that you have now"),
                ("zos flist sign theirs.flist", "vouch for a file that you have looked at"),
            ),
            details="`zos flist build` signs by itself. Of your own publisher the name is signed anew, too.",
        ),
        "publish": Verb(
            summary="Send an image to a hub, from where others run it",
            handler="flist.publisher_commands:publish",
            arguments=(
                argument("image", metavar="IMAGE", help="[hub/][publisher/]name[:tag] in your store"),
                argument("--hub", metavar="URL", complete="", help="default: the name's, else http://127.0.0.1:7080"),
                argument("--store", metavar="DIR", complete="dir", help="default: your own store"),
            ),
            plans=True,
            examples=(
                ("zos flist publish web --hub https://hub.example", "only what the hub lacks is sent"),
                ("zos flist publish web", "broken off? the same again goes on where it was"),
            ),
            details=(
                "The hub knows you by your own key. The first key that publishes under a name of a publisher\n"
                "owns it there, unless the hub's operator says who may.\n"
                "Readers see the whole revision or nothing of it."
            ),
        ),
        "mount": Verb(
            summary="Mount an image on a directory, fetched while it is read",
            handler="flist.commands:mount",
            arguments=(
                IMAGE,
                argument("directory", metavar="DIR", complete="dir", help="where to mount it"),
                STORE,
                UNSIGNED,
                argument(
                    "--provider",
                    choices=["file", "loop", "full", "extract"],
                    help="how (default: the best that works here): file, loop: fetched while it is read; "
                    "full, extract: fetched before",
                ),
            ),
            examples=(("zos flist mount web /mnt --store http://127.0.0.1:7080", "look into an image at once"),),
            details="Read-only. Needs root, and asks sudo for it. `zos flist unmount DIR` takes it off.",
        ),
        "unmount": Verb(
            summary="Take an image off a directory",
            handler="flist.commands:unmount",
            arguments=(argument("directory", metavar="DIR", complete="dir", help="where it is mounted"),),
            examples=(("zos flist unmount /mnt", "and end the processes that served it"),),
            details="Needs root, and asks sudo for it.",
        ),
    },
)

HUB = Group(
    summary="Serve images to other machines",
    verbs={
        "serve": Verb(
            summary="Serve a store over HTTP until it is told to end",
            handler="flist.hub.commands:serve",
            arguments=(
                argument("--store", metavar="DIR", complete="dir", help="what is served (default: your own store)"),
                argument(
                    "--listen",
                    metavar="ADDR:PORT",
                    complete="",
                    default="127.0.0.1:7080",
                    help="default: 127.0.0.1:7080, this machine only; port 0: any free one",
                ),
                argument("--publishers", metavar="FILE", help="who may publish (default: the first key owns a name)"),
                argument(
                    "--name",
                    action="append",
                    default=[],
                    complete="",
                    metavar="HOST[:PORT]",
                    help="what publishers call this hub, where that is not its address; may be repeated",
                ),
                argument("--read-only", action="store_true", help="take no publications, keep no log"),
            ),
            details=(
                "SIGTERM ends it cleanly.\nStatistics are at /v1/statistics, the API at /openapi.json.\n"
                "--publishers takes a file like trusted.json: "
                '{"version": 1, "publishers": {"jane": ["ed25519:..."]}}.'
            ),
            examples=(
                ("zos hub serve", "your own store, on loopback"),
                ("zos hub serve --store /srv/store --listen 0.0.0.0:7080", "to the network"),
                ("zos hub serve --name hub.example --publishers who.json", "behind a proxy, for those in the file"),
            ),
        ),
    },
)
