/* SPDX-License-Identifier: BSD-2-Clause
 * A server of short notes, with three bugs. Each goes unnoticed when the server runs; a VASSERT finds it.
 * usage: notes PORT. One client at a time, a command a line:
 *   put NAME TEXT   keep a note, or replace it       again   the note that was read last
 *   get NAME        print it                         used    bytes in use
 *   drop NAME       forget it                        stop    end the server
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <vassert.h>

enum { MAX_NOTES = 100, NAME_SIZE = 32, LINE_SIZE = 4096, NONE = -1 };

struct note {
  char name[NAME_SIZE];
  char* text;
  size_t capacity;
};

static struct note notes[MAX_NOTES];
static int count;
static int last_read = NONE;
static size_t bytes_used;

/* What the client means by "again". The program has only an index; this is for the checks, and the recorded
 * run never touches it. */
static VASSERT_GHOST char meant_name[NAME_SIZE];

/* The bookkeeping agrees with the notes themselves. Too slow for every command of a busy server; here it
 * costs a NOP. */
static void check_notes(void) {
  VASSERT_BLOCK {
    size_t sum = 0;
    for (int i = 0; i < count; i++) {
      sum += notes[i].capacity;
      for (int k = 0; k < i; k++) {
        if (strcmp(notes[i].name, notes[k].name) == 0) VASSERT_FAIL("two notes are named %s", notes[i].name);
      }
    }
    VASSERT_MSG(sum == bytes_used, "%zu bytes in %d notes, %zu accounted for", sum, count, bytes_used);
  }
}

static int find(const char* name) {
  for (int i = 0; i < count; i++) {
    if (strcmp(notes[i].name, name) == 0) return i;
  }
  return NONE;
}

static void set_text(struct note* note, const char* text) {
  size_t length = strlen(text);
  /* Bug 1: no room for the NUL of texts of 16, 32, 48... bytes. malloc happens to have some more behind the
   * block. */
  note->capacity = (length + 15) / 16 * 16;
  note->text = malloc(note->capacity);
  if (!note->text) abort();
  VASSERT_MSG(length + 1 <= note->capacity, "%zu bytes and a NUL into %zu bytes", length, note->capacity);
  strcpy(note->text, text);
}

static void put(const char* name, const char* text) {
  int at = find(name);
  if (at != NONE) {
    /* Bug 2: the replaced text stays in bytes_used. */
    free(notes[at].text);
  } else {
    if (count == MAX_NOTES) return;
    at = count++;
    snprintf(notes[at].name, sizeof notes[at].name, "%s", name);
  }
  set_text(&notes[at], text);
  bytes_used += notes[at].capacity;
}

static void drop(const char* name) {
  int at = find(name);
  if (at == NONE) return;
  bytes_used -= notes[at].capacity;
  free(notes[at].text);
  /* Bug 3: last_read may name the note that moves, or the place that it leaves. */
  notes[at] = notes[--count];
}

static void print(FILE* client, int at) {
  fprintf(client, "%s\n", at == NONE ? "no such note" : notes[at].text);
}

static void get(FILE* client, const char* name) {
  last_read = find(name);
  VASSERT_BLOCK { snprintf(meant_name, sizeof meant_name, "%s", name); }
  print(client, last_read);
}

static void again(FILE* client) {
  VASSERT_MSG(last_read < count, "note %d of %d", last_read, count);
  VASSERT_MSG(last_read == NONE || strcmp(notes[last_read].name, meant_name) == 0,
              "%s is meant, %s is at its index", meant_name, notes[last_read].name);
  print(client, last_read);
}

/* 0 when the server is to end. */
static int command(FILE* client, char* line) {
  char* rest = line;
  const char* word = strsep(&rest, " \r\n");
  const char* name = rest ? strsep(&rest, " \r\n") : "";
  const char* text = rest ? strsep(&rest, "\r\n") : "";
  if (strcmp(word, "put") == 0) {
    put(name, text);
  } else if (strcmp(word, "get") == 0) {
    get(client, name);
  } else if (strcmp(word, "drop") == 0) {
    drop(name);
  } else if (strcmp(word, "again") == 0) {
    again(client);
  } else if (strcmp(word, "used") == 0) {
    fprintf(client, "%zu\n", bytes_used);
  }
  check_notes();
  fflush(client);
  return strcmp(word, "stop") != 0;
}

static int serve(int listener) {
  static char line[LINE_SIZE];
  int going = 1;
  int connection = accept(listener, NULL, NULL);
  if (connection < 0) return 1;
  FILE* in = fdopen(connection, "r");
  FILE* out = fdopen(dup(connection), "w");
  while (going && fgets(line, sizeof line, in)) going = command(out, line);
  fclose(out);
  fclose(in);
  return going;
}

int main(int argc, char** argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: notes PORT\n");
    return 2;
  }
  int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(listener, (struct sockaddr*)&address, sizeof address) != 0 || listen(listener, 5) != 0) {
    perror("notes");
    return 1;
  }
  while (serve(listener)) {
  }
  return 0;
}
