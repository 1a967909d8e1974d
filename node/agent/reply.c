/* Answers to a call, with a text for people. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/log.h"
#include "node/agent/agent.h"

void agent_reply(struct chan_call *call, const struct control_reply *reply)
{
	struct control_reply small = {.code = CONTROL_FAILED};
	uint8_t *data;
	size_t len;
	int rc = control_reply_encode(reply, &data, &len);

	if (rc == -EMSGSIZE) {
		small.text = "the answer is too long for one message; ask for less";
		rc = control_reply_encode(&small, &data, &len);
	}
	if (rc) {
		log_error("no memory for a reply");
		chan_call_reply(call, NULL, 0);
		return;
	}
	chan_call_reply(call, data, len);
	free(data);
}

void agent_reply_text(struct chan_call *call, enum control_code code, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	agent_reply(call, &(struct control_reply){.code = code, .text = text});
}

int agent_item(struct chan_call *call, const struct control_reply *reply)
{
	uint8_t *data;
	size_t len;
	int rc = control_reply_encode(reply, &data, &len);

	if (rc)
		return rc;
	rc = chan_call_item(call, data, len);
	free(data);
	return rc;
}
