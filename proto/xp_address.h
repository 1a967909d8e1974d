/* Numeric addresses of the data plane: "10.0.0.1:7400" or "[fd00::1]:7400". */
#ifndef PROTO_XP_ADDRESS_H
#define PROTO_XP_ADDRESS_H

#include <sys/socket.h>

#include "base/cleanup.h"

/* -EINVAL: not such an address (NULL too). */
BASE_MUST_CHECK int xp_address_parse(const char *text, struct sockaddr_storage *out,
				     socklen_t *len);
/* A listening, non-blocking socket at the address. -EINVAL or what bind(2) says. */
BASE_MUST_CHECK int xp_address_listen(const char *text, int *out_fd);

#endif
