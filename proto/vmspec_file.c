/* The YAML form of a VM's specification. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "proto/vmspec.h"
#include "proto/yfile.h"

static int take_name(struct yfile *f, int node, void *out)
{
	return yfile_name(f, node, ((struct vmspec *)out)->name);
}

static int take_node(struct yfile *f, int node, void *out)
{
	return yfile_name(f, node, ((struct vmspec *)out)->node);
}

static int take_kernel(struct yfile *f, int node, void *out)
{
	return yfile_text(f, node, ((struct vmspec *)out)->kernel, VMSPEC_PATH_MAX);
}

static int take_initrd(struct yfile *f, int node, void *out)
{
	return yfile_text(f, node, ((struct vmspec *)out)->initrd, VMSPEC_PATH_MAX);
}

static int take_restore(struct yfile *f, int node, void *out)
{
	return yfile_text(f, node, ((struct vmspec *)out)->restore, VMSPEC_PATH_MAX);
}

static int take_cmdline(struct yfile *f, int node, void *out)
{
	return yfile_text(f, node, ((struct vmspec *)out)->cmdline, VMSPEC_CMDLINE_MAX);
}

static int take_by(struct yfile *f, int node, void *out,
		   bool (*set)(struct vmspec *, const char *, char *))
{
	const char *s = yfile_scalar(f, node);
	char why[VMSPEC_WHY_MAX];

	if (!s)
		return -EBADMSG;
	return set(out, s, why) ? 0 : yfile_fail(f, node, "%s", why);
}

static int take_vcpus(struct yfile *f, int node, void *out)
{
	return take_by(f, node, out, vmspec_set_vcpus);
}

static int take_memory(struct yfile *f, int node, void *out)
{
	return take_by(f, node, out, vmspec_set_memory);
}

static int take_disk(struct yfile *f, int node, void *out)
{
	return take_by(f, node, out, vmspec_add_disk);
}

static int take_nic(struct yfile *f, int node, void *out)
{
	return take_by(f, node, out, vmspec_add_nic);
}

static int take_disks(struct yfile *f, int node, void *out)
{
	return yfile_seq(f, node, VMSPEC_MAX_DISKS, take_disk, out);
}

static int take_nics(struct yfile *f, int node, void *out)
{
	return yfile_seq(f, node, VMSPEC_MAX_NICS, take_nic, out);
}

static int take_gdb(struct yfile *f, int node, void *out)
{
	uint64_t port;
	int rc = yfile_number(f, node, 1, 65535, &port);

	if (!rc)
		((struct vmspec *)out)->gdb_port = (uint16_t)port;
	return rc;
}

static int take_encrypt(struct yfile *f, int node, void *out)
{
	const char *s = yfile_scalar(f, node);
	bool on = s && (!strcmp(s, "on") || !strcmp(s, "true"));

	if (!s)
		return -EBADMSG;
	if (!on && strcmp(s, "off") != 0 && strcmp(s, "false") != 0)
		return yfile_fail(f, node, "encrypt '%.40s': expected on or off", s);
	((struct vmspec *)out)->encrypt = on;
	return 0;
}

static int take_transport(struct yfile *f, int node, void *out)
{
	return take_by(f, node, out, vmspec_set_transport);
}

static int take_file(struct yfile *f, struct vmspec **out)
{
	static const struct yfield fields[] = {
		{"name", take_name, false},	      {"node", take_node, false},
		{"kernel", take_kernel, false},	      {"initrd", take_initrd, false},
		{"cmdline", take_cmdline, false},     {"vcpus", take_vcpus, false},
		{"memory", take_memory, false},	      {"disks", take_disks, false},
		{"nics", take_nics, false},	      {"gdb", take_gdb, false},
		{"restore", take_restore, false},     {"encrypt", take_encrypt, false},
		{"transport", take_transport, false},
	};
	struct vmspec *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return -ENOMEM;
	rc = yfile_map(f, yfile_root(f), fields, BASE_ARRAY_LEN(fields), s);
	if (rc) {
		free(s);
		return rc;
	}
	*out = s;
	return 0;
}

int vmspec_parse(const char *name, const void *text, size_t len, struct vmspec **out,
		 char why[VMSPEC_WHY_MAX])
{
	struct yfile *f;
	int rc = yfile_parse(name, text, len, why, VMSPEC_WHY_MAX, &f);

	if (rc)
		return rc;
	rc = take_file(f, out);
	yfile_free(f);
	return rc;
}

int vmspec_read(const char *path, struct vmspec **out, char why[VMSPEC_WHY_MAX])
{
	struct yfile *f;
	int rc = yfile_read(path, why, VMSPEC_WHY_MAX, &f);

	if (rc)
		return rc;
	rc = take_file(f, out);
	yfile_free(f);
	return rc;
}

static void put(FILE *f, const char *before, const char *value, const char *after)
{
	fputs(before, f);
	fputc('\'', f);
	for (; *value; value++) {
		if (*value == '\'')
			fputc('\'', f);
		fputc(*value, f);
	}
	fputc('\'', f);
	fputs(after, f);
}

static void put_text(FILE *f, const char *key, const char *value)
{
	if (!value[0])
		return;
	fputs(key, f);
	put(f, ": ", value, "\n");
}

/* "2" or "'a=2,b=2'": what the command line takes as well. */
static void put_shares(const struct vmspec *s, FILE *f)
{
	const char *comma = "";

	fputs("vcpus: '", f);
	for (size_t i = 0; i < s->part_count; i++) {
		if (s->parts[i].vcpus) {
			fprintf(f, "%s%s=%" PRIu32, comma, s->parts[i].node, s->parts[i].vcpus);
			comma = ",";
		}
	}
	if (!*comma)
		fprintf(f, "%" PRIu32, s->vcpus);
	fputs("'\nmemory: '", f);
	comma = "";
	for (size_t i = 0; i < s->part_count; i++) {
		if (s->parts[i].memory_bytes) {
			fprintf(f, "%s%s=%" PRIu64, comma, s->parts[i].node,
				s->parts[i].memory_bytes);
			comma = ",";
		}
	}
	if (!*comma)
		fprintf(f, "%" PRIu64, s->memory_bytes);
	fputs("'\n", f);
}

int vmspec_write(const struct vmspec *s, FILE *f)
{
	char text[VMSPEC_PATH_MAX + 64];

	put_text(f, "name", s->name);
	put_text(f, "node", s->node);
	put_text(f, "kernel", s->kernel);
	put_text(f, "initrd", s->initrd);
	put_text(f, "restore", s->restore);
	put_text(f, "cmdline", s->cmdline);
	put_shares(s, f);
	if (s->encrypt)
		fputs("encrypt: on\n", f);
	put_text(f, "transport", s->transport);
	if (s->gdb_port)
		fprintf(f, "gdb: %u\n", s->gdb_port);
	if (s->disk_count)
		fputs("disks:\n", f);
	for (size_t i = 0; i < s->disk_count; i++) {
		vmspec_disk_print(&s->disks[i], text, sizeof(text));
		put(f, "  - ", text, "\n");
	}
	if (s->nic_count)
		fputs("nics:\n", f);
	for (size_t i = 0; i < s->nic_count; i++) {
		vmspec_nic_print(&s->nics[i], text, sizeof(text));
		put(f, "  - ", text, "\n");
	}
	return fflush(f) || ferror(f) ? -EIO : 0;
}
