#include "proto/vmmctl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "proto/vmmctl.pb-c.h"

#define PB(name) Vmmctl__Pb__##name

const char *vmmctl_state_name(enum vmmctl_state state)
{
	switch (state) {
	case VMMCTL_STARTING: return "starting";
	case VMMCTL_RUNNING: return "running";
	case VMMCTL_PAUSED: return "paused";
	case VMMCTL_STOPPED: return "stopped";
	case VMMCTL_FAILED: return "failed";
	}
	return "unknown";
}

bool vmmctl_op_has_fd(enum vmmctl_op op)
{
	return op == VMMCTL_SAVE || op == VMMCTL_SAVE_LIVE || op == VMMCTL_MIGRATE_OUT ||
	       op == VMMCTL_MIGRATE_IN || op == VMMCTL_MIGRATE_ATTACH;
}

static bool op_valid(PB(Op) op)
{
	return (op >= VMMCTL__PB__OP__OP_STATUS && op <= VMMCTL__PB__OP__OP_REGISTERS) ||
	       op == VMMCTL__PB__OP__OP_MIGRATE_OUT || op == VMMCTL__PB__OP__OP_MIGRATE_IN ||
	       (op >= VMMCTL__PB__OP__OP_PAGEMAP && op <= VMMCTL__PB__OP__OP_JOIN_CANCEL) ||
	       op == VMMCTL__PB__OP__OP_PEEK || op == VMMCTL__PB__OP__OP_MIGRATE_ATTACH ||
	       op == VMMCTL__PB__OP__OP_SAVE_LIVE;
}

/* ---- encode ---- */

/* The generated structs want char * also for what they only read. */
static char *lend(const char *s)
{
	return (char *)(uintptr_t)(s ? s : "");
}

/* What encoding a reply needs besides the message itself. */
struct reply_parts {
	PB(Status) status;
	PB(Device) device[VMMCTL_MAX_DEVICES], *device_at[VMMCTL_MAX_DEVICES];
	PB(Stat) stat[VMMCTL_MAX_STATS], *stat_at[VMMCTL_MAX_STATS];
};

static void encode_status(const struct vmmctl_status *s, struct reply_parts *p)
{
	vmmctl__pb__status__init(&p->status);
	p->status.state = (PB(State))s->state;
	p->status.reason = lend(s->reason);
	p->status.name = lend(s->name);
	p->status.vcpus = s->vcpus;
	p->status.memory_bytes = s->memory_bytes;
	p->status.uptime_ns = s->uptime_ns;
	p->status.pid = s->pid;
	p->status.n_devices = s->device_count;
	p->status.devices = p->device_at;
	for (size_t i = 0; i < s->device_count; i++) {
		p->device_at[i] = &p->device[i];
		vmmctl__pb__device__init(&p->device[i]);
		p->device[i].kind = lend(s->devices[i].kind);
		p->device[i].name = lend(s->devices[i].name);
	}
}

static int encode_reply(const struct vmmctl_reply *r, PB(Reply) * out, struct reply_parts *p)
{
	if (r->stat_count > VMMCTL_MAX_STATS ||
	    (r->status && r->status->device_count > VMMCTL_MAX_DEVICES) ||
	    r->data_len > VMMCTL_DATA_MAX || (r->text && strlen(r->text) >= VMMCTL_TEXT_MAX))
		return -E2BIG;
	vmmctl__pb__reply__init(out);
	out->error = r->error < 0 ? -r->error : 0;
	out->text = lend(r->text);
	out->data = (ProtobufCBinaryData){r->data_len, (uint8_t *)(uintptr_t)r->data};
	if (r->status) {
		encode_status(r->status, p);
		out->status = &p->status;
	}
	out->n_stats = r->stat_count;
	out->stats = p->stat_at;
	for (size_t i = 0; i < r->stat_count; i++) {
		p->stat_at[i] = &p->stat[i];
		vmmctl__pb__stat__init(&p->stat[i]);
		p->stat[i].name = lend(r->stats[i].name);
		p->stat[i].value = r->stats[i].value;
	}
	return 0;
}

