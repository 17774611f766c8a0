// The direct loader for UEFI: an EFI application that loads one Linux kernel from known sectors and
// starts it. It is EFI/BOOT/BOOTX64.EFI in the EFI system partition of the disk that it loads from.
// It reads no file system: the firmware has read this file, and everything else is where the parameter
// block says, on the disk that contains the partition. docs/uefi.md and docs/direct-loader.md have
// the disk contract.
//
// scripts/build-efi-loader makes loader.efi from this file, header.S and link.ld. There are no
// relocations, so no variable may be initialised with the address of another.
//
// Sources: UEFI specification 2.10; the Linux/x86 boot protocol (kernel:
// Documentation/arch/x86/boot.rst); kernel: include/linux/pe.h, for the version of the EFI stub.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef u16 char16; // -fshort-wchar
typedef u64 status;
typedef void *handle;

#define EFIAPI __attribute__((ms_abi))
#define NULL ((void *)0)
#define ERROR(n) (1ul << 63 | (n))
#define BUFFER_TOO_SMALL ERROR(5)
#define OUT_OF_RESOURCES ERROR(9)
#define SECURITY_VIOLATION ERROR(26)
#define ACCESS_DENIED ERROR(15)
#define PAGE 4096ul
#define BELOW_4G 0xfffffffful

// ---- disk contract ----------------------------------------------------------------------------

#define SECTOR 512ul
#define PARAMS_LBA 128
#define MESSAGE_MAX 400
#define CMDLINE_MAX 4095
#define KERNEL_MAX 0x10000000ul
#define INITRD_MAX 0xc0000000ul
#define HAS_INITRD 1

struct params {
  u8 magic[8];
  u32 version;
  u32 flags;
  u8 token[16];
  u64 kernel_lba;
  u64 kernel_bytes;
  u64 initrd_lba;
  u64 initrd_bytes;
  u64 cmdline_lba;
  u32 cmdline_bytes;
  u32 message_bytes;
  u8 message[MESSAGE_MAX];
  u8 zero[32];
};
_Static_assert(sizeof(struct params) == SECTOR, "the parameter block is one sector");

#define LOAD_TRIES 5 // how often the parameter block may change under us
#define READ_TRIES 4
#define CHUNK (4ul << 20) // bytes per call of the firmware

// ---- kernel header, relative to the file --------------------------------------------------------

#define H_PE 0x3c
#define H_SETUP_SECTS 0x1f1
#define H_MAGIC 0x202
#define H_VERSION 0x206
#define H_TYPE_LOADER 0x210
#define H_CODE32_START 0x214
#define H_RAMDISK 0x218
#define H_RAMDISK_LEN 0x21c
#define H_CMDLINE 0x228
#define H_INITRD_MAX 0x22c
#define H_XLOADFLAGS 0x236 // from 2.12
#define H_HANDOVER 0x264   // from 2.11
#define HEADER_END 0x268
#define XLF_HANDOVER_64 8
// Relative to the PE header.
#define PE_MACHINE 4
#define PE_STUB_VERSION 68 // MajorImageVersion: from 1 on, the stub takes its initrd by LoadFile2
#define PE_END 72
#define MACHINE_X64 0x8664
#define MACHINE_I386 0x14c

// ---- UEFI -------------------------------------------------------------------------------------

struct guid {
  u32 a;
  u16 b, c;
  u8 d[8];
};

struct path { // of a device: a list of nodes
  u8 type, subtype, len[2];
};
#define PATH_MEDIA 4
#define PATH_HARD_DRIVE 1
#define PATH_MESSAGING 3
#define PATH_UART 14
#define PATH_END 0x7f
#define PATH_END_ALL 0xff

struct text_output {
  void *reset;
  status EFIAPI (*output_string)(struct text_output *, const char16 *);
};

struct runtime_services {
  u8 header[24];
  void *unused[6];
  status EFIAPI (*get_variable)(const char16 *, const struct guid *, u32 *, u64 *, void *);
};

enum allocate { ANY_PAGES, MAX_ADDRESS };
enum memory { LOADER_CODE = 1, LOADER_DATA = 2 };

