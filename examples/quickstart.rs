//! The main job, from nothing but the host's own files: `cargo run --release --example quickstart`.
//!
//! Two layers are stacked under a writable one, a process runs on them, isolated and under quotas, and what
//! it changed is listed. Needs no root, no network and no image.

use std::error::Error;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use coracle::cgroups::Limits;
use coracle::layers::Rootfs;
use coracle::namespaces::{Command, Mount};
use coracle::{ErrorKind, MIB};

const JOB: &str = "
echo \"hello from pid $$ on $(hostname), as $(id -un)\"
cat /srv/greeting
date > /stamp && rm /srv/greeting
echo \"processes I can see: $(ls -d /proc/[0-9]* | wc -l); host files I can change: $(find /usr -maxdepth 1 -writable | wc -l)\"
";

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let (base, app) = (dir.path().join("base"), dir.path().join("app"));
    base_layer(&base)?;
    fs::create_dir_all(app.join("srv"))?;
    fs::write(app.join("srv/greeting"), "this file is from the layer `app`\n")?;

    let rootfs = Rootfs::stack([&base, &app]).writable(dir.path().join("scratch"))?;
    let mut job = Command::new("/bin/sh");
    job.args(["-ec", JOB])
        .rootfs(&rootfs)
        .mount(Mount::bind("/usr", "/usr").read_only().host_ids())
        .hostname("quickstart")
        .limits(Limits::new().memory(64 * MIB).cpus(0.5).pids(32))
        .timeout(Duration::from_secs(10));
    let status = match job.status() {
        // Quotas are the administrator's to give away.
        Err(err) if matches!(err.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported) => {
            println!("(without quotas: {err:#}; {})", err.hint().unwrap_or_default());
            job.no_limits().status()?
        }
        other => other?,
    };

    println!(
        "{status}; it used {:?} of processor time",
        status.usage().map(|u| u.user_time + u.system_time)
    );
    println!("it changed:");
    for change in rootfs.changes()? {
        println!("  {change}");
    }
    Ok(())
}

/// What programs in /usr expect around it.
fn base_layer(base: &Path) -> std::io::Result<()> {
    for name in ["dev", "etc", "proc", "root", "sys", "tmp", "usr"] {
        fs::create_dir_all(base.join(name))?;
    }
    for name in ["bin", "lib", "lib64", "sbin"] {
        symlink(Path::new("usr").join(name), base.join(name))?;
    }
    fs::write(base.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")
}
