#include "pvm/pvmd/mpd_hosted.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "pvm/pvmd/mpd_addr.h"
#include "pvm/pvmd/mpd_start.h"

enum { WAIT_MS = 60000, WAIT_BY_HAND_MS = 300000 };

void mpd_hosted_hex(const uint8_t *p, size_t n, char *out)
{
	for (size_t i = 0; i < n; i++)
		snprintf(out + 2 * i, 3, "%02x", p[i]);
}

bool mpd_hosted_unhex(const char *s, uint8_t out[MPD_KEY_LEN])
{
	for (size_t i = 0; i < MPD_KEY_LEN; i++) {
		char pair[3] = {s[2 * i], s[2 * i] ? s[2 * i + 1] : 0, 0}, *end;

		if (!pair[0] || !pair[1])
			return false;
		out[i] = (uint8_t)strtoul(pair, &end, 16);
		if (*end)
			return false;
	}
	return true;
}

static int background(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	pid_t pid = null < 0 ? -1 : fork();

	if (pid < 0)
		return -errno;
	if (pid > 0)
		_exit(0);
	setsid();
	/* Whoever waits for the line sees its end. */
	for (int i = 0; i < 3; i++)
		if (dup2(null, i) < 0)
			return -errno;
	close(null);
	return 0;
}

static int read_all(int fd, uint8_t *p, size_t len, int64_t end)
{
	while (len) {
		struct pollfd pf = {.fd = fd, .events = POLLIN};
		int64_t left = (end - base_clock_ns()) / BASE_NS_PER_MS;
		ssize_t n;

		if (left <= 0 || poll(&pf, 1, (int)left) <= 0)
			return -ETIMEDOUT;
		n = recv(fd, p, len, MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			return -ECONNRESET;
		p += BASE_MAX(n, (ssize_t)0);
		len -= (size_t)BASE_MAX(n, (ssize_t)0);
	}
	return 0;
}

/* The orders of one caller; -EPROTO: he is not the one who started us. */
static int take(int fd, const uint8_t *starter, const uint8_t *secret, int64_t end, FILE **out)
{
	static char text[MPD_ORDERS_MAX];
	uint8_t sealed[MPD_ORDERS_MAX + MPD_BOX_EXTRA];
	uint32_t len;
	size_t n;
	int rc = read_all(fd, (uint8_t *)&len, sizeof(len), end);

	len = le32toh(len);
	if (rc || len <= MPD_BOX_EXTRA || len > sizeof(sealed) || read_all(fd, sealed, len, end) ||
	    mpd_crypt_box_open(text, sealed, len, starter, secret))
		return -EPROTO;
	n = len - MPD_BOX_EXTRA;
	*out = fmemopen(text, n, "r");
	return *out ? 0 : -ENOMEM;
}

static int wait_orders(int listen_fd, int64_t end, const uint8_t *starter, const uint8_t *secret,
		       FILE **out)
{
	for (;;) {
		struct pollfd pf = {.fd = listen_fd, .events = POLLIN};
		int64_t now = base_clock_ns(), left = (end - now) / BASE_NS_PER_MS;
		int fd;

		if (left <= 0 || poll(&pf, 1, (int)left) <= 0)
			return -ETIMEDOUT;
		fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			continue;
		/* A stranger who says nothing does not keep the right one waiting for long. */
		if (!take(fd, starter, secret, BASE_MIN(end, now + 5 * BASE_NS_PER_SEC), out))
			return fd;
		close(fd);
	}
}

int mpd_hosted_wait(const uint8_t starter[MPD_KEY_LEN], bool stay, bool by_hand, FILE **orders)
{
	uint8_t public[MPD_KEY_LEN], secret[MPD_KEY_LEN];
	const char *arch = getenv("PVM_ARCH");
	char key[2 * MPD_KEY_LEN + 1];
	uint16_t port = 0;
	int fd = mpd_addr_listen("0.0.0.0", &port), rc;

	if (fd < 0)
		return fd;
	mpd_crypt_box_keys(public, secret);
	mpd_hosted_hex(public, sizeof(public), key);
	printf("ddpro<2316> arch<%s> ip<0.0.0.0:%u> mtu<65536> dsig<%d> key<%s>\n",
	       arch && *arch ? arch : "LINUX64", port, MPD_DSIG, key);
	fflush(stdout);
	rc = stay ? 0 : background();
	if (!rc)
		rc = wait_orders(fd,
				 base_clock_ns() +
					 (by_hand ? WAIT_BY_HAND_MS : WAIT_MS) * BASE_NS_PER_MS,
				 starter, secret, orders);
	explicit_bzero(secret, sizeof(secret));
	close(fd);
	return rc;
}
