/* Addresses of hosts as text, IPv4 or IPv6 (with %interface where needed). No name is looked up. */
#ifndef PVM_PVMD_MPD_ADDR_H
#define PVM_PVMD_MPD_ADDR_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/cleanup.h"

struct mpd_addr {
	struct sockaddr_storage sa;
	socklen_t len;
};

/* -EINVAL: not an address. */
BASE_MUST_CHECK int mpd_addr_parse(const char *ip, uint16_t port, struct mpd_addr *out);
/* The address alone, as mpd_addr_parse() takes it. -EINVAL, -ENOSPC. */
BASE_MUST_CHECK int mpd_addr_text(const struct sockaddr *sa, socklen_t len, char *out, size_t cap);
uint16_t mpd_addr_port(const struct mpd_addr *a);
/* The same family's address that means every address of this host. */
void mpd_addr_any(struct mpd_addr *a);
/*
 * The address of a name; IPv4 where it has one. May wait for a name server. -EHOSTUNREACH.
 */
BASE_MUST_CHECK int mpd_addr_resolve(const char *name, char *out, size_t cap);
/* A listening socket, non-blocking, on `ip` (on every address where that is not ours): the
 * descriptor and its port, or -errno. */
BASE_MUST_CHECK int mpd_addr_listen(const char *ip, uint16_t *port);
/* A socket that is being connected, without delay of small segments: the descriptor or -errno. */
BASE_MUST_CHECK int mpd_addr_connect(const char *ip, uint16_t port);

#endif
