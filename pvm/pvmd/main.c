/* pvmd3 [-dMASK] [-nNAME] [hostfile]; with -s, -S or -f a daemon that another one started. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/log.h"
#include "pvm/pvmd/mpd.h"
#include "pvm/pvmd/mpd_hosted.h"

enum { LOG_MAX = 1 << 20 };

/* In the environment between a daemon that has read ~/.pvmprofile and itself. */
#define PROFILE_READ "PVM_PROFILE_READ"

#define USAGE	     "usage: pvmd3 [-d<debug mask>] [-n<host name>] [hostfile]\n"

static int usage(const char *what)
{
	fprintf(stderr, "pvmd3: %s\n" USAGE, what);
	return 2;
}

static void help(void)
{
	printf(USAGE
	       "The daemon of a Parallel Virtual Machine on this host; `pvm` is its console.\n"
	       "  -d<debug mask>  more in the log, /tmp/pvml.<uid>\n"
	       "  -n<host name>   the name and address of this host\n"
	       "  hostfile        hosts to add; pvmd3(8) tells what its lines may have\n");
}

static int option(struct mpd *pd, const char *a)
{
	char *end;

	switch (a[1]) {
	case 'd': pd->config.debug = (unsigned)strtoul(a + 2, &end, 0); return *end ? -EINVAL : 0;
	case 'n':
		snprintf(pd->config.name, sizeof(pd->config.name), "%s", a + 2);
		return a[2] ? 0 : -EINVAL;
	case 'S':
	case 's':
		pd->config.manual = a[1] == 'S';
		pd->config.slave = true;
		return 0;
	case 'K':
		pd->config.hosted = mpd_hosted_unhex(a + 2, pd->config.starter);
		return pd->config.hosted && strlen(a) == 2 + 2 * MPD_KEY_LEN ? 0 : -EINVAL;
	case 'f': pd->config.nofork = true; return 0;
	default: return -EINVAL;
	}
}

static int parse_env(struct mpd *pd)
{
	const char *debug = getenv("PVMDDEBUG"), *max = getenv("PVMDLOGMAX");
	char *end;

	pd->config.sealed = getenv("PVM_NET") && !strcmp(getenv("PVM_NET"), "sealed");
	pd->log_max = LOG_MAX;
	if (debug && *debug) {
		pd->config.debug = (unsigned)strtoul(debug, &end, 0);
		if (*end)
			return usage("PVMDDEBUG is not a number");
	}
	if (max && *max) {
		pd->log_max = strtoll(max, &end, 0);
		if (*end || pd->log_max < 0)
			return usage("PVMDLOGMAX is not a number of bytes");
	}
	return 0;
}

/*
 * Shell commands of the user, for the environment of the daemon and of the tasks: as the original's script
 * pvmd does, a shell runs them and then this program again.
 */
static void run_profile(char **argv)
{
	static char script[] = ". \"$HOME/.pvmprofile\" </dev/null >&2; exec \"$0\" \"$@\"";
	static char shell[] = "sh", option[] = "-c";
	const char *home = getenv("HOME");
	char path[MPD_PATH_MAX], **av, own[MPD_PATH_MAX];
	ssize_t len = readlink("/proc/self/exe", own, sizeof(own) - 1);
	size_t n = 0;

	if (getenv(PROFILE_READ)) {
		unsetenv(PROFILE_READ);
		return;
	}
	if (!home || len <= 0 ||
	    snprintf(path, sizeof(path), "%s/.pvmprofile", home) >= (int)sizeof(path) ||
	    access(path, R_OK))
		return;
	own[len] = 0;
	while (argv[n])
		n++;
	av = calloc(n + 4, sizeof(*av));
	if (!av)
		return;
	av[0] = shell;
	av[1] = option;
	av[2] = script;
	av[3] = own;
	for (size_t i = 1; i < n; i++)
		av[3 + i] = argv[i];
	setenv(PROFILE_READ, "1", 1);
	execv("/bin/sh", av);
	fprintf(stderr, "pvmd3: %s was not read: %s\n", path, strerror(errno));
	unsetenv(PROFILE_READ);
	free(av);
}

