# The headers of an EFI application (PE32+). Source: Microsoft's PE format specification. The file is
# loaded as it is: offsets in it are addresses relative to its start. link.ld defines the sizes.

        .section .header, "a"
start:  .ascii  "MZ"
        .org    start + 0x3c
        .long   pe - start
pe:     .ascii  "PE\0\0"
        .word   0x8664                  # x86-64
        .word   2                       # sections
        .long   0, 0, 0                 # time, symbols
        .word   optional_end - optional
        .word   0x206                   # executable; no line numbers, no debugging information
optional:
        .word   0x20b                   # PE32+
        .word   0                       # linker
        .long   text_size, data_size, 0
        .long   efi_main                # entry
        .long   text_start
        .quad   0                       # preferred address
        .long   0x1000, 0x1000          # alignment in memory and in the file
        .word   0, 0, 0, 0, 0, 0        # versions
        .long   0
        .long   image_size
        .long   text_start              # length of the headers
        .long   0                       # checksum
        .word   10                      # EFI application
        .word   0x100                   # data need not be executable
        .quad   0, 0, 0, 0              # stack and heap
        .long   0
        .long   6                       # directories, all empty: there are no relocations
        .quad   0, 0, 0, 0, 0, 0
optional_end:
        .ascii  ".text\0\0\0"
        .long   text_size, text_start, text_size, text_start
        .long   0, 0, 0
        .long   0x60000020              # code, executable, readable
        .ascii  ".data\0\0\0"
        .long   data_size, data_start, data_size, data_start
        .long   0, 0, 0
        .long   0xc0000040              # data, readable, writable

        .section .note.GNU-stack, "", @progbits