struct boot_services {
  u8 header[24];
  void *tpl[2];
  status EFIAPI (*allocate_pages)(enum allocate, enum memory, u64 pages, u64 *address);
  status EFIAPI (*free_pages)(u64 address, u64 pages);
  void *unused1[9];
  status EFIAPI (*install_protocol_interface)(handle *, const struct guid *, int type, void *);
  void *unused2[2];
  status EFIAPI (*handle_protocol)(handle, const struct guid *, void **);
  void *unused3[3];
  status EFIAPI (*locate_device_path)(const struct guid *, struct path **, handle *);
  void *unused4;
  status EFIAPI (*load_image)(u8 policy, handle parent, struct path *, void *, u64, handle *);
  status EFIAPI (*start_image)(handle, u64 *, char16 **);
  void *unused5;
  status EFIAPI (*unload_image)(handle);
  void *unused6[2];
  status EFIAPI (*stall)(u64 microseconds);
  status EFIAPI (*set_watchdog_timer)(u64 seconds, u64 code, u64 len, char16 *);
};

struct system_table {
  u8 header[24];
  void *vendor;
  u64 revision;
  void *in[2];
  handle out_handle;
  struct text_output *out;
  void *error[2];
  struct runtime_services *runtime;
  struct boot_services *boot;
};

struct loaded_image {
  u64 revision;
  handle parent;
  struct system_table *system;
  handle device;
  struct path *file;
  void *reserved;
  u32 options_bytes;
  void *options;
};

struct media {
  u32 id;
  u8 removable, present, partition, read_only, caching;
  u32 block_bytes;
  u32 align;
  u64 last_block;
};

struct block_io {
  u64 revision;
  struct media *media;
  void *reset;
  status EFIAPI (*read_blocks)(struct block_io *, u32 media, u64 lba, u64 bytes, void *);
};

static const struct guid LOADED_IMAGE = {
    0x5b1b31a1, 0x9562, 0x11d2, {0x8e, 0x3f, 0, 0xa0, 0xc9, 0x69, 0x72, 0x3b}};
static const struct guid DEVICE_PATH = {
    0x09576e91, 0x6d3f, 0x11d2, {0x8e, 0x39, 0, 0xa0, 0xc9, 0x69, 0x72, 0x3b}};
static const struct guid BLOCK_IO = {
    0x964e5b21, 0x6459, 0x11d2, {0x8e, 0x39, 0, 0xa0, 0xc9, 0x69, 0x72, 0x3b}};
static const struct guid LOAD_FILE2 = {
    0x4006c0c1, 0xfcb3, 0x403e, {0x99, 0x6d, 0x4a, 0x6c, 0x87, 0x24, 0xe0, 0x6d}};
static const struct guid LINUX_INITRD = {
    0x5568e427, 0x68fc, 0x4f3d, {0xac, 0x74, 0xca, 0x55, 0x52, 0x31, 0xcc, 0x68}};
static const struct guid GLOBAL_VARIABLE = {
    0x8be4df61, 0x93ca, 0x11d2, {0xaa, 0x0d, 0, 0xe0, 0x98, 0x03, 0x2b, 0x8c}};

static struct system_table *system;
static struct boot_services *boot;
static struct block_io *disk;

// ---- bytes ------------------------------------------------------------------------------------

// The compiler may call these two.
void *memcpy(void *to, const void *from, u64 len) {
  void *start = to;
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(len) : : "memory");
  return start;
}

void *memset(void *to, int byte, u64 len) {
  void *start = to;
  __asm__ volatile("rep stosb" : "+D"(to), "+c"(len) : "a"(byte) : "memory");
  return start;
}

static int same(const void *a, const void *b, u64 len) {
  const u8 *x = a, *y = b;
  for (u64 i = 0; i < len; i++)
    if (x[i] != y[i]) return 0;
  return 1;
}

static u16 u16_at(const u8 *at) { return at[0] | at[1] << 8; }

static u32 u32_at(const u8 *at) { return u16_at(at) | (u32)u16_at(at + 2) << 16; }

static void put_u32(u8 *at, u64 value) {
  for (int i = 0; i < 4; i++) at[i] = value >> 8 * i;
}

static u64 pages_of(u64 len) { return (len + PAGE - 1) / PAGE; }

// ---- printing: on the firmware's console, and on COM1 unless that is part of it -----------------

#define COM1 0x3f8

static int has_com1;

static void out_byte(u16 port, u8 value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }

static u8 in_byte(u16 port) {
  u8 value;
  __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}

static const struct path *next_node(const struct path *node) {
  return (const struct path *)((const u8 *)node + u16_at(node->len));
}

// Whether the firmware's console includes a serial port, by the variable that lists its devices.
static int firmware_prints_on_serial(void) {
  static const char16 name[] = {'C', 'o', 'n', 'O', 'u', 't', 0};
  static u8 list[2048] __attribute__((aligned(8)));
  u64 len = sizeof list, at = 0;
  if (system->runtime->get_variable(name, &GLOBAL_VARIABLE, NULL, &len, list)) return 0;
  while (at + sizeof(struct path) <= len) {
    const struct path *node = (const struct path *)(list + at);
    if (node->type == PATH_MESSAGING && node->subtype == PATH_UART) return 1;
    if (u16_at(node->len) < sizeof(struct path)) return 0;
    at += u16_at(node->len);
  }
  return 0;
}

// Sets COM1 to 115200 8n1, if there is one.
static void open_com1(void) {
  if (firmware_prints_on_serial()) return;
  out_byte(COM1 + 7, 0x5a); // the scratch register keeps what is written to it
  if (in_byte(COM1 + 7) != 0x5a) return;
  out_byte(COM1 + 1, 0);
  out_byte(COM1 + 3, 0x80);
  out_byte(COM1, 1);
  out_byte(COM1 + 1, 0);
  out_byte(COM1 + 3, 3);
  out_byte(COM1 + 2, 7);
  out_byte(COM1 + 4, 3);
  has_com1 = 1;
}

static void print(const u8 *text, u64 len) {
  static char16 line[MESSAGE_MAX + 64];
  u64 n = 0;
  for (u64 i = 0; i < len && n + 1 < sizeof line / sizeof *line; i++)
    line[n++] = text[i] < ' ' && text[i] != '\r' && text[i] != '\n' || text[i] > '~' ? '?' : text[i];
  line[n] = 0;
  system->out->output_string(system->out, line);
  for (u64 i = 0; has_com1 && i < n; i++) {
    // A stuck port delays the boot only briefly.
    for (int wait = 0; !(in_byte(COM1 + 5) & 0x20); wait++)
      if (wait == 100000) {
        has_com1 = 0;
        break;
      }
    out_byte(COM1, line[i]);
  }
}

static void print_text(const char *text) {
  u64 len = 0;
  while (text[len]) len++;
  print((const u8 *)text, len);
}

static void print_hex(u64 value) {
  u8 digits[16];
  for (int i = 0; i < 16; i++) digits[i] = "0123456789abcdef"[value >> (60 - 4 * i) & 15];
  print(digits, sizeof digits);
}

// What went wrong: a sentence, and perhaps a number.
struct problem {
  const char *text;
  int has_number;
  u64 number;
};

static struct problem none(void) { return (struct problem){NULL, 0, 0}; }

static struct problem problem(const char *text) { return (struct problem){text, 0, 0}; }

static struct problem problem_with(const char *text, u64 number) {
  return (struct problem){text, 1, number};
}

// Waits for ever. The firmware goes on handling Ctrl-Alt-Del.
__attribute__((noreturn)) static void halt(void) {
  for (;;) boot->stall(1000000);
}

__attribute__((noreturn)) static void fail(struct problem what) {
  print_text("synthdisk: ");
  print_text(what.text);
  if (what.has_number) print_hex(what.number);
  print_text("\r\n");
  halt();
}

// ---- the disk ---------------------------------------------------------------------------------

// Finds the disk that contains the partition that this program was loaded from.
static struct problem find_disk(handle image) {
  static u8 copy[2048] __attribute__((aligned(8)));
  const struct problem not_ours = problem("this program was not started from a partition of a disk");
  struct loaded_image *loaded;
  struct path *path;
  if (boot->handle_protocol(image, &LOADED_IMAGE, (void **)&loaded)) return not_ours;
  if (boot->handle_protocol(loaded->device, &DEVICE_PATH, (void **)&path)) return not_ours;
  u64 len = 0;
  const struct path *node = path;
  while (node->type != PATH_MEDIA || node->subtype != PATH_HARD_DRIVE) {
    if (node->type == PATH_END || u16_at(node->len) < sizeof *node) return not_ours;
    len += u16_at(node->len);
    if (len + sizeof *node > sizeof copy) return not_ours;
    node = next_node(node);
  }
  // The path of the disk is what precedes the partition.
  memcpy(copy, path, len);
  struct path *end = (struct path *)(copy + len);
  *end = (struct path){PATH_END, PATH_END_ALL, {sizeof *end, 0}};
  struct path *rest = (struct path *)copy;
  handle device;
  if (boot->locate_device_path(&BLOCK_IO, &rest, &device) || rest->type != PATH_END ||
      boot->handle_protocol(device, &BLOCK_IO, (void **)&disk))
    return problem("the firmware gives no access to the disk of this program");
  if (disk->media->block_bytes != SECTOR)
    return problem("the disk has sectors of another size than 512 bytes; attach it with 512");
  if (disk->media->align > PAGE) return problem("the disk needs buffers of an unusual alignment");
  return none();
}

