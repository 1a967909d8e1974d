#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/log.h"
#include "node/agent/agent.h"

static const char usage[] =
	"usage: pangaead [--home DIR] [--node NAME] [--run-dir DIR] [--vmm FILE]\n"
	"                [--start-timeout SECONDS] [--libvirt URI] [--libvirt-peer URI]\n"
	"\n"
	"The agent of a Pangaea node: one on each host. Starts and watches its VMs, and answers\n"
	"'pangaea' and the other agents. VMs go on when it ends; it finds them when it starts.\n"
	"\n"
	"  --home DIR      cluster.yaml, node and keys/node.key (default $PANGAEA_HOME, else\n"
	"                  /etc/pangaea); made by 'pangaea init'\n"
	"  --node NAME     which node of the cluster file this is (default: the file 'node' there)\n"
	"  --run-dir DIR   sockets and records of the VMs (default /run/pangaea)\n"
	"  --vmm FILE      the program that runs one VM (default: pangaea-vmm beside this one)\n"
	"  --start-timeout SECONDS   give up a new VM whose process does nothing for so long\n"
	"                  before it runs (default 30, at most 600)\n"
	"  --libvirt URI   show and move the domains of this libvirt (default $PANGAEA_LIBVIRT_URI,\n"
	"                  else qemu:///system); none: leave libvirt alone\n"
	"  --libvirt-peer URI   how the other nodes' libvirtd reaches this host's, for migrations\n"
	"                  (default $PANGAEA_LIBVIRT_PEER_URI, else qemu://ADDRESS/system: TLS)\n"
	"  --ready-fd N    write a line there once the agent listens (systemd is told as well)\n"
	"  --help, --version\n"
	"\n"
	"$PANGAEA_LOG is error, warn, info (default) or debug.\n"
	"\n"
	"Examples:\n"
	"  pangaead\n"
	"  pangaead --home /tmp/c/nodes/a --run-dir /tmp/run-a     # several on one machine\n";

static struct base_loop *loop;
static int ready_fd = -1;
static struct base_watch signals;

static void signal_ready(struct base_watch *w, uint32_t events)
{
	struct signalfd_siginfo si;

	if (read(w->fd, &si, sizeof(si)) == (ssize_t)sizeof(si)) {
		log_info("ending by signal %u; the VMs go on", si.ssi_signo);
		base_loop_stop(loop, 0);
	}
}

static int watch_signals(void)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	if (sigprocmask(SIG_BLOCK, &set, NULL))
		return -errno;
	signals.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (signals.fd < 0)
		return -errno;
	signals.events = EPOLLIN;
	signals.ready = signal_ready;
	return base_loop_add(loop, &signals);
}

/* As sd_notify(3) does, without its library. */
static void notify_systemd(void)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	size_t len = path ? strlen(path) : 0;
	int fd;

	if (len < 2 || len >= sizeof(sa.sun_path))
		return;
	memcpy(sa.sun_path, path, len);
	if (path[0] == '@')
		sa.sun_path[0] = 0;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || sendto(fd, "READY=1", 7, MSG_NOSIGNAL, (struct sockaddr *)&sa,
			     (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) < 0)
		log_warn("systemd cannot be told: %s", strerror(errno));
	if (fd >= 0)
		close(fd);
}

static void tell_ready(void)
{
	notify_systemd();
	if (ready_fd < 0)
		return;
	if (write(ready_fd, "ready\n", 6) < 0)
		log_warn("--ready-fd: %s", strerror(errno));
	close(ready_fd);
}

static bool number_of(const char *option, uint64_t min, uint64_t max, uint64_t *out)
{
	if (text_number_parse(optarg, min, max, out))
		return true;
	fprintf(stderr, "pangaead: %s: '%s' is no number from %d to %d\n", option, optarg, (int)min,
		(int)max);
	return false;
}

static int parse(int argc, char **argv, struct agent_options *o)
{
	static const struct option options[] = {
		{"home", required_argument, NULL, 'H'},
		{"node", required_argument, NULL, 'n'},
		{"run-dir", required_argument, NULL, 'r'},
		{"vmm", required_argument, NULL, 'v'},
		{"ready-fd", required_argument, NULL, 'f'},
		{"start-timeout", required_argument, NULL, 's'},
		{"help", no_argument, NULL, 'h'},
		{"libvirt", required_argument, NULL, 'l'},
		{"libvirt-peer", required_argument, NULL, 'p'},
		{"version", no_argument, NULL, 'V'},
		{NULL, 0, NULL, 0},
	};
	uint64_t number;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'H': o->home = optarg; break;
		case 'n': o->node = optarg; break;
		case 'r': o->run_dir = optarg; break;
		case 'v': o->vmm = optarg; break;
		case 'l': o->libvirt = optarg; break;
		case 'p': o->libvirt_peer = optarg; break;
		case 'f':
			if (!number_of("--ready-fd", 0, 1023, &number))
				return -EINVAL;
			ready_fd = (int)number;
			break;
		case 's':
			if (!number_of("--start-timeout", 1, AGENT_START_MAX_MS / 1000, &number))
				return -EINVAL;
			o->start_ms = (int)number * 1000;
			break;
		case 'h': fputs(usage, stdout); return 1;
		case 'V': puts("pangaead " PANGAEA_VERSION); return 1;
		default: return -EINVAL;
		}
	}
	if (optind == argc)
		return 0;
	fprintf(stderr, "pangaead: unexpected argument '%s'; see --help\n", argv[optind]);
	return -EINVAL;
}

static const char *env_or(const char *name, const char *fallback)
{
	const char *value = getenv(name);

	return value && *value ? value : fallback;
}

int main(int argc, char **argv)
{
	struct agent_options options = {.home = env_or("PANGAEA_HOME", "/etc/pangaea"),
					.run_dir = "/run/pangaea",
					.libvirt = env_or("PANGAEA_LIBVIRT_URI", "qemu:///system"),
					.libvirt_peer = env_or("PANGAEA_LIBVIRT_PEER_URI", NULL)};
	struct agent *agent;
	int rc = parse(argc, argv, &options);

	if (rc)
		return rc < 0 ? 2 : 0;
	base_log_init("pangaead");
	rc = base_loop_new(&loop);
	if (!rc)
		rc = watch_signals();
	if (rc) {
		log_error("cannot start: %s", strerror(-rc));
		return 1;
	}
	rc = agent_new(loop, &options, &agent);
	if (!rc) {
		tell_ready();
		rc = base_loop_run(loop);
		agent_free(agent);
	}
	base_loop_remove(&signals);
	close(signals.fd);
	base_loop_free(loop);
	return rc ? 1 : 0;
}
