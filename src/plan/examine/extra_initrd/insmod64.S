# A first program for an initrd: loads kernel modules into Linux, then becomes the initrd's own
# /init, with the same process number, arguments and environment. It needs nothing but the kernel:
# no shell, no module tools, no /proc.
#
# This is a whole ELF file (scripts/assemble-loader -> insmod64.bin). A table of strings
# follows it, each ending with a NUL: the path of the initrd's own init, then those of the modules
# in the order in which they are loaded, then an empty one. The host appends the table and puts the
# file's new length into p_filesz and p_memsz.
#
# A module that cannot be loaded is reported on standard error, which the kernel has opened for us,
# and skipped: the guest may boot without it.
#
# Sources: System V ABI (AMD64), elf(5), Linux init_module(2); Linux runs it as `rdinit=`.

        .intel_syntax noprefix
        .code64

        .set BASE,        0x400000
        .set SYS_write,   1
        .set SYS_open,    2
        .set SYS_close,   3
        .set SYS_lseek,   8
        .set SYS_mmap,    9
        .set SYS_munmap,  11
        .set SYS_execve,  59
        .set SYS_exit,    60
        .set SYS_insmod,  175
        .set EEXIST,      17

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

# r12: argv  r13: envp  r14: path of init  rbx: current string  ebp: file  r15: its length
_start: mov     rax, [rsp]
        lea     r12, [rsp + 8]
        lea     r13, [rsp + rax * 8 + 16]
        lea     rbx, table[rip]
        mov     r14, rbx
1:      call    next
        cmp     byte ptr [rbx], 0
        je      become
        call    insmod
        jmp     1b

become: mov     [r12], r14                      # init wants to know itself by its own name
        mov     rdi, r14
        mov     rsi, r12
        mov     rdx, r13
        mov     eax, SYS_execve
        syscall
        mov     rbx, r14
        lea     rsi, no_init[rip]
        mov     edx, no_init_end - no_init
        call    report
        mov     edi, 1
        mov     eax, SYS_exit
        syscall

# rbx: the string after the one at rbx.
next:   inc     rbx
        cmp     byte ptr [rbx - 1], 0
        jne     next
        ret

# Load the module whose path is at rbx.
insmod: mov     rdi, rbx
        xor     esi, esi
        xor     edx, edx
        mov     eax, SYS_open
        syscall
        test    rax, rax
        js      failed
        mov     ebp, eax
        mov     edi, eax
        xor     esi, esi
        mov     edx, 2                          # SEEK_END
        mov     eax, SYS_lseek
        syscall
        mov     r15, rax
        xor     edi, edi
        mov     rsi, rax
        mov     edx, 1                          # PROT_READ
        mov     r10d, 2                         # MAP_PRIVATE
        mov     r8d, ebp
        xor     r9d, r9d
        mov     eax, SYS_mmap
        syscall
        cmp     rax, -4096
        ja      failed
        push    rax
        mov     rdi, rax
        mov     rsi, r15
        lea     rdx, empty[rip]                 # no parameters
        mov     eax, SYS_insmod
        syscall
        pop     rdi
        push    rax
        mov     rsi, r15
        mov     eax, SYS_munmap
        syscall
        mov     edi, ebp
        mov     eax, SYS_close
        syscall
        pop     rax
        test    eax, eax
        jz      1f
        cmp     eax, -EEXIST
        jne     failed
1:      ret

# Say that what rbx names failed, with the error in eax.
failed: lea     rsi, no_module[rip]
        mov     edx, no_module_end - no_module
# As above, with the text at rsi, edx bytes.
report: neg     eax
        push    rax
        mov     edi, 2
        mov     eax, SYS_write
        syscall
        mov     rsi, rbx
        mov     rdi, rbx
1:      inc     rdi
        cmp     byte ptr [rdi], 0
        jne     1b
        mov     rdx, rdi
        sub     rdx, rsi
        mov     edi, 2
        mov     eax, SYS_write
        syscall
        pop     rax
        # ": error NNNN\n", built backwards on the stack.
        sub     rsp, 32
        lea     rsi, [rsp + 32]
        dec     rsi
        mov     byte ptr [rsi], '\n'
        mov     ecx, 10
2:      xor     edx, edx
        div     ecx
        add     dl, '0'
        dec     rsi
        mov     [rsi], dl
        test    eax, eax
        jnz     2b
        mov     rax, 0x20726f727265203a         # ": error "
        sub     rsi, 8
        mov     [rsi], rax
        lea     rdx, [rsp + 32]
        sub     rdx, rsi
        mov     edi, 2
        mov     eax, SYS_write
        syscall
        add     rsp, 32
        ret

no_module:
        .ascii  "synthdisk: cannot load the kernel module "
no_module_end:
no_init:
        .ascii  "synthdisk: cannot start "
no_init_end:
empty:  .byte   0
table:
