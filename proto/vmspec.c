#include "proto/vmspec.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static bool fail(char why[VMSPEC_WHY_MAX], const char *fmt, ...) BASE_PRINTF(2, 3);
static bool fail(char why[VMSPEC_WHY_MAX], const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, VMSPEC_WHY_MAX, fmt, ap);
	va_end(ap);
	text_clean(why);
	return false;
}

bool vmspec_set_text(char *out, size_t cap, const char *what, const char *text,
		     char why[VMSPEC_WHY_MAX])
{
	if (strlen(text) >= cap)
		return fail(why, "%s: longer than %zu characters", what, cap - 1);
	if (!text_printable(text))
		return fail(why, "%s: only printable UTF-8 is allowed", what);
	memcpy(out, text, strlen(text) + 1);
	return true;
}

/* The next of a comma-separated list into item[cap]; false at its end or when one is too long. */
static bool next_item(const char **list, char *item, size_t cap)
{
	size_t len = strcspn(*list, ",");

	if (!**list || len >= cap)
		return false;
	memcpy(item, *list, len);
	item[len] = 0;
	*list += len;
	if (**list == ',')
		(*list)++;
	return true;
}

bool vmspec_add_disk(struct vmspec *s, const char *text, char why[VMSPEC_WHY_MAX])
{
	struct vmspec_disk *d = &s->disks[s->disk_count];
	const char *rest = text;
	char item[VMSPEC_PATH_MAX];

	if (s->disk_count >= VMSPEC_MAX_DISKS)
		return fail(why, "more than %d disks", VMSPEC_MAX_DISKS);
	*d = (struct vmspec_disk){0};
	if (!next_item(&rest, item, sizeof(item)) || !item[0])
		return fail(why, "disk '%.80s': expected FILE[,ro][,format=raw|qcow2]", text);
	if (!vmspec_set_text(d->path, sizeof(d->path), "disk", item, why))
		return false;
	while (next_item(&rest, item, sizeof(item))) {
		if (!strcmp(item, "ro"))
			d->read_only = true;
		else if (!strcmp(item, "format=raw") || !strcmp(item, "format=qcow2"))
			memcpy(d->format, item + 7, strlen(item + 7) + 1);
		else
			return fail(why, "disk '%.80s': '%.40s' is not 'ro' or 'format=raw|qcow2'",
				    text, item);
	}
	if (*rest)
		return fail(why, "disk '%.80s': too long", text);
	s->disk_count++;
	return true;
}

static bool set_nic_kind(struct vmspec_nic *n, const char *item, char why[VMSPEC_WHY_MAX])
{
	if (!strcmp(item, "net")) {
		n->kind = VMSPEC_NIC_NET;
		return true;
	}
	if (!strncmp(item, "tap=", 4) && item[4] && strlen(item + 4) < 16 &&
	    !strchr(item + 4, '/')) {
		n->kind = VMSPEC_NIC_TAP;
		return vmspec_set_text(n->target, sizeof(n->target), "nic", item + 4, why);
	}
	if (!strncmp(item, "port=", 5) && item[5]) {
		n->kind = VMSPEC_NIC_PORT;
		return vmspec_set_text(n->target, sizeof(n->target), "nic", item + 5, why);
	}
	return fail(why, "nic '%.80s': expected net, tap=INTERFACE or port=SOCKET, then ',mac=..'",
		    item);
}

bool vmspec_add_nic(struct vmspec *s, const char *text, char why[VMSPEC_WHY_MAX])
{
	struct vmspec_nic *n = &s->nics[s->nic_count];
	const char *rest = text;
	char item[VMSPEC_PATH_MAX];

	if (s->nic_count >= VMSPEC_MAX_NICS)
		return fail(why, "more than %d nics", VMSPEC_MAX_NICS);
	*n = (struct vmspec_nic){0};
	if (!next_item(&rest, item, sizeof(item)))
		return fail(why, "nic '%.80s': expected net, tap=INTERFACE or port=SOCKET", text);
	if (!set_nic_kind(n, item, why))
		return false;
	while (next_item(&rest, item, sizeof(item))) {
		if (strncmp(item, "mac=", 4) != 0 || !text_mac_parse(item + 4, n->mac))
			return fail(why,
				    "nic '%.80s': '%.40s' is not mac=XX:XX:XX:XX:XX:XX (unicast)",
				    text, item);
		n->has_mac = true;
	}
	if (*rest)
		return fail(why, "nic '%.80s': too long", text);
	s->nic_count++;
	return true;
}

