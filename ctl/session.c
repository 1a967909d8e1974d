#include "ctl/session.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/log.h"

enum {
	TICK_MS = 500,
	QUEUE_LINES = 32,	      /* towards the guest, waiting for credit */
	FIRST_WORD_MS = 20000,	      /* until the guest's helper answers */
	SILENCE_MS = GUEST_SILENT_MS, /* until we give up afterwards */
};

struct ctl_session {
	struct ctl *ctl;
	char vm[TEXT_NAME_MAX], command[GUEST_COMMAND_MAX + 1];
	const struct ctl_session_ops *ops;
	void *ctx;
	uint64_t id;
	struct chan_out *out; /* NULL: no channel at this moment */
	struct guest_reader reader;
	struct base_timer timer;
	int64_t opened_ns, heard_ns, sent_ns, got_ns;
	bool answered, over, eof_wanted;
	int code;		   /* once over: of the command, or ours */
	char why[256];		   /* not empty: it failed */
	uint64_t taken;		   /* lines of open, in and eof that the guest has */
	uint64_t output;	   /* bytes that have come */
	struct guest_line pending; /* on the way: verb 0: none */
};

static void session_connect(struct ctl_session *s);

static void session_end(struct ctl_session *s, int code, const char *why)
{
	if (s->over)
		return;
	s->over = true;
	s->code = code;
	snprintf(s->why, sizeof(s->why), "%s", why);
}

/* ---- to the guest ---- */

/* What does not get through is repeated by the timer. */
static void send_line(struct ctl_session *s, struct guest_line *l)
{
	char text[GUEST_LINE_MAX + 2] = "\n"; /* ends what another left unfinished */
	struct control_input in = {.data = text};
	uint8_t *body;
	size_t len;

	if (!s->out)
		return;
	l->direction = '>';
	l->session = s->id;
	in.len = 1 + guest_line_print(l, text + 1);
	if (control_input_encode(&in, &body, &len))
		return;
	if (chan_out_input(s->out, body, len))
		log_debug("%s: a line waits", s->vm);
	free(body);
}

static void send_pending(struct ctl_session *s)
{
	if (!s->pending.verb)
		return;
	send_line(s, &s->pending);
	s->sent_ns = base_clock_ns();
}

static void send_word(struct ctl_session *s, enum guest_verb verb, uint64_t number)
{
	struct guest_line l = {.verb = verb, .number = number};

	send_line(s, &l);
	if (verb == GUEST_GOT)
		s->got_ns = base_clock_ns();
}

static void session_next(struct ctl_session *s)
{
	if (s->pending.verb)
		return;
	if (s->eof_wanted) {
		s->eof_wanted = false;
		s->pending.verb = GUEST_EOF;
		s->pending.number = s->taken + 1;
		s->pending.len = 0;
		send_pending(s);
	} else if (s->ops->wants_input) {
		s->ops->wants_input(s->ctx);
	}
}

size_t ctl_session_input(struct ctl_session *s, const void *data, size_t len)
{
	if (s->pending.verb || s->over || !len)
		return 0;
	s->pending.verb = GUEST_IN;
	s->pending.number = s->taken + 1;
	s->pending.len = BASE_MIN(len, (size_t)GUEST_DATA_MAX);
	memcpy(s->pending.data, data, s->pending.len);
	send_pending(s);
	return s->pending.len;
}

void ctl_session_eof(struct ctl_session *s)
{
	s->eof_wanted = true;
	session_next(s);
}

void ctl_session_kill(struct ctl_session *s)
{
	send_word(s, GUEST_KILL, 0);
}

/* ---- from the guest ---- */

static void take_output(struct ctl_session *s, const struct guest_line *l)
{
	/* What came before is told again; what comes too early will come again. */
	if (l->number == s->output && l->len) {
		s->output += l->len;
		s->ops->output(s->ctx, l->data, l->len);
	}
	send_word(s, GUEST_GOT, s->output);
}

static void take_ack(struct ctl_session *s, uint64_t number)
{
	if (!s->pending.verb || number < s->pending.number)
		return;
	s->taken = s->pending.number;
	s->pending.verb = 0;
	session_next(s);
}

static void take_line(void *ctx, const struct guest_line *l)
{
	struct ctl_session *s = ctx;

	if (l->direction != '<' || l->session != s->id || s->over)
		return;
	s->answered = true;
	s->heard_ns = base_clock_ns();
	switch (l->verb) {
	case GUEST_ACK: take_ack(s, l->number); break;
	case GUEST_OUT: take_output(s, l); break;
	case GUEST_EXIT:
		if (l->number != s->output || l->len != 1)
			break;
		send_word(s, GUEST_CLOSE, 0);
		session_end(s, l->data[0], "");
		break;
	case GUEST_GONE:
		session_end(s, CONTROL_FAILED,
			    "the guest knows nothing of it any more: has it restarted?");
		break;
	default: break;
	}
}

/* ---- the channel ---- */