static int pack(const PB(Message) * pb, uint8_t *out, size_t *len)
{
	size_t need = vmmctl__pb__message__get_packed_size(pb);

	if (need > VMMCTL_MAX_BYTES)
		return -E2BIG;
	*len = vmmctl__pb__message__pack(pb, out);
	return 0;
}

static int encode_reply_message(const struct vmmctl_msg *m, PB(Message) * pb, uint8_t *out,
				size_t *len)
{
	BASE_AUTO_FREE struct reply_parts *parts = malloc(sizeof(*parts));
	PB(Reply) reply;
	int rc;

	if (!parts)
		return -ENOMEM;
	rc = encode_reply(&m->reply, &reply, parts);
	if (rc)
		return rc;
	pb->body_case = VMMCTL__PB__MESSAGE__BODY_REPLY;
	pb->reply = &reply;
	return pack(pb, out, len);
}

int vmmctl_encode(const struct vmmctl_msg *m, uint8_t out[VMMCTL_MAX_BYTES], size_t *len)
{
	PB(Message) pb = VMMCTL__PB__MESSAGE__INIT;
	PB(Request) request = VMMCTL__PB__REQUEST__INIT;
	PB(Event) event = VMMCTL__PB__EVENT__INIT;

	pb.version = VMMCTL_VERSION;
	pb.id = m->id;
	switch (m->kind) {
	case VMMCTL_REPLY: return encode_reply_message(m, &pb, out, len);
	case VMMCTL_REQUEST:
		request.op = (PB(Op))m->request.op;
		request.cols = m->request.cols;
		request.rows = m->request.rows;
		request.rate = m->request.rate;
		request.address = m->request.address;
		request.text = lend(m->request.text);
		pb.body_case = VMMCTL__PB__MESSAGE__BODY_REQUEST;
		pb.request = &request;
		break;
	case VMMCTL_EVENT:
		event.kind = (PB(EventKind))m->event.kind;
		event.state = (PB(State))m->event.state;
		event.text = lend(m->event.text);
		pb.body_case = VMMCTL__PB__MESSAGE__BODY_EVENT;
		pb.event = &event;
		break;
	}
	return pack(&pb, out, len);
}

/* ---- decode ---- */

/* Grows the one allocation of a decoded message; everything in it is found by offset. */
struct decoded {
	struct vmmctl_msg msg;
	struct vmmctl_status status;
	/* stats, then data, then text */
	_Alignas(8) char tail[];
};

static bool copy_name(char *out, size_t cap, const char *in)
{
	size_t len = strlen(in);

	if (len >= cap)
		return false;
	memcpy(out, in, len + 1);
	return true;
}

static bool state_valid(PB(State) s)
{
	return s >= VMMCTL__PB__STATE__STATE_STARTING && s <= VMMCTL__PB__STATE__STATE_FAILED;
}

static bool decode_status(const PB(Status) * in, struct vmmctl_status *out)
{
	if (!state_valid(in->state) || in->n_devices > VMMCTL_MAX_DEVICES ||
	    !copy_name(out->reason, sizeof(out->reason), in->reason) ||
	    !copy_name(out->name, sizeof(out->name), in->name))
		return false;
	out->state = (enum vmmctl_state)in->state;
	out->vcpus = in->vcpus;
	out->memory_bytes = in->memory_bytes;
	out->uptime_ns = in->uptime_ns;
	out->pid = in->pid;
	out->device_count = in->n_devices;
	for (size_t i = 0; i < in->n_devices; i++) {
		struct vmmctl_device *d = &out->devices[i];

		if (!copy_name(d->kind, sizeof(d->kind), in->devices[i]->kind) ||
		    !copy_name(d->name, sizeof(d->name), in->devices[i]->name))
			return false;
	}
	return true;
}

static bool decode_reply(const PB(Reply) * in, struct decoded *d)
{
	struct vmmctl_stat *stats = (struct vmmctl_stat *)d->tail;
	struct vmmctl_reply *out = &d->msg.reply;

	d->msg.kind = VMMCTL_REPLY;
	if (in->error > 4095)
		return false;
	out->error = -(int)in->error;
	if (in->status) {
		if (!decode_status(in->status, &d->status))
			return false;
		out->status = &d->status;
	}
	for (size_t i = 0; i < in->n_stats; i++) {
		if (!copy_name(stats[i].name, sizeof(stats[i].name), in->stats[i]->name))
			return false;
		stats[i].value = in->stats[i]->value;
	}
	out->stats = in->n_stats ? stats : NULL;
	out->stat_count = in->n_stats;
	out->data_len = in->data.len;
	out->data = in->data.len ? memcpy(stats + in->n_stats, in->data.data, in->data.len) : NULL;
	return true;
}

