// SPDX-License-Identifier: Apache-2.0
// ssh's ProxyCommand with ProxyUseFdpass: `connect_port SOCKET PORT` does the
// CONNECT handshake and hands the connected descriptor to ssh over stdout, so
// that no process stands between ssh and the device. gcc -O2

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char line[32];
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (argc != 3 || strlen(argv[1]) >= sizeof address.sun_path)
        return 2;
    strcpy(address.sun_path, argv[1]);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
        return 1;
    int size = snprintf(line, sizeof line, "CONNECT %s\n", argv[2]);
    if (write(fd, line, (size_t)size) != size)
        return 1;
    // Byte by byte: what follows the line belongs to ssh.
    char byte = 0, first = 0;
    while (byte != '\n') {
        if (read(fd, &byte, 1) != 1)
            return 1;
        first = first ? first : byte;
    }
    if (first != 'O')
        return 1;
    char data = 0;
    struct iovec part = {.iov_base = &data, .iov_len = 1};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr message = {
        .msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof control,
    };
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    return sendmsg(1, &message, 0) == 1 ? 0 : 1;
}
