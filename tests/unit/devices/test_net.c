/* virtio-net end to end: a socket pair as the switch, and a real TAP in a namespace of its own. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <linux/virtio_net.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "node/devices/virtio_net.h"
#include "tests/unit/devices/virtio_driver.h"

enum { RX = 0, TX = 1, CTRL = 2, HDR = 12 };

static const uint8_t guest_mac[6] = {0x52, 0x54, 0, 1, 2, 3};

struct port {
	struct drv d;
	int fd; /* the switch's end */
};

static void port_plug(struct port *t, uint64_t features)
{
	struct virtio_net_options o = {.pairs = 1, .mtu = 1400};
	int fds[2];

	drv_must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) ? -errno : 0, "pair");
	t->fd = fds[0];
	o.fds[0] = fds[1];
	memcpy(o.mac, guest_mac, 6);
	drv_machine(&t->d);
	drv_must(virtio_net_new(&t->d.env, t->d.slot, &o, &t->d.dev), "net");
	t->d.dev->ops->resume(t->d.dev);
	drv_start(&t->d, features);
}

static void port_free(struct port *t)
{
	drv_free(&t->d);
	close(t->fd);
}

/* A buffer for the guest to receive into. */
static uint64_t give(struct drv *d, uint32_t len)
{
	struct drv_buf b = {drv_alloc(d, len), len, true};

	drv_add(d, RX, &b, 1);
	drv_kick(d, RX);
	return b.gpa;
}

static void frame_fill(uint8_t *f, size_t len, uint8_t seed)
{
	for (size_t i = 0; i < len; i++)
		f[i] = seed + i;
}

static void transmit(struct drv *d, const void *frame, uint32_t len)
{
	uint64_t gpa = drv_alloc(d, HDR + len);
	struct drv_buf b[2] = {{gpa, HDR, false}, {gpa + HDR, len, false}};

	memset(drv_ptr(d, gpa, HDR), 0, HDR);
	memcpy(drv_ptr(d, gpa + HDR, len), frame, len);
	drv_add(d, TX, b, 2);
	drv_kick(d, TX);
}

/* Has the device read all that was sent? */
static bool port_empty(const struct port *t)
{
	int left = 0;

	drv_must(ioctl(t->fd, SIOCOUTQ, &left) ? -errno : 0, "SIOCOUTQ");
	return left == 0;
}

static uint64_t stat_value;

static void stat_put(void *name, const char *stat, uint64_t value)
{
	if (!strcmp(name, stat))
		stat_value = value;
}

static uint64_t stat_of(struct drv *d, const char *name)
{
	d->dev->ops->stats(d->dev, stat_put, (void *)(uintptr_t)name);
	return stat_value;
}

static void config_space(void **state)
{
	struct port t;
	struct virtio_net_config c = {0};

	port_plug(&t, DRV_ALL_FEATURES);
	drv_config(&t.d, 0, &c, 12);
	assert_memory_equal(c.mac, guest_mac, 6);
	assert_int_equal(c.status, VIRTIO_NET_S_LINK_UP);
	assert_int_equal(c.mtu, 1400);
	assert_false(drv_has(&t.d, VIRTIO_NET_F_CSUM));
	port_free(&t);
}

static void frames_go_both_ways(void **state)
{
	struct port t;
	uint8_t out[1514], in[2048];
	const struct virtio_net_hdr_v1 *h;
	uint32_t len;
	uint64_t gpa;

	port_plug(&t, DRV_ALL_FEATURES);
	frame_fill(out, sizeof(out), 1);
	transmit(&t.d, out, sizeof(out));
	drv_wait(&t.d, TX, NULL);
	assert_int_equal(recv(t.fd, in, sizeof(in), 0), sizeof(out));
	assert_memory_equal(in, out, sizeof(out));
	gpa = give(&t.d, 2048);
	assert_int_equal(send(t.fd, out, 60, 0), 60);
	drv_wait(&t.d, RX, &len);
	assert_int_equal(len, 72);
	h = drv_ptr(&t.d, gpa, HDR);
	assert_int_equal(h->num_buffers, 1);
	assert_int_equal(h->flags, 0);
	assert_int_equal(h->gso_type, 0);
	assert_memory_equal(drv_ptr(&t.d, gpa + HDR, 60), out, 60);
	port_free(&t);
}

