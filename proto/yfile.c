#include "proto/yfile.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <yaml.h>

#include "proto/text.h"

struct yfile {
	yaml_document_t doc;
	const char *name;
	char *why;
	size_t cap;
	bool failed;
};

int yfile_fail(struct yfile *f, int node, const char *fmt, ...)
{
	const yaml_node_t *n = yaml_document_get_node(&f->doc, node);
	va_list ap;
	int len;

	if (f->failed)
		return -EBADMSG;
	f->failed = true;
	len = snprintf(f->why, f->cap, "%s:%zu: ", f->name, n ? n->start_mark.line + 1 : 1);
	if (len < 0 || (size_t)len >= f->cap)
		return -EBADMSG;
	va_start(ap, fmt);
	vsnprintf(f->why + len, f->cap - (size_t)len, fmt, ap);
	va_end(ap);
	text_clean(f->why);
	return -EBADMSG;
}

/* The loader resolves aliases silently, so they are looked for before. */
static int check_events(const char *name, const void *text, size_t len, char *why, size_t cap)
{
	yaml_parser_t parser;
	yaml_event_t event;
	int documents = 0, rc = 0, depth = 0;
	bool end = false;

	if (!yaml_parser_initialize(&parser))
		return -ENOMEM;
	yaml_parser_set_input_string(&parser, text, len);
	while (!rc && !end) {
		const char *bad = NULL;
		size_t line;

		if (!yaml_parser_parse(&parser, &event)) {
			snprintf(why, cap, "%s:%zu: %s", name, parser.problem_mark.line + 1,
				 parser.problem ? parser.problem : "not YAML");
			rc = -EBADMSG;
			break;
		}
		line = event.start_mark.line + 1;
		if (event.type == YAML_ALIAS_EVENT)
			bad = "aliases are not allowed";
		else if (event.type == YAML_DOCUMENT_START_EVENT && ++documents > 1)
			bad = "only one document is allowed";
		else if (event.type == YAML_MAPPING_START_EVENT ||
			 event.type == YAML_SEQUENCE_START_EVENT)
			bad = ++depth > 16 ? "nested too deeply" : NULL;
		else if (event.type == YAML_MAPPING_END_EVENT ||
			 event.type == YAML_SEQUENCE_END_EVENT)
			depth--;
		end = event.type == YAML_STREAM_END_EVENT;
		yaml_event_delete(&event);
		if (bad) {
			snprintf(why, cap, "%s:%zu: %s", name, line, bad);
			rc = -EBADMSG;
		}
	}
	yaml_parser_delete(&parser);
	if (rc)
		text_clean(why);
	return rc;
}

int yfile_parse(const char *name, const void *text, size_t len, char *why, size_t cap,
		struct yfile **out)
{
	yaml_parser_t parser;
	struct yfile *f;
	int rc;

	if (len > YFILE_MAX_BYTES) {
		snprintf(why, cap, "%s: longer than %d KiB", name, YFILE_MAX_BYTES / 1024);
		return -E2BIG;
	}
	rc = check_events(name, text, len, why, cap);
	if (rc)
		return rc;
	f = calloc(1, sizeof(*f));
	if (!f || !yaml_parser_initialize(&parser)) {
		free(f);
		return -ENOMEM;
	}
	yaml_parser_set_input_string(&parser, text, len);
	f->name = name;
	f->why = why;
	f->cap = cap;
	rc = yaml_parser_load(&parser, &f->doc) ? 0 : -EBADMSG;
	if (rc) {
		snprintf(why, cap, "%s:%zu: %s", name, parser.problem_mark.line + 1,
			 parser.problem ? parser.problem : "not YAML");
		text_clean(why);
		free(f);
	} else if (!yaml_document_get_root_node(&f->doc)) {
		snprintf(why, cap, "%s: empty", name);
		yfile_free(f);
		rc = -EBADMSG;
	} else {
		*out = f;
	}
	yaml_parser_delete(&parser);
	return rc;
}

/* Reads one byte more than allowed, to tell "too long". */
static ssize_t read_whole(int fd, char *buf, size_t cap)
{
	size_t len = 0;

	while (len < cap) {
		ssize_t n = read(fd, buf + len, cap - len);

		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		len += (size_t)n;
	}
	return (ssize_t)len;
}

