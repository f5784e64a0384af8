#!/bin/sh
# Run a command in a world of its own, so that whatever is there afterwards and was not before is the command's:
# new mount, pid, net, ipc and uts namespaces, with /proc and /sys of them, an empty /run/zos, and DIR (on a disk) as
# /var/lib/zos. Control groups and loop devices stay the machine's. As root.
#
#   alone.sh DIR COMMAND [ARG ...]
set -eu
if [ "${1:-}" != --inside ]; then
    exec unshare --mount --propagation private --pid --fork --kill-child --mount-proc --net --ipc --uts \
        -- "$0" --inside "$@"
fi
shift
state=$1
shift
mkdir -p "$state/groups" /run/zos /var/lib/zos
mount --rbind /sys/fs/cgroup "$state/groups"
mount -t sysfs sysfs /sys
mount --rbind "$state/groups" /sys/fs/cgroup
umount -l "$state/groups"
rmdir "$state/groups"
mount -t tmpfs -o mode=755 tmpfs /run/zos
mount --bind "$state" /var/lib/zos
busybox ifconfig lo up
exec "$@"
