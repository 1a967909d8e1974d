#include "proto/control.h"

#include <errno.h>
#include <string.h>

#include "proto/control.pb-c.h"

#define PB(name) Control__Pb__##name

/* The texts (T) and numbers (N) of each record: one table for both directions. */
/* clang-format off */
#define NODE_FIELDS(T, N) \
	T(name) T(address) T(state) T(reason) T(software) T(kernel) T(cpu) \
	N(cpus) N(memory_bytes) N(available_bytes) N(load_milli) N(vms) N(vm_vcpus) \
	N(vm_memory_bytes) N(uptime_ns) N(agent_uptime_ns) N(rtt_ns) N(pid)
#define VM_FIELDS(T, N) \
	T(name) T(node) T(state) T(reason) T(kernel) T(kind) N(vcpus) N(memory_bytes) N(uptime_ns) \
	N(pid) N(slice) N(slices) N(slice_vcpus) N(slice_memory_bytes) N(ended_ns) N(group) N(slices_gone)
#define EVENT_FIELDS(T, N) N(seq) N(time_ns) T(node) T(vm) T(kind) T(text)
#define ITEM_FIELDS(T, N) T(name) T(text) N(value)
#define CHECK_FIELDS(T, N) T(node) T(name) T(level) T(text) T(mend)
/* clang-format on */

#define PUT_TEXT(f)   pb->f = lend(in->f);
#define PUT_NUMBER(f) pb->f = in->f;
#define GET(f)	      out->f = pb->f;

/*
 * For a record: put_X() fills the generated struct from ours, get_X() the other way; pack_Xs()
 * makes the array of pointers that the generated code wants, unpack_Xs() an array of ours.
 */
#define RECORD(Type, lower, FIELDS)                                                                \
	static void put_##lower(const struct control_##lower *in, Type *pb)                        \
	{                                                                                          \
		control__pb__##lower##__init(pb);                                                  \
		FIELDS(PUT_TEXT, PUT_NUMBER)                                                       \
	}                                                                                          \
	static Type **pack_##lower##s(const struct control_##lower *in, size_t count)              \
	{                                                                                          \
		Type **at = calloc(count + 1, sizeof(*at) + sizeof(**at));                         \
		Type *pb = at ? (Type *)(at + count + 1) : NULL;                                   \
		for (size_t i = 0; at && i < count; i++) {                                         \
			put_##lower(&in[i], &pb[i]);                                               \
			at[i] = &pb[i];                                                            \
		}                                                                                  \
		return at;                                                                         \
	}                                                                                          \
	static void get_##lower(const Type *pb, struct control_##lower *out)                       \
	{                                                                                          \
		FIELDS(GET, GET)                                                                   \
	}                                                                                          \
	static struct control_##lower *unpack_##lower##s(Type **at, size_t count)                  \
	{                                                                                          \
		struct control_##lower *out = calloc(count + 1, sizeof(*out));                     \
		for (size_t i = 0; out && i < count; i++)                                          \
			get_##lower(at[i], &out[i]);                                               \
		return out;                                                                        \
	}

static char *lend(const char *s)
{
	return (char *)(uintptr_t)(s ? s : "");
}

RECORD(PB(Node), node, NODE_FIELDS)
RECORD(PB(Vm), vm, VM_FIELDS)
RECORD(PB(Event), event, EVENT_FIELDS)
RECORD(PB(Item), item, ITEM_FIELDS)
RECORD(PB(Check), check, CHECK_FIELDS)

static int pack(const ProtobufCMessage *pb, uint8_t **out, size_t *len)
{
	size_t need = protobuf_c_message_get_packed_size(pb);
	uint8_t *data;

	if (need > CHAN_MAX_BODY)
		return -EMSGSIZE;
	data = malloc(need ? need : 1);
	if (!data)
		return -ENOMEM;
	*len = protobuf_c_message_pack(pb, data);
	*out = data;
	return 0;
}

/* ---- errors ---- */

enum control_code control_code_of(int error)
{
	switch (error) {
	case 0: return CONTROL_OK;
	case -ETIMEDOUT: return CONTROL_TIMEOUT;
	case -EACCES:
	case -EPERM: return CONTROL_DENIED;
	case -EHOSTUNREACH:
	case -ECONNRESET:
	case -ECANCELED:
	case -EPROTONOSUPPORT: return CONTROL_UNREACHABLE;
	case -EEXIST: return CONTROL_EXISTS;
	case -ENOENT: return CONTROL_NOT_FOUND;
	case -EBUSY:
	case -EAGAIN: return CONTROL_BUSY;
	default: return CONTROL_FAILED;
	}
}

const char *control_error_text(int error)
{
	switch (error) {
	case -ETIMEDOUT: return "the agent does not answer in time";
	case -EHOSTUNREACH: return "no agent answers there; is the host up and pangaead running?";
	case -EACCES:
		return "the handshake was refused: cluster files or keys of the two sides differ";
	case -ECONNRESET: return "the connection to the agent was lost";
	case -EPROTONOSUPPORT: return "the agent has no protocol version in common with us";
	case -ECANCELED: return "the agent is ending";
	default: return "the agent cannot be asked";
	}
}

/* ---- the specification ---- */

enum { LINE_MAX_BYTES = VMSPEC_PATH_MAX + 64 };

struct put_parts {
	PB(Part) part[VMSPEC_MAX_PARTS], *at[VMSPEC_MAX_PARTS];
};

static void put_parts(const struct vmspec_part *parts, size_t count, struct put_parts *out)
{
	for (size_t i = 0; i < count; i++) {
		control__pb__part__init(&out->part[i]);
		out->part[i].node = lend(parts[i].node);
		out->part[i].vcpus = parts[i].vcpus;
		out->part[i].memory_bytes = parts[i].memory_bytes;
		out->at[i] = &out->part[i];
	}
}

struct spec_parts {
	PB(Spec) pb;
	struct put_parts parts;
	char disk[VMSPEC_MAX_DISKS][LINE_MAX_BYTES], *disk_at[VMSPEC_MAX_DISKS];
	char nic[VMSPEC_MAX_NICS][LINE_MAX_BYTES], *nic_at[VMSPEC_MAX_NICS];
};

static void put_spec_lists(const struct vmspec *s, struct spec_parts *p)
{
	for (size_t i = 0; i < s->disk_count; i++) {
		vmspec_disk_print(&s->disks[i], p->disk[i], LINE_MAX_BYTES);
		p->disk_at[i] = p->disk[i];
	}
	for (size_t i = 0; i < s->nic_count; i++) {
		vmspec_nic_print(&s->nics[i], p->nic[i], LINE_MAX_BYTES);
		p->nic_at[i] = p->nic[i];
	}
	put_parts(s->parts, s->part_count, &p->parts);
	p->pb.n_disks = s->disk_count;
	p->pb.disks = p->disk_at;
	p->pb.n_nics = s->nic_count;
	p->pb.nics = p->nic_at;
	p->pb.n_parts = s->part_count;
	p->pb.parts = p->parts.at;
}

static struct spec_parts *put_spec(const struct vmspec *s)
{
	struct spec_parts *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	control__pb__spec__init(&p->pb);
	p->pb.name = lend(s->name);
	p->pb.node = lend(s->node);
	p->pb.kernel = lend(s->kernel);
	p->pb.initrd = lend(s->initrd);
	p->pb.restore = lend(s->restore);
	p->pb.cmdline = lend(s->cmdline);
	p->pb.vcpus = s->vcpus;
	p->pb.memory_bytes = s->memory_bytes;
	p->pb.gdb_port = s->gdb_port;
	p->pb.encrypt = s->encrypt;
	p->pb.transport = lend(s->transport);
	put_spec_lists(s, p);
	return p;
}

