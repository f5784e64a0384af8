/* Makes every call that leads out of a container, each in a child of its own: "<name> ok" or "<name> <errno>" a line.
 *
 * calls DISK   DISK is the "major:minor" of a block device of the machine.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static dev_t disk;

static long unshare_user(void) { return unshare(CLONE_NEWUSER); }
static long unshare_mount(void) { return unshare(CLONE_NEWNS); }
static long unshare_cgroup(void) { return unshare(CLONE_NEWCGROUP); }
static long unshare_net(void) { return unshare(CLONE_NEWNET); }

static long clone_user(void) {
    long pid = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        _exit(0);
    return pid;
}
static long clone3_(void) {
    struct clone_args args = {.exit_signal = SIGCHLD};
    long pid = syscall(SYS_clone3, &args, sizeof args);
    if (pid == 0)
        _exit(0);
    return pid;
}
static long mount_tmpfs(void) { return mount("none", "/tmp", "tmpfs", 0, 0); }
static long mount_cgroup1(void) { return mount("none", "/tmp", "cgroup", 0, "devices"); }
static long umount_proc_sys(void) { return umount2("/proc/sys", MNT_DETACH); }
static long remount_sys(void) { return mount(0, "/sys", 0, MS_REMOUNT | MS_BIND, 0); }
static long remount_cgroup(void) { return mount(0, "/sys/fs/cgroup", 0, MS_REMOUNT | MS_BIND, 0); }
static long fsopen_(void) { return syscall(SYS_fsopen, "tmpfs", 0); }
static long open_tree_(void) { return syscall(SYS_open_tree, AT_FDCWD, "/", 1 /* OPEN_TREE_CLONE */); }
static long pivot_root_(void) { return syscall(SYS_pivot_root, "/nowhere", "/nowhere"); }

static long bpf_(void) {
    union bpf_attr attr = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
    return syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof attr);
}
static long keyctl_(void) { return syscall(SYS_keyctl, 0 /* GET_KEYRING_ID */, -2 /* process */, 1); }
static long add_key_(void) { return syscall(SYS_add_key, "user", "zos-attack", "x", 1, -2); }
static long userfaultfd_(void) { return syscall(SYS_userfaultfd, O_CLOEXEC); }
static long io_uring_(void) {
    struct io_uring_params params = {0};
    return syscall(SYS_io_uring_setup, 1, &params);
}
static long perf_event(void) {
    struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE, .size = sizeof attr, .config = PERF_COUNT_SW_CPU_CLOCK};
    return syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
}
static long syslog_(void) { return klogctl(10 /* SYSLOG_ACTION_SIZE_BUFFER */, 0, 0); }
static long sethostname_(void) { return sethostname("box", 3); }
static long setns_mount(void) { return setns(open("/proc/self/ns/mnt", O_RDONLY), CLONE_NEWNS); }
static long by_handle(void) {
    union {
        struct file_handle head;
        char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
    } handle = {.head = {.handle_bytes = MAX_HANDLE_SZ}};
    int mount_id;
    if (name_to_handle_at(AT_FDCWD, "/dev/null", &handle.head, &mount_id, 0)) {
        /* Where names cannot be turned into handles, the one that "shocker" guessed: inode 2. */
        handle.head.handle_bytes = 8;
        handle.head.handle_type = 1;
        memset(handle.head.f_handle, 0, 8);
        handle.head.f_handle[0] = 2;
    }
    return open_by_handle_at(open("/dev/null", O_RDONLY), &handle.head, O_PATH);
}
static long packet(void) { return socket(AF_PACKET, SOCK_RAW, htons(3)); }
static long raw_ip(void) { return socket(AF_INET, SOCK_RAW, IPPROTO_ICMP); }
static long vsock(void) { return socket(40, SOCK_STREAM, 0); }
static long alg(void) { return socket(38, SOCK_SEQPACKET, 0); }

static long mknod_disk(void) { return mknod("/dev/shm/disk", S_IFBLK | 0600, disk); }
static long mknod_mem(void) { return mknod("/dev/shm/mem", S_IFCHR | 0600, makedev(1, 1)); }
static long open_mem(void) {
    if (mknod("/dev/shm/open", S_IFCHR | 0600, makedev(1, 1)))
        return -1;
    return open("/dev/shm/open", O_RDONLY);
}
static long ioperm_(void) {
#ifdef SYS_ioperm
    return syscall(SYS_ioperm, 0x80, 1, 1);
#else
    errno = EPERM;
    return -1;
#endif
}
static long write_core_pattern(void) { return open("/proc/sys/kernel/core_pattern", O_WRONLY); }
static long write_modprobe(void) { return open("/proc/sys/kernel/modprobe", O_WRONLY); }
static long write_sysrq(void) { return open("/proc/sysrq-trigger", O_WRONLY); }
static long write_uevent_helper(void) { return open("/sys/kernel/uevent_helper", O_WRONLY); }
static long write_sysfs(void) { return open("/sys/kernel/profiling", O_WRONLY); }
static long write_cgroup(void) { return open("/sys/fs/cgroup/cgroup.procs", O_WRONLY); }
static long mkdir_cgroup(void) {
    if (mkdir("/sys/fs/cgroup/zos-attack", 0700))
        return -1;
    return rmdir("/sys/fs/cgroup/zos-attack");
}

static const struct {
    const char *name;
    long (*call)(void);
} CALLS[] = {
    {"unshare_user", unshare_user},
    {"unshare_mount", unshare_mount},
    {"unshare_cgroup", unshare_cgroup},
    {"unshare_net", unshare_net},
    {"clone_user", clone_user},
    {"clone3", clone3_},
    {"mount_tmpfs", mount_tmpfs},
    {"mount_cgroup1", mount_cgroup1},
    {"umount_proc_sys", umount_proc_sys},
    {"remount_sys", remount_sys},
    {"remount_cgroup", remount_cgroup},
    {"fsopen", fsopen_},
    {"open_tree", open_tree_},
    {"pivot_root", pivot_root_},
    {"bpf", bpf_},
    {"keyctl", keyctl_},
    {"add_key", add_key_},
    {"userfaultfd", userfaultfd_},
    {"io_uring", io_uring_},
    {"perf_event", perf_event},
    {"syslog", syslog_},
    {"sethostname", sethostname_},
    {"setns_mount", setns_mount},
    {"by_handle", by_handle},
    {"packet", packet},
    {"raw_ip", raw_ip},
    {"vsock", vsock},
    {"alg", alg},
    {"mknod_disk", mknod_disk},
    {"mknod_mem", mknod_mem},
    {"open_mem", open_mem},
    {"ioperm", ioperm_},
    {"write_core_pattern", write_core_pattern},
    {"write_modprobe", write_modprobe},
    {"write_sysrq", write_sysrq},
    {"write_uevent_helper", write_uevent_helper},
    {"write_sysfs", write_sysfs},
    {"write_cgroup", write_cgroup},
    {"mkdir_cgroup", mkdir_cgroup},
};

int main(int argc, char **argv) {
    unsigned major, minor;
    if (argc != 2 || sscanf(argv[1], "%u:%u", &major, &minor) != 2)
        return 2;
    disk = makedev(major, minor);
    setvbuf(stdout, 0, _IOLBF, 0);
    for (size_t i = 0; i < sizeof CALLS / sizeof *CALLS; i++) {
        pid_t pid = fork();
        if (pid < 0)
            return 3;
        if (pid == 0) {
            alarm(5);
            errno = 0;
            long got = CALLS[i].call();
            printf("%s %s\n", CALLS[i].name, got >= 0 ? "ok" : strerrorname_np(errno));
            _exit(0);
        }
        int status;
        waitpid(pid, &status, 0);
        if (status)
            printf("%s died\n", CALLS[i].name);
    }
    return 0;
}
