/* The command line: finding the command, parsing its options, help. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "ctl/ctl.h"

enum { ALL_OPTIONS = 2 * CTL_MAX_OPTIONS, FIRST_LONG = 256 };

struct parser {
	const struct ctl_option *all[ALL_OPTIONS];
	struct option longs[ALL_OPTIONS + 2];
	char shorts[3 * ALL_OPTIONS + 5];
	size_t count, short_len;
};

/* ---- help ---- */

static void help_options(const struct ctl_option *o)
{
	for (; o->name; o++) {
		char left[80], letter[4] = "   ";

		if (o->letter)
			snprintf(letter, sizeof(letter), "-%c,", o->letter);
		snprintf(left, sizeof(left), "%s --%s%s%s", letter, o->name, o->value ? " " : "",
			 o->value ? o->value : "");
		if (strlen(left) > 30)
			printf("  %s\n  %-30s  %s\n", left, "", o->help);
		else
			printf("  %-30s  %s\n", left, o->help);
	}
}

static void help_command(const struct ctl_command *k)
{
	const char *line = k->examples;

	printf("usage: pangaea %s%s%s%s%s [OPTIONS]\n\n%c%s.\n", k->group, k->name ? " " : "",
	       k->name ? k->name : "", k->args[0] ? " " : "", k->args, k->summary[0] - 32,
	       k->summary + 1);
	if (k->more)
		printf("%s\n", k->more);
	puts("\nOptions:");
	help_options(k->options);
	help_options(ctl_global_options);
	puts("\nExamples:");
	while (*line) {
		size_t len = strcspn(line, "\n");

		printf("  %.*s\n", (int)len, line);
		line += len + (line[len] == '\n');
	}
}

static void help_commands(FILE *f, const char *group)
{
	for (size_t i = 0; i < ctl_command_count; i++) {
		const struct ctl_command *k = &ctl_commands[i];
		char left[64];

		if (group && strcmp(group, k->group) != 0)
			continue;
		snprintf(left, sizeof(left), "%s%s%s%s%s", k->group, k->name ? " " : "",
			 k->name ? k->name : "", k->args[0] ? " " : "", k->args);
		fprintf(f, "  %-24s  %s\n", left, k->summary);
	}
}

static void help_all(FILE *f)
{
	fputs("usage: pangaea COMMAND [ARGUMENTS] [OPTIONS]\n\n"
	      "One guest, many machines: commands the cluster through its agents.\n\n",
	      f);
	help_commands(f, NULL);
	fputs("\n'pangaea COMMAND --help' says more about each; see also pangaea(1).\n"
	      "\nExit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 unreachable,\n"
	      "5 not in time, 6 denied, 7 exists already, 8 no room, 9 busy.\n"
	      "\nExamples:\n"
	      "  pangaea node ls\n"
	      "  pangaea vm run web --kernel /boot/vmlinuz --initrd /boot/initrd.img --memory 512M\n"
	      "  pangaea vm console web\n",
	      f);
}

/* ---- parsing ---- */

static void parser_add(struct parser *p, const struct ctl_option *o)
{
	for (; o->name && p->count < ALL_OPTIONS; o++) {
		p->all[p->count] = o;
		p->longs[p->count] =
			(struct option){o->name, o->value ? required_argument : no_argument, NULL,
					FIRST_LONG + (int)p->count};
		if (o->letter && !strchr(p->shorts, o->letter)) {
			p->shorts[p->short_len++] = o->letter;
			if (o->value)
				p->shorts[p->short_len++] = ':';
		}
		p->count++;
	}
	p->longs[p->count] = (struct option){"help", no_argument, NULL, 'h'};
	p->longs[p->count + 1] = (struct option){0};
}

static const struct ctl_option *parser_find(const struct parser *p, int got)
{
	if (got >= FIRST_LONG)
		return p->all[got - FIRST_LONG];
	for (size_t i = 0; i < p->count; i++)
		if (p->all[i]->letter == got)
			return p->all[i];
	return NULL;
}