static bool get_parts(PB(Part) * *pb, size_t count, struct vmspec_part *parts, size_t *out,
		      char why[VMSPEC_WHY_MAX])
{
	if (count > VMSPEC_MAX_PARTS) {
		snprintf(why, VMSPEC_WHY_MAX, "too many nodes");
		return false;
	}
	for (size_t i = 0; i < count; i++) {
		struct vmspec_part *p = &parts[i];

		if (!vmspec_set_text(p->node, sizeof(p->node), "node", pb[i]->node, why))
			return false;
		p->vcpus = pb[i]->vcpus;
		p->memory_bytes = pb[i]->memory_bytes;
	}
	*out = count;
	return true;
}

static bool get_spec(const PB(Spec) * pb, struct vmspec *s, char why[VMSPEC_WHY_MAX])
{
	const struct {
		const char *what, *in;
		char *out;
		size_t cap;
	} texts[] = {
		{"name", pb->name, s->name, sizeof(s->name)},
		{"node", pb->node, s->node, sizeof(s->node)},
		{"kernel", pb->kernel, s->kernel, sizeof(s->kernel)},
		{"initrd", pb->initrd, s->initrd, sizeof(s->initrd)},
		{"restore", pb->restore, s->restore, sizeof(s->restore)},
		{"cmdline", pb->cmdline, s->cmdline, sizeof(s->cmdline)},
	};

	for (size_t i = 0; i < BASE_ARRAY_LEN(texts); i++)
		if (!vmspec_set_text(texts[i].out, texts[i].cap, texts[i].what, texts[i].in, why))
			return false;
	for (size_t i = 0; i < pb->n_disks; i++)
		if (!vmspec_add_disk(s, pb->disks[i], why))
			return false;
	for (size_t i = 0; i < pb->n_nics; i++)
		if (!vmspec_add_nic(s, pb->nics[i], why))
			return false;
	s->vcpus = pb->vcpus;
	s->memory_bytes = pb->memory_bytes;
	if (pb->gdb_port > UINT16_MAX) {
		snprintf(why, VMSPEC_WHY_MAX, "no such port");
		return false;
	}
	s->gdb_port = (uint16_t)pb->gdb_port;
	s->encrypt = pb->encrypt;
	if (pb->transport[0] && !vmspec_set_transport(s, pb->transport, why))
		return false;
	return get_parts(pb->parts, pb->n_parts, s->parts, &s->part_count, why) &&
	       vmspec_check(s, why);
}

/* ---- requests ---- */

static bool has_migrate(int op)
{
	return op == CONTROL_VM_MIGRATE || op == CONTROL_MIGRATE_PREPARE ||
	       op == CONTROL_MIGRATE_VERDICT || op == CONTROL_MIGRATE_RELINK ||
	       op == CONTROL_VM_SPREAD || op == CONTROL_VM_CONSOLIDATE;
}

static bool has_spec(int op)
{
	return op == CONTROL_VM_RUN || op == CONTROL_MIGRATE_PREPARE || op == CONTROL_SLICE_PREPARE;
}

/* RESTORE: with other nodes than those of the file. */
static bool may_have_spec(int op)
{
	return has_spec(op) || op == CONTROL_VM_RESTORE;
}

static bool has_slice(int op)
{
	return op >= CONTROL_SLICE_PREPARE && op <= CONTROL_SLICE_STOP;
}

