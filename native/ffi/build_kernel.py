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
int zos_in_memory(const char *path);
int zos_try_clone(uint64_t flags, int step);
int zos_try_pidfd_exit(void);
int zos_try_pre_access(const char *path);
"""

SOURCE = r"""
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/filter.h>
#include <linux/magic.h>
#include <linux/seccomp.h>

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

/* 1 when the path lies on tmpfs or ramfs. */
static int zos_in_memory(const char *path)
{
    struct statfs found;
    if (statfs(path, &found) != 0)
        return -errno;
    return found.f_type == TMPFS_MAGIC || found.f_type == RAMFS_MAGIC;
}

/* include/uapi/linux/sched.h of Linux 5.7. */
struct zos_clone_args {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};
#ifndef SYS_clone3
#define SYS_clone3 435
#endif

/* What a process in new namespaces tries; 0 or its errno. System calls alone: other threads of its parent may have held
   any lock when it was cloned. */
static int zos_step(int step)
{
    struct sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog program = {1, allow};
    switch (step) {
    case 1:
        if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 || mount("proc", "/proc", "proc", 0, NULL) != 0)
            return errno;
        return 0;
    case 2:
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
            syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) != 0)
            return errno;
        return 0;
    default:
        return 0;
    }
}

/* Clones a process with these flags that tries one step and ends. Without an exit signal, so that nobody who waits for
   children of his own hears of it. Gives its pid, its status as of wait(2) and its pidfd, which is the caller's. */
static int zos_clone_step(uint64_t flags, int step, int *status, int *pidfd)
{
    struct zos_clone_args arguments;
    long pid;
    memset(&arguments, 0, sizeof arguments);
    arguments.flags = flags | CLONE_PIDFD;
    arguments.pidfd = (uint64_t)(uintptr_t)pidfd;
    pid = syscall(SYS_clone3, &arguments, sizeof arguments);
    if (pid < 0)
        return -errno;
    if (pid == 0)
        syscall(SYS_exit_group, zos_step(step));
    while (waitpid((pid_t)pid, status, __WALL) < 0)
        if (errno != EINTR) {
            int error = errno;
            close(*pidfd);
            return -error;
        }
    return 0;
}

/* 0 when a process in these namespaces could do the step. */
static int zos_try_clone(uint64_t flags, int step)
{
    int status = 0, pidfd = -1;
    int result = zos_clone_step(flags, step, &status, &pidfd);
    if (result != 0)
        return result;
    close(pidfd);
    return WIFEXITED(status) ? -WEXITSTATUS(status) : -ECHILD;
}

/* 1 when a pidfd says how a process ended that was reaped, or a negative errno: see zos_pidfd_exit. */
static int zos_try_pidfd_exit(void)
{
    int status = 0, pidfd = -1;
    int result = zos_clone_step(0, 0, &status, &pidfd);
    if (result != 0)
        return result;
    result = zos_pidfd_exit(pidfd, &status);
    close(pidfd);
    return result;
}

/* include/uapi/linux/fanotify.h of Linux 6.14. */
#define ZOS_FAN_PRE_ACCESS 0x00100000
/* 0 when a group can be asked before a file of this directory is read. The mark goes with the group. */
static int zos_try_pre_access(const char *path)
{
    int result = 0;
    int group = fanotify_init(FAN_CLASS_PRE_CONTENT | FAN_CLOEXEC, O_RDONLY | O_CLOEXEC);
    if (group < 0)
        return -errno;
    if (fanotify_mark(group, FAN_MARK_ADD, ZOS_FAN_PRE_ACCESS | FAN_EVENT_ON_CHILD, AT_FDCWD, path) != 0)
        result = -errno;
    close(group);
    return result;
}
"""

ffibuilder = FFI()
ffibuilder.cdef(DECLARATIONS)
ffibuilder.set_source("native.ffi._kernel", SOURCE, extra_compile_args=["-std=gnu11", "-O2"])