// Reads `len` bytes from sector `lba` on to `to`, which is page aligned and has room for whole
// sectors.
static struct problem read(u64 lba, u64 len, void *to) {
  u8 *at = to;
  u64 left = (len + SECTOR - 1) / SECTOR * SECTOR;
  while (left > 0) {
    u64 now = left < CHUNK ? left : CHUNK;
    int tries = READ_TRIES;
    while (disk->read_blocks(disk, disk->media->id, lba, now, at))
      if (--tries == 0) return problem_with("disk read error at LBA 0x", lba);
    at += now;
    lba += now / SECTOR;
    left -= now;
  }
  return none();
}

// ---- what is loaded ---------------------------------------------------------------------------

// A file in pages of its own.
struct file {
  u64 address;
  u64 len;
};

static struct {
  struct file kernel, initrd, cmdline, options, boot_params;
  u32 options_bytes;
  u8 uses_handover;
  handle image; // the kernel, if the firmware starts it
} loaded;

static struct problem allocate(struct file *file, u64 len, u64 max, enum memory kind) {
  u64 address = max;
  // Without a limit, the firmware chooses: it may be above 4 GiB.
  enum allocate how = max == ~0ul ? ANY_PAGES : MAX_ADDRESS;
  if (boot->allocate_pages(how, kind, pages_of(len), &address))
    return problem("not enough memory for the kernel and its initrd");
  *file = (struct file){address, len};
  return none();
}

static void release(struct file *file) {
  if (file->len) boot->free_pages(file->address, pages_of(file->len));
  *file = (struct file){0, 0};
}

static void release_all(void) {
  if (loaded.image) boot->unload_image(loaded.image);
  loaded.image = NULL;
  loaded.uses_handover = 0;
  release(&loaded.kernel);
  release(&loaded.initrd);
  release(&loaded.cmdline);
  release(&loaded.options);
  release(&loaded.boot_params);
}

static struct problem load(struct file *file, u64 lba, u64 len, u64 max, enum memory kind) {
  // A whole number of sectors, plus a NUL after a command line.
  struct problem failed = allocate(file, len + SECTOR, max, kind);
  if (failed.text) return failed;
  failed = read(lba, len, (void *)file->address);
  ((u8 *)file->address)[len] = 0;
  return failed;
}

// Converts the command line to UTF-16; what is not UTF-8 becomes question marks.
static struct problem make_options(u64 len) {
  struct problem failed = allocate(&loaded.options, 2 * len + 2, ~0ul, LOADER_DATA);
  if (failed.text) return failed;
  const u8 *from = (const u8 *)loaded.cmdline.address;
  char16 *to = (char16 *)loaded.options.address;
  u64 n = 0;
  for (u64 i = 0; i < len;) {
    u32 c = from[i++];
    int more = c < 0x80 ? 0 : c >> 5 == 6 ? 1 : c >> 4 == 14 ? 2 : c >> 3 == 30 ? 3 : -1;
    u32 code = more > 0 ? c & 0x3f >> more : c;
    int left = more;
    while (left > 0 && i < len && from[i] >> 6 == 2) {
      code = code << 6 | (from[i++] & 0x3f);
      left--;
    }
    if (more < 0 || left > 0 || code > 0x10ffff) code = '?';
    if (code > 0xffff) {
      to[n++] = 0xd800 + (code - 0x10000 >> 10);
      code = 0xdc00 + (code - 0x10000 & 0x3ff);
    }
    to[n++] = code;
  }
  to[n++] = 0;
  loaded.options_bytes = 2 * n;
  return none();
}

