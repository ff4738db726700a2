/* SPDX-License-Identifier: Apache-2.0 */
/* Uses every function of inn_rings.h, with both ends here: in a guest, or at a socket. */
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "inn_rings.h"

#define check(what)                                                             \
    do {                                                                        \
        if (!(what)) {                                                          \
            fprintf(stderr, "line %d: %s, errno %d (%s)\n", __LINE__, #what,    \
                    errno, strerror(errno));                                    \
            exit(1);                                                            \
        }                                                                       \
    } while (0)

#define fails(call, number)            \
    do {                               \
        errno = 0;                     \
        check((call) == -1);           \
        check(errno == (number));      \
    } while (0)

static char buffer[1 << 20];

static int readable(int fd, int timeout_ms)
{
    struct pollfd one = {.fd = fd, .events = POLLIN};
    return poll(&one, 1, timeout_ms);
}

static void rings(const char *path)
{
    struct inn_rings *reader = inn_rings_open(path), *sender = inn_rings_open(path);
    check(reader && sender);
    uint16_t me = inn_rings_domain(reader);
    xen_argo_register_ring_t ring = {.aport = 80, .partner_id = me, .len = 4096};
    xen_argo_unregister_ring_t gone = {.aport = 80, .partner_id = me};
    fails(inn_rings_unregister_ring(reader, &gone), ENOENT);
    check(inn_rings_register_ring(reader, &ring, 0, 0) == 0);
    fails(inn_rings_register_ring(reader, &ring, 2, XEN_ARGO_REGISTER_FLAG_FAIL_EXIST), EEXIST);
    fails(inn_rings_register_ring(reader, &ring, 3, 0), EINVAL);

    uint32_t port = 0;
    check(inn_rings_bind(sender, &port) == 0 && port >= 0x80000000U);
    xen_argo_send_addr_t both = {{port, me, 0}, {80, me, 0}};
    struct iovec pieces[9] = {{"ab", 2}, {NULL, 0}, {"cde", 3}};
    check(readable(inn_rings_fd(reader), 0) == 0);
    check(inn_rings_sendv(sender, &both, pieces, 3, 42) == 5);
    fails(inn_rings_sendv(sender, &both, pieces, 9, 0), EINVAL);
    both.src.domain_id = me + 1;
    fails(inn_rings_sendv(sender, &both, pieces, 1, 0), EPERM);
    both.src.domain_id = me;
    both.dst.aport = 81;
    fails(inn_rings_sendv(sender, &both, pieces, 1, 0), ECONNREFUSED);
    both.dst.aport = 80;
    pieces[0] = (struct iovec){buffer, 4065};
    fails(inn_rings_sendv(sender, &both, pieces, 1, 0), EMSGSIZE);
    pieces[0] = (struct iovec){buffer, sizeof buffer};
    pieces[1] = (struct iovec){buffer, 1};
    fails(inn_rings_sendv(sender, &both, pieces, 2, 0), EMSGSIZE);

    struct inn_rings_event event;
    check(readable(inn_rings_fd(reader), 10000) == 1);
    check(inn_rings_next_event(reader, &event, 10000) == 1);
    check(event.what == INN_RINGS_ARRIVAL && event.aport == 80 && event.domain_id == me);
    check(inn_rings_next_event(reader, &event, 0) == 0);
    check(readable(inn_rings_fd(reader), 0) == 0);
    struct xen_argo_ring_message_header head;
    fails(inn_rings_receive(reader, 80, me, buffer, 16, 0), EMSGSIZE);
    check(inn_rings_receive(reader, 80, me, buffer, sizeof buffer, 0) == 32);
    memcpy(&head, buffer, sizeof head);
    check(head.len == 21 && head.message_type == 42);
    check(head.source.aport == port && head.source.domain_id == me);
    check(!memcmp(buffer + 16, "abcde\0\0\0", 8));
    check(inn_rings_receive(reader, 80, me, buffer, sizeof buffer, 0) == 0);

    /* More than the ring holds: the rest is refused, and room is told when it was read. */
    enum { COUNT = 100 };
    static struct inn_rings_message many[COUNT];
    for (int i = 0; i < COUNT; i++)
        many[i] = (struct inn_rings_message){both, buffer, 84, i, 0};
    check(inn_rings_send_many(sender, many, COUNT) == 0);
    int taken = 0;
    while (taken < COUNT && many[taken].result == 84)
        taken++;
    check(taken == 36 && many[taken].result == -EAGAIN && many[COUNT - 1].result == -EAGAIN);
    struct {
        xen_argo_ring_data_t head;
        xen_argo_ring_data_ent_t entries[2];
    } ask = {.head = {.nent = 2},
             .entries = {{.ring = {80, me, 0}, .space_required = 500},
                         {.ring = {81, me, 0}, .space_required = 1}}};
    check(inn_rings_notify(sender, &ask.head) == 0);
    check(ask.entries[0].flags == XEN_ARGO_RING_EXISTS && ask.entries[0].max_message_size == 4064);
    check(ask.entries[1].flags == 0);
    check(inn_rings_receive(reader, 80, me, buffer, sizeof buffer, INN_RINGS_WAKE) > 0);
    check(inn_rings_next_event(sender, &event, 10000) == 1);
    check(event.what == INN_RINGS_SPACE && event.aport == 80 && event.partner_id == me);
    check(inn_rings_notify(reader, NULL) == 0);
    many[0].len = INN_RINGS_MAX_MESSAGE + 1;
    fails(inn_rings_send_many(sender, many, 2), EMSGSIZE);

    check(inn_rings_unbind(sender, port) == 0);
    fails(inn_rings_unbind(sender, port), ENOENT);
    check(inn_rings_unregister_ring(reader, &gone) == 0);
    inn_rings_close(sender);
    inn_rings_close(reader);
}

