// SPDX-License-Identifier: Apache-2.0
// A guest's programs on AF_VSOCK that the agent's own commands do not do.
//
//   serve PORT             every connection gets back what it sends
//   hold PORT              every connection is taken and never read
//   late-listen PORT       read one connection when /tmp/gate (a FIFO) is opened,
//   late-connect CID PORT  the same for the end that connects; print what came
//   drop-listen PORT N     write N bytes to one connection and close it at once,
//   drop-connect CID PORT N
//   fill CID PORT          write until there is no more room, then hold on
//   ping CID PORT N        N times: connect, 64 bytes there and back, close
//   storm CID PORT         connect and close from 8 processes until /tmp/stop is there
//   cold CID PORT FILE     send a mapped file and then a MiB of nothing, untouched
//   bytes SEED N           N bytes on stdout; without end if N is 0, until /tmp/stop
//
// Listeners say "listening" on stderr, connected ones "connected". gcc -static -O2

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <linux/vm_sockets.h>

enum { PING = 64, CHUNK = 64 * 1024, STORMERS = 8, BLANK = 1 << 20 };

static char buffer[CHUNK];

static void fail(const char *what)
{
    fprintf(stderr, "streams: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void say(const char *line)
{
    if (write(2, line, strlen(line)) < 0)
        exit(1);
}

static struct sockaddr_vm address(unsigned cid, unsigned port)
{
    return (struct sockaddr_vm){.svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = port};
}

static int dial(unsigned cid, unsigned port)
{
    struct sockaddr_vm to = address(cid, port);
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (fd < 0)
        fail("socket");
    if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0)
        return fd;
    int reason = errno;
    close(fd);
    errno = reason;
    return -1;
}

static int dial_or_fail(unsigned cid, unsigned port)
{
    int fd = dial(cid, port);
    if (fd < 0)
        fail("connect");
    say("connected\n");
    return fd;
}

static int listening(unsigned port)
{
    struct sockaddr_vm own = address(VMADDR_CID_ANY, port);
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&own, sizeof own) != 0 || listen(fd, 128) != 0)
        fail("listen");
    say("listening\n");
    return fd;
}

static int taken(int listener)
{
    int fd = accept(listener, NULL, NULL);
    if (fd < 0)
        fail("accept");
    return fd;
}

static int write_all(int fd, const char *from, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t put = write(fd, from + done, size - done);
        if (put <= 0)
            return -1;
        done += (size_t)put;
    }
    return 0;
}

static int echo(int fd)
{
    ssize_t got;
    while ((got = read(fd, buffer, CHUNK)) > 0)
        if (write_all(fd, buffer, (size_t)got) != 0)
            return 1;
    return 0;
}

static int serve(unsigned port)
{
    int listener = listening(port);
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        int fd = taken(listener);
        if (fork() == 0)
            _exit(echo(fd));
        close(fd);
    }
}

static void hold(unsigned port)
{
    int listener = listening(port);
    for (;;) {
        (void)taken(listener);
        say("taken\n");
    }
}

// Opening a FIFO waits for its other end, so the gate needs no clock.
static int read_late(int fd)
{
    int gate = open("/tmp/gate", O_RDONLY);
    if (gate < 0)
        fail("/tmp/gate");
    ssize_t got;
    while ((got = read(fd, buffer, CHUNK)) > 0)
        if (write_all(1, buffer, (size_t)got) != 0)
            return 1;
    return got == 0 ? 0 : 1;
}

static int drop(int fd, size_t size)
{
    memset(buffer, 'd', CHUNK);
    if (size > CHUNK || write_all(fd, buffer, size) != 0)
        fail("write");
    return close(fd);
}

static void fill(unsigned cid, unsigned port)
{
    int fd = dial_or_fail(cid, port);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    unsigned long total = 0;
    // The far guest's room comes back in steps, so one EAGAIN is not the end.
    for (int quiet = 0; quiet < 20;) {
        ssize_t put = write(fd, buffer, CHUNK);
        if (put > 0) {
            total += (unsigned long)put;
            quiet = 0;
        } else if (errno == EAGAIN) {
            quiet++;
            usleep(10000);
        } else {
            fail("write");
        }
    }
    printf("full %lu\n", total);
    fflush(stdout);
    for (;;)
        pause();
}

