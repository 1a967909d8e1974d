/*
 * pangaea init: keys and the cluster file. What is there already is kept, so that it can be run
 * again after a node is added.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/ctl.h"

static int make_dir(const struct ctl *c, const char *path, mode_t mode)
{
	if (mkdir(path, mode) && errno != EEXIST)
		return ctl_fail(c, CONTROL_FAILED, "%s: %s", path, strerror(errno));
	return 0;
}

/* Makes the key unless it is there. */
static int make_key(const struct ctl *c, const char *path, struct keys_pair *out)
{
	char why[512];
	int rc;

	if (!access(path, F_OK)) {
		rc = keys_load(path, out, why, sizeof(why));
		return rc ? ctl_fail(c, CONTROL_FAILED, "%s", why) : 0;
	}
	rc = keys_generate(out);
	if (!rc)
		rc = keys_save(path, out);
	return rc ? ctl_fail(c, CONTROL_FAILED, "%s: %s", path, strerror(-rc)) : 0;
}

static int add_node(const struct ctl *c, struct cluster *cl, char *item)
{
	struct cluster_node *n = &cl->nodes[cl->node_count];
	char *eq = strchr(item, '=');

	if (eq)
		*eq = 0;
	if (!eq || !text_name_valid(item) || cl->node_count >= CLUSTER_MAX_NODES)
		return ctl_fail(c, CONTROL_USAGE,
				"--nodes: '%.80s': expected NAME=ADDRESS[:PORT], at most %d", item,
				CLUSTER_MAX_NODES);
	*n = (struct cluster_node){0};
	memcpy(n->name, item, strlen(item) + 1);
	if (!cluster_address_parse(eq + 1, n->address, &n->port))
		return ctl_fail(c, CONTROL_USAGE, "--nodes: '%.80s' is not an IP address[:PORT]",
				eq + 1);
	cl->node_count++;
	return 0;
}

static int nodes_from_list(const struct ctl *c, struct cluster *cl)
{
	char *list = strdup(c->nodes), *save = NULL;
	int code = list ? 0 : ctl_fail(c, CONTROL_FAILED, "out of memory");

	for (char *item = list ? strtok_r(list, ",", &save) : NULL; !code && item;
	     item = strtok_r(NULL, ",", &save))
		code = add_node(c, cl, item);
	free(list);
	return code;
}

/* The nodes, from --nodes or from a cluster file without keys. For free(3). */
static int load_nodes(const struct ctl *c, struct cluster **out)
{
	char why[CLUSTER_WHY_MAX];
	struct cluster *cl;
	int code = 0;

	if (!c->nodes == !c->file)
		return ctl_fail(
			c, CONTROL_USAGE,
			"say which nodes: --nodes a=ADDRESS,b=ADDRESS or --file CLUSTERFILE");
	if (c->file) {
		code = cluster_read(c->file, false, out, why);
		return code ? ctl_fail(c, CONTROL_USAGE, "%s", why) : 0;
	}
	cl = calloc(1, sizeof(*cl));
	if (!cl)
		return ctl_fail(c, CONTROL_FAILED, "out of memory");
	memcpy(cl->name, "cluster", sizeof("cluster"));
	code = nodes_from_list(c, cl);
	if (code)
		free(cl);
	else
		*out = cl;
	return code;
}

/* Written whole or not at all, and read back before it counts: the parser has the last word. */
static int write_cluster(const struct ctl *c, const struct cluster *cl, const char *path)
{
	char part[CTL_PATH_MAX + 16], why[CLUSTER_WHY_MAX];
	struct cluster *check;
	FILE *f;
	int rc;

	snprintf(part, sizeof(part), "%s.part", path);
	f = fopen(part, "we");
	if (!f)
		return ctl_fail(c, CONTROL_FAILED, "%s: %s", part, strerror(errno));
	rc = cluster_write(cl, f);
	if (fclose(f) && !rc)
		rc = -errno;
	if (!rc) {
		rc = cluster_read(part, true, &check, why);
		if (rc) {
			unlink(part);
			return ctl_fail(c, CONTROL_USAGE, "%s", why);
		}
		free(check);
	}
	if (!rc && rename(part, path))
		rc = -errno;
	return rc ? ctl_fail(c, CONTROL_FAILED, "%s: %s", path, strerror(-rc)) : 0;
}

static int write_line(const struct ctl *c, const char *path, const char *text)
{
	FILE *f = fopen(path, "we");

	if (!f || fprintf(f, "%s\n", text) < 0) {
		if (f)
			fclose(f);
		return ctl_fail(c, CONTROL_FAILED, "%s: %s", path, strerror(errno));
	}
	return fclose(f) ? ctl_fail(c, CONTROL_FAILED, "%s: %s", path, strerror(errno)) : 0;
}

/* The administrator's key goes to every home: `pangaea` works on each host. */
static int copy_admin_key(const struct ctl *c, const struct keys_pair *admin, const char *dir)
{
	char path[CTL_PATH_MAX + 64];
	int rc;

	snprintf(path, sizeof(path), "%s/keys/admin.key", dir);
	unlink(path);
	rc = keys_save(path, admin);
	return rc ? ctl_fail(c, CONTROL_FAILED, "%s: %s", path, strerror(-rc)) : 0;
}

/* One home: what a host gets as /etc/pangaea. `node` NULL: a workstation's. */
static int make_home(const struct ctl *c, const char *dir, struct cluster_node *node,
		     const struct keys_pair *admin)
{
	char path[CTL_PATH_MAX + 64];
	struct keys_pair pair;
	int code = make_dir(c, dir, 0755);

	snprintf(path, sizeof(path), "%s/keys", dir);
	if (!code)
		code = make_dir(c, path, 0700);
	if (!code)
		code = copy_admin_key(c, admin, dir);
	if (code || !node)
		return code;
	snprintf(path, sizeof(path), "%s/keys/node.key", dir);
	code = make_key(c, path, &pair);
	if (code)
		return code;
	node->key = pair.public_key;
	node->has_key = true;
	snprintf(path, sizeof(path), "%s/node", dir);
	return write_line(c, path, node->name);
}

static int make_homes(const struct ctl *c, struct cluster *cl, const struct keys_pair *admin)
{
	char path[CTL_PATH_MAX];
	int code;

	snprintf(path, sizeof(path), "%s/admin", c->out_dir);
	code = make_home(c, path, NULL, admin);
	snprintf(path, sizeof(path), "%s/nodes", c->out_dir);
	if (!code)
		code = make_dir(c, path, 0755);
	for (size_t i = 0; !code && i < cl->node_count; i++) {
		snprintf(path, sizeof(path), "%s/nodes/%s", c->out_dir, cl->nodes[i].name);
		code = make_home(c, path, &cl->nodes[i], admin);
	}
	return code;
}

/* The same file everywhere, when all keys are known. */
static int spread_cluster(const struct ctl *c, const struct cluster *cl)
{
	char path[CTL_PATH_MAX];
	int code;

	snprintf(path, sizeof(path), "%s/cluster.yaml", c->out_dir);
	code = write_cluster(c, cl, path);
	snprintf(path, sizeof(path), "%s/admin/cluster.yaml", c->out_dir);
	if (!code)
		code = write_cluster(c, cl, path);
	for (size_t i = 0; !code && i < cl->node_count; i++) {
		snprintf(path, sizeof(path), "%s/nodes/%s/cluster.yaml", c->out_dir,
			 cl->nodes[i].name);
		code = write_cluster(c, cl, path);
	}
	return code;
}

static void report(const struct ctl *c, const struct cluster *cl)
{
	struct print_json j = {.f = stdout};

	if (c->json) {
		print_json_open(&j, NULL, '{');
		print_json_text(&j, "cluster", cl->name);
		print_json_text(&j, "dir", c->out_dir);
		print_json_open(&j, "nodes", '[');
		for (size_t i = 0; i < cl->node_count; i++)
			print_json_text(&j, NULL, cl->nodes[i].name);
		print_json_close(&j, ']');
		print_json_close(&j, '}');
		putchar('\n');
		return;
	}
	if (c->quiet)
		return;
	printf("cluster '%s' of %zu nodes in %s\n", cl->name, cl->node_count, c->out_dir);
	for (size_t i = 0; i < cl->node_count; i++)
		printf("  copy %s/nodes/%s/ to /etc/pangaea/ on %s (%s)\n", c->out_dir,
		       cl->nodes[i].name, cl->nodes[i].name, cl->nodes[i].address);
	printf("  %s/admin/ is for a workstation: PANGAEA_HOME=%s/admin pangaea node ls\n",
	       c->out_dir, c->out_dir);
}

static int init_cluster(const struct ctl *c)
{
	char path[CTL_PATH_MAX + 64];
	struct keys_pair admin;
	struct cluster *cl;
	int code = load_nodes(c, &cl);

	if (code)
		return code;
	if (c->cluster_name)
		snprintf(cl->name, sizeof(cl->name), "%s", c->cluster_name);
	snprintf(path, sizeof(path), "%s/admin.key", c->out_dir);
	code = make_dir(c, c->out_dir, 0700);
	if (!code)
		code = make_key(c, path, &admin);
	if (!code) {
		cl->admins[0] = admin.public_key;
		cl->admin_count = 1;
		code = make_homes(c, cl, &admin);
	}
	if (!code)
		code = spread_cluster(c, cl);
	explicit_bzero(&admin, sizeof(admin));
	if (!code)
		report(c, cl);
	free(cl);
	return code;
}

/* One key by itself: prints the public half. */
static int init_key(const struct ctl *c)
{
	char hex[KEYS_HEX_MAX];
	struct keys_pair pair;
	int code = make_key(c, c->args[1], &pair);

	if (code)
		return code;
	keys_to_hex(&pair.public_key, hex);
	explicit_bzero(&pair, sizeof(pair));
	puts(hex);
	return 0;
}

int ctl_init(struct ctl *c)
{
	if (c->cluster_name && !text_name_valid(c->cluster_name))
		return ctl_fail(c, CONTROL_USAGE, "--name: '%.80s' is no name", c->cluster_name);
	if (!strcmp(c->args[0], "key") && c->arg_count == 2)
		return init_key(c);
	if (strcmp(c->args[0], "cluster") != 0 || c->arg_count != 1)
		return ctl_fail(c, CONTROL_USAGE,
				"expected 'pangaea init cluster ...' or 'pangaea init key FILE'");
	if (!c->out_dir)
		return ctl_fail(c, CONTROL_USAGE, "--out DIR is missing");
	if (strlen(c->out_dir) > CTL_PATH_MAX - 128)
		return ctl_fail(c, CONTROL_USAGE, "--out: the path is too long");
	return init_cluster(c);
}
