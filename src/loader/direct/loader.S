# The direct loader: a BIOS boot program that loads one Linux kernel from known sectors and starts
# it. It reads no file system and no partition table; docs/direct-loader.md has the disk contract.
# The LBAs below are those of a loader in the boot gap; the host shifts them for one in a disk's tail.
#
# This one source gives a memory image of 0x7c00..0x9000 (scripts/assemble-loader -> loader.bin):
#
#   0x7c00  stage 1, 440 bytes: the bootstrap area of the MBR. The bytes from 440 on are the disk
#           signature and the partition table; nothing here relies on them.
#   0x8000  stage 2, 4096 bytes: LBA 40..=47.
#
# Sources: Phoenix EDD 3.0 (INT 13h AH=41h/42h), ACPI 6 ch. 15 (INT 15h E820), and the Linux/x86
# boot protocol (kernel: Documentation/arch/x86/boot.rst).

        .intel_syntax noprefix
        .code16

# ---- memory map -------------------------------------------------------------------------------

        .set STAGE1,       0x7c00       # the stack grows down from here
        .set STAGE2,       0x8000
        .set PARAMS,       0x9000       # the parameter block that this attempt works with
        .set PARAMS_AGAIN, 0x9200       # the parameter block as it is at the end
        .set E820,         0x9400       # one entry of the BIOS memory map
        .set LINE,         0x9600       # the line being put together for printing
        .set REAL_SEG,     0x1000       # 0x10000: real-mode part of the kernel, its heap and stack
        .set CMDLINE,      0x20000
        .set BOUNCE_SEG,   0x3000       # 0x30000: what INT 13h reads into, inside one 64 KiB page
        .set HIGH,         0x100000     # protected-mode part of the kernel

# ---- disk contract ----------------------------------------------------------------------------

        .set STAGE2_LBA,         40
        .set STAGE2_SECT,        8
        .set PARAMS_LBA,         128

        .set P_MAGIC,            PARAMS + 0   # "SYNTHDSK"
        .set P_VERSION,          PARAMS + 8   # u32 = 1
        .set P_FLAGS,            PARAMS + 12  # u32, bit 0: has an initrd
        .set P_KERNEL_LBA,       PARAMS + 32  # u64; the token at 16 matters to the comparison only
        .set P_KERNEL_BYTES,     PARAMS + 40  # u64, bytes
        .set P_INITRD_LBA,       PARAMS + 48  # u64
        .set P_INITRD_BYTES,     PARAMS + 56  # u64, bytes
        .set P_CMDLINE_LBA,      PARAMS + 64  # u64
        .set P_CMDLINE_BYTES,    PARAMS + 72  # u32, bytes without the NUL
        .set P_MESSAGE_BYTES,    PARAMS + 76  # u32
        .set P_MESSAGE,          PARAMS + 80
        .set MESSAGE_MAX,        400
        .set CMDLINE_MAX,        4095
        .set KERNEL_MAX,         0x10000000   # 256 MiB: keeps all sums below in 32 bits
        .set INITRD_MAX,         0xc0000000

# ---- kernel header, relative to the real-mode part --------------------------------------------

        .set H_SETUP_SECTS,  0x1f1
        .set H_MAGIC,        0x202
        .set H_VERSION,      0x206
        .set H_TYPE_LOADER,  0x210
        .set H_LOADFLAGS,    0x211
        .set H_RAMDISK,      0x218
        .set H_RAMDISK_LEN,  0x21c
        .set H_HEAP_END,     0x224
        .set H_CMDLINE,      0x228
        .set H_INITRD_MAX,   0x22c      # from 2.03
        .set H_PREF_ADDRESS, 0x258      # from 2.10, u64
        .set H_INIT_SIZE,    0x260      # from 2.10
        .set REAL_STACK,     0xfff0     # offset in REAL_SEG
        .set REAL_HEAP_END,  0xfe00     # end of the heap less 0x200, as the protocol wants it

# ---- tuning -----------------------------------------------------------------------------------

        .set CHUNK,        120          # sectors per INT 13h: whole pages; EDD allows 127
        .set READ_TRIES,   4
        .set LOAD_TRIES,   5            # how often the parameter block may change under us
        .set COM1,         0x3f8

        .set SEL_CODE16,   0x08         # the GDT of copy_up
        .set SEL_DATA16,   0x10
        .set SEL_FLAT,     0x18

# ===============================================================================================
# Stage 1
# ===============================================================================================

        .globl _start
