// SPDX-License-Identifier: Apache-2.0
// watcher [-w FILE] FOLDER...: says "ready" once it watches the folders, writes
// FILE, and says each change: c (content) or e (attributes), folder and name.
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

int main(int count, char **words) {
    _Alignas(struct inotify_event) char buffer[4096];
    const char *own = NULL;
    int first = 1, queue = inotify_init();
    if (count > 3 && strcmp(words[1], "-w") == 0) {
        own = words[2];
        first = 3;
    }
    for (int i = first; i < count; i++) {
        if (inotify_add_watch(queue, words[i], IN_MODIFY | IN_ATTRIB) != i - first + 1) {
            perror(words[i]);
            return 1;
        }
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (own != NULL) {
        FILE *file = fopen(own, "w");
        if (file == NULL || fputs("x\n", file) < 0 || fclose(file) != 0) {
            perror(own);
            return 1;
        }
    }
    puts("ready");
    for (;;) {
        ssize_t size = read(queue, buffer, sizeof buffer);
        if (size <= 0) {
            perror("read");
            return 1;
        }
        for (char *at = buffer; at < buffer + size;) {
            struct inotify_event *event = (struct inotify_event *)at;
            const char *folder = words[first + event->wd - 1];
            if (event->mask & (IN_MODIFY | IN_ATTRIB)) {
                printf("%c %s %s\n", event->mask & IN_MODIFY ? 'c' : 'e', folder,
                       event->len > 0 ? event->name : "");
            }
            at += sizeof *event + event->len;
        }
    }
}
