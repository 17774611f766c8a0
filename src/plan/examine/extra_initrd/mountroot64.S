# The first program for an initrd that was made up for a guest without one, after its modules have been
# loaded (insmod64.S): mounts the root filesystem and becomes the guest's own init, with the same
# process number, arguments and environment. It needs nothing but the kernel.
#
# This is a whole ELF file (scripts/assemble-loader -> mountroot64.bin). A table of strings follows it,
# each ending with a NUL: "ro" or "rw"; mount options of the filesystem; its type; the devices that it
# may be on, and an empty string; the programs that may be its init, and an empty string. The host
# appends the table and puts the file's new length into p_filesz and p_memsz.
#
# The initrd has the directories /synthdisk/dev and /synthdisk/root.
#
# Sources: System V ABI (AMD64), elf(5), Linux mount(2), Documentation/filesystems/ramfs-rootfs-initramfs.

        .intel_syntax noprefix
        .code64

        .set BASE,          0x400000
        .set SYS_write,     1
        .set SYS_nanosleep, 35
        .set SYS_execve,    59
        .set SYS_exit,      60
        .set SYS_chdir,     80
        .set SYS_chroot,    161
        .set SYS_mount,     165
        .set MS_RDONLY,     1
        .set MS_MOVE,       0x2000
        .set TRIES,         300                 # with a tenth of a second between them

        .globl _start
file:   .byte 0x7f, 'E', 'L', 'F', 2, 1, 1, 0   # 64 bits, little endian
        .quad 0
        .short 2, 62                            # ET_EXEC, EM_X86_64
        .long 1
        .quad _start, 64, 0                     # entry, program headers, no sections
        .long 0
        .short 64, 56, 1, 0, 0, 0
        .long 1, 5                              # PT_LOAD, read and execute
        .quad 0, BASE, BASE
        .quad table - file, table - file        # p_filesz, p_memsz
        .quad 0x1000

# r12: argv  r13: envp  r14: mount flags  r15: mount options  rbp: type  rbx: current string
_start: mov     rax, [rsp]
        lea     r12, [rsp + 8]
        lea     r13, [rsp + rax * 8 + 16]
        lea     rbx, table[rip]
        xor     r14d, r14d
        cmp     byte ptr [rbx + 1], 'o'
        jne     1f
        mov     r14d, MS_RDONLY
1:      call    next
        mov     r15, rbx
        call    next
        mov     rbp, rbx
        call    next
        push    rbx                             # [rsp + 8]: the first device
        push    TRIES                           # [rsp]
        lea     rdi, devtmpfs[rip]
        lea     rsi, dev[rip]
        mov     rdx, rdi
        xor     r10d, r10d
        xor     r8d, r8d
        mov     eax, SYS_mount
        syscall

again:  mov     rbx, [rsp + 8]
2:      cmp     byte ptr [rbx], 0
        je      wait
        mov     rdi, rbx
        lea     rsi, root[rip]
        mov     rdx, rbp
        mov     r10, r14
        mov     r8, r15
        mov     eax, SYS_mount
        syscall
        test    rax, rax
        jz      mounted
        call    next
        jmp     2b
wait:   dec     dword ptr [rsp]
        jz      no_root
        lea     rdi, tenth[rip]
        xor     esi, esi
        mov     eax, SYS_nanosleep
        syscall
        jmp     again

mounted:
        call    next                            # past this device and the others
        cmp     byte ptr [rbx], 0
        jne     mounted
        inc     rbx
        lea     rdi, dev[rip]                   # without a /dev, the guest mounts its own
        lea     rsi, root_dev[rip]
        call    move
        lea     rdi, root[rip]
        mov     eax, SYS_chdir
        syscall
        lea     rdi, here[rip]
        lea     rsi, slash[rip]
        call    move
        lea     rdi, here[rip]
        mov     eax, SYS_chroot
        syscall
        lea     rdi, slash[rip]
        mov     eax, SYS_chdir
        syscall
3:      cmp     byte ptr [rbx], 0
        je      no_init
        mov     [r12], rbx
        mov     rdi, rbx
        mov     rsi, r12
        mov     rdx, r13
        mov     eax, SYS_execve
        syscall
        call    next
        jmp     3b

# rbx: the string after the one at rbx.
next:   inc     rbx
        cmp     byte ptr [rbx - 1], 0
        jne     next
        ret

# Move the mount at rdi to rsi.
move:   xor     edx, edx
        mov     r10d, MS_MOVE
        xor     r8d, r8d
        mov     eax, SYS_mount
        syscall
        ret

no_root:
        lea     rsi, lost_root[rip]
        mov     edx, lost_root_end - lost_root
        jmp     end
no_init:
        lea     rsi, lost_init[rip]
        mov     edx, lost_init_end - lost_init
end:    mov     edi, 2
        mov     eax, SYS_write
        syscall
        mov     edi, 1
        mov     eax, SYS_exit
        syscall

tenth:  .quad   0, 100000000
devtmpfs:
        .asciz  "devtmpfs"
dev:    .asciz  "/synthdisk/dev"
root:   .asciz  "/synthdisk/root"
root_dev:
        .asciz  "/synthdisk/root/dev"
here:   .asciz  "."
slash:  .asciz  "/"
lost_root:
        .ascii  "synthdisk: the root filesystem cannot be mounted\n"
lost_root_end:
lost_init:
        .ascii  "synthdisk: the root filesystem has no init\n"
lost_init_end:
table:
