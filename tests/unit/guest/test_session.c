/* pangaea-guest's sessions over a channel that loses, repeats and garbles lines (seeded). */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/rng.h"
#include "node/guest/session.h"

enum { BYTES = 200000, WAIT_S = 50 };

static struct base_loop *loop;
static struct guest_helper helper;
static struct base_watch children;
static struct base_rng rng;
static unsigned loss; /* percent */
static struct guest_reader to_guest, to_host;

/* The other end: as ctl/session.c, without a cluster. */
static struct host {
	uint64_t id, taken, output, next_in;
	bool over;
	int status;
	struct guest_line pending;
	int64_t sent_ns;
	uint8_t sum_in, *got;
} host;

static void host_take(void *ctx, const struct guest_line *l);
static void guest_line_in(void *ctx, const struct guest_line *l)
{
	guest_take(&helper, l);
}

/* Lines on the way, both directions; delivered by step(). */
static struct {
	char text[GUEST_LINE_MAX + 1];
	size_t len;
	bool to_host;
} queue[256];
static size_t queue_len;

static void enqueue(const char *text, size_t len, bool to)
{
	assert_true(queue_len < 256);
	memcpy(queue[queue_len].text, text, len);
	queue[queue_len].len = len;
	queue[queue_len++].to_host = to;
}

/* Some lines get lost, some come twice, some with a wrong byte. */
static void carry(const struct guest_line *l, bool to)
{
	char text[GUEST_LINE_MAX + 1];
	size_t len = guest_line_print(l, text);
	uint64_t fate = base_rng_next(&rng) % 100;

	if (fate < loss)
		return;
	if (fate < 2 * loss)
		text[base_rng_next(&rng) % len] ^= 1;
	enqueue(text, len, to);
	if (fate >= 2 * loss && fate < 3 * loss)
		enqueue(text, len, to);
}

static void deliver(void)
{
	size_t n = queue_len;

	for (size_t i = 0; i < n; i++)
		guest_reader_feed(queue[i].to_host ? &to_host : &to_guest, queue[i].text,
				  queue[i].len, queue[i].to_host ? host_take : guest_line_in, NULL);
	queue_len -= n;
	memmove(queue, queue + n, queue_len * sizeof(queue[0]));
}

static void guest_says(const struct guest_line *l)
{
	carry(l, true);
}

static void host_says(enum guest_verb verb, uint64_t number)
{
	struct guest_line l = {
		.direction = '>', .session = host.id, .verb = verb, .number = number};

	carry(&l, false);
}

static void host_send(void)
{
	if (!host.pending.verb)
		return;
	host.sent_ns = base_clock_ns();
	carry(&host.pending, false);
}

static void host_take(void *ctx, const struct guest_line *l)
{
	if (l->direction != '<' || l->session != host.id || host.over)
		return;
	if (l->verb == GUEST_ACK && host.pending.verb && l->number >= host.pending.number) {
		host.taken = host.pending.number;
		host.pending.verb = 0;
	} else if (l->verb == GUEST_OUT) {
		if (l->number == host.output) {
			assert_true(host.output + l->len <= BYTES);
			memcpy(host.got + host.output, l->data, l->len);
			host.output += l->len;
		}
		host_says(GUEST_GOT, host.output);
	} else if (l->verb == GUEST_EXIT && l->number == host.output) {
		host.over = true;
		host.status = l->data[0];
		host_says(GUEST_CLOSE, 0);
	} else {
		assert_int_not_equal(l->verb, GUEST_GONE);
	}
}

static void host_open(const char *command)
{
	host = (struct host){.id = base_rng_next(&rng), .got = host.got};
	host.pending = (struct guest_line){.direction = '>',
					   .session = host.id,
					   .verb = GUEST_OPEN,
					   .number = 1,
					   .len = strlen(command)};
	memcpy(host.pending.data, command, host.pending.len);
	host_send();
}

static void step(void)
{
	deliver();
	assert_int_equal(base_loop_step(loop, queue_len ? 0 : 5), 0);
	if (base_clock_ns() - host.sent_ns > 50 * BASE_NS_PER_MS)
		host_send();
}

static void children_ready(struct base_watch *w, uint32_t events)
{
	struct signalfd_siginfo si;
	int status;
	pid_t pid;

	while (read(w->fd, &si, sizeof(si)) > 0)
		continue;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		guest_reaped(&helper, pid, status);
}

static int setup(void **state)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	base_rng_seed(&rng, 7);
	queue_len = 0;
	to_guest = to_host = (struct guest_reader){0};
	assert_int_equal(base_loop_new(&loop), 0);
	children = (struct base_watch){.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK),
				       .events = EPOLLIN,
				       .ready = children_ready};
	assert_int_equal(base_loop_add(loop, &children), 0);
	helper = (struct guest_helper){.loop = loop, .send = guest_says, .again_ms = 30};
	base_list_init(&helper.sessions);
	host.got = malloc(BYTES);
	return 0;
}