static void long_frames_are_spread(void **state)
{
	struct port t;
	uint8_t out[9000], got[9012];
	uint64_t gpa[10];
	size_t at = 0;
	uint32_t len;

	port_plug(&t, DRV_ALL_FEATURES);
	frame_fill(out, sizeof(out), 9);
	for (unsigned i = 0; i < 10; i++)
		gpa[i] = give(&t.d, 1000);
	assert_int_equal(send(t.fd, out, sizeof(out), 0), sizeof(out));
	for (unsigned i = 0; i < 10; i++) {
		assert_int_equal(drv_wait(&t.d, RX, &len), i);
		assert_int_equal(len, i < 9 ? 1000 : 12);
		memcpy(got + at, drv_ptr(&t.d, gpa[i], len), len);
		at += len;
	}
	assert_int_equal(((struct virtio_net_hdr_v1 *)got)->num_buffers, 10);
	assert_memory_equal(got + HDR, out, sizeof(out));
	port_free(&t);
}

/* Without merging a frame that does not fit is lost; the next is not. */
static void frames_that_do_not_fit_are_dropped(void **state)
{
	struct port t;
	uint8_t out[3000];
	uint32_t len;

	port_plug(&t, DRV_PLAIN);
	frame_fill(out, sizeof(out), 9);
	give(&t.d, 1000);
	give(&t.d, 1000);
	assert_int_equal(send(t.fd, out, 3000, 0), 3000);
	assert_int_equal(send(t.fd, out, 13, 0), 13);
	assert_int_equal(send(t.fd, out, 100, 0), 100);
	assert_int_equal(drv_wait(&t.d, RX, &len), 0);
	assert_int_equal(len, 112);
	assert_int_equal(stat_of(&t.d, "rx_dropped"), 2);
	assert_int_equal(stat_of(&t.d, "rx_frames"), 1);
	port_free(&t);
}

/* With merging it waits for buffers, whole, also where the link has nothing more to say. */
static void frames_wait_for_buffers(void **state)
{
	const uint64_t features[] = {DRV_ALL_FEATURES,
				     DRV_ALL_FEATURES & ~(UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX)};

	for (unsigned i = 0; i < BASE_ARRAY_LEN(features); i++) {
		struct port t;
		uint8_t out[3000], got[3012];
		uint64_t gpa[4];
		uint32_t len;
		size_t at = 0;

		port_plug(&t, features[i]);
		frame_fill(out, sizeof(out), 9);
		gpa[0] = give(&t.d, 1000);
		gpa[1] = give(&t.d, 500);
		assert_int_equal(send(t.fd, out, 3000, 0), 3000);
		drv_until(&t.d, port_empty(&t));
		drv_step(&t.d);
		gpa[2] = give(&t.d, 1000);
		drv_step(&t.d);
		assert_int_equal(drv_used_idx(&t.d.q[RX]), 0);
		gpa[3] = give(&t.d, 1000);
		for (unsigned k = 0; k < 4; k++) {
			assert_int_equal(drv_wait(&t.d, RX, &len), k);
			memcpy(got + at, drv_ptr(&t.d, gpa[k], len), len);
			at += len;
		}
		assert_int_equal(at, sizeof(got));
		assert_int_equal(((struct virtio_net_hdr_v1 *)got)->num_buffers, 4);
		assert_memory_equal(got + HDR, out, sizeof(out));
		give(&t.d, 200);
		assert_int_equal(send(t.fd, out, 100, 0), 100);
		drv_wait(&t.d, RX, &len);
		assert_int_equal(len, 112);
		assert_int_equal(stat_of(&t.d, "rx_dropped"), 0);
		port_free(&t);
	}
}