_start:
        cli
        xor     ax, ax
        mov     ss, ax
        mov     sp, offset STAGE1
        mov     ds, ax
        mov     es, ax
        sti
        cld
        ljmp    0, offset 1f            # some BIOSes start us at 07c0:0000
1:      mov     [drive], dl             # never assume 0x80
        call    com1_init

        mov     ah, 0x41                # are there INT 13h extensions?
        mov     bx, 0x55aa
        mov     dl, [drive]
        int     0x13
        jc      no_extensions
        cmp     bx, 0xaa55
        jne     no_extensions
        test    cl, 1                   # bit 0: packet access (AH=42h)
        jz      no_extensions

        mov     bp, READ_TRIES
2:      mov     word ptr [dap_count], STAGE2_SECT
        call    int13_read
        jnc     3f
        dec     bp
        jnz     2b
        mov     si, offset msg_stage2
        jmp     put_line_and_stop
3:      cmp     dword ptr [stage2_mark], 0x32474453     # "SDG2": is this our stage 2?
        mov     si, offset msg_damaged
        jne     put_line_and_stop
        jmp     stage2

no_extensions:
        mov     si, offset msg_no_ext

put_line_and_stop:
        call    put_line
4:      sti                             # so that Ctrl-Alt-Del still works
        hlt
        jmp     4b

# One INT 13h read as `dap` says; CF set when it failed, and then the drive was reset.
int13_read:
        mov     si, offset dap
        mov     dl, [drive]
        mov     ah, 0x42
        int     0x13
        jnc     1f
        xor     ah, ah
        mov     dl, [drive]
        int     0x13
        stc
1:      ret

# 115200 8n1. An absent port swallows this.
com1_init:
        mov     si, offset com1_values
        mov     cx, 6
1:      lodsw                           # al = register, ah = value
        mov     dx, COM1
        add     dl, al
        mov     al, ah
        out     dx, al
        loop    1b
        ret
com1_values:
        .byte   1, 0x00                 # IER: no interrupts
        .byte   3, 0x83                 # LCR: 8n1, divisor latch open
        .byte   0, 0x01                 # DLL: 115200
        .byte   1, 0x00                 # DLM
        .byte   3, 0x03                 # LCR: 8n1
        .byte   4, 0x03                 # MCR: DTR, RTS

# Print the NUL-terminated string at si on the screen, then on COM1. Keeps all registers.
put_line:
        pushad
        push    si
1:      lodsb
        test    al, al
        jz      2f
        mov     ah, 0x0e
        mov     bx, 7
        push    si
        int     0x10
        pop     si
        jmp     1b
2:      pop     si
        # Under `qemu -nographic` SeaBIOS itself copies the screen to COM1 ("sercon") and a second
        # copy would be noise. It can be told by INT 10h living in the system BIOS while COM1 has
        # its FIFO on, which SeaBIOS does in that case only.
        cmp     word ptr [0x10 * 4 + 2], 0xf000
        jne     3f
        mov     dx, COM1 + 2
        in      al, dx
        cmp     al, 0xc0
        jae     6f
3:      lodsb
        test    al, al
        jz      6f
        mov     ah, al
        mov     dx, COM1 + 5
        xor     cx, cx
4:      in      al, dx
        test    al, 0x20                # transmitter ready?
        jnz     5f
        loop    4b
        jmp     6f                      # it never will be: give up on this line
5:      mov     dl, COM1 & 0xff
        mov     al, ah
        out     dx, al
        jmp     3b
6:      popad
        ret

drive:  .byte   0

        .balign 4
dap:    .byte   16, 0                   # disk address packet
dap_count: .word 0                      # sectors; the BIOS writes how far it got
dap_offset: .word STAGE2
dap_segment: .word 0
dap_lba: .quad  STAGE2_LBA               # the host may set it (code.rs)

msg_no_ext:  .asciz "synthdisk: the BIOS has no INT 13h extensions for this disk\r\n"
msg_stage2:  .asciz "synthdisk: disk read error in the loader\r\n"
msg_damaged: .asciz "synthdisk: the loader on this disk is damaged\r\n"

        .org    440                     # an error here means that stage 1 has outgrown the MBR

# ===============================================================================================
# Stage 2
# ===============================================================================================

        .org    STAGE2 - STAGE1
stage2:
        call    a20_enable
        mov     word ptr [dap_offset], 0
        mov     word ptr [dap_segment], BOUNCE_SEG

