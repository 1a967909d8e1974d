#include "proto/cluster.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "proto/yfile.h"

static bool address_valid(const char *s)
{
	struct in6_addr a;

	return inet_pton(AF_INET, s, &a) == 1 || inet_pton(AF_INET6, s, &a) == 1;
}

bool cluster_address_parse(const char *s, char address[CLUSTER_ADDRESS_MAX], uint16_t *port)
{
	const char *host = s, *end = s + strlen(s), *colon = strrchr(s, ':');
	char text[CLUSTER_ADDRESS_MAX];
	uint64_t number = CLUSTER_DEFAULT_PORT;

	if (*s == '[') {
		host = s + 1;
		end = strchr(s, ']');
		if (!end || (end[1] && end[1] != ':'))
			return false;
		colon = end[1] ? end + 1 : NULL;
	} else if (colon && strchr(s, ':') != colon) {
		colon = NULL; /* a bare IPv6 address */
	} else if (colon) {
		end = colon;
	}
	if (colon && !text_number_parse(colon + 1, 1, 65535, &number))
		return false;
	if ((size_t)(end - host) >= sizeof(text))
		return false;
	memcpy(text, host, (size_t)(end - host));
	text[end - host] = 0;
	if (!address_valid(text))
		return false;
	memcpy(address, text, sizeof(text));
	*port = (uint16_t)number;
	return true;
}

const struct cluster_node *cluster_find(const struct cluster *c, const char *name)
{
	for (size_t i = 0; i < c->node_count; i++)
		if (!strcmp(c->nodes[i].name, name))
			return &c->nodes[i];
	return NULL;
}

/* ---- reading ---- */

static int take_key(struct yfile *f, int node, struct keys_key *out)
{
	const char *s = yfile_scalar(f, node);

	if (!s)
		return -EBADMSG;
	if (!keys_from_hex(s, out))
		return yfile_fail(f, node, "a key is 64 hexadecimal digits");
	return 0;
}

static int take_port(struct yfile *f, int node, uint16_t *out)
{
	uint64_t port;
	int rc = yfile_number(f, node, 1, 65535, &port);

	if (!rc)
		*out = (uint16_t)port;
	return rc;
}

static int take_ssh_host(struct yfile *f, int node, void *out)
{
	return yfile_text(f, node, ((struct cluster_ssh *)out)->host, 256);
}

static int take_ssh_user(struct yfile *f, int node, void *out)
{
	return yfile_text(f, node, ((struct cluster_ssh *)out)->user, 64);
}

static int take_ssh_identity(struct yfile *f, int node, void *out)
{
	return yfile_text(f, node, ((struct cluster_ssh *)out)->identity, 512);
}

static int take_ssh_port(struct yfile *f, int node, void *out)
{
	return take_port(f, node, &((struct cluster_ssh *)out)->port);
}

static int take_node_name(struct yfile *f, int node, void *out)
{
	return yfile_name(f, node, ((struct cluster_node *)out)->name);
}

static int take_node_address(struct yfile *f, int node, void *out)
{
	struct cluster_node *n = out;
	int rc = yfile_text(f, node, n->address, sizeof(n->address));

	if (!rc && !address_valid(n->address))
		return yfile_fail(f, node, "'%s' is not an IP address", n->address);
	return rc;
}

static int take_node_port(struct yfile *f, int node, void *out)
{
	return take_port(f, node, &((struct cluster_node *)out)->port);
}

static int take_node_key(struct yfile *f, int node, void *out)
{
	struct cluster_node *n = out;

	n->has_key = true;
	return take_key(f, node, &n->key);
}

static int take_node_ssh(struct yfile *f, int node, void *out)
{
	static const struct yfield fields[] = {
		{"host", take_ssh_host, false},
		{"user", take_ssh_user, false},
		{"port", take_ssh_port, false},
		{"identity", take_ssh_identity, false},
	};

	return yfile_map(f, node, fields, BASE_ARRAY_LEN(fields),
			 &((struct cluster_node *)out)->ssh);
}

static int check_unique(struct yfile *f, int node, const struct cluster *c,
			const struct cluster_node *n)
{
	for (size_t i = 0; i < c->node_count; i++) {
		const struct cluster_node *o = &c->nodes[i];

		if (!strcmp(o->name, n->name))
			return yfile_fail(f, node, "there are two nodes '%s'", n->name);
		if (!strcmp(o->address, n->address) && o->port == n->port)
			return yfile_fail(f, node, "nodes '%s' and '%s' have the same address",
					  o->name, n->name);
		if (o->has_key && n->has_key && keys_equal(&o->key, &n->key))
			return yfile_fail(f, node, "nodes '%s' and '%s' have the same key", o->name,
					  n->name);
	}
	return 0;
}