static int64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static int by_size(const void *left, const void *right)
{
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

static int exchange(int fd)
{
    char sent[PING], back[PING];
    memset(sent, 'p', PING);
    if (write_all(fd, sent, PING) != 0)
        return -1;
    for (size_t done = 0; done < PING;) {
        ssize_t got = read(fd, back + done, PING - done);
        if (got <= 0)
            return -1;
        done += (size_t)got;
    }
    return memcmp(sent, back, PING);
}

static int ping(unsigned cid, unsigned port, size_t count)
{
    int64_t *took = calloc(count, sizeof *took);
    for (size_t done = 0; done < count; done++) {
        int64_t since = now_us();
        int fd = dial(cid, port);
        if (fd < 0 || exchange(fd) != 0)
            fail("exchange");
        close(fd);
        took[done] = now_us() - since;
    }
    qsort(took, count, sizeof *took, by_size);
    printf("%zu ok median_us %lld p90_us %lld\n", count, (long long)took[count / 2],
           (long long)took[count * 9 / 10]);
    return 0;
}

static int storm(unsigned cid, unsigned port)
{
    unsigned long *counts = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
                                 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (counts == MAP_FAILED)
        fail("mmap");
    for (int number = 0; number < STORMERS; number++) {
        if (fork() != 0)
            continue;
        while (access("/tmp/stop", F_OK) != 0) {
            int fd = dial(cid, port);
            unsigned long before = __atomic_fetch_add(&counts[fd < 0], 1, __ATOMIC_RELAXED);
            if (fd >= 0 && before == 0)
                say("storming\n");
            if (fd >= 0)
                close(fd);
        }
        _exit(0);
    }
    while (wait(NULL) > 0)
        ;
    printf("connected %lu refused %lu\n", counts[0], counts[1]);
    return 0;
}

static int cold(unsigned cid, unsigned port, const char *path)
{
    struct stat about;
    int file = open(path, O_RDONLY);
    if (file < 0 || fstat(file, &about) != 0)
        fail(path);
    size_t size = (size_t)about.st_size;
    char *mapped = mmap(NULL, size, PROT_READ, MAP_PRIVATE, file, 0);
    char *blank = mmap(NULL, BLANK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED || blank == MAP_FAILED)
        fail("mmap");
    int fd = dial_or_fail(cid, port);
    // Nothing here has read a byte of either; the kernel does, inside of write.
    if (write_all(fd, mapped, size) != 0 || write_all(fd, blank, BLANK) != 0)
        fail("write");
    shutdown(fd, SHUT_WR);
    return read(fd, buffer, 1) == 0 ? 0 : 1;
}

static int bytes(uint64_t state, uint64_t count)
{
    uint64_t *words = (uint64_t *)(void *)buffer, total = 0;
    while (count == 0 ? access("/tmp/stop", F_OK) != 0 : total < count) {
        for (size_t at = 0; at < CHUNK / sizeof *words; at++) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            words[at] = state;
        }
        size_t size = count == 0 || count - total > CHUNK ? CHUNK : (size_t)(count - total);
        if (write_all(1, buffer, size) != 0)
            return 1;
        total += size;
    }
    fprintf(stderr, "sent %llu\n", (unsigned long long)total);
    return 0;
}

int main(int argc, char **argv)
{
    const char *command = argc > 2 ? argv[1] : "";
    unsigned long a = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
    unsigned long b = argc > 3 ? strtoul(argv[3], NULL, 10) : 0;
    unsigned long c = argc > 4 ? strtoul(argv[4], NULL, 10) : 0;
    signal(SIGPIPE, SIG_IGN);
    if (strcmp(command, "serve") == 0)
        return serve((unsigned)a);
    if (strcmp(command, "hold") == 0)
        hold((unsigned)a);
    if (strcmp(command, "late-listen") == 0)
        return read_late(taken(listening((unsigned)a)));
    if (strcmp(command, "late-connect") == 0)
        return read_late(dial_or_fail((unsigned)a, (unsigned)b));
    if (strcmp(command, "drop-listen") == 0)
        return drop(taken(listening((unsigned)a)), b);
    if (strcmp(command, "drop-connect") == 0)
        return drop(dial_or_fail((unsigned)a, (unsigned)b), c);
    if (strcmp(command, "fill") == 0)
        fill((unsigned)a, (unsigned)b);
    if (strcmp(command, "ping") == 0)
        return ping((unsigned)a, (unsigned)b, c);
    if (strcmp(command, "storm") == 0)
        return storm((unsigned)a, (unsigned)b);
    if (strcmp(command, "cold") == 0 && argc > 4)
        return cold((unsigned)a, (unsigned)b, argv[4]);
    if (strcmp(command, "bytes") == 0)
        return bytes(a, b);
    fprintf(stderr, "streams: see streams.c\n");
    return 2;
}