// Loads the kernel as an EFI application, and checks it.
static struct problem load_image(handle parent) {
  static struct {
    struct path node;
    u32 kind;
    u64 first, last;
    struct path end;
  } __attribute__((packed)) memory;
  struct loaded_image *image;
  memory.node = (struct path){1, 3, {24, 0}}; // hardware, memory mapped
  memory.kind = LOADER_DATA;
  memory.first = loaded.kernel.address;
  memory.last = loaded.kernel.address + loaded.kernel.len - 1;
  memory.end = (struct path){PATH_END, PATH_END_ALL, {sizeof memory.end, 0}};
  status result = boot->load_image(0, parent, &memory.node, (void *)loaded.kernel.address,
                                   loaded.kernel.len - SECTOR, &loaded.image);
  if (result == SECURITY_VIOLATION || result == ACCESS_DENIED)
    return problem("the firmware refuses the kernel; turn Secure Boot off");
  if (result == OUT_OF_RESOURCES)
    return problem("not enough memory for the kernel and its initrd");
  if (result) return problem_with("the firmware cannot load the kernel: EFI status 0x", result);
  result = boot->handle_protocol(loaded.image, &LOADED_IMAGE, (void **)&image);
  if (result) return problem_with("the firmware cannot load the kernel: EFI status 0x", result);
  image->options = (void *)loaded.options.address;
  image->options_bytes = loaded.options_bytes;
  return none();
}

// Fills in what a kernel that is started by the EFI handover protocol needs.
static struct problem make_boot_params(u32 initrd_bytes) {
  struct problem failed = allocate(&loaded.boot_params, PAGE, BELOW_4G, LOADER_DATA);
  if (failed.text) return failed;
  const u8 *kernel = (const u8 *)loaded.kernel.address;
  u8 *params = (u8 *)loaded.boot_params.address;
  memset(params, 0, PAGE);
  u64 end = H_MAGIC + kernel[H_MAGIC - 1];
  memcpy(params + H_SETUP_SECTS, kernel + H_SETUP_SECTS, end - H_SETUP_SECTS);
  u64 setup = kernel[H_SETUP_SECTS] ? kernel[H_SETUP_SECTS] : 4;
  params[H_TYPE_LOADER] = 0xff;
  put_u32(params + H_CODE32_START, loaded.kernel.address + (setup + 1) * SECTOR);
  put_u32(params + H_RAMDISK, initrd_bytes ? loaded.initrd.address : 0);
  put_u32(params + H_RAMDISK_LEN, initrd_bytes);
  put_u32(params + H_CMDLINE, loaded.cmdline.address);
  return none();
}

static struct problem check_params(const struct params *p) {
  static const char magic[] = "SYNTHDSK";
  if (!same(p->magic, magic, sizeof p->magic) || p->version != 1)
    return problem("bad parameter block");
  if (p->message_bytes > MESSAGE_MAX) return problem("bad parameter block");
  if (p->message_bytes) return none();
  if (p->cmdline_bytes > CMDLINE_MAX || p->kernel_bytes > KERNEL_MAX ||
      (p->flags & HAS_INITRD && p->initrd_bytes > INITRD_MAX))
    return problem("bad parameter block");
  return none();
}

// Loads what the parameter block `p` says.
static struct problem load_all(const struct params *p, handle parent) {
  struct problem failed = check_params(p);
  if (failed.text || p->message_bytes) return failed;
  if (p->kernel_bytes < HEADER_END) return problem("not a Linux kernel");
  // Below 4 GiB, where the handover protocol needs it.
  failed = load(&loaded.kernel, p->kernel_lba, p->kernel_bytes, BELOW_4G, LOADER_CODE);
  if (failed.text) return failed;
  const u8 *kernel = (const u8 *)loaded.kernel.address;
  if (!same(kernel + H_MAGIC, "HdrS", 4)) return problem("not a Linux kernel");
  u64 pe = u32_at(kernel + H_PE);
  if (!same(kernel, "MZ", 2) || pe > p->kernel_bytes - PE_END || !same(kernel + pe, "PE\0\0", 4))
    return problem("the kernel has no EFI stub (Linux 3.8 or newer is needed)");
  if (u16_at(kernel + pe + PE_MACHINE) != MACHINE_X64)
    return problem("the kernel is not one for 64-bit UEFI firmware");
  int by_handover = u16_at(kernel + pe + PE_STUB_VERSION) == 0;
  u64 most = ~0ul;
  if (by_handover) {
    if (u16_at(kernel + H_VERSION) < 0x20c || !(u16_at(kernel + H_XLOADFLAGS) & XLF_HANDOVER_64))
      return problem("the kernel takes no initrd from UEFI firmware (Linux 3.8 or newer is needed)");
    most = u32_at(kernel + H_INITRD_MAX);
  }
  failed = load(&loaded.cmdline, p->cmdline_lba, p->cmdline_bytes, BELOW_4G, LOADER_DATA);
  if (failed.text) return failed;
  u64 initrd_bytes = p->flags & HAS_INITRD ? p->initrd_bytes : 0;
  if (initrd_bytes) {
    failed = load(&loaded.initrd, p->initrd_lba, initrd_bytes, most, LOADER_DATA);
    if (failed.text) return failed;
  }
  if (by_handover) {
    loaded.uses_handover = 1;
    return make_boot_params(initrd_bytes);
  }
  failed = make_options(p->cmdline_bytes);
  return failed.text ? failed : load_image(parent);
}