# One attempt. Everything from here on may run again when the parameter block turns out to have
# changed: the host side may have planned another kernel between two of our reads.
attempt:
        mov     sp, offset STAGE1
        mov     byte ptr [failing], 0

        mov     edi, offset PARAMS
        call    load_params

        mov     si, offset msg_params
        cmp     dword ptr [P_MAGIC], 0x544e5953         # "SYNT"
        jne     fail
        cmp     dword ptr [P_MAGIC + 4], 0x4b534448     # "HDSK"
        jne     fail
        cmp     dword ptr [P_VERSION], 1
        jne     fail
        mov     ecx, [P_MESSAGE_BYTES]
        test    ecx, ecx
        jnz     message

        cmp     dword ptr [P_KERNEL_BYTES + 4], 0
        jne     fail
        cmp     dword ptr [P_KERNEL_BYTES], KERNEL_MAX
        ja      fail
        cmp     dword ptr [P_CMDLINE_BYTES], CMDLINE_MAX
        ja      fail

        xor     eax, eax                # [initrd_sectors]: 0 without an initrd
        test    byte ptr [P_FLAGS], 1
        jz      1f
        cmp     dword ptr [P_INITRD_BYTES + 4], 0
        jne     fail
        mov     eax, [P_INITRD_BYTES]
        cmp     eax, INITRD_MAX
        ja      fail
        call    bytes_to_sectors
1:      mov     [initrd_sectors], eax

        cmp     byte ptr [announced], 0
        jne     2f
        mov     byte ptr [announced], 1
        mov     si, offset msg_loading
        call    line_start
        call    line_print
2:
# -- the real-mode part of the kernel

        mov     eax, [P_KERNEL_BYTES]
        call    bytes_to_sectors
        mov     [kernel_sectors], eax
        mov     si, offset msg_kernel
        cmp     eax, 3                  # the header takes two, so less is none
        jb      fail

        mov     ecx, 2                  # enough to see how long it is
        call    load_real
        call    fs_to_real
        mov     si, offset msg_kernel
        cmp     dword ptr fs:[H_MAGIC], 0x53726448      # "HdrS"
        jne     fail
        mov     si, offset msg_old
        cmp     word ptr fs:[H_VERSION], 0x0202
        jb      fail
        test    byte ptr fs:[H_LOADFLAGS], 1            # LOADED_HIGH
        jz      fail

        movzx   ecx, byte ptr fs:[H_SETUP_SECTS]
        test    cl, cl
        jnz     3f
        mov     cl, 4                   # "for backwards compatibility"
3:      inc     cx                      # the boot sector
        mov     si, offset msg_kernel
        cmp     cx, 64                  # 32 KiB: the rest of its 64 is heap and stack
        ja      fail
        mov     eax, [kernel_sectors]
        sub     eax, ecx
        jbe     fail
        mov     [high_sectors], eax
        call    load_real               # leaves [load_lba] at the protected-mode part
        call    fs_to_real

# -- where everything goes. [floor]: the first byte above all that the kernel unpacks into

        mov     ebx, [high_sectors]
        shl     ebx, 9                  # at most 256 MiB
        mov     eax, ebx
        shl     eax, 2                  # before 2.10 nobody says; four times is a safe guess
        mov     edx, offset HIGH
        add     ebx, edx                # ebx = end of what we load
        cmp     word ptr fs:[H_VERSION], 0x020a
        jb      4f
        mov     si, offset msg_kernel
        cmp     dword ptr fs:[H_PREF_ADDRESS + 4], 0
        jne     fail
        mov     eax, fs:[H_INIT_SIZE]
        cmp     edx, fs:[H_PREF_ADDRESS]
        jae     4f
        mov     edx, fs:[H_PREF_ADDRESS]
4:      add     eax, edx
        jc      fail
        cmp     eax, ebx
        jae     5f
        mov     eax, ebx
5:      add     eax, 0xfff
        jc      fail
        and     ax, 0xf000
        mov     [floor], eax

        call    find_ram_end
        call    fs_to_real
        mov     ebx, [initrd_sectors]
        shl     ebx, 9                  # in whole sectors, since that is what we write
        add     ebx, 0xfff
        and     bx, 0xf000
        mov     ecx, [floor]
        add     ecx, ebx                # ecx = where kernel and initrd would end at the lowest
        jc      too_little_memory
        cmp     ecx, [ram_end]
        ja      too_little_memory

        mov     eax, 0x37ffffff         # the kernel's limit; this one before 2.03
        cmp     word ptr fs:[H_VERSION], 0x0203
        jb      6f
        mov     eax, fs:[H_INITRD_MAX]
