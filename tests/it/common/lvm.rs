//! Volume groups made by LVM's own tools, without a device mapper: they need root, loop devices and
//! `lvm2`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::mount::LoopDev;
use super::process::{command, have, is_root, skip, text};

/// A volume group whose physical volumes are files.
pub struct Group {
    home: TempDir,
    name: String,
    loops: Vec<LoopDev>,
}

/// A segment of a logical volume, as `lvs` reports it. Numbers are extents.
#[derive(Debug)]
pub struct ReportedSegment {
    pub volume: String,
    pub start: u64,
    pub len: u64,
    /// Bytes of a stripe.
    pub chunk: u64,
    /// Index of the physical volume and its first extent.
    pub stripes: Vec<(usize, u64)>,
}

impl Group {
    /// A group called `name` with extents of `extent` bytes. Each physical volume is made with a
    /// length in bytes and options of `pvcreate`. `None`, with a message on standard error, where
    /// this host cannot have one.
    pub fn new(name: &str, extent: u64, parts: &[(u64, &[&str])]) -> Option<Self> {
        if !is_root() || !have("pvcreate") {
            skip("LVM: this needs root and lvm2");
            return None;
        }
        let home = TempDir::with_prefix("synthdisk-lvm-").expect("a temporary directory");
        super::tiny::open_to_all(home.path());
        let mut this = Self { home, name: name.to_owned(), loops: Vec::new() };
        for (i, (len, _)) in parts.iter().enumerate() {
            let file = File::create(this.part(i)).expect("a file in our own directory");
            file.set_len(*len).expect("a sparse file");
            this.loops.push(LoopDev::attach(this.part(i), false));
        }
        for (i, (_, options)) in parts.iter().enumerate() {
            let device = this.device(i);
            this.run("pvcreate", &[options, &["-q", &device][..]].concat());
        }
        let extent = format!("{extent}b");
        let devices: Vec<String> = (0..parts.len()).map(|i| this.device(i)).collect();
        let mut args = vec!["-q", "-s", &extent, name];
        args.extend(devices.iter().map(String::as_str));
        this.run("vgcreate", &args);
        Some(this)
    }

    /// The file of a physical volume, counted from 0.
    pub fn part(&self, index: usize) -> PathBuf {
        self.home.path().join(format!("pv{index}.img"))
    }

    /// The directory of the files.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// A file beside them.
    pub fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// The device of a physical volume.
    pub fn device(&self, index: usize) -> String {
        self.loops[index].device().to_string_lossy().into_owned()
    }

