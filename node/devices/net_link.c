#include "node/devices/net_link.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "node/devices/virtio.h"
#include "node/devices/virtio_net.h"

static int set_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

int net_link_adopt(int fd, bool *tap)
{
	struct ifreq ifr = {0};
	int type, len = NET_HDR_LEN;
	socklen_t type_len = sizeof(type);

	if (!ioctl(fd, TUNGETIFF, &ifr)) {
		if (!(ifr.ifr_flags & IFF_TAP) || !(ifr.ifr_flags & IFF_VNET_HDR) ||
		    !(ifr.ifr_flags & IFF_NO_PI))
			return -EINVAL;
		if (ioctl(fd, TUNSETVNETHDRSZ, &len))
			return -errno;
		*tap = true;
		return set_nonblocking(fd);
	}
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_len) || type != SOCK_SEQPACKET)
		return -EINVAL;
	*tap = false;
	return set_nonblocking(fd);
}

int net_link_set_offload(int fd, uint64_t agreed)
{
	static const struct {
		unsigned feature, flag;
	} map[] = {
		{VIRTIO_NET_F_GUEST_CSUM, TUN_F_CSUM},
		{VIRTIO_NET_F_GUEST_TSO4, TUN_F_TSO4},
		{VIRTIO_NET_F_GUEST_TSO6, TUN_F_TSO6},
		{VIRTIO_NET_F_GUEST_ECN, TUN_F_TSO_ECN},
	};
	unsigned long flags = 0;

	for (unsigned i = 0; i < BASE_ARRAY_LEN(map); i++)
		if (agreed & VIRTIO_BIT(map[i].feature))
			flags |= map[i].flag;
	/* The kernel refuses segmentation without checksums, and the guest may ask for it. */
	if (!(flags & TUN_F_CSUM))
		flags = 0;
	return ioctl(fd, TUNSETOFFLOAD, flags) ? -errno : 0;
}

int net_link_attach(int fd, bool on)
{
	struct ifreq ifr = {.ifr_flags = on ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE};

	/* EINVAL: it is as it should be already. */
	return ioctl(fd, TUNSETQUEUE, &ifr) && errno != EINVAL ? -errno : 0;
}

int net_link_send(int fd, bool tap, const struct iovec *iov, unsigned count)
{
	ssize_t n;

	if (tap) {
		n = writev(fd, iov, count);
	} else {
		struct iovec frame[VIRTIO_CHAIN_MAX];
		struct msghdr msg = {.msg_iov = frame};

		msg.msg_iovlen = virtio_iov_slice(iov, count, NET_HDR_LEN, NET_FRAME_MAX, frame);
		n = sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	}
	return n < 0 ? -errno : 0;
}

int virtio_net_open_tap(const char *name, unsigned pairs, int *fds)
{
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	int rc = 0;
	unsigned i;

	if (pairs == 0 || pairs > VIRTIO_NET_PAIRS_MAX || strlen(name) >= sizeof(ifr.ifr_name))
		return -EINVAL;
	if (pairs > 1)
		ifr.ifr_flags |= IFF_MULTI_QUEUE;
	memcpy(ifr.ifr_name, name, strlen(name));
	for (i = 0; i < pairs; i++) {
		fds[i] = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
		if (fds[i] < 0) {
			rc = -errno;
			break;
		}
		if (ioctl(fds[i], TUNSETIFF, &ifr)) {
			rc = -errno;
			close(fds[i]);
			break;
		}
	}
	if (rc)
		while (i-- > 0)
			close(fds[i]);
	return rc;
}

int virtio_net_open_port(const char *path, int *fd)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	BASE_AUTO_FD int s = -1;

	if (strlen(path) >= sizeof(sa.sun_path))
		return -ENAMETOOLONG;
	memcpy(sa.sun_path, path, strlen(path));
	s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (s < 0 || connect(s, (struct sockaddr *)&sa, sizeof(sa)))
		return -errno;
	*fd = s;
	s = -1;
	return 0;
}
