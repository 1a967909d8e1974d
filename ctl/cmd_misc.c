/* pangaea version | completion */
#include <stdio.h>
#include <string.h>

#include "ctl/ctl.h"

static const char bash_script[] =
#include "ctl/completion.inc"
	;

int ctl_version(struct ctl *c)
{
	struct print_json j = {.f = stdout};

	if (c->json) {
		print_json_open(&j, NULL, '{');
		print_json_text(&j, "version", PANGAEA_VERSION);
		print_json_number(&j, "protocol_min", CHAN_MIN_VERSION);
		print_json_number(&j, "protocol_max", CHAN_MAX_VERSION);
		print_json_close(&j, '}');
		putchar('\n');
	} else {
		printf("pangaea %s, protocol %d to %d\n", PANGAEA_VERSION, CHAN_MIN_VERSION,
		       CHAN_MAX_VERSION);
	}
	return 0;
}

int ctl_completion(struct ctl *c)
{
	if (strcmp(c->args[0], "bash") != 0)
		return ctl_fail(c, CONTROL_USAGE,
				"completion for '%.40s' is not known; there is bash", c->args[0]);
	fputs(bash_script, stdout);
	return 0;
}