/* A frame that will never fit is not waited for, and a driver that begins anew gets none of before. */
static void frames_do_not_wait_for_ever(void **state)
{
	struct port t;
	uint8_t out[3000];
	uint32_t len, sum = 0;

	port_plug(&t, DRV_ALL_FEATURES);
	frame_fill(out, sizeof(out), 9);
	for (unsigned i = 0; i < DRV_RING_SIZE; i++)
		give(&t.d, 20);
	assert_int_equal(send(t.fd, out, 3000, 0), 3000);
	assert_int_equal(send(t.fd, out, 100, 0), 100);
	while (sum < 112) {
		drv_wait(&t.d, RX, &len);
		sum += len;
	}
	assert_int_equal(sum, 112);
	assert_int_equal(stat_of(&t.d, "rx_dropped"), 1);
	assert_int_equal(send(t.fd, out, 3000, 0), 3000);
	drv_until(&t.d, port_empty(&t));
	drv_start(&t.d, DRV_ALL_FEATURES);
	give(&t.d, 4000);
	assert_int_equal(send(t.fd, out, 60, 0), 60);
	drv_wait(&t.d, RX, &len);
	assert_int_equal(len, 72);
	port_free(&t);
}

static void a_guest_without_buffers_is_waited_for(void **state)
{
	struct port t;
	uint8_t out[100];
	uint32_t len;

	port_plug(&t, DRV_ALL_FEATURES);
	frame_fill(out, sizeof(out), 5);
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(send(t.fd, out, 60 + i, 0), 60 + i);
	for (unsigned i = 0; i < 20; i++) {
		give(&t.d, 200);
		drv_wait(&t.d, RX, &len);
		assert_int_equal(len, HDR + 60 + i);
	}
	assert_int_equal(stat_of(&t.d, "rx_dropped"), 0);
	port_free(&t);
}

/* Nobody reads: frames wait in the ring, none is lost, and all come once there is room. */
static void a_full_switch_holds_the_guest(void **state)
{
	enum { FRAMES = 30 };
	struct port t;
	uint8_t out[60000] = {0}, in[60000];

	port_plug(&t, DRV_ALL_FEATURES);
	for (unsigned i = 0; i < FRAMES; i++) {
		out[0] = i;
		transmit(&t.d, out, sizeof(out));
	}
	/* A socket holds some 200 KB. */
	drv_until(&t.d, drv_used_idx(&t.d.q[TX]) >= 2);
	assert_true(drv_used_idx(&t.d.q[TX]) < FRAMES);
	for (unsigned i = 0; i < FRAMES; i++) {
		assert_int_equal(recv(t.fd, in, sizeof(in), 0), sizeof(out));
		assert_int_equal(in[0], i);
	}
	drv_until(&t.d, drv_used_idx(&t.d.q[TX]) == FRAMES);
	assert_int_equal(stat_of(&t.d, "tx_dropped"), 0);
	port_free(&t);
}

static void hang_up_takes_the_link_down(void **state)
{
	struct port t;
	uint16_t status;
	uint8_t out[64] = {0};

	port_plug(&t, DRV_ALL_FEATURES);
	give(&t.d, 2000);
	shutdown(t.fd, SHUT_RDWR);
	drv_until(&t.d, drv_read(&t.d, VIRTIO_MMIO_INTERRUPT_STATUS) & 2);
	drv_config(&t.d, 6, &status, 2);
	assert_int_equal(status, 0);
	transmit(&t.d, out, 64);
	drv_wait(&t.d, TX, NULL);
	assert_int_equal(stat_of(&t.d, "tx_dropped"), 1);
	port_free(&t);
}

static uint8_t control(struct drv *d, unsigned queue, uint8_t class, uint8_t cmd, const void *data,
		       uint32_t len)
{
	uint64_t gpa = drv_alloc(d, 2 + len + 1);
	uint8_t *p = drv_ptr(d, gpa, 2 + len + 1);
	struct drv_buf b[2] = {{gpa, 2 + len, false}, {gpa + 2 + len, 1, true}};

	p[0] = class;
	p[1] = cmd;
	memcpy(p + 2, data, len);
	p[2 + len] = 0xff;
	drv_add(d, queue, b, 2);
	drv_kick(d, queue);
	drv_wait(d, queue, NULL);
	return p[2 + len];
}

