/* Shuts a file system down as a power cut would: nothing that no fsync forced out survives.
 * EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH. */
#include <fcntl.h>
#include <linux/types.h>
#include <stdio.h>
#include <sys/ioctl.h>

int main(int argc, char **argv) {
    __u32 no_log_flush = 2;
    int fd = argc > 1 ? open(argv[1], O_RDONLY) : -1;
    if (fd < 0 || ioctl(fd, _IOR('X', 125, __u32), &no_log_flush)) {
        perror("shutdown");
        return 1;
    }
    return 0;
}