static int teardown(void **state)
{
	base_loop_remove(&children);
	close(children.fd);
	base_loop_free(loop);
	free(host.got);
	return 0;
}

/* As after a lost "close": the session must go all the same. */
static void until_closed(void)
{
	while (helper.session_count) {
		host_says(GUEST_CLOSE, 0);
		step();
	}
}

static void until_over(void)
{
	int64_t end = base_clock_ns() + WAIT_S * BASE_NS_PER_SEC;

	while (!host.over) {
		assert_true(base_clock_ns() < end);
		step();
	}
	until_closed();
}

static void output_and_status(void **state)
{
	loss = 0;
	host_open("echo one; echo two >&2; exit 3");
	until_over();
	assert_int_equal(host.status, 3);
	assert_int_equal(host.output, 8);
	assert_memory_equal(host.got, "one\ntwo\n", 8);
	host_open("kill -TERM $$");
	until_over();
	assert_int_equal(host.status, 128 + SIGTERM);
}

/* A daemon that it leaves behind does not hold it. */
static void leaves_a_daemon(void **state)
{
	loss = 0;
	host_open("sleep 30 & echo $!");
	until_over();
	assert_int_equal(host.status, 0);
	host.got[host.output] = 0;
	assert_int_equal(kill((pid_t)strtol((char *)host.got, NULL, 10), SIGKILL), 0);
}

static void ends_by_kill(void **state)
{
	loss = 0;
	host_open("exec sleep 60");
	while (host.pending.verb)
		step();
	host_says(GUEST_KILL, 0);
	until_over();
	assert_int_equal(host.status, 128 + SIGHUP);
}

/* Through cat and back, with every tenth line lost, every tenth garbled, every tenth twice. */
static void through_a_bad_channel(void **state)
{
	uint64_t sent = 0;
	int64_t end = base_clock_ns() + WAIT_S * BASE_NS_PER_SEC;
	bool eof = false;

	loss = 10;
	host_open("cat");
	while (!host.over) {
		assert_true(base_clock_ns() < end);
		if (!host.pending.verb && host.taken && !eof) {
			host.pending.verb = sent < BYTES / 10 ? GUEST_IN : GUEST_EOF;
			host.pending.number = host.taken + 1;
			host.pending.len = host.pending.verb == GUEST_IN ? 1000 : 0;
			for (size_t i = 0; i < host.pending.len; i++)
				host.pending.data[i] = (uint8_t)((sent + i) * 7 >> 3);
			sent += host.pending.len;
			eof = host.pending.verb == GUEST_EOF;
			host_send();
		}
		step();
	}
	assert_int_equal(host.status, 0);
	assert_int_equal(host.output, sent);
	for (uint64_t i = 0; i < sent; i++)
		assert_int_equal(host.got[i], (uint8_t)(i * 7 >> 3));
	until_closed();
}

/* More than the window and the buffer hold: the command waits for us. */
static void waits_for_the_reader(void **state)
{
	loss = 0;
	host_open("yes | head -c 150000");
	until_over();
	assert_int_equal(host.output, 150000);
	assert_memory_equal(host.got + 149998, "y\n", 2);
}

static void lines_are_checked(void **state)
{
	struct guest_line l = {.direction = '>', .session = 5, .verb = GUEST_IN, .number = 9}, back;
	char text[GUEST_LINE_MAX + 1];
	size_t len;

	for (l.len = 0; l.len <= 5; l.len++) {
		memset(l.data, (int)(0xf0 + l.len), l.len);
		len = guest_line_print(&l, text);
		assert_int_equal(text[len - 1], '\n');
		assert_true(guest_line_parse(text, len - 1, &back));
		assert_int_equal(back.verb, GUEST_IN);
		assert_int_equal(back.number, 9);
		assert_int_equal(back.len, l.len);
		assert_memory_equal(back.data, l.data, l.len);
		for (size_t i = 0; i + 1 < len; i++) {
			text[i] ^= 1;
			assert_false(guest_line_parse(text, len - 1, &back));
			text[i] ^= 1;
		}
	}
	l.len = GUEST_DATA_MAX;
	memset(l.data, 0, sizeof(l.data));
	len = guest_line_print(&l, text);
	assert_true(len < GUEST_LINE_MAX);
	assert_true(guest_line_parse(text, len - 1, &back));
	assert_false(guest_line_parse("", 0, &back));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lines_are_checked),
		cmocka_unit_test_setup_teardown(output_and_status, setup, teardown),
		cmocka_unit_test_setup_teardown(leaves_a_daemon, setup, teardown),
		cmocka_unit_test_setup_teardown(ends_by_kill, setup, teardown),
		cmocka_unit_test_setup_teardown(through_a_bad_channel, setup, teardown),
		cmocka_unit_test_setup_teardown(waits_for_the_reader, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
