"""Builder of `native.ffi._kernel` (cffi, API mode): what the supervisor and the tools ask the kernel by themselves.

The compiler supplies layouts and numbers. What the headers of Debian 12 lack is written out here, each with its source;
a kernel that lacks it answers with an errno that the facade `native/kernel.py` turns into a typed error. Each function
returns 0 (or what its comment says) or a negative errno.

`python native/build/dev.py ffi` builds it in place.
"""

from __future__ import annotations

from cffi import FFI

__all__ = ["ffibuilder"]

DECLARATIONS = """
int zos_pidfd_exit(int pidfd, int *status);
int zos_attach_mount(int mount, const char *path);
int zos_unmount(const char *path, int lazy);
int zos_mount_id(const char *path, uint64_t *id);
int zos_in_memory(const char *path);
"""

SOURCE = r"""
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/magic.h>

/* include/uapi/linux/pidfd.h of Linux 6.15. The first 64 bytes are version 0, and the kernel takes the size out of the
   request's number, so this layout stays valid when fields are added behind it. */
#define ZOS_PIDFD_INFO_EXIT (UINT64_C(1) << 3)
struct zos_pidfd_info {
    uint64_t mask;
    uint64_t cgroupid;
    uint32_t pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
    int32_t exit_code;
};
_Static_assert(sizeof(struct zos_pidfd_info) == 64, "PIDFD_INFO_SIZE_VER0");
#define ZOS_PIDFD_GET_INFO _IOWR(0xFF, 11, struct zos_pidfd_info)

/* include/uapi/linux/mount.h of Linux 5.2; glibc has it since 2.36, other C libraries later. */
#ifndef SYS_move_mount
#define SYS_move_mount 429
#endif
#ifndef SYS_open_tree
#define SYS_open_tree 428
#endif
#define ZOS_MOVE_MOUNT_F_EMPTY_PATH 0x00000004
#define ZOS_OPEN_TREE_CLONE 1

/* 1 and a status as of wait(2) when the process has been reaped, 0 when not yet. */
static int zos_pidfd_exit(int pidfd, int *status)
{
    struct zos_pidfd_info info;
    memset(&info, 0, sizeof info);
    info.mask = ZOS_PIDFD_INFO_EXIT;
    if (ioctl(pidfd, ZOS_PIDFD_GET_INFO, &info) != 0)
        return -errno;
    if (!(info.mask & ZOS_PIDFD_INFO_EXIT))
        return 0;
    *status = info.exit_code;
    return 1;
}

/* Attaches a copy of a detached mount where the kernel copies such (6.15), else the mount itself. A path that ends in a
   symbolic link is not followed. */
static int zos_attach_mount(int mount, const char *path)
{
    int copy = syscall(SYS_open_tree, mount, "", ZOS_OPEN_TREE_CLONE | O_CLOEXEC | AT_EMPTY_PATH);
    int attached = copy < 0 ? mount : copy;
    int result = syscall(SYS_move_mount, attached, "", AT_FDCWD, path, ZOS_MOVE_MOUNT_F_EMPTY_PATH) == 0 ? 0 : -errno;
    if (copy >= 0)
        close(copy);
    return result;
}

static int zos_unmount(const char *path, int lazy)
{
    return umount2(path, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) == 0 ? 0 : -errno;
}

/* 1 and the mount's id (STATX_MNT_ID, Linux 5.8), 0 when the kernel does not say. */
static int zos_mount_id(const char *path, uint64_t *id)
{
    struct statx found;
    memset(&found, 0, sizeof found);
    if (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_MNT_ID, &found) != 0)
        return -errno;
    if (!(found.stx_mask & STATX_MNT_ID))
        return 0;
    *id = found.stx_mnt_id;
    return 1;
}

/* 1 when the path lies on tmpfs or ramfs. */
static int zos_in_memory(const char *path)
{
    struct statfs found;
    if (statfs(path, &found) != 0)
        return -errno;
    return found.f_type == TMPFS_MAGIC || found.f_type == RAMFS_MAGIC;
}
"""

ffibuilder = FFI()
ffibuilder.cdef(DECLARATIONS)
ffibuilder.set_source("native.ffi._kernel", SOURCE, extra_compile_args=["-std=gnu11", "-O2"])
