#include "node/vmm/config_slice.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "node/vmm/mem.h"
#include "proto/xp_address.h"

/* What cannot be left out is seen from these. */
enum { SELF_NONE = VMM_SLICE_MAX };

static int refuse(char *why, const char *fmt, ...) BASE_PRINTF(2, 3);

static int refuse(char *why, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, VMM_WHY_MAX, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

static bool number(const char *text, unsigned long max, unsigned long *out)
{
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return false;
	errno = 0;
	*out = strtoul(text, &end, 10);
	return !errno && !*end && *out <= max;
}

void vmm_slice_init(struct vmm_config *c)
{
	c->slices.self = SELF_NONE;
	c->slices.listen_fd = -1;
	c->slices.transport = "tcp";
}

int vmm_slice_set_self(struct vmm_config *c, const char *text, char *why)
{
	unsigned long n;

	if (!number(text, VMM_SLICE_MAX - 1, &n))
		return refuse(why, "--slice '%.40s': 0 to %d", text, VMM_SLICE_MAX - 1);
	c->slices.self = (unsigned)n;
	return 0;
}

int vmm_slice_add_part(struct vmm_config *c, const char *text, char *why)
{
	struct vmm_slice_config *s = &c->slices;
	const char *colon = strchr(text, ':');
	char head[16];
	unsigned long vcpus;
	uint64_t bytes;

	if (s->count == VMM_SLICE_MAX)
		return refuse(why, "--part: at most %d", VMM_SLICE_MAX);
	if (!colon || (size_t)(colon - text) >= sizeof(head))
		return refuse(why, "--part '%.40s': VCPUS:SIZE, such as 2:512M", text);
	snprintf(head, sizeof(head), "%.*s", (int)(colon - text), text);
	if (!number(head, VMM_VCPU_MAX, &vcpus) || vcpus == 0)
		return refuse(why, "--part '%.40s': 1 to %d vCPUs", text, VMM_VCPU_MAX);
	if (vmm_config_size(colon + 1, &bytes) < 0 || bytes < UINT64_C(16) << 20 ||
	    bytes > UINT64_C(1) << 45 || bytes % VMM_PAGE_SIZE)
		return refuse(why, "--part '%.40s': 16M to 32T of memory, a multiple of 4K", text);
	s->part[s->count++] = (struct vmm_part){(unsigned)vcpus, bytes};
	return 0;
}

int vmm_slice_add_peer(struct vmm_config *c, const char *text, char *why)
{
	struct sockaddr_storage address;
	socklen_t len;

	if (c->slices.peer_count == VMM_SLICE_MAX)
		return refuse(why, "--peer: at most %d", VMM_SLICE_MAX);
	if (strcmp(text, VMM_SLICE_NO_PEER) != 0 && xp_address_parse(text, &address, &len) < 0)
		return refuse(why, "--peer '%.60s': ADDRESS:PORT, such as 10.0.0.1:7500", text);
	c->slices.peer[c->slices.peer_count++] = text;
	return 0;
}

int vmm_slice_set_listen_fd(struct vmm_config *c, const char *text, char *why)
{
	unsigned long n;

	if (!number(text, 1 << 20, &n) || fcntl((int)n, F_GETFD) < 0)
		return refuse(why, "--listen-fd '%.40s': not an open descriptor", text);
	c->slices.listen_fd = (int)n;
	return 0;
}

int vmm_slice_set_group(struct vmm_config *c, const char *text, char *why)
{
	if (strlen(text) != 16 || strspn(text, "0123456789abcdefABCDEF") != 16)
		return refuse(why, "--group '%.40s': 16 hexadecimal digits", text);
	c->slices.group = strtoull(text, NULL, 16);
	return c->slices.group ? 0 : refuse(why, "--group: not all 0");
}

static int read_key(int fd, uint8_t key[VMM_SLICE_KEY_LEN])
{
	size_t have = 0;
	uint8_t more;

	while (have < VMM_SLICE_KEY_LEN) {
		ssize_t n = read(fd, key + have, VMM_SLICE_KEY_LEN - have);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EINVAL;
		have += (size_t)n;
	}
	return read(fd, &more, 1) == 0 ? 0 : -EINVAL;
}

int vmm_slice_set_key(struct vmm_config *c, const char *text, bool is_fd, char *why)
{
	BASE_AUTO_FD int fd = -1;
	unsigned long n;
	int err;

	if (!is_fd)
		fd = open(text, O_RDONLY | O_CLOEXEC);
	else if (number(text, 1 << 20, &n))
		fd = (int)n;
	if (fd < 0)
		return refuse(why, "--key-%s '%.100s': %s", is_fd ? "fd" : "file", text,
			      is_fd ? "not a descriptor" : strerror(errno));
	err = read_key(fd, c->slices.key);
	if (err)
		return refuse(why, "--key-%s '%.100s': %s", is_fd ? "fd" : "file", text,
			      err == -EINVAL ? "must hold exactly 32 bytes" : strerror(-err));
	return 0;
}

/* "0,1,1": how many, or 0: it is no such list. */
static unsigned read_list(const char *text, size_t len, uint8_t *out, unsigned max)
{
	unsigned n = 0;

	for (size_t at = 0; at < len; at++) {
		char one[4];
		size_t digits = strspn(text + at, "0123456789");
		unsigned long v;

		if (!digits || digits >= sizeof(one) || at + digits > len || n == max)
			return 0;
		snprintf(one, sizeof(one), "%.*s", (int)digits, text + at);
		at += digits;
		if (!number(one, VMM_SLICE_MAX - 1, &v) || (at < len && text[at] != ','))
			return 0;
		out[n++] = (uint8_t)v;
	}
	return n;
}

int vmm_slice_set_joins(struct vmm_config *c, const char *text, char *why)
{
	struct vmm_slice_config *s = &c->slices;
	const char *colon = strchr(text, ':');

	s->joins = true;
	s->home_count = s->place_count = 0;
	if (colon) {
		s->home_count = read_list(text, (size_t)(colon - text), s->home, VMM_SLICE_MAX);
		s->place_count = read_list(colon + 1, strlen(colon + 1), s->place, VMM_VCPU_MAX);
	}
	if (s->home_count && s->place_count)
		return 0;
	return refuse(why,
		      "--joins '%.80s': the slices of each part's memory and of each vCPU, such as "
		      "0,0:0,0,0",
		      text);
}

int vmm_slice_set_transport(struct vmm_config *c, const char *text, char *why)
{
	if (strcmp(text, "tcp") != 0 && strcmp(text, "verbs") != 0)
		return refuse(why, "--transport '%.40s': tcp or verbs", text);
	c->slices.transport = text;
	return 0;
}

static bool has_key(const struct vmm_slice_config *s)
{
	uint8_t all = 0;

	for (unsigned i = 0; i < VMM_SLICE_KEY_LEN; i++)
		all |= s->key[i];
	return all != 0;
}

/* What one slice has and the others have not. */
static int check_role(const struct vmm_config *c, char *why)
{
	if (c->incoming && !c->slices.alone)
		return refuse(why,
			      "--incoming goes with --part only where all but slice 0 are '--peer "
			      "-': a guest that is on several hosts does not migrate as a whole");
	if (vmm_config_follows(c) &&
	    (c->kernel || c->initrd || c->restore || c->disk_count || c->nic_count))
		return refuse(why, "--kernel, --initrd, --restore, --disk and --nic go to slice 0 "
				   "only");
	return 0;
}

static bool is_there(const struct vmm_slice_config *s, unsigned slice)
{
	return slice < s->count && slice != s->self && strcmp(s->peer[slice], VMM_SLICE_NO_PEER);
}

/* What a slice that joins is told of the guest. */
static int check_joins(const struct vmm_slice_config *s, unsigned vcpus, char *why)
{
	bool fits = s->self > 0 && s->home_count == s->count && s->place_count == vcpus &&
		    is_there(s, 0) && strcmp(s->peer[s->self], VMM_SLICE_NO_PEER) != 0;

	for (unsigned i = 0; i < s->home_count && fits; i++)
		fits = is_there(s, s->home[i]);
	for (unsigned i = 0; i < s->place_count && fits; i++)
		fits = is_there(s, s->place[i]);
	if (fits)
		return 0;
	return refuse(why,
		      "--joins: a slice of each part and of each vCPU, which has a --peer and is "
		      "not this one; slice 0 joins none");
}

static int check_peers(struct vmm_slice_config *s, char *why)
{
	unsigned absent = 0;

	if (s->peer_count != s->count)
		return refuse(why, "%u --peer for %u --part: one for each slice", s->peer_count,
			      s->count);
	for (unsigned i = 0; i < s->count; i++)
		absent += !strcmp(s->peer[i], VMM_SLICE_NO_PEER);
	s->alone = absent && !s->joins;
	if (s->alone &&
	    (s->self > 0 || absent != s->count - 1 || !strcmp(s->peer[0], VMM_SLICE_NO_PEER)))
		return refuse(why, "--peer -: with --joins, or for all but slice 0");
	return 0;
}

static int check_totals(struct vmm_config *c, char *why)
{
	const struct vmm_slice_config *s = &c->slices;
	unsigned vcpus = 0;
	uint64_t bytes = 0;

	for (unsigned i = 0; i < s->count; i++) {
		vcpus += s->part[i].vcpus;
		bytes += s->part[i].memory_bytes;
	}
	if (vcpus > VMM_VCPU_MAX)
		return refuse(why, "--part: %u vCPUs in all, at most %d", vcpus, VMM_VCPU_MAX);
	if (bytes < UINT64_C(64) << 20 || bytes > UINT64_C(1) << 45)
		return refuse(why, "--part: the guest needs 64M to 32T of memory in all");
	if ((c->vcpus && c->vcpus != vcpus) || (c->memory_bytes && c->memory_bytes != bytes))
		return refuse(why, "--vcpus and --memory must be the sums of the parts, or be "
				   "left out");
	c->vcpus = vcpus;
	c->memory_bytes = bytes;
	return s->joins ? check_joins(s, vcpus, why) : 0;
}

int vmm_slice_check(struct vmm_config *c, char *why)
{
	struct vmm_slice_config *s = &c->slices;
	int err;

	if (s->count == 0) {
		if (s->self != SELF_NONE || s->peer_count || s->group || has_key(s) || s->encrypt ||
		    s->joins)
			return refuse(why, "--part is missing: one for each slice");
		return 0;
	}
	if (s->count < 2)
		return refuse(why, "--part: at least two, or none");
	if (s->self >= s->count)
		return refuse(why, "--slice is missing, or there is no such part");
	err = check_peers(s, why);
	if (err)
		return err;
	if (!s->group)
		return refuse(why, "--group is missing");
	if (!has_key(s))
		return refuse(why, "--key-file or --key-fd is missing, or the key is all 0");
	err = check_role(c, why);
	return err ? err : check_totals(c, why);
}
