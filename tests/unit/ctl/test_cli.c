/* The command line as a whole: exit codes and what is printed, without an agent. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "ctl/ctl.h"

static char out[131072];

/* Runs with standard output and error into out[]. */
static int run(const char *line)
{
	char words[1024], *argv[32] = {(char[]){"pangaea"}}, *save = NULL;
	int argc = 1, files[2], saved[2] = {dup(1), dup(2)}, code;
	FILE *f = tmpfile();
	size_t n;

	snprintf(words, sizeof(words), "%s", line);
	for (char *w = strtok_r(words, " ", &save); w; w = strtok_r(NULL, " ", &save))
		argv[argc++] = w;
	fflush(stdout);
	files[0] = dup2(fileno(f), 1);
	files[1] = dup2(fileno(f), 2);
	assert_true(files[0] == 1 && files[1] == 2);
	code = ctl_main(argc, argv);
	fflush(stdout);
	dup2(saved[0], 1);
	dup2(saved[1], 2);
	close(saved[0]);
	close(saved[1]);
	rewind(f);
	n = fread(out, 1, sizeof(out) - 1, f);
	out[n] = 0;
	fclose(f);
	return code;
}

static void expect(const char *line, int code, const char *text)
{
	int got = run(line);

	if (got != code || !strstr(out, text))
		fail_msg("'%s': %d, expected %d and '%s' in:\n%s", line, got, code, text, out);
}

static void usage_is_refused(void **state)
{
	expect("", 2, "usage: pangaea COMMAND");
	expect("nonsense", 2, "'nonsense' is no command");
	expect("vm", 2, "vm run NAME");
	expect("vm dance", 2, "'vm dance' is no command; see 'pangaea vm --help'");
	expect("vm info", 2, "usage: pangaea vm info NAME");
	expect("vm info a b", 2, "usage: pangaea vm info NAME");
	expect("vm ls --colour", 2, "see 'pangaea vm ls --help'");
	expect("vm info ../x", 2, "'../x' is no VM name");
	expect("vm info web --node ../x", 2, "'../x' is no node name");
	expect("vm ls --timeout 0", 2, "expected seconds, 1 to 86400");
	expect("vm console web --escape x", 2, "expected a control key");
	expect("completion zsh", 2, "there is bash");
	expect("init", 2, "usage: pangaea init");
	expect("init city", 2, "expected 'pangaea init cluster");
	expect("init cluster", 2, "--out DIR is missing");
	expect("init cluster --out /nonexistent/x", 2, "say which nodes");
	expect("init cluster --out /nonexistent/x --nodes a", 2, "expected NAME=ADDRESS");
	expect("init cluster --out /nonexistent/x --nodes a=host", 2, "is not an IP address");
}

static void vm_run_is_checked_first(void **state)
{
	expect("vm run", 2, "the name of the VM is missing");
	expect("vm run web", 2, "kernel is missing");
	expect("vm run web --kernel /k", 2, "memory is missing");
	expect("vm run web --memory lots", 2, "--memory: memory 'lots': expected a size");
	expect("vm run web --vcpus 65", 2, "expected 1 to 64");
	expect("vm run web --disk ,ro", 2, "expected FILE[,ro]");
	expect("vm run web --nic bridge", 2, "expected net, tap=");
	expect("vm run web -f /nonexistent.yaml", 2, "/nonexistent.yaml: No such file");
}

static void help_has_examples(void **state)
{
	char line[64];

	expect("--help", 0, "Exit codes");
	expect("help", 0, "Exit codes");
	expect("vm --help", 0, "vm console NAME");
	for (size_t i = 0; i < ctl_command_count; i++) {
		const struct ctl_command *k = &ctl_commands[i];

		snprintf(line, sizeof(line), "%s %s --help", k->group, k->name ? k->name : "");
		expect(line, 0, "Examples:\n  ");
		assert_non_null(strstr(out, "--json"));
	}
}

static void what_needs_no_agent(void **state)
{
	expect("version", 0, "pangaea " PANGAEA_VERSION);
	expect("version --json", 0, "{\"version\":\"" PANGAEA_VERSION "\"");
	expect("completion bash", 0, "complete -F _pangaea pangaea");
}

static void errors_in_json(void **state)
{
	expect("vm info ../x --json", 2, "{\"error\":\"'../x' is no VM name\",\"code\":2}\n");
	expect("node ls --home /nonexistent", 3, "'pangaea init' makes a cluster");
	expect("node ls --home /nonexistent --json", 3, "\"code\":3}");
}

/* The completion and the man page know every command and option. */
static void everything_is_documented(const char *what)
{
	for (size_t i = 0; i < ctl_command_count; i++) {
		assert_non_null(strstr(out, ctl_commands[i].group));
		if (ctl_commands[i].name)
			assert_non_null(strstr(out, ctl_commands[i].name));
		for (const struct ctl_option *o = ctl_commands[i].options; o->name; o++) {
			char option[64];

			snprintf(option, sizeof(option), "--%s", o->name);
			if (!strstr(out, option))
				fail_msg("%s is not in %s", option, what);
		}
	}
}

static void completion_is_complete(void **state)
{
	run("completion bash");
	everything_is_documented("the completion");
}

static void manual_is_complete(void **state)
{
	const char *source = getenv("PANGAEA_SOURCE");
	char path[512];
	FILE *f;
	size_t n;

	snprintf(path, sizeof(path), "%s/docs/man/pangaea.1", source ? source : "../../..");
	f = fopen(path, "re");
	assert_non_null(f);
	n = fread(out, 1, sizeof(out) - 1, f);
	out[n] = 0;
	fclose(f);
	everything_is_documented("pangaea(1)");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(usage_is_refused),   cmocka_unit_test(vm_run_is_checked_first),
		cmocka_unit_test(help_has_examples),  cmocka_unit_test(what_needs_no_agent),
		cmocka_unit_test(errors_in_json),     cmocka_unit_test(completion_is_complete),
		cmocka_unit_test(manual_is_complete),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
