# insmod64.S for a 32-bit kernel: the same program, the same table, other system calls. See there.
#
# Sources: System V ABI (i386), elf(5), Linux init_module(2).

        .intel_syntax noprefix
        .code32

        .set BASE,        0x08048000
        .set SYS_exit,    1
        .set SYS_write,   4
        .set SYS_open,    5
        .set SYS_close,   6
        .set SYS_execve,  11
        .set SYS_lseek,   19
        .set SYS_munmap,  91
        .set SYS_insmod,  128
        .set SYS_mmap2,   192
        .set EEXIST,      17

        .globl _start
file:   .byte 0x7f, 'E', 'L', 'F', 1, 1, 1, 0   # 32 bits, little endian
        .quad 0
        .short 2, 3                             # ET_EXEC, EM_386
        .long 1, _start, 52, 0, 0               # entry, program headers, no sections
        .short 52, 32, 1, 0, 0, 0
        .long 1, 0, BASE, BASE                  # PT_LOAD
        .long table - file, table - file        # p_filesz, p_memsz
        .long 5, 0x1000                         # read and execute

# esi: current string. On the stack: [ebp] argc, [ebp + 4] argv.
_start: mov     ebp, esp
        mov     esi, offset table
1:      call    next
        cmp     byte ptr [esi], 0
        je      become
        call    insmod
        jmp     1b

become: mov     ebx, offset table
        mov     [ebp + 4], ebx                  # init wants to know itself by its own name
        lea     ecx, [ebp + 4]
        mov     edx, [ebp]
        lea     edx, [ebp + edx * 4 + 8]
        mov     eax, SYS_execve
        int     0x80
        mov     esi, offset table
        mov     ecx, offset no_init
        mov     edx, no_init_end - no_init
        call    report
        mov     ebx, 1
        mov     eax, SYS_exit
        int     0x80

# esi: the string after the one at esi.
next:   inc     esi
        cmp     byte ptr [esi - 1], 0
        jne     next
        ret

# Load the module whose path is at esi.
insmod: mov     ebx, esi
        xor     ecx, ecx
        xor     edx, edx
        mov     eax, SYS_open
        int     0x80
        test    eax, eax
        js      failed
        push    esi
        push    ebp
        mov     edi, eax                        # the file
        mov     ebx, eax
        xor     ecx, ecx
        mov     edx, 2                          # SEEK_END
        mov     eax, SYS_lseek
        int     0x80
        push    eax                             # its length
        mov     ecx, eax
        xor     ebx, ebx
        mov     edx, 1                          # PROT_READ
        mov     esi, 2                          # MAP_PRIVATE
        xor     ebp, ebp
        mov     eax, SYS_mmap2
        int     0x80
        pop     ecx
        pop     ebp
        pop     esi
        cmp     eax, -4096
        ja      failed
        mov     ebx, eax
        mov     edx, offset empty               # no parameters
        mov     eax, SYS_insmod
        int     0x80
        push    eax
        mov     eax, SYS_munmap
        int     0x80
        mov     ebx, edi
        mov     eax, SYS_close
        int     0x80
        pop     eax
        test    eax, eax
        jz      1f
        cmp     eax, -EEXIST
        jne     failed
1:      ret

# Say that what esi names failed, with the error in eax.
failed: mov     ecx, offset no_module
        mov     edx, no_module_end - no_module
# As above, with the text at ecx, edx bytes.
report: neg     eax
        push    eax
        mov     ebx, 2
        mov     eax, SYS_write
        int     0x80
        mov     ecx, esi
        mov     edx, esi
1:      inc     edx
        cmp     byte ptr [edx], 0
        jne     1b
        sub     edx, ecx
        mov     eax, SYS_write
        int     0x80
        pop     eax
        # ": error NNNN\n", built backwards on the stack.
        sub     esp, 32
        lea     ecx, [esp + 31]
        mov     byte ptr [ecx], '\n'
        mov     ebx, 10
2:      xor     edx, edx
        div     ebx
        add     dl, '0'
        dec     ecx
        mov     [ecx], dl
        test    eax, eax
        jnz     2b
        sub     ecx, 8
        mov     dword ptr [ecx], 0x7265203a     # ": er"
        mov     dword ptr [ecx + 4], 0x20726f72 # "ror "
        lea     edx, [esp + 32]
        sub     edx, ecx
        mov     ebx, 2
        mov     eax, SYS_write
        int     0x80
        add     esp, 32
        ret

no_module:
        .ascii  "synthdisk: cannot load the kernel module "
no_module_end:
no_init:
        .ascii  "synthdisk: cannot start "
no_init_end:
empty:  .byte   0
table:
