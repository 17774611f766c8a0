//! XVAs, as xapi exports guests (`ocaml/xapi/export.ml`, `stream_vdi.ml`).

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

/// Length of a block of a disk, in bytes.
pub const BLOCK: usize = 1 << 20;

/// The checksum that follows each block.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sum {
    Sha1,
    XxHash,
}

/// A disk of the guest: its bytes are those of a file.
pub struct XvaDisk<'a> {
    pub file: &'a Path,
    /// `userdevice`: 0 is xvda.
    pub device: u32,
    pub bootable: bool,
}

/// How to export a guest.
pub struct Export<'a> {
    pub name: &'a str,
    pub disks: Vec<XvaDisk<'a>>,
    pub sum: Sum,
    /// After every so many blocks, an empty one keeps the connection alive.
    pub keep_alive: Option<u64>,
}

impl Export<'_> {
    /// Writes the XVA to `path`.
    pub fn write(&self, path: &Path) {
        let mut out = Tar(BufWriter::new(File::create(path).expect("our own file")));
        let lens: Vec<u64> =
            self.disks.iter().map(|d| d.file.metadata().expect("it exists").len()).collect();
        out.file("ova.xml", self.ova_xml(&lens).as_bytes());
        for (number, (disk, len)) in self.disks.iter().zip(&lens).enumerate() {
            self.disk(&mut out, &format!("Ref:{}", 20 + number), disk.file, *len);
        }
        out.0.write_all(&[0; 1024]).expect("space");
        out.0.flush().expect("space");
    }

    fn disk(&self, out: &mut Tar, name: &str, file: &Path, len: u64) {
        let mut file = File::open(file).expect("it exists");
        let (mut block, mut left, mut number, mut since) = (vec![0; BLOCK], len, 0, 0);
        while left > 0 {
            let n = left.min(BLOCK as u64) as usize;
            file.read_exact(&mut block[..n]).expect("it is that long");
            let ends = left == len || left == n as u64;
            left -= n as u64;
            if self.keep_alive.is_some_and(|every| since >= every) && !ends {
                self.block(out, &format!("{name}/{number:08}"), &[]);
                (number, since) = (number + 1, 0);
            }
            if ends || block[..n].iter().any(|b| *b != 0) {
                self.block(out, &format!("{name}/{number:08}"), &block[..n]);
            }
            (number, since) = (number + 1, since + 1);
        }
    }

    fn block(&self, out: &mut Tar, name: &str, bytes: &[u8]) {
        out.file(name, bytes);
        match self.sum {
            Sum::Sha1 => {
                let sum = sha1_smol::Sha1::from(bytes).digest().to_string();
                out.file(&format!("{name}.checksum"), sum.as_bytes());
            }
            Sum::XxHash => {
                let sum = format!("{:016X}", twox_hash::XxHash64::oneshot(0, bytes));
                out.file(&format!("{name}.xxhash"), sum.as_bytes());
            }
        }
    }

    fn ova_xml(&self, lens: &[u64]) -> String {
        let mut objects = object(
            "VM",
            "Ref:0",
            &[
                ("uuid", "0badcafe-0000-4000-8000-00000000000a"),
                ("name_label", self.name),
                ("is_a_snapshot", "<boolean>0</boolean>"),
                ("memory_static_max", "402653184"),
                ("memory_dynamic_max", "268435456"),
                ("VCPUs_max", "2"),
                ("VCPUs_at_startup", "1"),
                ("PV_bootloader", "pygrub"),
                ("PV_kernel", ""),
                ("PV_args", "of=thexva"),
                ("HVM_boot_policy", ""),
                ("HVM_boot_params", "<struct/>"),
            ],
        );
        let mac = "00:16:3e:0a:0b:0c";
        let vif = [("VM", "Ref:0"), ("device", "0"), ("MAC", mac), ("MTU", "1500")];
        objects += &object("VIF", "Ref:1", &vif);
        for (number, (disk, len)) in self.disks.iter().zip(lens).enumerate() {
            let (vdi, device) = (format!("Ref:{}", 20 + number), disk.device.to_string());
            let bootable = format!("<boolean>{}</boolean>", u8::from(disk.bootable));
            let fields = [
                ("VM", "Ref:0"),
                ("VDI", &vdi),
                ("device", ""),
                ("userdevice", &device),
                ("bootable", &bootable),
                ("mode", "RW"),
                ("type", "Disk"),
                ("empty", "<boolean>0</boolean>"),
            ];
            objects += &object("VBD", &format!("Ref:{}", 10 + number), &fields);
            let size = len.to_string();
            objects += &object("VDI", &vdi, &[("name_label", "disk"), ("virtual_size", &size)]);
        }
        format!(
            "<?xml version=\"1.0\"?>\n<value><struct><member><name>version</name><value><struct>\
             <member><name>export_vsn</name><value>2</value></member></struct></value></member>\
             <member><name>objects</name><value><array><data>{objects}</data></array></value>\
             </member></struct></value>"
        )
    }
}

fn object(class: &str, id: &str, fields: &[(&str, &str)]) -> String {
    let member = |(key, value): (&str, &str)| {
        format!("<member><name>{key}</name><value>{value}</value></member>")
    };
    let fields: String = fields.iter().map(|field| member(*field)).collect();
    let snapshot = format!("<struct>{fields}</struct>");
    let members = member(("class", class)) + &member(("id", id)) + &member(("snapshot", &snapshot));
    format!("<value><struct>{members}</struct></value>")
}

/// A tar archive, written from the description of ustar, independently of the code that reads it.
struct Tar(BufWriter<File>);

impl Tar {
    fn file(&mut self, name: &str, bytes: &[u8]) {
        let mut header = [0; 512];
        let mut put = |at: usize, text: &str| {
            header[at..at + text.len()].copy_from_slice(text.as_bytes());
        };
        put(0, name);
        put(100, "0000644\0");
        put(108, "0000000\0");
        put(116, "0000000\0");
        put(124, &format!("{:011o}\0", bytes.len()));
        put(136, "00000000000\0");
        put(148, "        ");
        put(156, "0");
        put(257, "ustar\x0000");
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.write_all(&header).expect("space");
        self.0.write_all(bytes).expect("space");
        self.0.write_all(&[0; 512][..(512 - bytes.len() % 512) % 512]).expect("space");
    }
}