// ---- starting the kernel ----------------------------------------------------------------------

// LoadFile2, by which the EFI stub asks for its initrd.
struct initrd_source {
  status EFIAPI (*load_file)(struct initrd_source *, struct path *, u8, u64 *, void *);
  u64 address, len;
};

static status EFIAPI load_initrd(struct initrd_source *source, struct path *path, u8 policy,
                                 u64 *len, void *to) {
  (void)path;
  (void)policy;
  if (!len) return ERROR(2);
  u64 room = *len;
  *len = source->len;
  if (!to || room < source->len) return BUFFER_TOO_SMALL;
  memcpy(to, (const void *)source->address, source->len);
  return 0;
}

static struct problem offer_initrd(u64 len) {
  static struct initrd_source source;
  static struct {
    struct path node;
    struct guid vendor;
    struct path end;
  } __attribute__((packed)) path;
  handle owner = NULL;
  source = (struct initrd_source){load_initrd, loaded.initrd.address, len};
  path.node = (struct path){PATH_MEDIA, 3, {20, 0}}; // of a vendor
  path.vendor = LINUX_INITRD;
  path.end = (struct path){PATH_END, PATH_END_ALL, {sizeof path.end, 0}};
  status result = boot->install_protocol_interface(&owner, &DEVICE_PATH, 0, &path);
  if (!result) result = boot->install_protocol_interface(&owner, &LOAD_FILE2, 0, &source);
  if (result) return problem_with("the firmware refuses the initrd: EFI status 0x", result);
  return none();
}

__attribute__((noreturn)) static void start(const struct params *p, handle image) {
  if (loaded.uses_handover) {
    const u8 *params = (const u8 *)loaded.boot_params.address;
    u64 entry = u32_at(params + H_CODE32_START) + 512ul + u32_at(params + H_HANDOVER);
    void (*handover)(handle, struct system_table *, const u8 *) = (void *)entry;
    __asm__ volatile("cli");
    handover(image, system, params);
    fail(problem("the kernel has returned to the loader"));
  }
  // The firmware has a copy.
  release(&loaded.kernel);
  release(&loaded.cmdline);
  if (p->flags & HAS_INITRD && p->initrd_bytes) {
    struct problem failed = offer_initrd(p->initrd_bytes);
    if (failed.text) fail(failed);
  }
  status result = boot->start_image(loaded.image, NULL, NULL);
  fail(problem_with("the kernel has returned to the firmware: EFI status 0x", result));
}

EFIAPI status efi_main(handle image, struct system_table *table) {
  static struct params p __attribute__((aligned(4096))), again __attribute__((aligned(4096)));
  system = table;
  boot = table->boot;
  boot->set_watchdog_timer(0, 0, 0, NULL);
  open_com1();
  struct problem failed = find_disk(image);
  if (!failed.text) failed = read(PARAMS_LBA, sizeof p, &p);
  if (failed.text) fail(failed);
  for (int tries = LOAD_TRIES, announced = 0; tries > 0; tries--) {
    if (!announced && !check_params(&p).text && !p.message_bytes) {
      announced = 1;
      print_text("synthdisk: loading Linux\r\n");
    }
    failed = load_all(&p, image);
    // The host may have planned another kernel meanwhile. A mixture of two must not start, and an
    // error may be that of a mixture.
    struct problem unread = read(PARAMS_LBA, sizeof again, &again);
    if (unread.text) fail(unread);
    if (same(&p, &again, sizeof p)) {
      if (failed.text) fail(failed);
      if (!p.message_bytes) start(&p, image);
      print_text("synthdisk: ");
      print(p.message, p.message_bytes);
      print_text("\r\n");
      halt();
    }
    release_all();
    memcpy(&p, &again, sizeof p);
  }
  fail(problem("the kernel kept changing while it was loaded"));
}
