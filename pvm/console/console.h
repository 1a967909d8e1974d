/*
 * The console `pvm`: commands from a terminal, a pipe or ~/.pvmrc, over the public calls of libpvm3
 * only. One thread. Commands print what PVM 3.4's print.
 */
#ifndef PVM_CONSOLE_H
#define PVM_CONSOLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "base/cleanup.h"
#include "pvm/include/pvm3.h"

enum { CON_WORDS_MAX = 256, CON_LINE_MAX = 16384 };

/* The words of a line; they point into `text`. */
struct con_words {
	int argc;
	char *argv[CON_WORDS_MAX + 1];
	char text[CON_LINE_MAX];
};

enum con_split { CON_SPLIT_OK, CON_SPLIT_UNMATCHED, CON_SPLIT_LONG };

/*
 * Splits at white space; quotes of both kinds and backslashes protect, '#' begins a comment. On
 * CON_SPLIT_UNMATCHED *quote is the quote without a partner.
 */
enum con_split con_words_split(struct con_words *w, const char *line, char *quote);

/* Aliases: the first word of a line becomes the words of the alias. */
int con_alias_set(char *const *words, int count); /* words[0] is the name; -ENOMEM */
void con_alias_unset(const char *name);
/* Replaces the first word as often as it is an alias, at most 10 times. */
void con_alias_expand(struct con_words *w);
void con_alias_print(const char *name); /* NULL: all */

struct con_command {
	const char *name;
	const char *summary;
	const char *syntax;	/* help text after "Syntax:  " */
	int min_args, max_args; /* words after the name; max -1: any number */
	void (*run)(int argc, char **argv);
};

extern const struct con_command con_commands[];
extern const int con_command_count;
const struct con_command *con_command_find(const char *name);

/* Runs one line. */
void con_run_line(const char *line);
/* Set by quit and halt: the loop ends. */
extern bool con_quitting, con_halted;

/* "0x40001", "t40001", "40001": 0 when it is none. */
int con_tid_parse(const char *s);
/* The text of a negative code. */
const char *con_error(int code);

/* Jobs: tasks whose output comes to the console. */
struct con_job;
/* NULL without memory; `path` NULL is the console, otherwise a file. */
struct con_job *con_job_new(const char *path, bool append);
int con_job_number(const struct con_job *j);
/* Sends the output of tasks spawned from now on to the job; NULL: where it went before. */
void con_job_select(const struct con_job *j);
/* The events that XPVM shows. */
void con_trace_defaults(void);
void con_job_started(struct con_job *j, const int *tids, int count);
void con_jobs_print(bool is_long);
/* Handles messages that have come, without waiting. */
void con_jobs_poll(void);

/* What the daemon places new tasks by: the columns of CON_LOAD_HEAD, or nothing when it is not known. */
#define CON_LOAD_HEAD " CORES   BUSY TASKS"
void con_load_print(int dtid);
void con_ps_head(bool is_long);
void con_ps_row(const struct pvmtaskinfo *t, const char *host, bool is_long);
/* Name of the host with this daemon tid, "?" when there is none. */
const char *con_host_name(int dtid);

/* Commands in files of their own. */
void con_cmd_spawn(int argc, char **argv);
void con_cmd_getopt(int argc, char **argv);
void con_cmd_setopt(int argc, char **argv);
void con_cmd_trace(int argc, char **argv);
void con_cmd_help(int argc, char **argv);
void con_cmd_reset(int argc, char **argv);
void con_cmd_ps(int argc, char **argv);
void con_cmd_names(int argc, char **argv);
void con_cmd_put(int argc, char **argv);

/* Reads commands until the end of the input or quit. */
void con_read_terminal(void);
void con_read_pipe(void);

#endif
