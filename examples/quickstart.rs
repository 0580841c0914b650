//! The main job, from nothing but the host's own files: `cargo run --release --example quickstart`.
//!
//! Two layers are stacked under a writable one; a process runs on them, isolated and under quotas; what it changed is
//! listed and committed as an image, which runs. Needs no root, no network and no image.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use coracle::cgroups::Limits;
use coracle::image::Store;
use coracle::layers::Rootfs;
use coracle::namespaces::{Command, ExitStatus, Mount};
use coracle::{ErrorKind, MIB};

const JOB: &str = "
echo \"hello from pid $$ on $(hostname), as $(id -un)\"
cat /srv/greeting
date > /stamp && rm /srv/greeting
echo \"processes I can see: $(ls -d /proc/[0-9]* | wc -l); host files I can change: $(find /usr -maxdepth 1 -writable | wc -l)\"
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let (base, app) = (dir.path().join("base"), dir.path().join("app"));
    base_layer(&base)?;
    fs::create_dir_all(app.join("srv"))?;
    fs::write(app.join("srv/greeting"), "this file is from the layer `app`\n")?;

    let rootfs = Rootfs::stack([&base, &app]).writable(dir.path().join("scratch"))?;
    let status = run(JOB, &rootfs)?;
    let used = status.usage().map_or_else(Duration::default, |usage| usage.user_time);
    println!("{status}; of processor time it used {used:.1?}");
    for change in rootfs.changes()? {
        println!("it changed: {change}");
    }

    let store = Store::open(dir.path().join("images"))?;
    let image = store.commit(&rootfs, "quickstart:1").message("stamped").run()?;
    println!(
        "that is now the image {} ({} bytes):",
        image.references()[0].familiar(),
        image.size()
    );
    let copy = image.rootfs()?.writable(dir.path().join("scratch-of-image"))?;
    println!("{}", run("echo \"stamped: $(cat /stamp)\"; ls -A /srv", &copy)?);
    Ok(())
}

fn run(script: &str, rootfs: &Rootfs) -> coracle::Result<ExitStatus> {
    let mut job = Command::new("/bin/sh");
    job.args(["-ec", script]).rootfs(rootfs).hostname("quickstart");
    job.mount(Mount::bind("/usr", "/usr").read_only().host_ids()).timeout(Duration::from_secs(10));
    match job.limits(Limits::new().memory(64 * MIB).cpus(0.5).pids(32)).status() {
        // Quotas are the administrator's to give away.
        Err(err) if matches!(err.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported) => {
            println!("(without quotas: {err:#}; {})", err.hint().unwrap_or_default());
            job.no_limits().status()
        }
        other => other,
    }
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
