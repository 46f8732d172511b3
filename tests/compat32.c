/* Lists a tree as a 32-bit program does that was built without large files: by getdents(2) and
 * stat(2) with inode numbers of 32 bits. Prints each number and path; fails where one fails. */

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <fcntl.h>

struct entry {
    unsigned long ino, off;
    unsigned short reclen;
    char name[];
};

static int list(const char *path)
{
    char buffer[32768];
    int fd = open(path, O_RDONLY | O_DIRECTORY);
    if (fd < 0) {
        perror(path);
        return 1;
    }
    for (;;) {
        int length = syscall(SYS_getdents, fd, buffer, sizeof buffer);
        if (length < 0) {
            perror(path);
            return 1;
        }
        if (length == 0)
            break;
        for (int at = 0; at < length; at += ((struct entry *)(buffer + at))->reclen) {
            struct entry *one = (struct entry *)(buffer + at);
            struct stat status;
            char below[4096];
            if (!strcmp(one->name, ".") || !strcmp(one->name, ".."))
                continue;
            snprintf(below, sizeof below, "%s/%s", path, one->name);
            if (lstat(below, &status)) {
                perror(below);
                return 1;
            }
            printf("%lu %lu %s\n", one->ino, (unsigned long)status.st_ino, below);
            if (S_ISDIR(status.st_mode) && list(below))
                return 1;
        }
    }
    close(fd);
    return 0;
}

int main(int count, char **words)
{
    return count != 2 || list(words[1]);
}
