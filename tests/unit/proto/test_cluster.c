#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <cmocka.h>

#include "proto/cluster.h"

#define K1 "00112233445566778899aabbccddeeff00112233445566778899aabbccddee01"
#define K2 "00112233445566778899aabbccddeeff00112233445566778899aabbccddee02"

static char why[CLUSTER_WHY_MAX];

static int parse(const char *text, bool keys, struct cluster **out)
{
	why[0] = 0;
	return cluster_parse("c.yaml", text, strlen(text), keys, out, why);
}

static const char whole[] = "cluster: lab\n"
			    "admin: [" K1 "]\n"
			    "nodes:\n"
			    "  - name: a\n"
			    "    address: 10.0.0.1\n"
			    "    key: " K1 "\n"
			    "  - name: b\n"
			    "    address: ::1\n"
			    "    port: 7401\n"
			    "    key: '" K2 "'\n"
			    "    ssh: {host: b.lan, user: o'neil, port: 2222, identity: /k}\n";

static void whole_file(void **state)
{
	struct cluster *c;

	assert_int_equal(parse(whole, true, &c), 0);
	assert_string_equal(c->name, "lab");
	assert_int_equal(c->node_count, 2);
	assert_int_equal(c->admin_count, 1);
	assert_int_equal(cluster_find(c, "a")->port, CLUSTER_DEFAULT_PORT);
	assert_int_equal(cluster_find(c, "b")->port, 7401);
	assert_string_equal(cluster_find(c, "b")->ssh.user, "o'neil");
	assert_null(cluster_find(c, "c"));
	free(c);
}

static void written_is_read_again(void **state)
{
	struct cluster *c, *again;
	char *text;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	assert_int_equal(parse(whole, true, &c), 0);
	assert_int_equal(cluster_write(c, f), 0);
	fclose(f);
	assert_int_equal(parse(text, true, &again), 0);
	assert_memory_equal(c, again, sizeof(*c));
	free(text);
	free(c);
	free(again);
}

static void errors_name_the_line(void **state)
{
#define A "nodes:\n  - name: a\n    address: 10.0.0.1\n"
	static const struct {
		const char *text, *why;
	} cases[] = {
		{"", "c.yaml: empty"},
		{"nodes: []\n", "c.yaml:1: there are no nodes"},
		{"cluster: x\n", "c.yaml:1: 'nodes' is missing"},
		{"nodes: 3\n", "c.yaml:1: expected a list here"},
		{"- a\n", "c.yaml:1: expected 'key: value' lines here"},
		{A "colour: red\n", "c.yaml:4: 'colour' is not a known key here"},
		{A "    name: b\n", "c.yaml:4: 'name' stands here twice"},
		{A "    port: 70000\n", "c.yaml:4: '70000' is not a number from 1 to 65535"},
		{A "    key: abc\n", "c.yaml:4: a key is 64 hexadecimal digits"},
		{A "  - name: a\n    address: 10.0.0.2\n", "c.yaml:4: there are two nodes 'a'"},
		{A "  - name: b\n    address: 10.0.0.1\n",
		 "c.yaml:4: nodes 'a' and 'b' have the same address"},
		{A "    key: " K1 "\n  - name: b\n    address: 10.0.0.2\n    key: " K1 "\n",
		 "c.yaml:5: nodes 'a' and 'b' have the same key"},
		{"nodes:\n  - name: a\n", "c.yaml:2: 'address' is missing"},
		{"nodes:\n  - name: a\n    address: example.org\n",
		 "c.yaml:3: 'example.org' is not an IP address"},
		{"nodes:\n  - name: ../a\n    address: 10.0.0.1\n", NULL},
		{"nodes: &x [*x]\n", "c.yaml:1: aliases are not allowed"},
		{"nodes: [\n", NULL},
		{"--- 1\n--- 2\n", "c.yaml:2: only one document is allowed"},
		{"a: [[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]\n", "c.yaml:1: nested too deeply"},
	};
	struct cluster *c;

	for (size_t i = 0; i < BASE_ARRAY_LEN(cases); i++) {
		assert_int_equal(parse(cases[i].text, false, &c), -EBADMSG);
		if (cases[i].why)
			assert_string_equal(why, cases[i].why);
		assert_int_equal(strncmp(why, "c.yaml:", 7), 0);
	}
	assert_int_equal(parse(A, false, &c), 0);
	free(c);
	assert_int_equal(parse(A, true, &c), -EBADMSG);
	assert_string_equal(why, "c.yaml:1: node 'a' has no key; 'pangaea init' makes keys");
}

static void files_are_bounded(void **state)
{
	struct cluster *c;
	char *big = calloc(1, 300000);

	memset(big, '#', 299999);
	assert_int_equal(parse(big, false, &c), -E2BIG);
	free(big);
	assert_int_equal(cluster_read("/nonexistent/c.yaml", false, &c, why), -ENOENT);
	assert_string_equal(why, "/nonexistent/c.yaml: No such file or directory");
	assert_int_equal(cluster_read("/dev/zero", false, &c, why), -EINVAL);
}

static void addresses(void **state)
{
	char address[CLUSTER_ADDRESS_MAX];
	uint16_t port;

	assert_true(cluster_address_parse("10.0.0.1", address, &port));
	assert_int_equal(port, CLUSTER_DEFAULT_PORT);
	assert_true(cluster_address_parse("10.0.0.1:99", address, &port));
	assert_string_equal(address, "10.0.0.1");
	assert_int_equal(port, 99);
	assert_true(cluster_address_parse("fe80::1", address, &port));
	assert_string_equal(address, "fe80::1");
	assert_true(cluster_address_parse("[::1]:99", address, &port));
	assert_string_equal(address, "::1");
	assert_int_equal(port, 99);
	assert_true(cluster_address_parse("[::1]", address, &port));
	assert_false(cluster_address_parse("", address, &port));
	assert_false(cluster_address_parse("10.0.0.1:0", address, &port));
	assert_false(cluster_address_parse("10.0.0.1:", address, &port));
	assert_false(cluster_address_parse("host", address, &port));
	assert_false(cluster_address_parse("[::1]x", address, &port));
}

static void keys_in_files(void **state)
{
	char dir[] = "/tmp/keys.XXXXXX", path[64];
	struct keys_pair pair, read;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/k", dir);
	assert_int_equal(keys_generate(&pair), 0);
	assert_int_equal(keys_save(path, &pair), 0);
	assert_int_equal(keys_save(path, &pair), -EEXIST);
	assert_int_equal(keys_load(path, &read, why, sizeof(why)), 0);
	assert_memory_equal(&pair, &read, sizeof(pair));
	assert_int_equal(chmod(path, 0640), 0);
	assert_int_equal(keys_load(path, &read, why, sizeof(why)), -EACCES);
	assert_non_null(strstr(why, "chmod 600"));
	unlink(path);
	pair.public_key.bytes[5] ^= 1;
	assert_int_equal(keys_save(path, &pair), 0);
	assert_int_equal(keys_load(path, &read, why, sizeof(why)), -EBADMSG);
	unlink(path);
	assert_int_equal(keys_load(path, &read, why, sizeof(why)), -ENOENT);
	rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whole_file),
		cmocka_unit_test(written_is_read_again),
		cmocka_unit_test(errors_name_the_line),
		cmocka_unit_test(files_are_bounded),
		cmocka_unit_test(addresses),
		cmocka_unit_test(keys_in_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
