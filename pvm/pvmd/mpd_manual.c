/*
 * so=ms: the user at the daemon's terminal is the hoster. He is told what to type on the other host and
 * types back what the daemon there printed. One host after the other; all else as in mpd_hoster.c.
 */
#include <errno.h>
#include <pvm3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/clock.h"
#include "base/log.h"
#include "pvm/pvmd/mpd_start.h"

enum { TEXT_MAX = 4096 };

static struct mpd_start *find(struct mpd *pd, enum mpd_manual state)
{
	base_list_foreach (s, &pd->starts, struct mpd_start, link)
		if (s->manual == state && !s->result)
			return s;
	return NULL;
}

static void stop_reading(struct mpd *pd)
{
	if (pd->terminal.loop)
		base_loop_remove(&pd->terminal);
	pd->terminal_len = 0;
}

static void refuse_all(struct mpd *pd, const char *why)
{
	struct mpd_start *s;

	stop_reading(pd);
	while ((s = find(pd, MPD_MANUAL_ASKED)) || (s = find(pd, MPD_MANUAL_WAITS))) {
		mpd_log(pd, "cannot add %s by hand (so=ms): %s", s->line.name, why);
		s->manual = MPD_MANUAL_NO;
		mpd_start_result(s, PvmCantStart);
	}
}

static void take_line(struct mpd *pd, char *line)
{
	struct mpd_start *s = find(pd, MPD_MANUAL_ASKED);
	size_t n;

	line += strspn(line, " \t");
	for (n = strlen(line); n && strchr(" \t\r", line[n - 1]); n--)
		line[n - 1] = 0;
	if (!s || !n)
		return;
	if (!strstr(line, "ddpro<") && !strstr(line, "Pvm")) {
		printf("That is not the line of a daemon (ddpro<...). Type response:\n");
		fflush(stdout);
		return;
	}
	s->manual = MPD_MANUAL_TOLD;
	printf("Thanks\n");
	fflush(stdout);
	mpd_hoster_line(s, line);
	mpd_manual_next(pd);
}

static void terminal_ready(struct base_watch *w, uint32_t events)
{
	struct mpd *pd = base_container_of(w, struct mpd, terminal);
	char line[TEXT_MAX], *end;
	ssize_t n = read(w->fd, pd->terminal_text + pd->terminal_len,
			 sizeof(pd->terminal_text) - pd->terminal_len);

	(void)events;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		refuse_all(pd, "the terminal is gone");
		return;
	}
	pd->terminal_len += (size_t)n;
	while (pd->terminal_len && (end = memchr(pd->terminal_text, '\n', pd->terminal_len))) {
		size_t len = (size_t)(end - pd->terminal_text);

		memcpy(line, pd->terminal_text, len);
		line[len] = 0;
		pd->terminal_len -= len + 1;
		memmove(pd->terminal_text, end + 1, pd->terminal_len);
		take_line(pd, line);
	}
	if (pd->terminal_len == sizeof(pd->terminal_text))
		pd->terminal_len = 0;
}

static int start_reading(struct mpd *pd)
{
	if (pd->terminal.loop)
		return 0;
	pd->terminal_len = 0;
	pd->terminal =
		(struct base_watch){.fd = STDIN_FILENO, .events = EPOLLIN, .ready = terminal_ready};
	return base_loop_add(pd->loop, &pd->terminal);
}

void mpd_manual_next(struct mpd *pd)
{
	struct mpd_start *s;
	char command[MPD_PATH_MAX + 512];

	if (find(pd, MPD_MANUAL_ASKED))
		return;
	s = find(pd, MPD_MANUAL_WAITS);
	if (!s) {
		stop_reading(pd);
		return;
	}
	/* Its standard input is none that can be waited for: /dev/null, a file. */
	if (start_reading(pd)) {
		refuse_all(pd, "start pvmd3 yourself, in a terminal");
		return;
	}
	s->manual = MPD_MANUAL_ASKED;
	mpd_hoster_command(s, "-S", command, sizeof(command));
	printf("*** Manual startup ***\nLogin to \"%s%s%s\" and type:\n%s\nType response:\n",
	       s->line.login, *s->line.login ? "@" : "", s->line.name, command);
	fflush(stdout);
}
