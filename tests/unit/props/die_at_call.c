/* SPDX-License-Identifier: Apache-2.0
 *
 * Preloaded into a process. After die_at_call(n) its nth call that changes files ends it
 * by SIGKILL; content is written by half first. After full_at_call(n) the disk is full
 * from the nth such call on. Only calls on regular files count: what goes to a terminal
 * or a pipe changes nothing.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static long left = -1;
static int filling;
static int full;

void die_at_call(long number) { left = number; }

void full_at_call(long number) {
    left = number;
    filling = 1;
}

int was_full(void) { return full; }

/* Calls that would still be waited for; 0 or less: it was never reached. */
static int now(void) { return left > 0 && --left == 0; }

static void end(void) {
    if (filling) {
        full = 1;
        return;
    }
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Whether a call that takes space finds none. */
static int refused(void) {
    if (full) errno = ENOSPC;
    return full;
}

static int is_file(int fd) {
    struct stat info;
    return (left > 0 || full) && fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define WHOLE(result, name, parameters, arguments) \
    result name parameters {                       \
        if (now()) end();                          \
        return REAL(name) arguments;               \
    }

#define TAKES_SPACE(result, name, parameters, arguments) \
    result name parameters {                             \
        if (now()) end();                                \
        if (refused()) return -1;                        \
        return REAL(name) arguments;                     \
    }

WHOLE(int, rename, (const char *a, const char *b), (a, b))
WHOLE(int, renameat, (int x, const char *a, int y, const char *b), (x, a, y, b))
WHOLE(int, renameat2, (int x, const char *a, int y, const char *b, unsigned f), (x, a, y, b, f))
TAKES_SPACE(int, mkdir, (const char *a, mode_t m), (a, m))
TAKES_SPACE(int, mkdirat, (int x, const char *a, mode_t m), (x, a, m))
WHOLE(int, rmdir, (const char *a), (a))
WHOLE(int, unlink, (const char *a), (a))
WHOLE(int, unlinkat, (int x, const char *a, int f), (x, a, f))
TAKES_SPACE(int, symlink, (const char *a, const char *b), (a, b))
TAKES_SPACE(int, symlinkat, (const char *a, int x, const char *b), (a, x, b))
WHOLE(int, chmod, (const char *a, mode_t m), (a, m))
WHOLE(int, fchmod, (int fd, mode_t m), (fd, m))
WHOLE(int, fchmodat, (int x, const char *a, mode_t m, int f), (x, a, m, f))
WHOLE(int, utimensat, (int x, const char *a, const struct timespec t[2], int f), (x, a, t, f))
TAKES_SPACE(int, fsync, (int fd), (fd))
WHOLE(int, truncate64, (const char *a, off64_t size), (a, size))
TAKES_SPACE(int, fallocate64, (int fd, int m, off64_t a, off64_t b), (fd, m, a, b))
WHOLE(int, posix_fallocate64, (int fd, off64_t a, off64_t b), (fd, a, b))
WHOLE(int, ftruncate64, (int fd, off64_t size), (fd, size))

ssize_t write(int fd, const void *data, size_t size) {
    if (is_file(fd) && now()) {
        REAL(write)(fd, data, size / 2);
        end();
    }
    if (is_file(fd) && refused()) return -1;
    return REAL(write)(fd, data, size);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    if (is_file(fd) && now()) {
        REAL(pwrite64)(fd, data, size / 2, at);
        end();
    }
    if (is_file(fd) && refused()) return -1;
    return REAL(pwrite64)(fd, data, size, at);
}

ssize_t sendfile64(int out, int in, off64_t *at, size_t size) {
    if (is_file(out) && now()) {
        REAL(sendfile64)(out, in, at, size / 2 < 4096 ? size / 2 : 4096);
        end();
    }
    if (is_file(out) && refused()) return -1;
    return REAL(sendfile64)(out, in, at, size);
}

#define OPEN(name)                                          \
    int name(const char *path, int flags, ...) {            \
        va_list rest;                                       \
        va_start(rest, flags);                              \
        mode_t mode = va_arg(rest, mode_t);                 \
        va_end(rest);                                       \
        if ((flags & (O_CREAT | O_TRUNC)) && now()) end();  \
        if ((flags & O_CREAT) && refused()) return -1;      \
        return REAL(name)(path, flags, mode);               \
    }

OPEN(open)
OPEN(open64)