static bool decode_request(const PB(Request) * in, struct decoded *d)
{
	d->msg.kind = VMMCTL_REQUEST;
	if (!op_valid(in->op) || in->cols > UINT16_MAX || in->rows > UINT16_MAX ||
	    strlen(in->text) >= VMMCTL_ADDRESS_MAX)
		return false;
	d->msg.request.op = (enum vmmctl_op)in->op;
	d->msg.request.cols = (uint16_t)in->cols;
	d->msg.request.rows = (uint16_t)in->rows;
	d->msg.request.rate = in->rate;
	d->msg.request.address = in->address;
	snprintf(d->msg.request.text, sizeof(d->msg.request.text), "%s", in->text);
	return true;
}

static bool decode_event(const PB(Event) * in, struct decoded *d)
{
	d->msg.kind = VMMCTL_EVENT;
	if (in->kind < VMMCTL__PB__EVENT_KIND__EVENT_STATE ||
	    in->kind > VMMCTL__PB__EVENT_KIND__EVENT_PLACES)
		return false;
	if (in->kind == VMMCTL__PB__EVENT_KIND__EVENT_STATE ? !state_valid(in->state)
							    : in->state != 0)
		return false;
	d->msg.event.kind = (enum vmmctl_event_kind)in->kind;
	d->msg.event.state = (enum vmmctl_state)in->state;
	return true;
}

/* The text goes behind all else, in whichever kind of message. */
static bool decode_body(const PB(Message) * pb, struct decoded *d, size_t text_at, const char *text)
{
	size_t len = strlen(text) + 1;
	bool ok = false;

	d->msg.id = pb->id;
	memcpy(d->tail + text_at, text, len);
	switch (pb->body_case) {
	case VMMCTL__PB__MESSAGE__BODY_REQUEST: return decode_request(pb->request, d);
	case VMMCTL__PB__MESSAGE__BODY_REPLY:
		ok = decode_reply(pb->reply, d);
		d->msg.reply.text = d->tail + text_at;
		break;
	case VMMCTL__PB__MESSAGE__BODY_EVENT:
		ok = decode_event(pb->event, d);
		d->msg.event.text = d->tail + text_at;
		break;
	default: break;
	}
	return ok;
}

static int decode_message(const PB(Message) * pb, struct vmmctl_msg **out)
{
	const char *text = "";
	size_t head_bytes = 0;
	struct decoded *d;

	if (pb->version != VMMCTL_VERSION)
		return -EPROTONOSUPPORT;
	if (pb->body_case == VMMCTL__PB__MESSAGE__BODY_REPLY) {
		if (pb->reply->n_stats > VMMCTL_MAX_STATS || pb->reply->data.len > VMMCTL_DATA_MAX)
			return -EBADMSG;
		head_bytes = pb->reply->n_stats * sizeof(struct vmmctl_stat) + pb->reply->data.len;
		text = pb->reply->text;
	} else if (pb->body_case == VMMCTL__PB__MESSAGE__BODY_EVENT) {
		text = pb->event->text;
	}
	if (strlen(text) >= VMMCTL_TEXT_MAX)
		return -EBADMSG;
	d = calloc(1, sizeof(*d) + head_bytes + strlen(text) + 1);
	if (!d)
		return -ENOMEM;
	if (!decode_body(pb, d, head_bytes, text)) {
		free(d);
		return -EBADMSG;
	}
	*out = &d->msg;
	return 0;
}

int vmmctl_decode(const void *data, size_t len, struct vmmctl_msg **out)
{
	PB(Message) * pb;
	int rc;

	if (len > VMMCTL_MAX_BYTES)
		return -EBADMSG;
	pb = vmmctl__pb__message__unpack(NULL, len, data);
	if (!pb)
		return -EBADMSG;
	rc = decode_message(pb, out);
	vmmctl__pb__message__free_unpacked(pb, NULL);
	return rc;
}
