/*
 * Logging to standard error, one line a call: "<priority>name: text" under systemd (JOURNAL_STREAM
 * is set), "HH:MM:SS.mmm level name: text" elsewhere. Any thread may call; a line is written by one
 * write(2), so lines of several threads do not mix. Levels below the threshold cost one comparison.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include "base/cleanup.h"

enum base_log_level { BASE_LOG_ERROR, BASE_LOG_WARN, BASE_LOG_INFO, BASE_LOG_DEBUG };

/* Name that stands in each line; kept by reference. Level from $PANGAEA_LOG (error warn info
 * debug). */
void base_log_init(const char *name);
void base_log_set_level(enum base_log_level level);
enum base_log_level base_log_level(void);

void base_log_write(enum base_log_level level, const char *fmt, ...) BASE_PRINTF(2, 3);

#define log_error(...) base_log_write(BASE_LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  base_log_write(BASE_LOG_WARN, __VA_ARGS__)
#define log_info(...)  base_log_write(BASE_LOG_INFO, __VA_ARGS__)
#define log_debug(...)                                                                             \
	do {                                                                                       \
		if (base_log_level() >= BASE_LOG_DEBUG)                                            \
			base_log_write(BASE_LOG_DEBUG, __VA_ARGS__);                               \
	} while (0)

#endif