6:      inc     eax                     # the field names the last byte
        jz      7f
        and     ax, 0xf000
        cmp     eax, [ram_end]
        jb      8f
7:      mov     eax, [ram_end]
8:      mov     si, offset msg_initrd
        cmp     ecx, eax
        ja      9f
        sub     eax, ebx
        mov     [initrd_address], eax
        jmp     10f
9:      test    ebx, ebx                # no initrd, no limit
        jnz     fail
10:
# -- the rest of the loading

        mov     ecx, [high_sectors]
        mov     edi, offset HIGH
        call    load_next

        mov     esi, offset P_INITRD_LBA
        mov     ecx, [initrd_sectors]
        mov     edi, [initrd_address]
        call    load

        mov     eax, [P_CMDLINE_BYTES]
        inc     eax
        call    bytes_to_sectors
        mov     ecx, eax
        mov     esi, offset P_CMDLINE_LBA
        mov     edi, offset CMDLINE
        call    load

# -- tell the kernel

        mov     ax, CMDLINE >> 4
        mov     fs, ax
        mov     bx, [P_CMDLINE_BYTES]
        mov     byte ptr fs:[bx], 0     # a command line ends, whatever the disk says

        call    fs_to_real
        mov     byte ptr fs:[H_TYPE_LOADER], 0xff
        or      byte ptr fs:[H_LOADFLAGS], 0x80         # CAN_USE_HEAP
        mov     word ptr fs:[H_HEAP_END], REAL_HEAP_END
        mov     dword ptr fs:[H_CMDLINE], offset CMDLINE
        xor     eax, eax
        xor     edx, edx
        cmp     [initrd_sectors], eax
        je      11f
        mov     eax, [initrd_address]
        mov     edx, [P_INITRD_BYTES]
11:     mov     fs:[H_RAMDISK], eax
        mov     fs:[H_RAMDISK_LEN], edx

# -- is it still one and the same payload?

        call    params_changed
        jne     again

        cli
        mov     ax, REAL_SEG
        mov     ds, ax
        mov     es, ax
        mov     fs, ax
        mov     gs, ax
        mov     ss, ax
        mov     sp, REAL_STACK
        cld
        ljmp    REAL_SEG + 0x20, 0

# ---- the ways out -----------------------------------------------------------------------------

again:
        dec     byte ptr [attempts]
        jnz     attempt
        mov     si, offset msg_changing
        jmp     fail_now

# The host has something to say instead of a kernel. ecx = P_MESSAGE_BYTES
message:
        cmp     ecx, MESSAGE_MAX
        ja      fail
        mov     byte ptr [P_MESSAGE + ecx], 0
        mov     si, offset P_MESSAGE
        call    line_start
        jmp     print_and_stop

# ecx = where all would end (CF from that sum still matters: a wrapped sum gets no number)
too_little_memory:
        mov     si, offset msg_memory
        jc      fail
        mov     eax, ecx
        sub     eax, [ram_end]
        add     eax, 0xfffff
        shr     eax, 20
        mov     [short_mib], eax
        mov     si, offset msg_memory_mib
        jmp     fail

read_failed:
        cmp     byte ptr [failing], 0
        jne     1f
        mov     eax, [dap_lba]
        mov     [failed_lba], eax
        mov     eax, [dap_lba + 4]
        mov     [failed_lba + 4], eax
1:      mov     si, offset msg_read
        # fall through

# Say what is wrong (si) and stop; but when the parameter block has changed meanwhile, what we saw
# was a mixture and says nothing: start over instead.
fail:
        mov     sp, offset STAGE1
        cmp     byte ptr [failing], 0
        jne     1f
        mov     byte ptr [failing], 1   # a read error in here comes back to 1: below
        mov     [failed_message], si
        call    params_changed
        jne     again
1:      mov     si, [failed_message]

fail_now:
        call    line_start
        cmp     si, offset msg_read_end
        jne     3f
        mov     eax, [failed_lba + 4]
        call    line_hex
        mov     eax, [failed_lba]
        call    line_hex
3:      cmp     si, offset msg_memory_mib_end
        jne     print_and_stop
        mov     eax, [short_mib]
        call    line_decimal
        mov     si, offset msg_mib_more
        call    line_add
