#include "node/agent/agent.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/agent/vm.h"

/* ---- configuration ---- */

/* The name in home/node: one line. */
static int read_node_name(const char *home, char out[TEXT_NAME_MAX])
{
	BASE_AUTO_FILE FILE *f = NULL;
	char path[AGENT_PATH_MAX + 16], line[TEXT_NAME_MAX + 2];

	snprintf(path, sizeof(path), "%.500s/node", home);
	f = fopen(path, "re");
	if (!f || !fgets(line, sizeof(line), f)) {
		log_error("%s: the name of this node is not there; give --node NAME", path);
		return -ENOENT;
	}
	line[strcspn(line, "\n")] = 0;
	if (!text_name_valid(line)) {
		log_error("%s: not a node's name", path);
		return -EBADMSG;
	}
	memcpy(out, line, TEXT_NAME_MAX);
	return 0;
}

static int load_cluster(struct agent *a, const struct agent_options *o)
{
	char path[AGENT_PATH_MAX + 16], why[CLUSTER_WHY_MAX], name[TEXT_NAME_MAX];
	int rc = 0;

	if (o->node)
		snprintf(name, sizeof(name), "%s", o->node);
	else
		rc = read_node_name(o->home, name);
	if (rc)
		return rc;
	snprintf(path, sizeof(path), "%.500s/cluster.yaml", o->home);
	rc = cluster_read(path, true, &a->cluster, why);
	if (rc) {
		log_error("%s", why);
		return rc;
	}
	a->self = cluster_find(a->cluster, name);
	if (!a->self) {
		log_error("%s: there is no node '%s'", path, name);
		return -ENOENT;
	}
	return 0;
}

static int load_keys(struct agent *a, const char *home)
{
	char path[AGENT_PATH_MAX + 16], why[CLUSTER_WHY_MAX];
	int rc;

	snprintf(path, sizeof(path), "%.500s/keys/node.key", home);
	rc = keys_load(path, &a->keys, why, sizeof(why));
	if (rc) {
		log_error("%s", why);
		return rc;
	}
	if (!keys_equal(&a->keys.public_key, &a->self->key)) {
		log_error("%s is not the key of node '%s' in the cluster file", path,
			  a->self->name);
		return -EINVAL;
	}
	return 0;
}

static int make_run_dir(struct agent *a, const char *run_dir)
{
	char path[AGENT_PATH_MAX + 16];

	if (run_dir[0] != '/' || strlen(run_dir) > 64) {
		log_error("run-dir '%s': expected an absolute path of at most 64 characters",
			  run_dir);
		return -EINVAL;
	}
	snprintf(a->run_dir, sizeof(a->run_dir), "%s", run_dir);
	snprintf(path, sizeof(path), "%s/vm", run_dir);
	if ((mkdir(run_dir, 0755) && errno != EEXIST) || (mkdir(path, 0700) && errno != EEXIST)) {
		log_error("%s: %s", path, strerror(errno));
		return -errno;
	}
	snprintf(path, sizeof(path), "%s/agent.lock", run_dir);
	a->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (a->lock_fd < 0 || flock(a->lock_fd, LOCK_EX | LOCK_NB)) {
		log_error("%s: %s", path,
			  errno == EWOULDBLOCK ? "another agent uses this run-dir"
					       : strerror(errno));
		return -errno;
	}
	return 0;
}

/* Beside us where we are installed, or where we were built. */
static void find_vmm(struct agent *a, const char *given)
{
	static const char *const places[] = {"pangaea-vmm", "../bin/pangaea-vmm",
					     "../libexec/pangaea/pangaea-vmm",
					     "../vmm/pangaea-vmm"};
	char self[256];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	snprintf(a->vmm, sizeof(a->vmm), "%s", given ? given : "/usr/libexec/pangaea/pangaea-vmm");
	if (given || n <= 0)
		return;
	self[n] = 0;
	slash = strrchr(self, '/');
	for (size_t i = 0; slash && i < BASE_ARRAY_LEN(places); i++) {
		char path[AGENT_PATH_MAX];

		snprintf(path, sizeof(path), "%.*s/%s", (int)(slash - self), self, places[i]);
		if (!access(path, X_OK)) {
			memcpy(a->vmm, path, sizeof(path));
			return;
		}
	}
}

/* ---- the channel ---- */

static bool key_known(void *ctx, const struct keys_key *key, char user[CHAN_NAME_MAX])
{
	const struct agent *a = ctx;

	for (size_t i = 0; i < a->cluster->node_count; i++) {
		if (keys_equal(key, &a->cluster->nodes[i].key)) {
			snprintf(user, CHAN_NAME_MAX, "%.63s", a->cluster->nodes[i].name);
			return true;
		}
	}
	for (size_t i = 0; i < a->cluster->admin_count; i++) {
		if (keys_equal(key, &a->cluster->admins[i])) {
			snprintf(user, CHAN_NAME_MAX, "(admin)");
			return true;
		}
	}
	return false;
}

static void peer_state(void *ctx, bool up, int error)
{
	struct agent_peer *p = ctx;

	if (up)
		agent_event(p->agent, "", "node", "%s is reachable", p->node->name);
	else if (p->was_up)
		agent_event(p->agent, "", "node", "%s is lost: %s", p->node->name,
			    control_error_text(error));
	p->was_up = up;
}

static const struct chan_link_ops link_ops = {.state = peer_state};
static const struct chan_server_ops server_ops = {.request = agent_request};

static int open_channel(struct agent *a)
{
	struct chan_config config = {.loop = a->loop,
				     .name = a->self->name,
				     .keys = a->keys,
				     .known = key_known,
				     .ctx = a};
	int rc = chan_new(&config, &a->chan);

	if (rc)
		return rc;
	rc = chan_server_new(a->chan, a->self->address, a->self->port, &server_ops, a, &a->server);
	if (rc)
		log_error("cannot listen at %s port %u: %s", a->self->address, a->self->port,
			  strerror(-rc));
	for (size_t i = 0; !rc && i < a->cluster->node_count; i++) {
		struct agent_peer *p = &a->peers[i];

		p->agent = a;
		p->node = &a->cluster->nodes[i];
		if (p->node != a->self)
			rc = chan_link_new(a->chan, p->node->address, p->node->port, &p->node->key,
					   false, &link_ops, p, &p->link);
	}
	return rc;
}

/* ---- the guests' network ---- */

static bool node_sockaddr(const struct cluster_node *n, struct sockaddr_in *out)
{
	*out = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(n->port)};
	return inet_pton(AF_INET, n->address, &out->sin_addr) == 1;
}

static int open_udp(const struct cluster_node *self)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), rc;
	struct sockaddr_in sa;

	if (fd < 0)
		return -errno;
	if (!node_sockaddr(self, &sa) || bind(fd, (struct sockaddr *)&sa, sizeof(sa))) {
		rc = errno ? -errno : -EAFNOSUPPORT;
		close(fd);
		return rc;
	}
	return fd;
}

/* Without it the agent works on, but "--nic net" is refused. */
static void open_net(struct agent *a)
{
	struct node_seal_keys own;
	int fd = open_udp(a->self), rc = fd;

	memcpy(own.public_key, a->keys.public_key.bytes, sizeof(own.public_key));
	memcpy(own.secret_key, a->keys.secret_key.bytes, sizeof(own.secret_key));
	if (fd >= 0)
		rc = node_switch_new(a->loop, fd, &own, &a->net);
	explicit_bzero(&own, sizeof(own));
	if (rc < 0) {
		if (fd >= 0)
			close(fd);
		log_warn("no network for guests (UDP %s port %u): %s", a->self->address,
			 a->self->port, strerror(-rc));
		return;
	}
	for (size_t i = 0; i < a->cluster->node_count; i++) {
		struct agent_peer *p = &a->peers[i];
		struct sockaddr_in sa;

		if (!p->link)
			continue;
		if (!node_sockaddr(p->node, &sa))
			log_warn("guests reach no node with an IPv6 address: %s", p->node->name);
		else if (node_switch_peer_add(a->net, &sa, p->node->key.bytes, &p->tunnel))
			log_warn("no tunnel to node %s", p->node->name);
	}
}

/* ---- the agent ---- */

static int agent_open(struct agent *a, const struct agent_options *o)
{
	int rc = load_cluster(a, o);

	if (!rc)
		rc = load_keys(a, o->home);
	if (!rc)
		rc = make_run_dir(a, o->run_dir);
	if (rc)
		return rc;
	find_vmm(a, o->vmm);
	rc = open_channel(a);
	if (rc)
		return rc;
	open_net(a);
	rc = agent_virt_open(a, o);
	if (rc)
		return rc;
	agent_event(a, "", "agent", "version %s listens at %s port %u", PANGAEA_VERSION,
		    a->self->address, a->self->port);
	agent_vms_recover(a);
	return 0;
}

int agent_new(struct base_loop *loop, const struct agent_options *options, struct agent **out)
{
	struct agent *a = calloc(1, sizeof(*a));
	int rc;

	if (!a)
		return -ENOMEM;
	a->loop = loop;
	a->lock_fd = -1;
	a->started_ns = base_clock_ns();
	a->start_ms = options->start_ms ? options->start_ms : AGENT_START_MS;
	base_list_init(&a->vms);
	base_list_init(&a->gone);
	base_list_init(&a->followers);
	rc = agent_open(a, options);
	if (rc) {
		agent_free(a);
		return rc;
	}
	*out = a;
	return 0;
}

void agent_free(struct agent *a)
{
	if (!a)
		return;
	/* Links first: what waits for another node is answered while the server is still there. */
	for (size_t i = 0; a->cluster && i < a->cluster->node_count; i++) {
		struct chan_link *link = a->peers[i].link;

		a->peers[i].link = NULL;
		chan_link_free(link);
	}
	base_list_foreach_safe (vm, &a->vms, struct agent_vm, link)
		agent_vm_forget(vm);
	agent_gone_free(a);
	chan_server_free(a->server);
	node_virt_free(a->virt);
	node_switch_free(a->net);
	chan_free(a->chan);
	if (a->lock_fd >= 0)
		close(a->lock_fd);
	explicit_bzero(&a->keys, sizeof(a->keys));
	free(a->cluster);
	free(a);
}
