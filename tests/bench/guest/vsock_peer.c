// SPDX-License-Identifier: Apache-2.0
// The guest's end of the vsock measurements; the same program for every device.
//
//   port 1000  echo: what comes goes back
//   port 1001  sink: u64 LE length, then that many bytes; one byte back at the end
//   port 1002  source: u64 LE length; that many bytes back
//
// Lengths are sent, because not every device forwards the end of one direction.
// One process per port, one connection at a time in each. gcc -static -O2

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/vm_sockets.h>

enum { CHUNK = 256 * 1024 };

static char buffer[CHUNK];

static int read_all(int fd, void *into, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t got = read(fd, (char *)into + done, size - done);
        if (got <= 0)
            return -1;
        done += (size_t)got;
    }
    return 0;
}

static int write_all(int fd, const void *from, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t put = write(fd, (const char *)from + done, size - done);
        if (put <= 0)
            return -1;
        done += (size_t)put;
    }
    return 0;
}

static void echo(int fd)
{
    ssize_t got;
    while ((got = read(fd, buffer, CHUNK)) > 0 && write_all(fd, buffer, (size_t)got) == 0)
        ;
}

static void sink(int fd)
{
    uint64_t left;
    while (read_all(fd, &left, sizeof left) == 0) {
        while (left > 0) {
            ssize_t got = read(fd, buffer, left < CHUNK ? left : CHUNK);
            if (got <= 0)
                return;
            left -= (uint64_t)got;
        }
        if (write_all(fd, "k", 1) != 0)
            return;
    }
}

static void source(int fd)
{
    uint64_t left;
    while (read_all(fd, &left, sizeof left) == 0) {
        while (left > 0) {
            size_t size = left < CHUNK ? left : CHUNK;
            if (write_all(fd, buffer, size) != 0)
                return;
            left -= size;
        }
    }
}

static void serve(unsigned port, void (*work)(int))
{
    struct sockaddr_vm address = {
        .svm_family = AF_VSOCK,
        .svm_cid = VMADDR_CID_ANY,
        .svm_port = port,
    };
    int listener = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(listener, 16) != 0) {
        perror("vsock_peer");
        exit(1);
    }
    if (fork() != 0) {
        close(listener);
        return;
    }
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0)
            exit(1);
        work(fd);
        close(fd);
    }
}

int main(void)
{
    memset(buffer, 'x', CHUNK);
    serve(1000, echo);
    serve(1001, sink);
    serve(1002, source);
    if (write(1, "READY\n", 6) != 6)
        return 1;
    while (wait(NULL) > 0)
        ;
    return 0;
}
