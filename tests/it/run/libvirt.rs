//! `synthdisk libvirt-xml`, judged by libvirt's own schema (package libvirt-clients).

use std::fs;

use crate::common::process::{SYNTHDISK, expect_failure, run, run_text};
use tempfile::TempDir;

#[test]
fn libvirt_accepts_the_definition() {
    let home = TempDir::new().unwrap();
    let config = home.path().join("it's.cfg");
    for (name, size) in [("root", 8 << 20), ("swap", 4 << 20), ("data", 8 << 20)] {
        let path = home.path().join(name);
        fs::File::create(&path).unwrap().set_len(size).unwrap();
        match name {
            "swap" => run("mkswap", &[path.as_os_str()]),
            _ => run("mke2fs", &["-q".as_ref(), "-t".as_ref(), "ext4".as_ref(), path.as_os_str()]),
        };
    }
    fs::write(home.path().join("c.iso"), [1; 4096]).unwrap();
    fs::write(
        &config,
        "name = 'a<b> & \"c\"'\nmemory = 512\nmaxmem = 1024\nvcpus = 2\nmaxvcpus = 4\nvnc = 1\n\
         type = 'hvm'\n\
         on_reboot = 'destroy'\non_crash = 'restart'\n\
         vif = ['mac=00:16:3e:01:02:03,bridge=xenbr0', '']\n\
         disk = ['file:root,xvda2,w', 'file:swap,xvda1,w', 'file:data,xvdb,r', \
         'file:c.iso,hdc:cdrom,r']\n",
    )
    .unwrap();
    for options in [&[][..], &["--mountpoint", "/srv/a & b"]] {
        let config = config.to_string_lossy();
        let args = [&["libvirt-xml", "--config", &config], options].concat();
        let xml = run_text(SYNTHDISK, &args);
        let file = home.path().join("domain.xml");
        fs::write(&file, &xml).unwrap();
        let file = file.to_string_lossy();
        run("virt-xml-validate", &[&file, "domain"]);
        let name = run_text("xmllint", &["--xpath", "string(/domain/name)", &file]);
        assert_eq!(name, "a<b> & \"c\"");
        let source = |n: u32| {
            let path = format!("string(//disk[{n}]/source/@file)");
            run_text("xmllint", &["--xpath", &path, &file])
        };
        let dir = options.get(1).map_or("/run/synthdisk/a<b> & \"c\"", |dir| dir);
        assert_eq!(source(1), format!("{dir}/disk.raw"));
        assert_eq!(source(2), format!("{dir}/disk-b.raw"));
        assert_eq!(source(3), format!("{dir}/cdrom-c.raw"));
    }
    expect_failure(&["libvirt-xml", "--config", "/nonexistent.cfg"], 1);
}
