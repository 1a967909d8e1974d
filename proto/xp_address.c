#include "proto/xp_address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>

static int parse_port(const char *text, in_port_t *out)
{
	char *end;

	if (*text < '0' || *text > '9')
		return -EINVAL;
	unsigned long v = strtoul(text, &end, 10);

	if (*end || v > 65535)
		return -EINVAL;
	*out = htons((uint16_t)v);
	return 0;
}

int xp_address_parse(const char *text, struct sockaddr_storage *out, socklen_t *len)
{
	char host[64];
	const char *colon = text ? strrchr(text, ':') : NULL;

	if (!colon)
		return -EINVAL;
	bool six = *text == '[';
	size_t n = (size_t)(colon - text);

	if (n < (six ? 4u : 2u) || n >= sizeof(host) || (six && colon[-1] != ']'))
		return -EINVAL;
	n -= six ? 2 : 0;
	memcpy(host, text + six, n);
	host[n] = 0;
	struct sockaddr_storage a = {0};
	struct sockaddr_in *in4 = (struct sockaddr_in *)&a;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&a;
	in_port_t port;

	if (parse_port(colon + 1, &port))
		return -EINVAL;
	a.ss_family = six ? AF_INET6 : AF_INET;
	if (inet_pton(a.ss_family, host, six ? (void *)&in6->sin6_addr : &in4->sin_addr) != 1)
		return -EINVAL;
	*(six ? &in6->sin6_port : &in4->sin_port) = port;
	*out = a;
	*len = six ? sizeof(*in6) : sizeof(*in4);
	return 0;
}

int xp_address_listen(const char *text, int *out_fd)
{
	struct sockaddr_storage a;
	socklen_t len;
	int one = 1, err = xp_address_parse(text, &a, &len);

	if (err)
		return err;
	int fd = socket(a.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
	    bind(fd, (struct sockaddr *)&a, len) < 0 || listen(fd, 64) < 0) {
		err = -errno;
		close(fd);
		return err;
	}
	*out_fd = fd;
	return 0;
}
