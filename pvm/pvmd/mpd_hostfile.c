#include "pvm/pvmd/mpd_hostfile.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SPEED_MAX = 1000000 };

static const char *word(const char *p, char *out, size_t cap, bool *fits)
{
	size_t n = 0;

	while (isspace((unsigned char)*p))
		p++;
	while (*p && !isspace((unsigned char)*p)) {
		if (n + 1 < cap)
			out[n] = *p;
		n++;
		p++;
	}
	*fits = n < cap;
	out[n < cap ? n : cap - 1] = 0;
	return p;
}

static bool set(char *field, size_t cap, const char *value)
{
	size_t n = strlen(value);

	if (n >= cap)
		return false;
	memcpy(field, value, n + 1);
	return true;
}

static bool set_speed(struct mpd_hostline *h, const char *value)
{
	char *end;
	long v = strtol(value, &end, 10);

	if (end == value || *end || v < 1 || v > SPEED_MAX)
		return false;
	h->speed = (int)v;
	return true;
}

static bool option(struct mpd_hostline *h, const char *w)
{
	const char *v = w + 3;

	if (!strncmp(w, "lo=", 3))
		return set(h->login, sizeof(h->login), v);
	if (!strncmp(w, "so=", 3))
		return set(h->start, sizeof(h->start), v) &&
		       (!*v || !strcmp(v, "pw") || !strcmp(v, "ms"));
	if (!strncmp(w, "dx=", 3))
		return set(h->daemon, sizeof(h->daemon), v);
	if (!strncmp(w, "ep=", 3))
		return set(h->path, sizeof(h->path), v);
	if (!strncmp(w, "wd=", 3))
		return set(h->dir, sizeof(h->dir), v);
	if (!strncmp(w, "bx=", 3))
		return set(h->debugger, sizeof(h->debugger), v);
	if (!strncmp(w, "ip=", 3))
		return set(h->ip, sizeof(h->ip), v);
	if (!strncmp(w, "id=", 3))
		return set(h->vmid, sizeof(h->vmid), v) && !strchr(v, '/');
	if (!strncmp(w, "sp=", 3))
		return set_speed(h, v);
	return false;
}

/* A name that reaches a command line: nothing there may look like an option or a shell word. */
static bool name_ok(const char *name)
{
	if (!*name || *name == '-')
		return false;
	for (const char *p = name; *p; p++)
		if (!isalnum((unsigned char)*p) && !strchr(".-_", *p))
			return false;
	return true;
}

int mpd_hostline_parse(const char *line, const struct mpd_hostline *base, struct mpd_hostline *out,
		       char *why, size_t why_cap)
{
	struct mpd_hostline h = {0};
	char w[MPD_FIELD_MAX + 4];
	bool fits;

	if (base)
		h = *base;
	h.name[0] = 0;
	h.defaults = h.later = false;
	line = word(line, w, sizeof(w), &fits);
	if (!*w || *w == '#') {
		*out = h;
		return 0;
	}
	if (!strcmp(w, "*")) {
		h.defaults = true;
	} else {
		const char *name = w;

		if (!strcmp(w, "&")) {
			h.later = true;
			line = word(line, w, sizeof(w), &fits);
		} else if (*w == '&') {
			h.later = true;
			name++;
		}
		/* "$" overloads a host in the original; every host may be overloaded here. */
		if (*name == '$')
			name++;
		if (!fits || !name_ok(name) || !set(h.name, sizeof(h.name), name)) {
			snprintf(why, why_cap, "'%.64s' is not a host name", w);
			return -EINVAL;
		}
	}
	for (;;) {
		line = word(line, w, sizeof(w), &fits);
		if (!*w || *w == '#')
			break;
		if (!fits || !option(&h, w)) {
			snprintf(why, why_cap, "option '%.64s' is not valid", w);
			return -EINVAL;
		}
	}
	*out = h;
	return 0;
}