static void control_commands(void **state)
{
	struct port t;
	const uint8_t mac[6] = {2, 3, 4, 5, 6, 7}, on = 1;
	const uint16_t pairs = 2;
	uint8_t got[6];
	uint16_t status;

	port_plug(&t, DRV_ALL_FEATURES);
	assert_int_equal(control(&t.d, CTRL, VIRTIO_NET_CTRL_MAC, 1, mac, 6), VIRTIO_NET_OK);
	drv_config(&t.d, 0, got, 6);
	assert_memory_equal(got, mac, 6);
	assert_int_equal(control(&t.d, CTRL, VIRTIO_NET_CTRL_MAC, 1, mac, 5), VIRTIO_NET_ERR);
	assert_int_equal(control(&t.d, CTRL, VIRTIO_NET_CTRL_RX, 0, &on, 1), VIRTIO_NET_OK);
	assert_int_equal(control(&t.d, CTRL, VIRTIO_NET_CTRL_MQ, 0, &pairs, 2), VIRTIO_NET_ERR);
	assert_int_equal(control(&t.d, CTRL, 99, 0, &on, 1), VIRTIO_NET_ERR);
	virtio_net_announce(t.d.dev);
	drv_config(&t.d, 6, &status, 2);
	assert_int_equal(status, VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
	assert_int_equal(control(&t.d, CTRL, VIRTIO_NET_CTRL_ANNOUNCE, 0, &on, 0), VIRTIO_NET_OK);
	drv_config(&t.d, 6, &status, 2);
	assert_int_equal(status, VIRTIO_NET_S_LINK_UP);
	port_free(&t);
}

static void state_moves_and_the_link_is_new(void **state)
{
	struct port a, b;
	struct base_wbuf out;
	struct base_rbuf in;
	struct virtio_net_options o = {.pairs = 1, .mtu = 1400, .mac = {2, 0, 0, 0, 0, 9}};
	uint8_t frame[60], mac[6];
	uint32_t len;
	int fds[2];

	port_plug(&a, DRV_ALL_FEATURES);
	memset(frame, 7, sizeof(frame));
	give(&a.d, 200);
	a.d.dev->ops->pause(a.d.dev);
	/* Comes while paused, on the old link: it may be lost, and must not be half there. */
	assert_int_equal(send(a.fd, frame, 60, 0), 60);
	base_wbuf_init(&out, 4096);
	a.d.dev->ops->save(a.d.dev, &out);
	a.d.dev->ops->fini(a.d.dev);
	close(a.fd);
	b = a;
	drv_must(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds) ? -errno : 0, "pair");
	b.fd = fds[0];
	o.fds[0] = fds[1];
	drv_must(virtio_net_new(&b.d.env, b.d.slot, &o, &b.d.dev), "net");
	base_rbuf_init(&in, out.data, out.len);
	drv_must(b.d.dev->ops->load(b.d.dev, &in, 1), "load");
	base_wbuf_fini(&out);
	b.d.dev->ops->resume(b.d.dev);
	drv_config(&b.d, 0, mac, 6);
	assert_memory_equal(mac, guest_mac, 6);
	assert_int_equal(send(b.fd, frame, 60, 0), 60);
	drv_wait(&b.d, RX, &len);
	assert_int_equal(len, 72);
	transmit(&b.d, frame, 60);
	assert_int_equal(recv(b.fd, frame, 60, 0), 60);
	port_free(&b);
}

static void other_descriptors_are_refused(void **state)
{
	struct drv d;
	struct virtio_net_options o = {.pairs = 1};
	int fds[2];

	drv_machine(&d);
	drv_must(pipe(fds) ? -errno : 0, "pipe");
	o.fds[0] = fds[0];
	assert_int_equal(virtio_net_new(&d.env, d.slot, &o, &d.dev), -EINVAL);
	o.pairs = 9;
	assert_int_equal(virtio_net_new(&d.env, d.slot, &o, &d.dev), -EINVAL);
	close(fds[0]);
	close(fds[1]);
	drv_free(&d);
}

/* Gives the interface an address and brings it up. */
static void tap_up(const char *name)
{
	struct ifreq ifr = {0};
	struct sockaddr_in *sin = (struct sockaddr_in *)&ifr.ifr_addr;
	int s = socket(AF_INET, SOCK_DGRAM, 0);

	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	sin->sin_family = AF_INET;
	sin->sin_addr.s_addr = htonl(0x0a000001);
	drv_must(ioctl(s, SIOCSIFADDR, &ifr) ? -errno : 0, "address");
	ifr.ifr_flags = IFF_UP | IFF_RUNNING;
	drv_must(ioctl(s, SIOCSIFFLAGS, &ifr) ? -errno : 0, "up");
	close(s);
}

