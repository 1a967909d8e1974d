#include "proto/chan_wire.h"

#include <errno.h>
#include <string.h>

#include "proto/chan.pb-c.h"

int chan_env_encode(const struct chan_env *env, uint8_t **out, size_t *len)
{
	Chan__Pb__Envelope pb = CHAN__PB__ENVELOPE__INIT;
	Chan__Pb__Hello hello = CHAN__PB__HELLO__INIT;
	struct chan_hello h = env->hello;
	uint8_t *data;
	size_t need;

	pb.version = env->version;
	pb.kind = (Chan__Pb__Kind)env->kind;
	pb.id = env->id;
	pb.body.data = (uint8_t *)(uintptr_t)env->body;
	pb.body.len = env->len;
	pb.credit = env->credit;
	if (env->kind == CHAN_HELLO || env->kind == CHAN_WELCOME) {
		hello.min_version = h.min_version;
		hello.max_version = h.max_version;
		hello.name = h.name;
		hello.software = h.software;
		hello.error = h.error;
		pb.hello = &hello;
	}
	need = chan__pb__envelope__get_packed_size(&pb);
	if (need > CHAN_MAX_BYTES)
		return -EMSGSIZE;
	data = malloc(need ? need : 1);
	if (!data)
		return -ENOMEM;
	*len = chan__pb__envelope__pack(&pb, data);
	*out = data;
	return 0;
}

static bool copy_text(char *out, size_t cap, const char *in)
{
	size_t len = strlen(in);

	if (len >= cap)
		return false;
	for (const char *p = in; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			return false;
	memcpy(out, in, len + 1);
	return true;
}

static bool decode_hello(const Chan__Pb__Hello *in, struct chan_hello *out)
{
	out->min_version = in->min_version;
	out->max_version = in->max_version;
	return in->min_version <= in->max_version &&
	       copy_text(out->name, sizeof(out->name), in->name) &&
	       copy_text(out->software, sizeof(out->software), in->software) &&
	       copy_text(out->error, sizeof(out->error), in->error);
}

static bool decode(const Chan__Pb__Envelope *pb, struct chan_env *out)
{
	bool is_hello =
		pb->kind == CHAN__PB__KIND__KIND_HELLO || pb->kind == CHAN__PB__KIND__KIND_WELCOME;

	if (pb->version < CHAN_MIN_VERSION || pb->version > CHAN_MAX_VERSION ||
	    pb->kind < CHAN__PB__KIND__KIND_HELLO || pb->kind > CHAN__PB__KIND__KIND_PONG ||
	    is_hello != (pb->hello != NULL))
		return false;
	if (is_hello && !decode_hello(pb->hello, &out->hello))
		return false;
	out->version = pb->version;
	out->kind = (enum chan_kind)pb->kind;
	out->id = pb->id;
	out->body = pb->body.data;
	out->len = pb->body.len;
	out->credit = pb->credit;
	return true;
}

int chan_env_decode(const void *data, size_t len, struct chan_env *out)
{
	struct chan_env env = {0};
	Chan__Pb__Envelope *pb;

	if (len > CHAN_MAX_BYTES)
		return -EBADMSG;
	pb = chan__pb__envelope__unpack(NULL, len, data);
	if (!pb)
		return -EBADMSG;
	if (!decode(pb, &env)) {
		chan__pb__envelope__free_unpacked(pb, NULL);
		return -EBADMSG;
	}
	env.backing = pb;
	*out = env;
	return 0;
}

void chan_env_fini(struct chan_env *env)
{
	if (env->backing)
		chan__pb__envelope__free_unpacked(env->backing, NULL);
	env->backing = NULL;
}
