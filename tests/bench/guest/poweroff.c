// SPDX-License-Identifier: Apache-2.0
// The smallest /init: ends the guest at once. Without libc, so that the floor
// holds nothing but QEMU and the kernel.
//
// gcc -static -nostdlib -Os -DCOMMAND=0x4321FEDC   (RB_POWER_OFF of linux/reboot.h)

#ifndef COMMAND
#define COMMAND 0x4321FEDC
#endif

void _start(void)
{
    long result;
    // reboot(2) of x86_64 has number 169; the two magic numbers are its contract.
    register long arg4 __asm__("r10") = 0;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(169L), "D"(0xfee1deadL), "S"(672274793L), "d"((long)COMMAND), "r"(arg4)
                     : "rcx", "r11", "memory");
    for (;;)
        __asm__ volatile("pause");
}