    /// Runs a command of LVM that sees only this group; gives its output.
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        let said = self.try_run(program, args);
        said.unwrap_or_else(|errors| panic!("{program} {args:?}: {errors}"))
    }

    /// Like [`Group::run`], for a command that may fail; its messages are the error.
    pub fn try_run(&self, program: &str, args: &[&str]) -> Result<String, String> {
        let filters: Vec<String> =
            (0..self.loops.len()).map(|i| format!("\"a|^{}$|\"", self.device(i))).collect();
        let config = format!(
            "devices {{ filter=[{},\"r|.*|\"] use_devicesfile=0 }} global {{ activation=0 \
             use_lvmpolld=0 event_activation=0 }} backup {{ backup=0 archive=0 }}",
            filters.join(",")
        );
        let output = command(program)
            .env("LVM_SUPPRESS_FD_WARNINGS", "1")
            .args(["--config", &config])
            .args(args)
            .output()
            .expect("lvm2 is installed");
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Makes a logical volume of `extents` with more options of `lvcreate`.
    pub fn create(&self, name: &str, extents: u64, options: &[&str]) {
        self.try_create(name, extents, options).unwrap_or_else(|e| panic!("lvcreate {name}: {e}"));
    }

    /// Like [`Group::create`], for a volume for which there may be no room.
    pub fn try_create(&self, name: &str, extents: u64, options: &[&str]) -> Result<(), String> {
        let extents = extents.to_string();
        let args = ["-q", "-an", "-Zn", "-Wn", "-l", &extents, "-n", name];
        self.try_run("lvcreate", &[&args[..], options, &[self.name.as_str()]].concat()).map(drop)
    }

    /// Makes a logical volume of `extents` that contains the bytes of `image`, at the places that
    /// `lvs` reports. Holes stay holes.
    pub fn create_from(&self, name: &str, extents: u64, image: &Path) {
        const PIECE: u64 = 1 << 20;
        self.create(name, extents, &[]);
        let source = File::open(image).expect("our own file");
        let source_len = source.metadata().expect("our own file").len();
        let (extent, starts) = (self.extent(), self.starts());
        assert!(source_len <= extents * extent, "{} does not fit", image.display());
        let files: Vec<File> = (0..self.loops.len())
            .map(|i| File::options().write(true).open(self.device(i)).expect("our own device"))
            .collect();
        let mut buffer = vec![0; PIECE as usize];
        for segment in self.segments().iter().filter(|s| s.volume == name) {
            let start = segment.start * extent;
            let end = (start + segment.len * extent).min(source_len);
            let mut at = start;
            while at < end {
                let (part, offset, len) = place(segment, at - start, extent);
                let piece = &mut buffer[..len.min(end - at).min(PIECE) as usize];
                source.read_exact_at(piece, at).expect("our own file");
                if piece.iter().any(|b| *b != 0) {
                    files[part].write_all_at(piece, starts[part] + offset).expect("it fits");
                }
                at += piece.len() as u64;
            }
        }
        files.iter().for_each(|file| file.sync_all().expect("our own device"));
    }

    /// The bytes of a volume according to `lvs`, read from the files of the physical volumes.
    pub fn read(&self, volume: &str) -> Vec<u8> {
        let (extent, starts) = (self.extent(), self.starts());
        let files: Vec<File> = (0..self.loops.len())
            .map(|i| File::open(self.part(i)).expect("our own file"))
            .collect();
        let mut out = Vec::new();
        let mut segments = self.segments();
        segments.retain(|s| s.volume == volume);
        segments.sort_by_key(|s| s.start);
        for segment in &segments {
            assert_eq!(out.len() as u64, segment.start * extent);
            let mut at = 0;
            while at < segment.len * extent {
                let (part, offset, len) = place(segment, at, extent);
                let mut piece = vec![0; len as usize];
                files[part].read_exact_at(&mut piece, starts[part] + offset).expect("it is there");
                out.extend(piece);
                at += len;
            }
        }
        out
    }

    /// Bytes of an extent.
    fn extent(&self) -> u64 {
        let shown = self
            .run("vgs", &["--noheadings", "--units", "b", "--nosuffix", "-o", "vg_extent_size"]);
        shown.trim().parse().expect("a number")
    }

    /// Where the first extent of each physical volume starts, in bytes.
    fn starts(&self) -> Vec<u64> {
        (0..self.loops.len()).map(|index| self.start(index)).collect()
    }

    /// Where the first extent of a physical volume starts, in bytes.
    pub fn start(&self, index: usize) -> u64 {
        let options = ["--noheadings", "--units", "b", "--nosuffix", "-o", "pv_name,pe_start"];
        let (shown, device) = (self.run("pvs", &options), self.device(index));
        let mut lines = shown.lines().map(str::split_whitespace);
        let found = lines.find_map(|mut l| (l.next()? == device).then(|| l.next()).flatten());
        found.expect("pvs lists it").parse().expect("a number")
    }

    /// What `lvs --segments` reports.
    pub fn segments(&self) -> Vec<ReportedSegment> {
        let fields = "lv_name,seg_start_pe,seg_size_pe,stripe_size,seg_pe_ranges";
        let options = ["--noheadings", "--units", "b", "--nosuffix", "--separator", "|"];
        let shown = self.run("lvs", &[&options[..], &["--segments", "-o", fields]].concat());
        let segment = |line: &str| {
            let fields: Vec<&str> = line.trim().split('|').collect();
            let number = |i: usize| fields[i].parse().expect("a number");
            let stripe = |range: &str| {
                let (device, extents) = range.rsplit_once(':').expect("DEVICE:FIRST-LAST");
                let index = (0..self.loops.len()).find(|i| self.device(*i) == device);
                let first = extents.split('-').next().expect("a first extent");
                (index.expect("a device of ours"), first.parse().expect("a number"))
            };
            ReportedSegment {
                volume: fields[0].to_owned(),
                start: number(1),
                len: number(2),
                chunk: number(3),
                stripes: fields[4].split_whitespace().map(stripe).collect(),
            }
        };
        shown.lines().filter(|l| !l.trim().is_empty()).map(segment).collect()
    }

    /// Ends the use of the files, so that something else may open them.
    pub fn detach(&mut self) {
        self.loops.clear();
    }
}

/// Where a byte of a segment lies: physical volume, offset from its first extent, and how many bytes
/// follow there.
fn place(segment: &ReportedSegment, at: u64, extent: u64) -> (usize, u64, u64) {
    let count = segment.stripes.len() as u64;
    if count == 1 {
        let (part, first) = segment.stripes[0];
        return (part, first * extent + at, segment.len * extent - at);
    }
    let number = at / segment.chunk;
    let (part, first) = segment.stripes[(number % count) as usize];
    let within = at % segment.chunk;
    (part, first * extent + number / count * segment.chunk + within, segment.chunk - within)
}
