/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rings: messages between guests and their host, each stamped with its true sender
 * (docs/reference/rings.md). The structures are those of Xen's public/argo.h, the
 * calls at the end those of libargo for datagrams.
 *
 * Link with -linn_rings; the library needs no other. Calls return -1 and set errno
 * where they fail, with the numbers of the reference. A connection, and a socket,
 * belongs to one thread at a time.
 */
#ifndef INN_RINGS_H
#define INN_RINGS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef XEN_ARGO_DOMID_ANY
/* In the place of a partner: any domain. As a sender's own id: "mine". */
#define XEN_ARGO_DOMID_ANY 0x7FF4U
#define XEN_ARGO_MAXIOV 8U
#define XEN_ARGO_MAX_RING_SIZE 0x1000000U
#define XEN_ARGO_MSG_SLOT_SIZE 0x10
#define XEN_ARGO_ROUNDUP(a) \
    (((a) + (XEN_ARGO_MSG_SLOT_SIZE - 1)) & ~(XEN_ARGO_MSG_SLOT_SIZE - 1))
#define XEN_ARGO_REGISTER_FLAG_FAIL_EXIST 0x1
#define XEN_ARGO_RING_EXISTS (1U << 0)
#define XEN_ARGO_RING_SHARED (1U << 1)
#define XEN_ARGO_RING_EMPTY (1U << 2)
#define XEN_ARGO_RING_SUFFICIENT (1U << 3)
#define XEN_ARGO_RING_EMSGSIZE (1U << 4)
#define XEN_ARGO_RING_EBUSY (1U << 5)

typedef struct xen_argo_addr {
    uint32_t aport;
    uint16_t domain_id;
    uint16_t pad;
} xen_argo_addr_t;

typedef struct xen_argo_send_addr {
    struct xen_argo_addr src;
    struct xen_argo_addr dst;
} xen_argo_send_addr_t;

typedef struct xen_argo_register_ring {
    uint32_t aport;
    uint16_t partner_id;
    uint16_t pad;
    uint32_t len;
} xen_argo_register_ring_t;

typedef struct xen_argo_unregister_ring {
    uint32_t aport;
    uint16_t partner_id;
    uint16_t pad;
} xen_argo_unregister_ring_t;

/* In front of each message that inn_rings_receive takes; data follow, zeros up to 16. */
struct xen_argo_ring_message_header {
    uint32_t len;
    struct xen_argo_addr source;
    uint32_t message_type;
};

typedef struct xen_argo_ring_data_ent {
    struct xen_argo_addr ring;
    uint16_t flags;
    uint16_t pad;
    uint32_t space_required;
    uint32_t max_message_size;
} xen_argo_ring_data_ent_t;

typedef struct xen_argo_ring_data {
    uint32_t nent;
    uint32_t pad;
    struct xen_argo_ring_data_ent data[];
} xen_argo_ring_data_t;
#endif

/* The most payload of one message over this carrier. */
#define INN_RINGS_MAX_MESSAGE 0x100000U
/* inn_rings_receive: if the ring is empty then, wake those who wait for room. */
#define INN_RINGS_WAKE 1U

#define INN_RINGS_ARRIVAL 1 /* a message lies in an own ring */
#define INN_RINGS_SPACE 2   /* another's has room: try again */
#define INN_RINGS_CLOSED 3  /* a ring is gone */
#define INN_RINGS_LOST 0    /* more happened than is remembered: look at all rings */

struct inn_rings_event {
    uint32_t aport;
    uint16_t partner_id;
    uint16_t domain_id; /* the ring's owner */
    uint32_t what;
};

/* A message of inn_rings_send_many; `result` becomes its bytes, or minus an errno. */
struct inn_rings_message {
    struct xen_argo_send_addr addr;
    const void *data;
    uint32_t len;
    uint32_t message_type;
    int32_t result;
};

struct inn_rings;

/* Connect: NULL in a guest, a guest's rings.sock on its host. NULL if it fails. */
struct inn_rings *inn_rings_open(const char *path);
void inn_rings_close(struct inn_rings *rings);
/* The own domain's id: 0 on the host, the CID in a guest. */
int inn_rings_domain(const struct inn_rings *rings);
/* For poll: readable when inn_rings_next_event may have something. */
int inn_rings_fd(const struct inn_rings *rings);

/* Own a port, to send from it; 0 chooses one. A ring's port is bound already. */
int inn_rings_bind(struct inn_rings *rings, uint32_t *aport);
int inn_rings_unbind(struct inn_rings *rings, uint32_t aport);

/* npages 0: counted here. */
int inn_rings_register_ring(struct inn_rings *rings, const xen_argo_register_ring_t *ring,
                            uint32_t npages, uint32_t flags);
int inn_rings_unregister_ring(struct inn_rings *rings, const xen_argo_unregister_ring_t *ring);
/* Bytes of payload; EAGAIN: no room, an event tells when to try again. */
ssize_t inn_rings_sendv(struct inn_rings *rings, const xen_argo_send_addr_t *addr,
                        const struct iovec *iovs, uint32_t niov, uint32_t message_type);
/* Sends without waiting for one answer before the next is sent: much faster. */
int inn_rings_send_many(struct inn_rings *rings, struct inn_rings_message *messages, size_t count);
/* Wakes who waits for the own domain's rings; answers the questions. data may be NULL. */
int inn_rings_notify(struct inn_rings *rings, xen_argo_ring_data_t *data);
/* Whole messages with their headers; bytes of them, 0: the ring is empty. */
ssize_t inn_rings_receive(struct inn_rings *rings, uint32_t aport, uint16_t partner_id, void *buffer,
                          size_t len, uint32_t flags);
/* 1: there is one; 0: none in time. timeout_ms 0 does not wait, -1 waits for ever. */
int inn_rings_next_event(struct inn_rings *rings, struct inn_rings_event *event, int timeout_ms);

/*
 * Datagrams as in libargo. A socket is a descriptor for poll and the calls below, not
 * for read and write. Sends and receives wait, except with MSG_DONTWAIT. A socket that
 * sends unbound gets a port and a ring of its own.
 */
int argo_socket(int type); /* SOCK_DGRAM */
/* The same over the rings.sock of a guest, for programs on its host. */
int argo_socket_at(const char *path);
int argo_close(int fd);
/* addr->aport 0 chooses a port. partner_id: whose messages, or XEN_ARGO_DOMID_ANY. */
int argo_bind(int fd, const xen_argo_addr_t *addr, int partner_id);
int argo_getsockname(int fd, xen_argo_addr_t *addr, int *partner_id);
ssize_t argo_sendto(int fd, const void *buffer, size_t len, int flags, const xen_argo_addr_t *to);
/* The datagram's bytes; what does not fit into len is lost. */
ssize_t argo_recvfrom(int fd, void *buffer, size_t len, int flags, xen_argo_addr_t *from);

#ifdef __cplusplus
}
#endif

#endif
