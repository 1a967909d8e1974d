/*
 * One request to a pangaea-vmm, by its control socket, for tests without an agent:
 *   lab-vm RUN-DIR status | stats | pause | resume | powerdown | kill | reset | registers
 *   lab-vm RUN-DIR wait STATE     until it is in this state (or has failed)
 *   lab-vm RUN-DIR move VCPU SLICE
 *   lab-vm RUN-DIR empty SLICE TO [PAGES/S]
 *   lab-vm RUN-DIR join SLICE ADDRESS GROUP
 *   lab-vm RUN-DIR join-cancel SLICE
 *   lab-vm RUN-DIR save FILE
 * Prints the answer. Exit code 0; 1: refused, with the reason; 3: nobody listens or answers.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/loop.h"
#include "proto/vmmctl.h"

enum { ANSWER_MS = 60000, SAVE_MS = 120000, EXIT_REFUSED = 1, EXIT_USAGE = 2, EXIT_NOBODY = 3 };

static const struct {
	const char *name;
	enum vmmctl_op op;
} words[] = {
	{"status", VMMCTL_STATUS},	 {"stats", VMMCTL_STATS},	  {"pause", VMMCTL_PAUSE},
	{"resume", VMMCTL_RESUME},	 {"kill", VMMCTL_KILL},		  {"reset", VMMCTL_RESET},
	{"places", VMMCTL_PLACES},	 {"powerdown", VMMCTL_POWERDOWN}, {"wait", VMMCTL_STATUS},
	{"registers", VMMCTL_REGISTERS},
};

struct ask {
	struct base_loop *loop;
	const char *wait_for; /* NULL: one answer */
};

static bool is_final(enum vmmctl_state s)
{
	return s == VMMCTL_STOPPED || s == VMMCTL_FAILED;
}

static void seen(struct ask *a, enum vmmctl_state state, const char *reason)
{
	const char *name = vmmctl_state_name(state);
	bool there = !a->wait_for || strcmp(a->wait_for, name) == 0;

	if (!there && !is_final(state))
		return;
	printf("%s %s\n", name, reason ? reason : "");
	base_loop_stop(a->loop, there ? 0 : EXIT_REFUSED);
}

static void on_event(void *ctx, const struct vmmctl_event *e)
{
	struct ask *a = ctx;

	if (a->wait_for && e->kind == VMMCTL_EVENT_STATE)
		seen(a, e->state, e->text);
}

static void on_closed(void *ctx, int error)
{
	struct ask *a = ctx;

	fprintf(stderr, "lab-vm: the other side closed: %s\n", strerror(-error));
	base_loop_stop(a->loop, EXIT_NOBODY);
}

static void on_reply(void *arg, const struct vmmctl_reply *r)
{
	struct ask *a = arg;

	if (r->error) {
		fprintf(stderr, "lab-vm: %s\n", r->text ? r->text : strerror(-r->error));
		base_loop_stop(a->loop, r->error == -ECONNRESET || r->error == -ETIMEDOUT
						? EXIT_NOBODY
						: EXIT_REFUSED);
		return;
	}
	for (size_t i = 0; i < r->stat_count; i++)
		printf("%s %llu\n", r->stats[i].name, (unsigned long long)r->stats[i].value);
	if (r->text)
		fputs(r->text, stdout);
	if (r->status)
		seen(a, r->status->state, r->status->reason);
	else
		base_loop_stop(a->loop, 0);
}

static int ask(const char *dir, const struct vmmctl_request *request, int fd, const char *wait_for)
{
	static const struct vmmctl_client_ops ops = {.event = on_event, .closed = on_closed};
	struct ask a = {.wait_for = wait_for};
	struct vmmctl_client *client = NULL;
	bool saves = request->op == VMMCTL_SAVE || request->op == VMMCTL_SAVE_LIVE;
	int err = base_loop_new(&a.loop), code;

	if (!err)
		err = vmmctl_client_new(a.loop, dir, &ops, &a, &client);
	if (!err)
		err = vmmctl_client_call(client, request, fd, saves ? SAVE_MS : ANSWER_MS, on_reply,
					 &a);
	if (err)
		fprintf(stderr, "lab-vm: %s: %s\n", dir, strerror(-err));
	code = err ? EXIT_NOBODY : base_loop_run(a.loop);
	vmmctl_client_free(client);
	base_loop_free(a.loop);
	return code;
}

int main(int argc, char **argv)
{
	struct vmmctl_request request = {.op = VMMCTL_MOVE_VCPU};

	if (argc == 5 && strcmp(argv[2], "move") == 0) {
		request.cols = (uint16_t)atoi(argv[3]);
		request.rows = (uint16_t)atoi(argv[4]);
		return ask(argv[1], &request, -1, NULL);
	}
	if (argc == 4 && strcmp(argv[2], "join-cancel") == 0) {
		request.op = VMMCTL_JOIN_CANCEL;
		request.cols = (uint16_t)atoi(argv[3]);
		return ask(argv[1], &request, -1, NULL);
	}
	if (argc == 6 && strcmp(argv[2], "join") == 0) {
		request.op = VMMCTL_JOIN;
		request.cols = (uint16_t)atoi(argv[3]);
		snprintf(request.text, sizeof(request.text), "%s", argv[4]);
		request.rate = strtoull(argv[5], NULL, 16);
		return ask(argv[1], &request, -1, NULL);
	}
	if (argc == 4 && (!strcmp(argv[2], "save") || !strcmp(argv[2], "save-live"))) {
		int fd = open(argv[3], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

		request.op = argv[2][4] ? VMMCTL_SAVE_LIVE : VMMCTL_SAVE;
		if (fd >= 0)
			return ask(argv[1], &request, fd, NULL);
		perror(argv[3]);
		return EXIT_USAGE;
	}
	if ((argc == 5 || argc == 6) && strcmp(argv[2], "empty") == 0) {
		request = (struct vmmctl_request){.op = VMMCTL_EMPTY,
						  .cols = (uint16_t)atoi(argv[3]),
						  .rows = (uint16_t)atoi(argv[4]),
						  .rate = argc == 6 ? strtoull(argv[5], NULL, 10)
								    : 0};
		return ask(argv[1], &request, -1, NULL);
	}
	for (size_t i = 0; argc >= 3 && i < BASE_ARRAY_LEN(words); i++) {
		bool waits = strcmp(argv[2], "wait") == 0;

		request.op = words[i].op;
		if (strcmp(argv[2], words[i].name) == 0 && argc == (waits ? 4 : 3))
			return ask(argv[1], &request, -1, waits ? argv[3] : NULL);
	}
	fprintf(stderr, "usage: lab-vm RUN-DIR status|stats|pause|resume|powerdown|kill|reset|"
			"registers|wait STATE|move VCPU SLICE|empty SLICE TO|places|"
			"join SLICE ADDRESS GROUP|join-cancel SLICE|save FILE|save-live FILE\n");
	return EXIT_USAGE;
}