static void datagrams(const char *path)
{
    int server = path ? argo_socket_at(path) : argo_socket(SOCK_DGRAM);
    int client = path ? argo_socket_at(path) : argo_socket(SOCK_DGRAM);
    check(server >= 0 && client >= 0);
    fails(argo_socket(SOCK_STREAM), EINVAL);
    fails(argo_recvfrom(server, buffer, sizeof buffer, MSG_DONTWAIT, NULL), EINVAL);
    int partner = 0;
    xen_argo_addr_t own, peer, at = {.aport = 53};
    check(argo_getsockname(server, &own, &partner) == 0 && own.aport == 0);
    check(argo_bind(server, &at, own.domain_id) == 0);
    fails(argo_bind(server, &at, own.domain_id), EINVAL);
    check(argo_getsockname(server, &at, &partner) == 0);
    check(at.aport == 53 && partner == own.domain_id);
    fails(argo_recvfrom(server, buffer, sizeof buffer, MSG_DONTWAIT, &peer), EAGAIN);

    xen_argo_addr_t any = {.aport = 0};
    check(argo_bind(client, &any, own.domain_id) == 0);
    check(argo_sendto(client, "one", 3, 0, &at) == 3);
    check(argo_sendto(client, "", 0, 0, &at) == 0);
    check(argo_sendto(client, "three", 5, MSG_DONTWAIT, &at) == 5);
    at.aport = 54;
    fails(argo_sendto(client, "x", 1, 0, &at), ECONNREFUSED);
    check(readable(server, 10000) == 1);
    check(argo_recvfrom(server, buffer, sizeof buffer, 0, &peer) == 3);
    check(!memcmp(buffer, "one", 3));
    /* The others left the ring with the first, and still show. */
    check(readable(server, 0) == 1);
    check(argo_recvfrom(server, buffer, sizeof buffer, 0, &peer) == 0);
    check(argo_recvfrom(server, buffer, 2, 0, &peer) == 2 && !memcmp(buffer, "th", 2));
    check(peer.aport >= 0x80000000U && peer.domain_id == own.domain_id);
    fails(argo_recvfrom(server, buffer, 2, MSG_DONTWAIT, NULL), EAGAIN);
    check(readable(server, 0) == 0);
    check(argo_sendto(server, "answer", 6, 0, &peer) == 6);
    check(argo_recvfrom(client, buffer, sizeof buffer, 0, &peer) == 6 && peer.aport == 53);
    check(argo_close(client) == 0);
    fails(argo_close(client), EBADF);
    check(argo_close(server) == 0);
}

int main(int argc, char **argv)
{
    const char *path = argc > 1 ? argv[1] : NULL;
    errno = 0;
    check(inn_rings_open("/nowhere") == NULL && errno == ENOENT);
    rings(path);
    datagrams(path);
    puts("all of it");
}