print_and_stop:
        call    line_print
4:      sti
        hlt
        jmp     4b

# ---- loading ----------------------------------------------------------------------------------

# eax bytes -> eax sectors, rounded up.
bytes_to_sectors:
        add     eax, 511
        shr     eax, 9
        ret

fs_to_real:
        push    REAL_SEG
        pop     fs
        ret

# Read the parameter block to edi.
load_params:
        mov     esi, offset params_lba
        mov     ecx, 1
        jmp     load

# ZF clear when the parameter block on the disk is no longer the one that we work with.
params_changed:
        mov     edi, offset PARAMS_AGAIN
        call    load_params
        mov     si, offset PARAMS
        mov     di, offset PARAMS_AGAIN
        mov     cx, 128
        repe    cmpsd
        ret

# Read the first ecx sectors of the kernel to the real-mode segment.
load_real:
        mov     esi, offset P_KERNEL_LBA
        mov     edi, REAL_SEG << 4
        # fall through

# Read ecx sectors, from the LBA that is stored at si on, to physical address edi. Doesn't return
# when the disk can't be read. Destroys the 32-bit registers, fs and gs.
load:
        lodsd
        mov     [load_lba], eax
        lodsd
        mov     [load_lba + 4], eax
        # fall through

# The same, from where the last one ended.
load_next:
        test    ecx, ecx
        jz      4f
        mov     ebx, ecx
        cmp     ebx, CHUNK
        jbe     1f
        mov     ebx, CHUNK              # ebx = sectors in this piece
1:      mov     bp, READ_TRIES
2:      mov     eax, [load_lba]
        mov     [dap_lba], eax
        mov     eax, [load_lba + 4]
        mov     [dap_lba + 4], eax
        mov     [dap_count], bx
        pushad                          # a BIOS owes us only what it promises
        call    int13_read
        popad
        jnc     3f
        dec     bp
        jnz     2b
        jmp     read_failed
3:      add     [load_lba], ebx
        adc     dword ptr [load_lba + 4], 0
        sub     ecx, ebx
        push    ecx
        mov     ecx, ebx
        shl     ecx, 7                  # sectors to dwords
        call    copy_up
        pop     ecx
        jmp     load_next
4:      ret

# Copy ecx dwords from the bounce buffer to physical address edi, and leave edi after them.
#
# Not "unreal mode", whose limits a BIOS disk driver may take away at each call: the copy runs in
# protected mode, in a 16-bit code segment. All segment registers get sound values on both sides,
# so that a hypervisor need not emulate this instruction by instruction.
copy_up:
        cli
        lgdt    [gdt_pointer]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        ljmp    SEL_CODE16, offset 1f
1:      mov     ax, SEL_DATA16
        mov     ss, ax
        mov     fs, ax
        mov     gs, ax
        mov     ax, SEL_FLAT
        mov     ds, ax
        mov     es, ax
        mov     esi, BOUNCE_SEG << 4
        rep movs dword ptr es:[edi], dword ptr ds:[esi]
        mov     ax, SEL_DATA16          # real mode wants its 64 KiB limits back
        mov     ds, ax
        mov     es, ax
        mov     eax, cr0
        and     al, 0xfe
        mov     cr0, eax
        ljmp    0, offset 2f
2:      xor     ax, ax
        mov     ds, ax
        mov     es, ax
        mov     fs, ax
        mov     gs, ax
        mov     ss, ax
        sti
        ret

        .balign 8
gdt:    .quad   0
        .quad   0x00009b000000ffff      # 16-bit code, base 0, 64 KiB
        .quad   0x000093000000ffff      # 16-bit data, base 0, 64 KiB
        .quad   0x00cf93000000ffff      # data, base 0, 4 GiB
gdt_pointer:
        .word   4 * 8 - 1
        .long   gdt

# ---- memory -----------------------------------------------------------------------------------

# [ram_end] = end of the usable RAM that contains 1 MiB, page aligned, below 4 GiB.
find_ram_end:
        xor     ebx, ebx                # continuation