static void channel_item(void *arg, const void *body, size_t len)
{
	struct ctl_session *s = arg;
	struct control_reply item;

	if (control_reply_decode(body, len, &item))
		return;
	guest_reader_feed(&s->reader, item.data, item.data_len, take_line, s);
	control_reply_fini(&item);
	chan_out_grant(s->out, 1);
}

/* The VM moves, or an agent restarts: the timer connects anew. A refusal before the first word is final. */
static void channel_done(void *arg, int error, const void *body, size_t len)
{
	struct ctl_session *s = arg;
	struct control_reply r;

	s->out = NULL;
	s->reader = (struct guest_reader){0};
	if (error || control_reply_decode(body, len, &r)) {
		if (!s->answered)
			session_end(s, control_code_of(error), control_error_text(error));
		return;
	}
	if (r.code && !s->answered)
		session_end(s, (int)r.code, r.text);
	control_reply_fini(&r);
}

static const struct chan_out_ops channel_ops = {.item = channel_item, .done = channel_done};

static void session_connect(struct ctl_session *s)
{
	struct control_request req = {.op = CONTROL_VM_CHANNEL};
	uint8_t *body;
	size_t len;

	memcpy(req.vm, s->vm, sizeof(req.vm));
	if (control_request_encode(&req, &body, &len))
		return;
	if (chan_link_call(s->ctl->link, body, len, CTL_CALL_MS, true, &channel_ops, s, &s->out))
		s->out = NULL;
	free(body);
	send_pending(s);
	if (s->answered)
		send_word(s, GUEST_GOT, s->output);
}

static void tick(struct base_timer *t)
{
	struct ctl_session *s = base_container_of(t, struct ctl_session, timer);
	int64_t now = base_clock_ns();

	if (s->over)
		return;
	base_loop_timer(s->ctl->loop, t, now + TICK_MS * BASE_NS_PER_MS);
	if (!s->answered && now - s->opened_ns > FIRST_WORD_MS * BASE_NS_PER_MS) {
		session_end(
			s, CONTROL_TIMEOUT,
			"nothing answers in the guest: is it up, and does pangaea-guest run there?");
		return;
	}
	if (s->answered && now - s->heard_ns > SILENCE_MS * BASE_NS_PER_MS) {
		session_end(s, CONTROL_TIMEOUT, "the guest does not answer any more");
		return;
	}
	if (!s->out) {
		session_connect(s);
		return;
	}
	if (now - s->sent_ns > GUEST_AGAIN_MS * BASE_NS_PER_MS)
		send_pending(s);
	if (s->answered && now - s->got_ns > GUEST_ALIVE_MS * BASE_NS_PER_MS)
		send_word(s, GUEST_GOT, s->output);
}

/* ---- life ---- */

int ctl_session_open(struct ctl *c, const char *vm, const char *command,
		     const struct ctl_session_ops *ops, void *ctx, struct ctl_session **out)
{
	struct ctl_session *s;
	int code = ctl_connect(c);

	if (code)
		return code;
	if (strlen(command) > GUEST_COMMAND_MAX)
		return ctl_fail(c, CONTROL_USAGE, "the command is too long: at most %d bytes",
				GUEST_COMMAND_MAX);
	s = calloc(1, sizeof(*s));
	if (!s || getrandom(&s->id, sizeof(s->id), 0) != sizeof(s->id)) {
		free(s);
		return ctl_fail(c, CONTROL_FAILED, "out of memory");
	}
	s->ctl = c;
	s->ops = ops;
	s->ctx = ctx;
	snprintf(s->vm, sizeof(s->vm), "%s", vm);
	s->opened_ns = s->heard_ns = base_clock_ns();
	s->pending.verb = GUEST_OPEN;
	s->pending.number = 1;
	s->pending.len = strlen(command);
	memcpy(s->pending.data, command, s->pending.len);
	s->timer.fire = tick;
	base_loop_timer(c->loop, &s->timer, s->opened_ns + TICK_MS * BASE_NS_PER_MS);
	session_connect(s);
	*out = s;
	return 0;
}

bool ctl_session_over(const struct ctl_session *s)
{
	return s->over;
}

int ctl_session_wait(struct ctl_session *s)
{
	while (!s->over) {
		int rc = base_loop_step(s->ctl->loop, -1);

		if (rc)
			return ctl_fail(s->ctl, CONTROL_FAILED, "%s", strerror(-rc));
	}
	return s->why[0] ? ctl_fail(s->ctl, (enum control_code)s->code, "%s: %s", s->vm, s->why)
			 : s->code;
}

void ctl_session_free(struct ctl_session *s)
{
	if (!s)
		return;
	if (!s->over) {
		send_word(s, GUEST_CLOSE, 0);
		for (int i = 0; i < 3; i++)
			if (base_loop_step(s->ctl->loop, 10))
				break;
	}
	base_loop_timer_cancel(&s->timer);
	if (s->out)
		chan_out_cancel(s->out);
	free(s);
}