/* 0; -1: help was asked for and printed; else an exit code. */
static int parse_options(struct ctl *c, const struct ctl_command *k, int argc, char **argv)
{
	struct parser p = {0};
	char why[VMSPEC_WHY_MAX];
	int got;

	if (k->max_args == CTL_REST)
		p.shorts[p.short_len++] = '+';
	p.shorts[p.short_len++] = 'h';
	parser_add(&p, k->options);
	parser_add(&p, ctl_global_options);
	optind = 0;
	while ((got = getopt_long(argc, argv, p.shorts, p.longs, NULL)) != -1) {
		const struct ctl_option *o;

		if (got == 'h') {
			help_command(k);
			return -1;
		}
		o = got == '?' ? NULL : parser_find(&p, got);
		if (!o)
			return ctl_fail(c, CONTROL_USAGE, "see 'pangaea %s%s%s --help'", k->group,
					k->name ? " " : "", k->name ? k->name : "");
		if (!o->take(c, optarg, why))
			return ctl_fail(c, CONTROL_USAGE, "--%s: %s", o->name, why);
	}
	c->args = argv + optind;
	c->arg_count = argc - optind;
	if (c->arg_count < k->min_args || c->arg_count > k->max_args)
		return ctl_fail(c, CONTROL_USAGE, "usage: pangaea %s%s%s%s%s; see --help", k->group,
				k->name ? " " : "", k->name ? k->name : "", k->args[0] ? " " : "",
				k->args);
	return 0;
}

/* How many words name the command; 0: none such. */
static int find_command(int argc, char **argv, const struct ctl_command **out)
{
	for (size_t i = 0; argc > 1 && i < ctl_command_count; i++) {
		const struct ctl_command *k = &ctl_commands[i];

		if (strcmp(argv[1], k->group) != 0)
			continue;
		if (k->name && (argc < 3 || strcmp(argv[2], k->name) != 0))
			continue;
		*out = k;
		return k->name ? 2 : 1;
	}
	return 0;
}

static bool is_help(const char *s)
{
	return !strcmp(s, "--help") || !strcmp(s, "-h") || !strcmp(s, "help");
}

/* No command was found. */
static int help_or_refuse(const struct ctl *c, int argc, char **argv)
{
	bool group = false;

	if (argc < 2) {
		help_all(stderr);
		return CONTROL_USAGE;
	}
	if (is_help(argv[1])) {
		help_all(stdout);
		return 0;
	}
	for (size_t i = 0; i < ctl_command_count; i++)
		group |= !strcmp(argv[1], ctl_commands[i].group);
	if (!group)
		return ctl_fail(c, CONTROL_USAGE, "'%s' is no command; see 'pangaea --help'",
				argv[1]);
	if (argc > 2 && !is_help(argv[2]))
		return ctl_fail(c, CONTROL_USAGE, "'%s %s' is no command; see 'pangaea %s --help'",
				argv[1], argv[2], argv[1]);
	help_commands(argc > 2 ? stdout : stderr, argv[1]);
	return argc > 2 ? 0 : CONTROL_USAGE;
}

int ctl_main(int argc, char **argv)
{
	const char *home = getenv("PANGAEA_HOME"), *no_colour = getenv("NO_COLOR");
	const struct ctl_command *command = NULL;
	struct ctl c = {.home = home && *home ? home : "/etc/pangaea",
			.agent = getenv("PANGAEA_AGENT"),
			.interval_ms = 1000,
			.escape = ']' - '@'};
	int words = find_command(argc, argv, &command), code;

	if (!words)
		return help_or_refuse(&c, argc, argv);
	c.colour = isatty(STDOUT_FILENO) && !(no_colour && *no_colour);
	c.spec = calloc(1, sizeof(*c.spec));
	if (!c.spec)
		return ctl_fail(&c, CONTROL_FAILED, "out of memory");
	argv[words] = argv[0];
	code = parse_options(&c, command, argc - words, argv + words);
	c.progress = isatty(STDERR_FILENO) && !c.quiet && !c.json;
	if (!code)
		code = command->run(&c);
	ctl_disconnect(&c);
	free(c.spec);
	if (fflush(stdout) && !code)
		code = CONTROL_FAILED;
	return code < 0 ? 0 : code;
}
