#include "base/tcp.h"

#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "base/log.h"

enum { NEAR_US = 1000 }; /* there and back */

void base_tcp_no_delay(int fd)
{
	int one = 1;

	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

/*
 * BBR sends little pieces by a timer. Where the other side is a fraction of a millisecond away that is a third
 * of the processor time of both sides, and nothing is gained. Reno every kernel has, and by default lets anybody have.
 */
void base_tcp_keep_unpaced(int fd)
{
	static const char reno[] = "reno";
	char name[16] = "";
	socklen_t len = sizeof(name) - 1;
	struct tcp_info info = {0};
	socklen_t info_len = sizeof(info);

	if (getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &len) || strncmp(name, "bbr", 3) != 0)
		return;
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &info_len) || info.tcpi_min_rtt > NEAR_US)
		return;
	if (setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, reno, sizeof(reno) - 1))
		log_debug("a connection stays with %s: %s", name, strerror(errno));
}
