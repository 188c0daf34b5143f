/*
 * Prints the kernel's tests that are arrays of instructions, one JSON object a line. Includes the kernel's
 * test_verifier.c, which has their struct and the functions that fill the long ones; nothing of it is run but those.
 */
#define main kernel_main
#include "test_verifier.c"
#undef main

static void print_string(const char *text)
{
	putchar('"');
	for (; text && *text; text++) {
		if (*text == '"' || *text == '\\')
			printf("\\%c", *text);
		else if ((unsigned char)*text < ' ')
			putchar(' ');
		else
			putchar(*text);
	}
	putchar('"');
}

static int first_map = 1;

static void print_map(const char *name, const int *at)
{
	if (!*at)
		return;
	printf("%s\"%s\":[%d", first_map ? "" : ",", name, *at);
	while (*++at)
		printf(",%d", *at);
	putchar(']');
	first_map = 0;
}

#define MAP(name) print_map(#name, test->fixup_##name)

static void print_test(struct bpf_test *test)
{
	struct bpf_insn *insns = test->insns;
	int length, i;

	if (test->fill_helper) {
		test->fill_insns = calloc(MAX_TEST_INSNS, sizeof(*insns));
		test->fill_helper(test);
	}
	if (test->fill_insns) {
		insns = test->fill_insns;
		length = test->prog_len;
	} else {
		length = probe_filter_length(insns);
	}
	printf("{\"name\":");
	print_string(test->descr);
	printf(",\"result\":%d,\"message\":", test->result);
	print_string(test->errstr);
	printf(",\"type\":%d,\"attach\":%d,\"flags\":%d,\"functions\":%d", test->prog_type,
	       test->expected_attach_type, test->flags, test->func_info_cnt);
	printf(",\"kfuncs\":{");
	for (i = 0; test->fixup_kfunc_btf_id[i].kfunc; i++)
		printf("%s\"%d\":\"%s\"", i ? "," : "", test->fixup_kfunc_btf_id[i].insn_idx,
		       test->fixup_kfunc_btf_id[i].kfunc);
	printf("},\"maps\":{");
	first_map = 1;
	MAP(map_hash_8b); MAP(map_hash_48b); MAP(map_hash_16b); MAP(map_array_48b);
	MAP(map_sockmap); MAP(map_sockhash); MAP(map_xskmap); MAP(map_stacktrace);
	MAP(prog1); MAP(prog2); MAP(map_in_map); MAP(cgroup_storage); MAP(percpu_cgroup_storage);
	MAP(map_spin_lock); MAP(map_array_ro); MAP(map_array_wo); MAP(map_array_small);
	MAP(sk_storage_map); MAP(map_event_output); MAP(map_reuseport_array); MAP(map_ringbuf);
	MAP(map_timer); MAP(map_kptr);
	printf("},\"insns\":\"");
	for (i = 0; i < length * (int)sizeof(*insns); i++)
		printf("%02x", ((unsigned char *)insns)[i]);
	printf("\"}\n");
	free(test->fill_insns);
}

int main(void)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(tests); i++)
		print_test(&tests[i]);
	return 0;
}
