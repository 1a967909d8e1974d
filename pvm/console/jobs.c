/*
 * Jobs. The daemons send what tasks print as messages with the job's tag: tid, length, bytes;
 * length 0 is the end of a task's output, -1 and -2 (with the parent behind) its beginning.
 */
#include <stdlib.h>
#include <string.h>

#include "pvm/console/console.h"

enum { TAG_BASE = 0x4000, LINE_MAX_BYTES = 65536 };

/* A task whose output has not ended, and the line that it has begun. */
struct task {
	struct task *next;
	int tid;
	size_t len;
	char *line;
};

struct con_job {
	struct con_job *next;
	int number;
	FILE *out;
	bool started; /* the call of spawn has returned */
	struct task *tasks;
	int *ended, ended_count; /* before spawn returned their tids */
};

static struct con_job *jobs;
static int last_number;

struct con_job *con_job_new(const char *path, bool append)
{
	struct con_job *j = calloc(1, sizeof(*j)), **at = &jobs;

	if (!j)
		return NULL;
	j->out = stdout;
	if (path) {
		j->out = fopen(path, append ? "ae" : "wxe");
		if (!j->out) {
			perror(path);
			free(j);
			return NULL;
		}
	}
	j->number = ++last_number;
	while (*at)
		at = &(*at)->next;
	*at = j;
	return j;
}

int con_job_number(const struct con_job *j)
{
	return j->number;
}

void con_job_select(const struct con_job *j)
{
	static int tid, code, ctx;

	if (j) {
		tid = pvm_setopt(PvmOutputTid, pvm_mytid());
		code = pvm_setopt(PvmOutputCode, TAG_BASE + j->number);
		ctx = pvm_setopt(PvmOutputContext, pvm_getcontext());
	} else {
		pvm_setopt(PvmOutputTid, tid);
		pvm_setopt(PvmOutputCode, code);
		pvm_setopt(PvmOutputContext, ctx);
	}
}

static struct task *task_find(struct con_job *j, int tid, bool make)
{
	struct task **at = &j->tasks, *t;

	for (; *at; at = &(*at)->next)
		if ((*at)->tid == tid)
			return *at;
	t = make ? calloc(1, sizeof(*t)) : NULL;
	if (t) {
		t->tid = tid;
		*at = t;
	}
	return t;
}

static void task_free(struct con_job *j, struct task *t)
{
	struct task **at = &j->tasks;

	while (*at != t)
		at = &(*at)->next;
	*at = t->next;
	free(t->line);
	free(t);
}

/* A task ended of which spawn may tell us only later. */
static void note_ended(struct con_job *j, int tid)
{
	int *ended = reallocarray(j->ended, (size_t)j->ended_count + 1, sizeof(int));

	if (!ended)
		return;
	j->ended = ended;
	j->ended[j->ended_count++] = tid;
}

static bool has_ended(const struct con_job *j, int tid)
{
	for (int i = 0; i < j->ended_count; i++)
		if (j->ended[i] == tid)
			return true;
	return false;
}

static void finish_if_done(struct con_job *j)
{
	struct con_job **at = &jobs;

	if (!j->started || j->tasks)
		return;
	printf("[%d] finished\n", j->number);
	fflush(stdout);
	while (*at != j)
		at = &(*at)->next;
	*at = j->next;
	if (j->out != stdout)
		fclose(j->out);
	free(j->ended);
	free(j);
}

/* A job in which nothing was started says nothing. */
void con_job_started(struct con_job *j, const int *tids, int count)
{
	struct con_job **at = &jobs;
	bool any = false;

	for (int i = 0; i < count; i++) {
		any |= tids[i] > 0;
		if (tids[i] > 0 && !has_ended(j, tids[i]))
			task_find(j, tids[i], true);
	}
	j->started = true;
	if (any)
		return finish_if_done(j);
	while (*at != j)
		at = &(*at)->next;
	*at = j->next;
	if (j->out != stdout)
		fclose(j->out);
	free(j->ended);
	free(j);
}

static void line_out(struct con_job *j, const struct task *t, const char *text, size_t len)
{
	fprintf(j->out, "[%d:t%x] ", j->number, (unsigned)t->tid);
	fwrite(text, 1, len, j->out);
	fputc('\n', j->out);
}

static void flush_line(struct con_job *j, struct task *t)
{
	if (t->len)
		line_out(j, t, t->line, t->len);
	t->len = 0;
}

/* Whole lines go out, the rest waits for its end. */
static void text_in(struct con_job *j, struct task *t, const char *text, size_t len)
{
	if (!t->line)
		t->line = malloc(LINE_MAX_BYTES);
	for (size_t i = 0; i < len && t->line; i++) {
		if (text[i] == '\n') {
			line_out(j, t, t->line, t->len);
			t->len = 0;
			continue;
		}
		if (t->len == LINE_MAX_BYTES)
			flush_line(j, t);
		t->line[t->len++] = text[i];
	}
}

static void data_in(struct con_job *j, int tid, int len, int have)
{
	struct task *t = task_find(j, tid, true);
	char *text;

	/* Longer than the message itself it cannot be. */
	if (!t || len > have)
		return;
	text = malloc((size_t)len);
	if (text && !pvm_upkbyte(text, len, 1))
		text_in(j, t, text, (size_t)len);
	free(text);
}

static void end_in(struct con_job *j, int tid)
{
	struct task *t = task_find(j, tid, true);

	note_ended(j, tid);
	if (!t)
		return;
	flush_line(j, t);
	line_out(j, t, "EOF", 3);
	task_free(j, t);
}

static void message_in(int mid)
{
	int head[2], size = 0, tag = 0;
	struct con_job *j = jobs;

	if (pvm_bufinfo(mid, &size, &tag, NULL))
		return;
	while (j && j->number != tag - TAG_BASE)
		j = j->next;
	if (!j || pvm_upkint(head, 2, 1))
		return;
	if (head[1] > 0)
		data_in(j, head[0], head[1], size);
	else if (head[1] == 0)
		end_in(j, head[0]);
	else if (!has_ended(j, head[0]))
		task_find(j, head[0], true);
	if (j->out == stdout)
		fflush(stdout);
	finish_if_done(j);
}

void con_jobs_poll(void)
{
	int mid;

	while ((mid = pvm_nrecv(-1, -1)) > 0)
		message_in(mid);
}

static void print_long(const struct con_job *j)
{
	struct pvmtaskinfo *info;
	int n = 0;

	printf("%2d:\n", j->number);
	for (const struct task *t = j->tasks; t; t = t->next)
		if (pvm_tasks(t->tid, &n, &info) == 0 && n == 1)
			con_ps_row(info, con_host_name(info->ti_host), false);
}

void con_jobs_print(bool is_long)
{
	if (is_long)
		con_ps_head(false);
	for (const struct con_job *j = jobs; j; j = j->next) {
		if (is_long) {
			print_long(j);
			continue;
		}
		printf("%2d:", j->number);
		for (const struct task *t = j->tasks; t; t = t->next)
			printf(" t%x", (unsigned)t->tid);
		putchar('\n');
	}
}
