/* SQL statements that a program gives to SQLite, with their text. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct statement {
  __u32 thread;
  __s32 length; /* of the text as it is here; the longest is 255 */
  char text[256];
};

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 1024 * 1024);
  __type(value, struct statement);
} statements SEC(".maps");

__u64 lost;

/* int sqlite3_prepare_v2(sqlite3 *db, const char *sql, int bytes, sqlite3_stmt **statement, const char **tail) */
SEC("fentry.multi/libsqlite3:sqlite3_prepare_v2,libsqlite3:sqlite3_prepare_v3")
int BPF_PROG(on_prepare, void *db, const char *sql, int bytes) {
  struct statement *statement = bpf_ringbuf_reserve(&statements, sizeof(*statement), 0);
  if (!statement) {
    __sync_fetch_and_add(&lost, 1);
    return 0;
  }
  statement->thread = bpf_get_current_pid_tgid();
  long got = bpf_probe_read_user_str(statement->text, sizeof(statement->text), sql);
  statement->length = got > 0 ? got - 1 : 0;
  if (got <= 0) statement->text[0] = 0;
  bpf_ringbuf_submit(statement, 0);
  return 0;
}

char LICENSE[] SEC("license") = "GPL";