/* ---- vCPUs and memory, for one node or for several ---- */

static struct vmspec_part *part_of(struct vmspec *s, const char *node)
{
	for (size_t i = 0; i < s->part_count; i++)
		if (!strcmp(s->parts[i].node, node))
			return &s->parts[i];
	if (s->part_count >= VMSPEC_MAX_PARTS)
		return NULL;
	s->parts[s->part_count] = (struct vmspec_part){0};
	memcpy(s->parts[s->part_count].node, node, strlen(node) + 1);
	return &s->parts[s->part_count++];
}

static bool split_part(struct vmspec *s, char *item, struct vmspec_part **part, const char **value,
		       char why[VMSPEC_WHY_MAX])
{
	char *eq = strchr(item, '=');

	if (!eq)
		return fail(why, "'%.80s': expected NODE=VALUE", item);
	*eq = 0;
	if (!text_name_valid(item))
		return fail(why, "'%.80s' is no node name", item);
	*part = part_of(s, item);
	*value = eq + 1;
	if (!*part)
		return fail(why, "more than %d nodes", VMSPEC_MAX_PARTS);
	return true;
}

bool vmspec_set_vcpus(struct vmspec *s, const char *text, char why[VMSPEC_WHY_MAX])
{
	const char *rest = text, *value;
	struct vmspec_part *part;
	uint64_t n, sum = 0;
	char item[128];

	if (!strchr(text, '=')) {
		if (!text_number_parse(text, 1, VMSPEC_MAX_VCPUS, &n))
			return fail(why, "vcpus '%.40s': expected 1 to %d", text, VMSPEC_MAX_VCPUS);
		s->vcpus = (uint32_t)n;
		return true;
	}
	while (next_item(&rest, item, sizeof(item))) {
		if (!split_part(s, item, &part, &value, why))
			return false;
		if (part->vcpus)
			return fail(why, "vcpus: node '%s' stands here twice", part->node);
		if (!text_number_parse(value, 1, VMSPEC_MAX_VCPUS, &n))
			return fail(why, "vcpus '%.40s': expected 1 to %d", value,
				    VMSPEC_MAX_VCPUS);
		part->vcpus = (uint32_t)n;
		sum += n;
	}
	if (*rest || sum > VMSPEC_MAX_VCPUS)
		return fail(why, "vcpus '%.80s': at most %d in all", text, VMSPEC_MAX_VCPUS);
	s->vcpus = (uint32_t)sum;
	return true;
}

bool vmspec_set_memory(struct vmspec *s, const char *text, char why[VMSPEC_WHY_MAX])
{
	const char *rest = text, *value;
	struct vmspec_part *part;
	uint64_t n, sum = 0;
	char item[128];

	if (!strchr(text, '=')) {
		if (!text_size_parse(text, &n) || n < VMSPEC_MIN_MEMORY)
			return fail(why,
				    "memory '%.40s': expected a size from 1M, such as 512M or 2G",
				    text);
		s->memory_bytes = n;
		return true;
	}
	while (next_item(&rest, item, sizeof(item))) {
		if (!split_part(s, item, &part, &value, why))
			return false;
		if (part->memory_bytes)
			return fail(why, "memory: node '%s' stands here twice", part->node);
		if (!text_size_parse(value, &n) || n < VMSPEC_MIN_MEMORY ||
		    __builtin_add_overflow(sum, n, &sum))
			return fail(why, "memory '%.40s': expected a size from 1M", value);
		part->memory_bytes = n;
	}
	if (*rest)
		return fail(why, "memory '%.80s': too long", text);
	s->memory_bytes = sum;
	return true;
}

bool vmspec_set_transport(struct vmspec *s, const char *text, char why[VMSPEC_WHY_MAX])
{
	if (strcmp(text, "tcp") != 0 && strcmp(text, "verbs") != 0)
		return fail(why, "transport '%.40s': expected tcp or verbs", text);
	memcpy(s->transport, text, strlen(text) + 1);
	return true;
}

/* ---- checks ---- */

static bool check_path(const char *what, const char *path, bool required, char why[VMSPEC_WHY_MAX])
{
	if (!path[0])
		return required ? fail(why, "%s is missing", what) : true;
	if (path[0] != '/')
		return fail(why, "%s '%.200s': expected an absolute path", what, path);
	return true;
}

static bool check_part(const struct vmspec *s, size_t i, char why[VMSPEC_WHY_MAX])
{
	const struct vmspec_part *p = &s->parts[i];

	if (!text_name_valid(p->node))
		return fail(why, "'%.64s' is no node name", p->node);
	for (size_t k = 0; k < i; k++)
		if (!strcmp(s->parts[k].node, p->node))
			return fail(why, "node '%s' stands there twice", p->node);
	if (!vmspec_spans(s))
		return true;
	if (!p->vcpus)
		return fail(why,
			    "node '%s' has memory of the guest but no vCPUs: each node needs "
			    "both (--vcpus %s=1,..)",
			    p->node, p->node);
	if (!p->memory_bytes)
		return fail(why,
			    "node '%s' has vCPUs of the guest but no memory: each node needs "
			    "both (--memory %s=512M,..)",
			    p->node, p->node);
	if (p->memory_bytes < VMSPEC_MIN_PART || p->memory_bytes % 4096)
		return fail(why,
			    "memory of node '%s': expected at least 16M and a multiple of 4096 "
			    "bytes",
			    p->node);
	return true;
}

/* What a guest over several nodes cannot have. */
static bool check_span(const struct vmspec *s, char why[VMSPEC_WHY_MAX])
{
	if (!vmspec_spans(s))
		return s->encrypt || s->transport[0]
			       ? fail(why,
				      "encrypt and transport are for a guest that spans nodes: "
				      "--vcpus a=1,b=1 --memory a=512M,b=512M")
			       : true;
	if (s->memory_bytes < VMSPEC_MIN_SPAN)
		return fail(why, "memory: a guest that spans nodes needs 64M in all");
	return true;
}

static bool check_parts(const struct vmspec *s, char why[VMSPEC_WHY_MAX])
{
	uint64_t vcpus = 0, memory = 0;

	for (size_t i = 0; i < s->part_count; i++) {
		const struct vmspec_part *p = &s->parts[i];

		if (!check_part(s, i, why))
			return false;
		vcpus += p->vcpus;
		if (__builtin_add_overflow(memory, p->memory_bytes, &memory))
			return fail(why, "memory of all nodes together is too much");
	}
	if (vcpus && vcpus != s->vcpus)
		return fail(why, "vcpus of the nodes do not add up");
	if (memory && memory != s->memory_bytes)
		return fail(why, "memory of the nodes does not add up");
	return check_span(s, why);
}

bool vmspec_check(const struct vmspec *s, char why[VMSPEC_WHY_MAX])
{
	if (!text_name_valid(s->name))
		return fail(why,
			    "'%.64s' is no VM name: letters, digits, '-', '_' and '.', at most 63, "
			    "the first a letter or digit",
			    s->name);
	if (s->node[0] && !text_name_valid(s->node))
		return fail(why, "'%.64s' is no node name", s->node);
	if (!check_path("kernel", s->kernel, !s->restore[0], why) ||
	    !check_path("initrd", s->initrd, false, why) ||
	    !check_path("restore", s->restore, false, why))
		return false;
	if (s->vcpus < 1 || s->vcpus > VMSPEC_MAX_VCPUS)
		return fail(why, "vcpus: expected 1 to %d", VMSPEC_MAX_VCPUS);
	if (s->memory_bytes < VMSPEC_MIN_MEMORY)
		return fail(why, "memory is missing or under 1M");
	if (s->memory_bytes % 4096)
		return fail(why, "memory must be a multiple of 4096 bytes");
	for (size_t i = 0; i < s->disk_count; i++)
		if (!check_path("disk", s->disks[i].path, true, why))
			return false;
	for (size_t i = 0; i < s->nic_count; i++)
		if (s->nics[i].kind == VMSPEC_NIC_PORT &&
		    !check_path("nic port", s->nics[i].target, true, why))
			return false;
	return check_parts(s, why);
}

/* ---- text forms ---- */

void vmspec_disk_print(const struct vmspec_disk *d, char *out, size_t cap)
{
	snprintf(out, cap, "%s%s%s%s", d->path, d->read_only ? ",ro" : "",
		 d->format[0] ? ",format=" : "", d->format);
}

void vmspec_nic_print(const struct vmspec_nic *n, char *out, size_t cap)
{
	static const char *const prefix[] = {"", "net", "tap=", "port="};
	char mac[18] = "";

	if (n->has_mac)
		text_mac_print(n->mac, mac);
	snprintf(out, cap, "%s%s%s%s", prefix[n->kind], n->target, n->has_mac ? ",mac=" : "", mac);
}
