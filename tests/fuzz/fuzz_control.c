/*
 * Messages of the control channel; the first byte chooses envelope, request, reply or input. What
 * decodes must encode again, and that must decode.
 * libs: pg_proto
 */
#include <stdint.h>
#include <stdlib.h>

#include "proto/chan_wire.h"
#include "proto/control.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void envelope(const uint8_t *data, size_t size)
{
	struct chan_env env, again;
	uint8_t *bytes;
	size_t len;

	if (chan_env_decode(data, size, &env))
		return;
	if (chan_env_encode(&env, &bytes, &len) || chan_env_decode(bytes, len, &again))
		abort();
	chan_env_fini(&env);
	chan_env_fini(&again);
	free(bytes);
}

static void request(const uint8_t *data, size_t size)
{
	char why[VMSPEC_WHY_MAX];
	struct control_request r, again;
	uint8_t *bytes;
	size_t len;

	if (control_request_decode(data, size, &r, why))
		return;
	if (control_request_encode(&r, &bytes, &len) ||
	    control_request_decode(bytes, len, &again, why))
		abort();
	control_request_fini(&r);
	control_request_fini(&again);
	free(bytes);
}

static void reply(const uint8_t *data, size_t size)
{
	struct control_reply r, again;
	uint8_t *bytes;
	size_t len;

	if (control_reply_decode(data, size, &r))
		return;
	if (control_reply_encode(&r, &bytes, &len) || control_reply_decode(bytes, len, &again))
		abort();
	control_reply_fini(&r);
	control_reply_fini(&again);
	free(bytes);
}

static void input(const uint8_t *data, size_t size)
{
	struct control_input i, again;
	uint8_t *bytes;
	size_t len;

	if (control_input_decode(data, size, &i))
		return;
	if (control_input_encode(&i, &bytes, &len) || control_input_decode(bytes, len, &again))
		abort();
	control_input_fini(&i);
	control_input_fini(&again);
	free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static void (*const targets[])(const uint8_t *, size_t) = {envelope, request, reply, input};

	if (size)
		targets[data[0] % 4](data + 1, size - 1);
	return 0;
}