static int take_node(struct yfile *f, int node, void *out)
{
	static const struct yfield fields[] = {
		{"name", take_node_name, true},	 {"address", take_node_address, true},
		{"port", take_node_port, false}, {"key", take_node_key, false},
		{"ssh", take_node_ssh, false},
	};
	struct cluster *c = out;
	struct cluster_node *n = &c->nodes[c->node_count];
	int rc;

	n->port = CLUSTER_DEFAULT_PORT;
	rc = yfile_map(f, node, fields, BASE_ARRAY_LEN(fields), n);
	if (!rc)
		rc = check_unique(f, node, c, n);
	if (!rc)
		c->node_count++;
	return rc;
}

static int take_nodes(struct yfile *f, int node, void *out)
{
	return yfile_seq(f, node, CLUSTER_MAX_NODES, take_node, out);
}

static int take_admin(struct yfile *f, int node, void *out)
{
	struct cluster *c = out;

	return take_key(f, node, &c->admins[c->admin_count++]);
}

static int take_admins(struct yfile *f, int node, void *out)
{
	return yfile_seq(f, node, CLUSTER_MAX_ADMINS, take_admin, out);
}

static int take_cluster_name(struct yfile *f, int node, void *out)
{
	return yfile_name(f, node, ((struct cluster *)out)->name);
}

static int take_file(struct yfile *f, bool keys, struct cluster **out)
{
	static const struct yfield fields[] = {
		{"cluster", take_cluster_name, false},
		{"admin", take_admins, false},
		{"nodes", take_nodes, true},
	};
	struct cluster *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return -ENOMEM;
	memcpy(c->name, "cluster", sizeof("cluster"));
	rc = yfile_map(f, yfile_root(f), fields, BASE_ARRAY_LEN(fields), c);
	if (!rc && !c->node_count)
		rc = yfile_fail(f, yfile_root(f), "there are no nodes");
	for (size_t i = 0; !rc && keys && i < c->node_count; i++)
		if (!c->nodes[i].has_key)
			rc = yfile_fail(f, yfile_root(f),
					"node '%s' has no key; 'pangaea init' makes keys",
					c->nodes[i].name);
	if (rc) {
		free(c);
		return rc;
	}
	*out = c;
	return 0;
}

int cluster_parse(const char *name, const void *text, size_t len, bool keys, struct cluster **out,
		  char why[CLUSTER_WHY_MAX])
{
	struct yfile *f;
	int rc = yfile_parse(name, text, len, why, CLUSTER_WHY_MAX, &f);

	if (rc)
		return rc;
	rc = take_file(f, keys, out);
	yfile_free(f);
	return rc;
}

int cluster_read(const char *path, bool keys, struct cluster **out, char why[CLUSTER_WHY_MAX])
{
	struct yfile *f;
	int rc = yfile_read(path, why, CLUSTER_WHY_MAX, &f);

	if (rc)
		return rc;
	rc = take_file(f, keys, out);
	yfile_free(f);
	return rc;
}

/* ---- writing ---- */

/* Single-quoted YAML: a quote is doubled; control characters never get this far. */
static void put_quoted(FILE *f, const char *key, const char *value)
{
	fprintf(f, "%s: '", key);
	for (; *value; value++) {
		if (*value == '\'')
			fputc('\'', f);
		fputc(*value, f);
	}
	fputs("'", f);
}

static void write_ssh(const struct cluster_ssh *s, FILE *f)
{
	const struct {
		const char *key, *value;
	} texts[] = {{"host", s->host}, {"user", s->user}, {"identity", s->identity}};
	const char *comma = "";

	if (!s->host[0] && !s->user[0] && !s->identity[0] && !s->port)
		return;
	fputs("    ssh: {", f);
	for (size_t i = 0; i < BASE_ARRAY_LEN(texts); i++) {
		if (!texts[i].value[0])
			continue;
		fputs(comma, f);
		put_quoted(f, texts[i].key, texts[i].value);
		comma = ", ";
	}
	if (s->port)
		fprintf(f, "%sport: %u", comma, s->port);
	fputs("}\n", f);
}

int cluster_write(const struct cluster *c, FILE *f)
{
	char hex[KEYS_HEX_MAX];

	fprintf(f, "# The cluster: the same file on every node. See cluster.yaml(5).\n");
	fprintf(f, "cluster: '%s'\n", c->name);
	if (c->admin_count)
		fputs("admin:\n", f);
	for (size_t i = 0; i < c->admin_count; i++) {
		keys_to_hex(&c->admins[i], hex);
		fprintf(f, "  - '%s'\n", hex);
	}
	fputs("nodes:\n", f);
	for (size_t i = 0; i < c->node_count; i++) {
		const struct cluster_node *n = &c->nodes[i];

		fprintf(f, "  - name: '%s'\n    address: '%s'\n    port: %u\n", n->name, n->address,
			n->port);
		if (n->has_key) {
			keys_to_hex(&n->key, hex);
			fprintf(f, "    key: '%s'\n", hex);
		}
		write_ssh(&n->ssh, f);
	}
	return fflush(f) || ferror(f) ? -EIO : 0;
}
