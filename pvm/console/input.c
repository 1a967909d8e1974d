/*
 * Where commands come from. Both ways wait for the input and for messages together, so that the
 * output of jobs appears as it comes.
 */
#include <editline/readline.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pvm/console/console.h"

enum { FDS_MAX = 64 };

#define PROMPT "pvm> "

/* Waits until the input is readable; meanwhile jobs print. */
static void wait_input(void)
{
	struct pollfd p[FDS_MAX + 1] = {{.fd = STDIN_FILENO, .events = POLLIN}};

	fflush(stdout);
	while (!con_quitting) {
		int *fds = NULL, n;

		con_jobs_poll();
		fflush(stdout);
		n = pvm_getfds(&fds);
		if (n < 0)
			n = 0;
		if (n > FDS_MAX)
			n = FDS_MAX;
		for (int i = 0; i < n; i++)
			p[i + 1] = (struct pollfd){.fd = fds[i], .events = POLLIN};
		if (poll(p, (nfds_t)n + 1, -1) < 0 && errno != EINTR)
			return;
		if (p[0].revents)
			return;
	}
}

/* Commands read ahead of their turn, so that poll(2) tells the truth. */
struct pipe_input {
	char buf[CON_LINE_MAX];
	size_t len;
	bool eof;
};

/* A line into `out`, without its end; false at the end of the input. */
static bool next_line(struct pipe_input *in, char *out, bool *whole)
{
	for (;;) {
		char *end = memchr(in->buf, '\n', in->len);
		ssize_t n;

		if (end || (in->eof && in->len) || in->len == sizeof(in->buf) - 1) {
			size_t len = end ? (size_t)(end - in->buf) : in->len;

			memcpy(out, in->buf, len);
			out[len] = 0;
			*whole = end;
			in->len -= len + (end ? 1 : 0);
			memmove(in->buf, in->buf + len + (end ? 1 : 0), in->len);
			return true;
		}
		if (in->eof)
			return false;
		wait_input();
		n = read(STDIN_FILENO, in->buf + in->len, sizeof(in->buf) - 1 - in->len);
		if (n > 0)
			in->len += (size_t)n;
		else if (n == 0 || errno != EINTR)
			in->eof = true;
	}
}

void con_read_pipe(void)
{
	static struct pipe_input in;
	static char line[CON_LINE_MAX];

	while (!con_quitting) {
		bool whole = false;

		printf(PROMPT);
		con_jobs_poll();
		if (!next_line(&in, line, &whole)) {
			printf("quit\n");
			return;
		}
		/* The original echoes what it reads from a pipe, but for a last line without end. */
		if (whole)
			printf("%s\n", line);
		con_run_line(line);
	}
}

/* Completion: commands as the first word, host names behind the others. */
static char *complete(const char *text, int state)
{
	static int at, count;
	static struct pvmhostinfo *hosts;
	size_t len = strlen(text);
	int narch = 0;

	if (!state) {
		at = 0;
		count = 0;
		if (rl_point != (int)len && pvm_config(&count, &narch, &hosts))
			count = 0;
	}
	if (rl_point == (int)len) {
		while (at < con_command_count) {
			const char *name = con_commands[at++].name;

			if (!strncmp(name, text, len))
				return strdup(name);
		}
		return NULL;
	}
	while (at < count) {
		const char *name = hosts[at++].hi_name;

		if (!strncmp(name, text, len))
			return strdup(name);
	}
	return NULL;
}

static void line_in(char *line)
{
	if (!line) {
		con_quitting = true;
		rl_callback_handler_remove();
		return;
	}
	if (*line)
		add_history(line);
	con_run_line(line);
	fflush(stdout);
	free(line);
	if (con_quitting)
		rl_callback_handler_remove();
}

static void history_path(char *out, size_t cap)
{
	const char *home = getenv("HOME");

	snprintf(out, cap, "%s/.pvm_history", home ? home : ".");
}

void con_read_terminal(void)
{
	char path[4096], name[] = "pvm";

	history_path(path, sizeof(path));
	rl_readline_name = name;
	rl_completion_entry_function = complete;
	using_history();
	stifle_history(1000);
	read_history(path);
	rl_callback_handler_install(PROMPT, line_in);
	while (!con_quitting) {
		wait_input();
		rl_callback_read_char();
	}
	write_history(path);
}
