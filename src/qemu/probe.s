# The program that `accel::probe` runs instead of a BIOS. GNU as, 32-bit object, 512 bytes.
#
#   as --32 -o probe.o probe.s && objcopy -O binary -j .text probe.o probe.bin
#
# It does what a Linux kernel does before its first line: real mode, long mode with paging, work at
# a processor's speed, an exception through the IDT, a page fault that is repaired, and a timer
# interrupt that ends a HLT.
# Then it writes 0x2a to QEMU's isa-debug-exit device at port 0xf4, and QEMU exits with
# (0x2a << 1) | 1 = 85. Whatever goes wrong ends in a triple fault (other exit code) or in silence.
#
# Memory: 0x1000 PML4, 0x2000 PDPT, 0x3000 PD of the first GiB, 0x4000 IDT, 0x5000 PD of the
# fourth GiB (local APIC), 0x7c00 this program and, below it, the stack.

        .text
        .code16
start:                                  # F000:0000, in the ROM
        cli
        cld
        xorw    %ax, %ax
        movw    %ax, %es
        movw    %ax, %ss
        movw    $0x7c00, %sp
        movw    %cs, %ax
        movw    %ax, %ds
        xorw    %si, %si                # copy ourselves into RAM: a GDT in ROM is asking for trouble
        movw    $0x7c00, %di
        movw    $256, %cx
        rep movsw
        ljmp    $0, $(0x7c00 + low - start)

low:
        movw    %cx, %ds                # rep left 0 in cx
        xorw    %ax, %ax
        movw    $0x1000, %di
        movw    $0x2800, %cx            # words: 0x1000..0x6000
        rep stosw
        movw    $0x2003, 0x1000         # PML4[0], present and writable
        movw    $0x3003, 0x2000         # PDPT[0]
        movw    $0x5003, 0x2018         # PDPT[3]
        movb    $0x83, 0x3000           # PD[0]: 0..2 MiB, a large page
        movl    $0xfee0009b, 0x5fb8     # PD[0x1f7]: the local APIC, uncached

        movw    $(0x7c00 + on_breakpoint - start), %ax      # the IDT: #BP, #PF and the timer
        movw    $0x4030, %di
        call    gate
        movw    $(0x7c00 + on_page_fault - start), %ax
        movw    $0x40e0, %di
        call    gate
        movw    $(0x7c00 + on_timer - start), %ax
        movw    $0x4200, %di
        call    gate

        movb    $0xff, %al              # PICs: the slave masked, the master at vector 0x20
        outb    %al, $0xa1
        movb    $0x11, %al
        outb    %al, $0x20
        movb    $0x20, %al
        outb    %al, $0x21
        movb    $0x04, %al
        outb    %al, $0x21
        movb    $0x01, %al
        outb    %al, $0x21
        movb    $0xfe, %al              # only IRQ 0
        outb    %al, $0x21
        movb    $0x34, %al              # PIT channel 0: rate generator, 1193182 / 0x1000 = 291 Hz
        outb    %al, $0x43
        xorb    %al, %al
        outb    %al, $0x40
        movb    $0x10, %al
        outb    %al, $0x40

        lgdtl   0x7c00 + gdt_pointer - start
        lidtl   0x7c00 + idt_pointer - start
        movl    $0x20, %eax             # CR4.PAE
        movl    %eax, %cr4
        movl    $0x1000, %eax
        movl    %eax, %cr3
        movl    $0xc0000080, %ecx       # EFER.LME
        rdmsr
        orw     $0x100, %ax
        wrmsr
        movl    $0x80000011, %eax       # CR0: PG, ET, PE
        movl    %eax, %cr0
        ljmpl   $8, $(0x7c00 + long_mode - start)

gate:                                   # a 64-bit interrupt gate for offset ax at di
        movw    %ax, (%di)
        movw    $8, 2(%di)
        movw    $0x8e00, 4(%di)
        ret

        .code64
long_mode:
        xorl    %eax, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        movl    $0x7c00, %esp
        movl    $0x2000000, %ecx        # 33 million turns: 10 ms on a processor, a minute where
speed:                                  # every instruction is interpreted
        decl    %ecx
        jnz     speed
        xorl    %ebx, %ebx              # what has happened so far, one bit each
        int3                            # bit 0
        movl    $0x200000, %edi         # PD[1] is not present: bit 1
        movq    $0x5a, (%rdi)
        cmpq    $0x5a, (%rdi)
        jne     hang
        xorl    %eax, %eax
        movl    %ebx, %esi              # cpuid overwrites ebx
        cpuid
        rdtsc
        movl    %esi, %ebx
        movl    $0xfee00000, %edi
        movl    $0x1ff, 0xf0(%rdi)      # local APIC on, LINT0 = ExtINT as a BIOS sets it
        movl    $0x700, 0x350(%rdi)
        sti
wait:
        hlt                             # bit 2
        testb   $4, %bl
        jz      wait
        cli
        cmpb    $7, %bl
        jne     hang
        movb    $0x2a, %al
        outb    %al, $0xf4
hang:
        cli
        hlt
        jmp     hang

on_breakpoint:
        orb     $1, %bl
        iretq

on_page_fault:
        orb     $2, %bl
        addq    $8, %rsp                # the error code
        movq    $0x200083, 0x3008       # the page that was missing
        iretq

on_timer:
        orb     $4, %bl
        pushq   %rax
        movb    $0x20, %al              # end of interrupt
        outb    %al, $0x20
        popq    %rax
        iretq

        .balign 8
gdt:                                    # accessed bits are set already
        .quad   0
        .quad   0x00209b0000000000      # 64-bit code
        .quad   0x0000930000000000      # data
gdt_pointer:
        .word   . - gdt - 1
        .long   0x7c00 + gdt - start
idt_pointer:
        .word   0x20f
        .long   0x4000

        .org    512
