/* What reads a tree and says how long it took: `reader walk|files|run DIR ...`, nanoseconds on stdout.
 *
 *   walk DIR                 readdir and lstat of everything below DIR
 *   files DIR LIST THREADS   open, read to the end and close each file of LIST (paths below DIR, one a line), dealt out
 *                            to THREADS threads in turns
 *   run DIR CMD ARG...       chroot to DIR, run CMD, wait for it; its stdout goes to /dev/null
 *
 * In C, so that what is measured is the file system and not an interpreter. Any error ends it with status 1.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { THREADS_MAX = 64, CHUNK = 131072 };

static char **names;
static long count;
static int threads, root;
static unsigned long long total;

static void die(const char *what) {
    fprintf(stderr, "reader: %s: %s\n", what, strerror(errno));
    exit(1);
}

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void walk(int fd) {
    DIR *dir = fdopendir(fd);
    if (!dir) die("fdopendir");
    for (struct dirent *entry; (entry = readdir(dir));) {
        struct stat st;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        if (fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW)) die(entry->d_name);
        total++;
        if (S_ISDIR(st.st_mode)) {
            int below = openat(dirfd(dir), entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            if (below < 0) die(entry->d_name);
            walk(below);
        }
    }
    closedir(dir);
}

static void *read_files(void *first) {
    char *buffer = malloc(CHUNK);
    unsigned long long sum = 0;
    if (!buffer) die("malloc");
    for (long at = (long)(size_t)first; at < count; at += threads) {
        int fd = openat(root, names[at], O_RDONLY | O_CLOEXEC);
        if (fd < 0) die(names[at]);
        for (ssize_t got; (got = read(fd, buffer, CHUNK));) {
            if (got < 0) die(names[at]);
            sum += (unsigned long long)got;
        }
        close(fd);
    }
    free(buffer);
    __atomic_fetch_add(&total, sum, __ATOMIC_RELAXED);
    return NULL;
}

static void load(const char *path) {
    FILE *list = fopen(path, "r");
    size_t room = 0;
    long space = 0;
    if (!list) die(path);
    for (char *line = NULL; getline(&line, &room, list) > 0; line = NULL, room = 0) {
        line[strcspn(line, "\n")] = 0;
        if (count == space) {
            space = space ? 2 * space : 4096;
            names = realloc(names, (size_t)space * sizeof *names);
            if (!names) die("realloc");
        }
        names[count++] = line;
    }
    fclose(list);
}

int main(int argc, char **argv) {
    long long begin;
    int status = 0;
    if (argc < 3) return fprintf(stderr, "reader: walk|files|run DIR ...\n"), 2;
    root = open(argv[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root < 0) die(argv[2]);
    if (!strcmp(argv[1], "walk")) {
        begin = now();
        walk(dup(root));
    } else if (!strcmp(argv[1], "files") && argc == 5) {
        pthread_t ids[THREADS_MAX];
        threads = atoi(argv[4]);
        if (threads < 1 || threads > THREADS_MAX) return fprintf(stderr, "reader: %s threads\n", argv[4]), 2;
        load(argv[3]);
        begin = now();
        for (int i = 0; i < threads; i++)
            if (pthread_create(&ids[i], NULL, read_files, (void *)(size_t)i)) die("pthread_create");
        for (int i = 0; i < threads; i++) pthread_join(ids[i], NULL);
    } else if (!strcmp(argv[1], "run") && argc > 3) {
        pid_t pid;
        begin = now();
        pid = fork();
        if (pid < 0) die("fork");
        if (pid == 0) {
            int null = open("/dev/null", O_RDWR);
            if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0) die("/dev/null");
            if (fchdir(root) || chroot(".")) die("chroot");
            execvp(argv[3], argv + 3);
            die(argv[3]);
        }
        if (waitpid(pid, &status, 0) < 0) die("waitpid");
        total = 1;
    } else {
        return fprintf(stderr, "reader: walk|files|run DIR ...\n"), 2;
    }
    printf("%lld %llu\n", now() - begin, total);
    return status ? 1 : 0;
}
