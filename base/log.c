#include "base/log.h"

#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

static const char *log_name = "pangaea";
static enum base_log_level threshold = BASE_LOG_INFO;
static bool journal;

static const char *const level_names[] = {"error", "warn", "info", "debug"};
static const int syslog_priority[] = {3, 4, 6, 7};

void base_log_init(const char *name)
{
	const char *want = getenv("PANGAEA_LOG");

	log_name = name;
	journal = getenv("JOURNAL_STREAM") != NULL;
	if (!want)
		return;
	for (unsigned i = 0; i < BASE_ARRAY_LEN(level_names); i++)
		if (!strcmp(want, level_names[i]))
			threshold = i;
}

void base_log_set_level(enum base_log_level level)
{
	threshold = level;
}

enum base_log_level base_log_level(void)
{
	return threshold;
}

static size_t log_prefix(char *line, size_t cap, enum base_log_level level)
{
	struct timespec now;
	struct tm tm;

	if (journal)
		return snprintf(line, cap, "<%d>%s: ", syslog_priority[level], log_name);
	clock_gettime(CLOCK_REALTIME, &now);
	localtime_r(&now.tv_sec, &tm);
	return snprintf(line, cap, "%02d:%02d:%02d.%03ld %-5s %s: ", tm.tm_hour, tm.tm_min,
			tm.tm_sec, now.tv_nsec / 1000000, level_names[level], log_name);
}

void base_log_write(enum base_log_level level, const char *fmt, ...)
{
	char line[2048];
	size_t len;
	va_list ap;
	int n;

	if (level > threshold)
		return;
	len = log_prefix(line, sizeof(line) - 1, level);
	va_start(ap, fmt);
	n = vsnprintf(line + len, sizeof(line) - 1 - len, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	len = BASE_MIN(len + (size_t)n, sizeof(line) - 2);
	line[len++] = '\n';
	/* Nowhere to report a failing log. */
	if (write(STDERR_FILENO, line, len) < 0)
		return;
}