int yfile_read(const char *path, char *why, size_t cap, struct yfile **out)
{
	BASE_AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	BASE_AUTO_FREE char *text = malloc(YFILE_MAX_BYTES + 1);
	struct stat st;
	ssize_t n;

	if (!text)
		return -ENOMEM;
	if (fd < 0 || fstat(fd, &st)) {
		n = -errno;
	} else if (!S_ISREG(st.st_mode)) {
		snprintf(why, cap, "%s: not a regular file", path);
		return -EINVAL;
	} else {
		n = read_whole(fd, text, YFILE_MAX_BYTES + 1);
	}
	if (n < 0) {
		snprintf(why, cap, "%s: %s", path, strerror((int)-n));
		return (int)n;
	}
	return yfile_parse(path, text, (size_t)n, why, cap, out);
}

void yfile_free(struct yfile *f)
{
	if (!f)
		return;
	yaml_document_delete(&f->doc);
	free(f);
}

/* The root is always the first node. */
int yfile_root(const struct yfile *f)
{
	return 1;
}

const char *yfile_scalar(struct yfile *f, int node)
{
	const yaml_node_t *n = yaml_document_get_node(&f->doc, node);
	const char *s;

	if (!n || n->type != YAML_SCALAR_NODE) {
		yfile_fail(f, node, "expected one value here");
		return NULL;
	}
	s = (const char *)n->data.scalar.value;
	if (strlen(s) != n->data.scalar.length) {
		yfile_fail(f, node, "a byte 0 is not allowed");
		return NULL;
	}
	return s;
}

static int map_pair(struct yfile *f, const yaml_node_pair_t *pair, const struct yfield *fields,
		    size_t count, bool *seen, void *out)
{
	const char *key = yfile_scalar(f, pair->key);

	if (!key)
		return -EBADMSG;
	for (size_t i = 0; i < count; i++) {
		if (strcmp(key, fields[i].key) != 0)
			continue;
		if (seen[i])
			return yfile_fail(f, pair->key, "'%.40s' stands here twice", key);
		seen[i] = true;
		return fields[i].take(f, pair->value, out);
	}
	return yfile_fail(f, pair->key, "'%.40s' is not a known key here", key);
}

int yfile_map(struct yfile *f, int node, const struct yfield *fields, size_t count, void *out)
{
	const yaml_node_t *n = yaml_document_get_node(&f->doc, node);
	bool seen[YFILE_MAX_FIELDS] = {false};

	if (!n || n->type != YAML_MAPPING_NODE || count > YFILE_MAX_FIELDS)
		return yfile_fail(f, node, "expected 'key: value' lines here");
	for (const yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top;
	     p++) {
		int rc = map_pair(f, p, fields, count, seen, out);

		if (rc)
			return rc;
	}
	for (size_t i = 0; i < count; i++)
		if (fields[i].required && !seen[i])
			return yfile_fail(f, node, "'%s' is missing", fields[i].key);
	return 0;
}

int yfile_seq(struct yfile *f, int node, size_t max,
	      int (*take)(struct yfile *f, int node, void *out), void *out)
{
	const yaml_node_t *n = yaml_document_get_node(&f->doc, node);

	if (!n || n->type != YAML_SEQUENCE_NODE)
		return yfile_fail(f, node, "expected a list here");
	if ((size_t)(n->data.sequence.items.top - n->data.sequence.items.start) > max)
		return yfile_fail(f, node, "at most %zu are allowed", max);
	for (const yaml_node_item_t *i = n->data.sequence.items.start;
	     i < n->data.sequence.items.top; i++) {
		int rc = take(f, *i, out);

		if (rc)
			return rc;
	}
	return 0;
}

int yfile_text(struct yfile *f, int node, char *out, size_t cap)
{
	const char *s = yfile_scalar(f, node);

	if (!s)
		return -EBADMSG;
	if (strlen(s) >= cap)
		return yfile_fail(f, node, "longer than %zu characters", cap - 1);
	if (!text_printable(s))
		return yfile_fail(f, node, "control characters are not allowed");
	memcpy(out, s, strlen(s) + 1);
	return 0;
}

int yfile_name(struct yfile *f, int node, char out[TEXT_NAME_MAX])
{
	const char *s = yfile_scalar(f, node);

	if (!s)
		return -EBADMSG;
	if (!text_name_valid(s))
		return yfile_fail(f, node,
				  "'%.70s' is no name: letters, digits, '-', '_' and '.', at most "
				  "63, the first a letter or digit",
				  s);
	memcpy(out, s, strlen(s) + 1);
	return 0;
}

int yfile_number(struct yfile *f, int node, uint64_t min, uint64_t max, uint64_t *out)
{
	const char *s = yfile_scalar(f, node);

	if (!s)
		return -EBADMSG;
	if (!text_number_parse(s, min, max, out))
		return yfile_fail(f, node, "'%.40s' is not a number from %" PRIu64 " to %" PRIu64,
				  s, min, max);
	return 0;
}