1:      mov     eax, 0xe820
        mov     edx, 0x534d4150         # "SMAP"
        mov     ecx, 20
        mov     di, offset E820
        int     0x15
        mov     si, offset msg_e820
        jc      fail                    # also past the last entry, on BIOSes that say it so
        cmp     eax, 0x534d4150
        jne     fail
        cmp     dword ptr [E820 + 16], 1        # usable RAM?
        jne     3f
        mov     eax, [E820]             # base, u64
        mov     edx, [E820 + 4]
        test    edx, edx
        jnz     3f
        cmp     eax, offset HIGH
        ja      3f
        add     eax, [E820 + 8]         # length, u64
        adc     edx, [E820 + 12]
        jz      2f
        mov     eax, 0xfffff000         # reaches beyond 4 GiB
2:      and     ax, 0xf000
        cmp     eax, offset HIGH
        jbe     3f
        mov     [ram_end], eax
        ret
3:      test    ebx, ebx
        jnz     1b
        jmp     fail

# Let address line 20 through, or fail.
a20_enable:
        call    a20_test
        jne     1f
        mov     ax, 0x2401
        int     0x15
        call    a20_test
        jne     1f
        in      al, 0x92                # "fast A20"
        or      al, 2
        and     al, 0xfe                # bit 0 would reset the machine
        out     0x92, al
        call    a20_test
        jne     1f
        mov     si, offset msg_a20      # no parameter block was read yet
        jmp     fail_now
1:      ret

# ZF clear when A20 is on: a word here and the one 1 MiB above it differ at least once in two
# values (never written there).
a20_test:
        mov     ax, 0xffff
        mov     gs, ax
        mov     cx, 2
1:      inc     word ptr [a20_probe]
        mov     ax, [a20_probe]
        cmp     ax, gs:[a20_probe + 0x10]
        loope   1b
        ret

# ---- printing: a line is put together first, since it goes to two places one after the other ----

# Start a line with our name and the string at si, and leave si after that string's NUL.
line_start:
        mov     di, offset LINE
        push    si
        mov     si, offset msg_prefix
        call    line_add
        pop     si
        # fall through

# Add the NUL-terminated string at si; di is the end of the line throughout.
line_add:
        lodsb
        test    al, al
        jz      1f
        stosb
        jmp     line_add
1:      ret

# Add eax as eight hexadecimal digits.
line_hex:
        mov     cx, 8
1:      rol     eax, 4
        push    ax
        and     al, 0x0f
        cmp     al, 10
        jb      2f
        add     al, 'a' - '0' - 10
2:      add     al, '0'
        stosb
        pop     ax
        loop    1b
        ret

# Add eax as a decimal number.
line_decimal:
        xor     cx, cx
        mov     ebx, 10
1:      xor     edx, edx
        div     ebx
        push    dx
        inc     cx
        test    eax, eax
        jnz     1b
2:      pop     ax
        add     al, '0'
        stosb
        loop    2b
        ret

line_print:
        mov     eax, 0x000a0d           # CR, LF, NUL
        stosd
        mov     si, offset LINE
        jmp     put_line

# ---- data -------------------------------------------------------------------------------------

        .balign 8
load_lba:       .quad 0
failed_lba:     .quad 0
kernel_sectors: .long 0
high_sectors:   .long 0                 # of the protected-mode part
initrd_sectors: .long 0
initrd_address: .long 0
floor:          .long 0
ram_end:        .long 0
short_mib:      .long 0
failed_message: .word 0
a20_probe:      .word 0
failing:        .byte 0                 # 1: the next error is printed without a second look
announced:      .byte 0
attempts:       .byte LOAD_TRIES

msg_prefix:     .asciz "synthdisk: "
msg_loading:    .asciz "loading Linux"
msg_params:     .asciz "bad parameter block"
msg_changing:   .asciz "the kernel kept changing while it was loaded"
msg_kernel:     .asciz "not a Linux kernel"
msg_old:        .asciz "the kernel is too old (boot protocol 2.02 and bzImage are needed)"
msg_read:       .asciz "disk read error at LBA 0x"
msg_read_end:
msg_e820:       .asciz "the BIOS gives no memory map"
msg_a20:        .asciz "the A20 line can't be enabled"
msg_initrd:     .asciz "the initrd is too large for this kernel"
msg_memory:     .asciz "not enough memory for the kernel and its initrd"
msg_memory_mib: .asciz "not enough memory: the kernel and its initrd need at least "
msg_memory_mib_end:
msg_mib_more:   .asciz " MiB more"

        # At the end, where the host finds it to set it (code.rs), as it does with [dap_lba].
        .org    STAGE2 - STAGE1 + STAGE2_SECT * 512 - 12
params_lba:     .quad PARAMS_LBA
stage2_mark:    .ascii "SDG2"