static void put_migrate(const struct control_migrate *m, PB(Migrate) * out, struct put_parts *parts)
{
	control__pb__migrate__init(out);
	out->target = lend(m->target);
	out->id = (ProtobufCBinaryData){sizeof(m->id), (uint8_t *)(uintptr_t)m->id};
	out->key = (ProtobufCBinaryData){sizeof(m->key), (uint8_t *)(uintptr_t)m->key};
	out->channels = m->channels;
	out->max_downtime_ms = m->max_downtime_ms;
	out->bandwidth = m->bandwidth;
	out->encrypt = m->encrypt;
	out->mode = m->mode;
	out->postcopy_rounds = m->postcopy_rounds;
	out->port = m->port;
	out->with_disk = m->with_disk;
	out->force = m->force;
	out->n_disk_bytes = out->n_disk_used = m->with_disk ? VMSPEC_MAX_DISKS : 0;
	out->disk_bytes = (uint64_t *)(uintptr_t)m->disk_bytes;
	out->disk_used = (uint64_t *)(uintptr_t)m->disk_used;
	put_parts(m->parts, m->part_count, parts);
	out->n_parts = m->part_count;
	out->parts = parts->at;
	out->parts_encrypt = m->parts_encrypt;
	out->parts_transport = lend(m->parts_transport);
}

/* `at` holds the pointers that the generated code wants. */
static void put_slice(const struct control_slice *s, PB(Slice) * out, char **at)
{
	control__pb__slice__init(out);
	out->index = s->index;
	out->group = s->group;
	out->key = (ProtobufCBinaryData){sizeof(s->key), (uint8_t *)(uintptr_t)s->key};
	for (uint32_t i = 0; i < s->peer_count; i++)
		at[i] = lend(s->peers[i]);
	out->n_peers = s->peer_count;
	out->peers = at;
	out->reason = lend(s->reason);
	out->links_group = s->links_group;
	out->homes = (ProtobufCBinaryData){s->home_count, (uint8_t *)(uintptr_t)s->homes};
	out->places = (ProtobufCBinaryData){s->place_count, (uint8_t *)(uintptr_t)s->places};
}

int control_request_encode(const struct control_request *r, uint8_t **out, size_t *len)
{
	BASE_AUTO_FREE struct spec_parts *spec = NULL;
	PB(Request) pb = CONTROL__PB__REQUEST__INIT;
	char *peer_at[VMSPEC_MAX_PARTS];
	struct put_parts parts;
	PB(Migrate) migrate;
	PB(Slice) slice;

	if (r->spec) {
		spec = put_spec(r->spec);
		if (!spec)
			return -ENOMEM;
		pb.spec = &spec->pb;
	}
	pb.op = (PB(Op))r->op;
	pb.node = lend(r->node);
	pb.vm = lend(r->vm);
	pb.local = r->local;
	pb.timeout_ms = r->timeout_ms;
	pb.follow = r->follow;
	pb.overcommit = r->overcommit;
	pb.together = r->together;
	pb.cols = r->cols;
	pb.rows = r->rows;
	pb.address = r->address;
	pb.path = lend(r->path);
	pb.places = lend(r->places);
	pb.live = r->live;
	put_migrate(&r->migrate, &migrate, &parts);
	if (has_migrate(r->op))
		pb.migrate = &migrate;
	put_slice(&r->slice, &slice, peer_at);
	if (has_slice(r->op))
		pb.slice = &slice;
	return pack(&pb.base, out, len);
}

static bool get_name(const char *what, const char *in, char out[TEXT_NAME_MAX],
		     char why[VMSPEC_WHY_MAX])
{
	if (*in && !text_name_valid(in)) {
		snprintf(why, VMSPEC_WHY_MAX, "'%.80s' is no %s name", in, what);
		text_clean(why);
		return false;
	}
	memcpy(out, in, strlen(in) + 1);
	return true;
}

static bool get_migrate(const PB(Migrate) * pb, struct control_migrate *m, char why[VMSPEC_WHY_MAX])
{
	if (pb->id.len != sizeof(m->id) || pb->key.len != sizeof(m->key) ||
	    pb->channels > CONTROL_MIGRATE_CHANNELS || pb->mode > CONTROL_MIGRATE_MODE_MAX ||
	    pb->n_disk_bytes > VMSPEC_MAX_DISKS || pb->n_disk_used != pb->n_disk_bytes)
		return false;
	memcpy(m->id, pb->id.data, sizeof(m->id));
	memcpy(m->key, pb->key.data, sizeof(m->key));
	m->channels = pb->channels;
	m->max_downtime_ms = pb->max_downtime_ms;
	m->bandwidth = pb->bandwidth;
	m->encrypt = pb->encrypt;
	m->mode = pb->mode;
	m->postcopy_rounds = pb->postcopy_rounds;
	m->port = pb->port;
	m->with_disk = pb->with_disk;
	m->force = pb->force;
	for (size_t i = 0; i < pb->n_disk_bytes; i++) {
		m->disk_bytes[i] = pb->disk_bytes[i];
		m->disk_used[i] = pb->disk_used[i];
	}
	m->parts_encrypt = pb->parts_encrypt;
	return get_parts(pb->parts, pb->n_parts, m->parts, &m->part_count, why) &&
	       vmspec_set_text(m->parts_transport, sizeof(m->parts_transport), "transport",
			       pb->parts_transport, why) &&
	       get_name("node", pb->target, m->target, why);
}

static bool known_op(int op)
{
	return op > 0 && op < CONTROL_OP_END &&
	       protobuf_c_enum_descriptor_get_value(&control__pb__op__descriptor, op);
}

static bool get_slice(const PB(Slice) * pb, struct control_slice *s, char why[VMSPEC_WHY_MAX])
{
	if (pb->key.len != sizeof(s->key) || pb->index >= VMSPEC_MAX_PARTS || !pb->group ||
	    pb->n_peers > VMSPEC_MAX_PARTS || pb->homes.len > sizeof(s->homes) ||
	    pb->places.len > sizeof(s->places))
		return false;
	s->links_group = pb->links_group;
	s->home_count = (uint32_t)pb->homes.len;
	s->place_count = (uint32_t)pb->places.len;
	if (s->home_count)
		memcpy(s->homes, pb->homes.data, s->home_count);
	if (s->place_count)
		memcpy(s->places, pb->places.data, s->place_count);
	s->index = pb->index;
	s->group = pb->group;
	memcpy(s->key, pb->key.data, sizeof(s->key));
	s->peer_count = (uint32_t)pb->n_peers;
	for (size_t i = 0; i < pb->n_peers; i++)
		if (!vmspec_set_text(s->peers[i], sizeof(s->peers[i]), "peer", pb->peers[i], why))
			return false;
	return vmspec_set_text(s->reason, sizeof(s->reason), "reason", pb->reason, why);
}

static bool get_path(int op, const char *in, char out[VMSPEC_PATH_MAX], char why[VMSPEC_WHY_MAX])
{
	bool wanted = op == CONTROL_VM_CHECKPOINT || op == CONTROL_VM_RESTORE;

	if (wanted != (*in != 0))
		return false;
	if (wanted && (*in != '/' || strlen(in) >= VMSPEC_PATH_MAX)) {
		snprintf(why, VMSPEC_WHY_MAX, "the file's path must be absolute and below %d bytes",
			 VMSPEC_PATH_MAX);
		return false;
	}
	memcpy(out, in, strlen(in) + 1);
	return true;
}

static bool get_request(const PB(Request) * pb, struct control_request *r, struct vmspec *spec,
			char why[VMSPEC_WHY_MAX])
{
	snprintf(why, VMSPEC_WHY_MAX, "the request is malformed, or of a newer version");
	if (!known_op((int)pb->op) || pb->cols > UINT16_MAX || pb->rows > UINT16_MAX ||
	    (pb->spec ? !may_have_spec((int)pb->op) : has_spec((int)pb->op)) ||
	    has_migrate((int)pb->op) != (pb->migrate != NULL) ||
	    has_slice((int)pb->op) != (pb->slice != NULL))
		return false;
	if (pb->migrate && !get_migrate(pb->migrate, &r->migrate, why))
		return false;
	if (pb->slice && !get_slice(pb->slice, &r->slice, why))
		return false;
	r->op = (enum control_op)pb->op;
	r->local = pb->local;
	r->timeout_ms = pb->timeout_ms;
	r->follow = pb->follow;
	r->overcommit = pb->overcommit;
	r->together = pb->together;
	r->cols = (uint16_t)pb->cols;
	r->rows = (uint16_t)pb->rows;
	r->address = pb->address;
	r->live = pb->live;
	if (!vmspec_set_text(r->places, sizeof(r->places), "places", pb->places, why))
		return false;
	if (!get_path((int)pb->op, pb->path, r->path, why))
		return false;
	if (!get_name("node", pb->node, r->node, why) || !get_name("VM", pb->vm, r->vm, why))
		return false;
	r->spec = pb->spec ? spec : NULL;
	return !pb->spec || get_spec(pb->spec, spec, why);
}

int control_request_decode(const void *data, size_t len, struct control_request *out,
			   char why[VMSPEC_WHY_MAX])
{
	PB(Request) *pb =
		len <= CHAN_MAX_BODY ? control__pb__request__unpack(NULL, len, data) : NULL;
	struct control_request r = {0};
	struct vmspec *spec = NULL;
	int rc = 0;

	if (!pb) {
		snprintf(why, VMSPEC_WHY_MAX, "the request is malformed");
		return -EBADMSG;
	}
	if (pb->spec) {
		spec = calloc(1, sizeof(*spec));
		rc = spec ? 0 : -ENOMEM;
	}
	if (!rc && !get_request(pb, &r, spec, why))
		rc = -EBADMSG;
	control__pb__request__free_unpacked(pb, NULL);
	if (rc)
		free(spec);
	else
		*out = r;
	return rc;
}

void control_request_fini(struct control_request *r)
{
	free(r->spec);
	r->spec = NULL;
}

/* ---- replies ---- */

int control_reply_encode(const struct control_reply *r, uint8_t **out, size_t *len)
{
	BASE_AUTO_FREE PB(Node) **nodes = pack_nodes(r->nodes, r->node_count);
	BASE_AUTO_FREE PB(Vm) **vms = pack_vms(r->vms, r->vm_count);
	BASE_AUTO_FREE PB(Event) **events = pack_events(r->events, r->event_count);
	BASE_AUTO_FREE PB(Item) **items = pack_items(r->items, r->item_count);
	BASE_AUTO_FREE PB(Check) **checks = pack_checks(r->checks, r->check_count);
	BASE_AUTO_FREE struct spec_parts *spec = r->spec ? put_spec(r->spec) : NULL;
	PB(Reply) pb = CONTROL__PB__REPLY__INIT;

	if (!nodes || !vms || !events || !items || !checks || (r->spec && !spec))
		return -ENOMEM;
	pb.code = r->code;
	pb.text = lend(r->text);
	pb.n_nodes = r->node_count;
	pb.nodes = nodes;
	pb.n_vms = r->vm_count;
	pb.vms = vms;
	pb.n_events = r->event_count;
	pb.events = events;
	pb.n_items = r->item_count;
	pb.items = items;
	pb.n_checks = r->check_count;
	pb.checks = checks;
	pb.spec = spec ? &spec->pb : NULL;
	pb.data.data = (uint8_t *)(uintptr_t)r->data;
	pb.data.len = r->data_len;
	return pack(&pb.base, out, len);
}

/* Keeps the generated message, whose strings ours point into. */
struct reply_backing {
	PB(Reply) * pb;
	struct control_node *nodes;
	struct control_vm *vms;
	struct control_event *events;
	struct control_item *items;
	struct control_check *checks;
	struct vmspec *spec;
};

static void backing_free(struct reply_backing *b)
{
	control__pb__reply__free_unpacked(b->pb, NULL);
	free(b->nodes);
	free(b->vms);
	free(b->events);
	free(b->items);
	free(b->checks);
	free(b->spec);
	free(b);
}

static int get_reply_spec(const PB(Reply) * pb, struct reply_backing *b)
{
	char why[VMSPEC_WHY_MAX];

	if (!pb->spec)
		return 0;
	b->spec = calloc(1, sizeof(*b->spec));
	if (!b->spec)
		return -ENOMEM;
	return get_spec(pb->spec, b->spec, why) ? 0 : -EBADMSG;
}

static int get_reply(PB(Reply) * pb, struct reply_backing *b, struct control_reply *r)
{
	if (pb->code >= CONTROL_CODE_END || pb->n_nodes > CONTROL_MAX_NODES ||
	    pb->n_vms > CONTROL_MAX_VMS || pb->n_events > CONTROL_MAX_EVENTS ||
	    pb->n_items > CONTROL_MAX_ITEMS || pb->n_checks > CONTROL_MAX_CHECKS ||
	    pb->data.len > CONTROL_DATA_MAX)
		return -EBADMSG;
	b->nodes = unpack_nodes(pb->nodes, pb->n_nodes);
	b->vms = unpack_vms(pb->vms, pb->n_vms);
	b->events = unpack_events(pb->events, pb->n_events);
	b->items = unpack_items(pb->items, pb->n_items);
	b->checks = unpack_checks(pb->checks, pb->n_checks);
	if (!b->nodes || !b->vms || !b->events || !b->items || !b->checks)
		return -ENOMEM;
	*r = (struct control_reply){.code = (enum control_code)pb->code,
				    .text = pb->text,
				    .nodes = b->nodes,
				    .node_count = pb->n_nodes,
				    .vms = b->vms,
				    .vm_count = pb->n_vms,
				    .events = b->events,
				    .event_count = pb->n_events,
				    .items = b->items,
				    .item_count = pb->n_items,
				    .checks = b->checks,
				    .check_count = pb->n_checks,
				    .data = pb->data.data,
				    .data_len = pb->data.len};
	return get_reply_spec(pb, b);
}

int control_reply_decode(const void *data, size_t len, struct control_reply *out)
{
	PB(Reply) *pb = len <= CHAN_MAX_BODY ? control__pb__reply__unpack(NULL, len, data) : NULL;
	struct control_reply r = {0};
	struct reply_backing *b;
	int rc;

	if (!pb)
		return -EBADMSG;
	b = calloc(1, sizeof(*b));
	if (!b) {
		control__pb__reply__free_unpacked(pb, NULL);
		return -ENOMEM;
	}
	b->pb = pb;
	rc = get_reply(pb, b, &r);
	if (rc) {
		backing_free(b);
		return rc;
	}
	r.spec = b->spec;
	r.backing = b;
	*out = r;
	return 0;
}

void control_reply_fini(struct control_reply *r)
{
	if (r->backing)
		backing_free(r->backing);
	r->backing = NULL;
}

/* ---- console input ---- */

int control_input_encode(const struct control_input *i, uint8_t **out, size_t *len)
{
	PB(Input) pb = CONTROL__PB__INPUT__INIT;

	pb.data.data = (uint8_t *)(uintptr_t)i->data;
	pb.data.len = i->len;
	pb.cols = i->cols;
	pb.rows = i->rows;
	return pack(&pb.base, out, len);
}

int control_input_decode(const void *data, size_t len, struct control_input *out)
{
	PB(Input) *pb = len <= CHAN_MAX_BODY ? control__pb__input__unpack(NULL, len, data) : NULL;

	if (!pb)
		return -EBADMSG;
	if (pb->data.len > CONTROL_DATA_MAX || pb->cols > UINT16_MAX || pb->rows > UINT16_MAX) {
		control__pb__input__free_unpacked(pb, NULL);
		return -EBADMSG;
	}
	*out = (struct control_input){.data = pb->data.data,
				      .len = pb->data.len,
				      .cols = (uint16_t)pb->cols,
				      .rows = (uint16_t)pb->rows,
				      .backing = pb};
	return 0;
}

void control_input_fini(struct control_input *i)
{
	if (i->backing)
		control__pb__input__free_unpacked(i->backing, NULL);
	i->backing = NULL;
}