struct arp_frame {
	uint8_t to[6], from[6];
	uint16_t type, hw, proto;
	uint8_t hlen, plen;
	uint16_t op;
	uint8_t sender[6];
	uint8_t sender_ip[4];
	uint8_t target[6];
	uint8_t target_ip[4];
} __attribute__((packed));

/* Has the answer come on one of the receive queues? */
static bool arp_answered(struct drv *d, unsigned pairs)
{
	for (unsigned i = 0; i < pairs; i++) {
		struct drv_queue *q = &d->q[2 * i];

		while (drv_used_idx(q) != q->last_used) {
			uint32_t head = drv_wait(d, 2 * i, NULL);
			const struct arp_frame *f =
				drv_ptr(d, q->desc[head].addr + HDR, sizeof(*f));

			if (f->type == htons(0x0806) && f->op == htons(2) &&
			    !memcmp(f->target, guest_mac, 6))
				return true;
		}
	}
	return false;
}

/* The host's own network answers an ARP request that goes through a TAP of `pairs` queues. */
static void tap_answers(unsigned pairs)
{
	struct arp_frame ask = {.type = htons(0x0806),
				.hw = htons(1),
				.proto = htons(0x0800),
				.hlen = 6,
				.plen = 4,
				.op = htons(1),
				.sender_ip = {10, 0, 0, 2},
				.target_ip = {10, 0, 0, 1}};
	struct virtio_net_options o = {.pairs = pairs};
	const uint16_t all = pairs;
	struct drv d;

	drv_must(virtio_net_open_tap("pgtest0", pairs, o.fds), "tap");
	tap_up("pgtest0");
	memcpy(o.mac, guest_mac, 6);
	drv_machine(&d);
	drv_must(virtio_net_new(&d.env, d.slot, &o, &d.dev), "net");
	d.dev->ops->resume(d.dev);
	drv_start(&d, DRV_ALL_FEATURES);
	assert_true(drv_has(&d, VIRTIO_NET_F_GUEST_TSO4));
	assert_int_equal(drv_has(&d, VIRTIO_NET_F_MQ), pairs > 1);
	/* The control queue is the last. */
	if (pairs > 1)
		assert_int_equal(control(&d, 2 * pairs, VIRTIO_NET_CTRL_MQ, 0, &all, 2),
				 VIRTIO_NET_OK);
	memset(ask.to, 0xff, 6);
	memcpy(ask.from, guest_mac, 6);
	memcpy(ask.sender, guest_mac, 6);
	for (unsigned i = 0; i < 16 * pairs; i++) {
		struct drv_buf b = {drv_alloc(&d, 2000), 2000, true};

		drv_add(&d, 2 * (i % pairs), &b, 1);
		drv_kick(&d, 2 * (i % pairs));
	}
	transmit(&d, &ask, sizeof(ask));
	/* On any pair; multicast of the kernel's own may come first. */
	drv_until(&d, arp_answered(&d, pairs));
	drv_free(&d);
}

static void a_real_tap(void **state)
{
	if (unshare(CLONE_NEWNET) || access("/dev/net/tun", R_OK | W_OK)) {
		print_message("no namespace or no /dev/net/tun: TAP was not tested\n");
		skip();
	}
	tap_answers(1);
	tap_answers(2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(config_space),
		cmocka_unit_test(frames_go_both_ways),
		cmocka_unit_test(long_frames_are_spread),
		cmocka_unit_test(frames_that_do_not_fit_are_dropped),
		cmocka_unit_test(frames_wait_for_buffers),
		cmocka_unit_test(frames_do_not_wait_for_ever),
		cmocka_unit_test(a_guest_without_buffers_is_waited_for),
		cmocka_unit_test(a_full_switch_holds_the_guest),
		cmocka_unit_test(hang_up_takes_the_link_down),
		cmocka_unit_test(control_commands),
		cmocka_unit_test(state_moves_and_the_link_is_new),
		cmocka_unit_test(other_descriptors_are_refused),
		cmocka_unit_test(a_real_tap),
	};

	base_log_set_level(BASE_LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
