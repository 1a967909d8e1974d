#include "pvm/pvmd/mpd_addr.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/tcp.h"

enum { BACKLOG = 256 };

int mpd_addr_parse(const char *ip, uint16_t port, struct mpd_addr *out)
{
	struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
				 .ai_socktype = SOCK_STREAM},
			*ai;
	char service[8];

	snprintf(service, sizeof(service), "%u", port);
	if (!*ip || getaddrinfo(ip, service, &hints, &ai))
		return -EINVAL;
	memset(out, 0, sizeof(*out));
	memcpy(&out->sa, ai->ai_addr, ai->ai_addrlen);
	out->len = ai->ai_addrlen;
	freeaddrinfo(ai);
	return 0;
}

int mpd_addr_text(const struct sockaddr *sa, socklen_t len, char *out, size_t cap)
{
	char text[64];

	if (getnameinfo(sa, len, text, sizeof(text), NULL, 0, NI_NUMERICHOST))
		return -EINVAL;
	if (strlen(text) >= cap)
		return -ENOSPC;
	memcpy(out, text, strlen(text) + 1);
	return 0;
}

uint16_t mpd_addr_port(const struct mpd_addr *a)
{
	if (a->sa.ss_family == AF_INET6)
		return ntohs(((const struct sockaddr_in6 *)&a->sa)->sin6_port);
	return ntohs(((const struct sockaddr_in *)&a->sa)->sin_port);
}

void mpd_addr_any(struct mpd_addr *a)
{
	if (a->sa.ss_family == AF_INET6)
		((struct sockaddr_in6 *)&a->sa)->sin6_addr = in6addr_any;
	else
		((struct sockaddr_in *)&a->sa)->sin_addr.s_addr = INADDR_ANY;
}

int mpd_addr_resolve(const char *name, char *out, size_t cap)
{
	static const int families[] = {AF_INET, AF_INET6};

	for (size_t i = 0; i < BASE_ARRAY_LEN(families); i++) {
		struct addrinfo hints = {.ai_family = families[i], .ai_socktype = SOCK_STREAM}, *ai;
		int rc;

		if (getaddrinfo(name, NULL, &hints, &ai))
			continue;
		rc = mpd_addr_text(ai->ai_addr, ai->ai_addrlen, out, cap);
		freeaddrinfo(ai);
		return rc ? -EHOSTUNREACH : 0;
	}
	return -EHOSTUNREACH;
}

int mpd_addr_listen(const char *ip, uint16_t *port)
{
	struct mpd_addr a;
	int fd, rc = mpd_addr_parse(ip, 0, &a);

	if (rc)
		return rc;
	fd = socket(a.sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&a.sa, a.len)) {
		/* Behind an address translation the name's address is not ours. */
		mpd_addr_any(&a);
		if (errno != EADDRNOTAVAIL || bind(fd, (struct sockaddr *)&a.sa, a.len))
			goto err;
	}
	a.len = sizeof(a.sa);
	if (listen(fd, BACKLOG) || getsockname(fd, (struct sockaddr *)&a.sa, &a.len))
		goto err;
	*port = mpd_addr_port(&a);
	return fd;
err:
	rc = -errno;
	close(fd);
	return rc;
}

int mpd_addr_connect(const char *ip, uint16_t port)
{
	struct mpd_addr a;
	int fd, rc = mpd_addr_parse(ip, port, &a);

	if (rc)
		return rc;
	fd = socket(a.sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	base_tcp_no_delay(fd);
	if (!connect(fd, (struct sockaddr *)&a.sa, a.len) || errno == EINPROGRESS)
		return fd;
	rc = -errno;
	close(fd);
	return rc;
}