static int parse(struct mpd *pd, int argc, char **argv)
{
	const char *t = getenv("PVM_HOSTTIMEOUT"), *hosts = getenv("PVMHOSTFILE");
	int rc = parse_env(pd);

	if (rc)
		return rc;

	pd->config.host_timeout_ms = MPD_HOST_TIMEOUT_MS;
	if (t && *t) {
		char *end;
		long v = strtol(t, &end, 10);

		if (*end || v < 100 || v > 3600000)
			return usage("PVM_HOSTTIMEOUT is not a time of 100 to 3600000 ms");
		pd->config.host_timeout_ms = (int)v;
	}
	for (int i = 1; i < argc; i++) {
		if (argv[i][0] == '-') {
			if (option(pd, argv[i]))
				return usage("invalid option");
		} else if (*pd->config.hostfile) {
			return usage("one host file at most");
		} else {
			snprintf(pd->config.hostfile, sizeof(pd->config.hostfile), "%s", argv[i]);
		}
	}
	if (hosts && !*pd->config.hostfile && !pd->config.slave)
		snprintf(pd->config.hostfile, sizeof(pd->config.hostfile), "%s", hosts);
	return 0;
}

static void log_to_file(struct mpd *pd)
{
	if (dup2(pd->log_fd, 2) < 0)
		mpd_log(pd, "standard error stays: %s", strerror(errno));
}

/* `out`: where the starter reads the line. */
static int slave_start(struct mpd *pd, int out)
{
	struct mpd_host *m, *me = pd->hosts[pd->self];
	int rc = mpd_link_listen(pd), null;

	if (rc)
		return rc;
	dprintf(out, "ddpro<2316> arch<%s> ip<%s:%u> mtu<65536> dsig<%d>\n", me->arch, me->ip,
		me->port, me->dsig);
	if (pd->config.hosted)
		close(out);
	if (!pd->config.nofork && !pd->config.hosted) {
		pid_t pid = fork();

		if (pid < 0)
			return -errno;
		if (pid > 0)
			_exit(0);
		setsid();
		/* A signalfd wakes the epoll of the process that added it: that was the parent. */
		base_loop_remove(&pd->signals);
		rc = base_loop_add(pd->loop, &pd->signals);
		if (rc)
			return rc;
	}
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0)
		return -errno;
	close(null);
	log_to_file(pd);
	m = mpd_host_new(pd, pd->master, pd->master_name);
	if (!m)
		return -ENOMEM;
	snprintf(m->ip, sizeof(m->ip), "%s", pd->master_ip);
	m->port = pd->master_port;
	mpd_link_connect(pd, m);
	return 0;
}

static void slave_paths(struct mpd *pd)
{
	if (pd->order_ep)
		mpd_set_path(&pd->epath, pd->order_ep);
	if (pd->order_wd)
		mpd_set_path(&pd->wdir, pd->order_wd);
	if (pd->order_bx)
		mpd_set_path(&pd->debugger, pd->order_bx);
}

static int master_start(struct mpd *pd)
{
	/* Programs that start the daemon read this line. */
	printf("%s\n", pd->socket);
	fflush(stdout);
	log_to_file(pd);
	/* A wrong host file is told in the log; the daemon serves its host. */
	if (*pd->config.hostfile && mpd_start_hostfile(pd, pd->config.hostfile))
		mpd_log(pd, "host file %s was not used to its end", pd->config.hostfile);
	return 0;
}

/* The names that the starter knows: see mpd_start.c. */
static const char *slave_error(int rc)
{
	return rc == -EADDRINUSE ? "PvmDupHost" : rc == -EPROTO ? "PvmBadVersion" : "PvmDSysErr";
}

int main(int argc, char **argv)
{
	static struct mpd pd;
	FILE *orders = stdin;
	int rc, out = 1;

	base_log_init("pvmd3");
	if (argc > 1 && !strcmp(argv[1], "--help")) {
		help();
		return 0;
	}
	run_profile(argv);
	rc = parse(&pd, argc, argv);
	if (rc)
		return rc;
	if (pd.config.debug)
		base_log_set_level(BASE_LOG_DEBUG);
	rc = mpd_crypt_setup();
	if (!rc && pd.config.slave && pd.config.hosted) {
		out = mpd_hosted_wait(pd.config.starter, pd.config.nofork, pd.config.manual,
				      &orders);
		rc = BASE_MIN(out, 0);
	}
	if (!rc && pd.config.slave)
		rc = mpd_life_read_orders(&pd, orders);
	if (!rc)
		rc = mpd_life_setup(&pd);
	if (!rc) {
		slave_paths(&pd);
		rc = pd.config.slave ? slave_start(&pd, out) : master_start(&pd);
	}
	if (rc) {
		if (pd.config.slave)
			dprintf(out >= 0 ? out : 1, "%s\n", slave_error(rc));
		fprintf(stderr, "pvmd3: %s\n",
			rc == -EADDRINUSE ? "pvmd already running." : strerror(-rc));
		return 1;
	}
	rc = mpd_life_run(&pd);
	mpd_life_fini(&pd);
	return rc ? 1 : 0;
}
