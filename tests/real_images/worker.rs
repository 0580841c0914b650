//! One who imports, commits, loads, tags and removes images and collects garbage, at random.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use coracle::image::{ConfigChanges, Digest, Image, Import, Store};
use coracle::layers::Compression;
use tar::EntryType;

use crate::common::archive::Tar;
use crate::common::stack::{inside, root};
use crate::common::victim::Random;

/// The file by which an image is known. A label of its configuration says the same.
const NONCE: &str = "etc/nonce";
const LABEL: &str = "nonce";
/// Deeper images are not committed upon.
const DEEPEST: usize = 6;

pub struct Worker<'a> {
    pub store: Store,
    dir: PathBuf,
    /// What its names begin with, and everything else that only it may have.
    own: String,
    random: Random,
    number: u64,
    /// Told in the words of [`say`](crate::common::victim::say).
    tell: Box<dyn FnMut(String) + 'a>,
    /// What its names mean, as far as it has changed them.
    pub names: BTreeMap<String, Option<Digest>>,
}

impl<'a> Worker<'a> {
    /// Works on the store `dir/images`.
    pub fn new(dir: &Path, own: &str, seed: u64, tell: impl FnMut(String) + 'a) -> Self {
        let (store, dir) = (Store::open(dir.join("images")).unwrap(), dir.to_owned());
        let (random, tell) = (Random::new(seed), Box::new(tell));
        Self { store, dir, own: own.to_owned(), random, number: 0, tell, names: BTreeMap::new() }
    }

    /// Writes the archive that [`step`](Self::step) loads, through a store of its own.
    pub fn prepare(dir: &Path, own: &str) {
        let other = dir.join(format!("{own}-other"));
        fs::create_dir(&other).unwrap();
        let mut maker = Worker::new(&other, own, 1, |_| {});
        let names = archived(own);
        maker.import(&names[0]);
        let digest = maker.store.tag(&names[0], &names[1]).unwrap().digest();
        maker.store.save(&names, File::create(archive(dir, own)).unwrap()).unwrap();
        fs::write(noted(dir, own), digest.to_string()).unwrap();
    }

    fn name(&mut self) -> String {
        let names = 7;
        match self.random.below(names) {
            number @ (0 | 1) => archived(&self.own)[usize::from(number == 1)].clone(),
            number => format!("{}:{number}", self.own),
        }
    }

    fn nonce(&mut self) -> String {
        self.number += 1;
        format!("{}-{}-{}", self.own, self.number, self.random.below(u64::MAX))
    }

    fn may_be(&mut self, name: &str, what: impl ToString) {
        (self.tell)(format!("may be {name} {}", what.to_string()));
    }

    fn is(&mut self, name: &str, what: Option<Digest>) {
        let said = what.map_or("nothing".to_owned(), |digest| digest.to_string());
        (self.tell)(format!("is {name} {said}"));
        self.names.insert(name.to_owned(), what);
    }

    /// Does one thing, whole.
    pub fn step(&mut self) {
        let name = self.name();
        match self.random.below(12) {
            0 | 1 => self.import(&name),
            2..=5 => match self.store.image(&name) {
                Ok(parent) if parent.diff_ids().len() < DEEPEST => {
                    let to = self.name();
                    self.commit(&parent, &to);
                }
                _ => self.import(&name),
            },
            6 => self.load(),
            7 | 8 => {
                if let Ok(image) = self.store.image(&name) {
                    let to = self.name();
                    self.may_be(&to, image.digest());
                    self.store.tag(&name, &to).unwrap();
                    self.is(&to, Some(image.digest()));
                }
            }
            9 | 10 => self.remove(&name),
            _ => drop(self.store.collect_garbage().unwrap()),
        }
    }

    fn import(&mut self, name: &str) {
        let nonce = self.nonce();
        self.may_be(name, format!("made:{nonce}"));
        let mut tar = Tar::new();
        tar.dir("./", 0o755).dir("etc/", 0o755).file(NONCE, &nonce);
        for number in 0..8 {
            tar.dir(&format!("usr{number}/"), 0o755);
            tar.raw(&format!("usr{number}/file"), EntryType::Regular, &vec![b'x'; 20_000]);
            tar.hard_link(&format!("usr{number}/link"), &format!("usr{number}/file"));
        }
        let changes = ConfigChanges::new().label(LABEL, &nonce);
        let mut import = Import::new(&self.store).name(name).changes(changes);
        if self.random.below(2) == 0 {
            import = import.compress(Compression::Gzip);
        }
        let image = import.read(&tar.end()[..]).unwrap();
        self.is(name, Some(image.digest()));
    }

    fn commit(&mut self, parent: &Image, name: &str) {
        let nonce = self.nonce();
        self.may_be(name, format!("made:{nonce}"));
        let scratch = self.dir.join(format!("scratch-{nonce}"));
        let rootfs = parent.rootfs().unwrap().writable(&scratch).unwrap();
        let depth = parent.diff_ids().len();
        inside(&rootfs, |root| {
            fs::write(root.join(NONCE), &nonce).unwrap();
            fs::remove_dir_all(root.join(format!("usr{depth}"))).unwrap();
            fs::write(root.join(format!("grown{depth}")), vec![b'y'; 50_000]).unwrap();
        });
        let commit = self.store.commit(&rootfs, name).parent(parent).label(LABEL, &nonce);
        let image = commit.run().unwrap();
        self.is(name, Some(image.digest()));
        drop(rootfs);
        self.store.layers().unwrap().remove_writable(&scratch).unwrap();
    }

    fn load(&mut self) {
        let names = archived(&self.own);
        let digest = fs::read_to_string(noted(&self.dir, &self.own)).unwrap();
        names.iter().for_each(|name| self.may_be(name, &digest));
        let archive = File::open(archive(&self.dir, &self.own)).unwrap();
        let loaded = self.store.load(archive).unwrap();
        assert_eq!(loaded[0].image.digest().to_string(), digest);
        for name in &names {
            self.is(name, Some(loaded[0].image.digest()));
        }
    }

    /// Removes a name, and what it meant while a root filesystem still shows it.
    fn remove(&mut self, name: &str) {
        let Ok(image) = self.store.image(name) else { return };
        let rootfs = image.rootfs().unwrap().read_only().unwrap();
        self.may_be(name, "nothing");
        self.store.remove(name).unwrap();
        self.is(name, None);
        if self.random.below(2) == 0 {
            self.store.collect_garbage().unwrap();
        }
        assert_eq!(fs::read_to_string(root(&rootfs).join(NONCE)).unwrap(), nonce(&image));
    }
}

fn archived(own: &str) -> [String; 2] {
    [format!("{own}-loaded:1"), format!("{own}-loaded:2")]
}

fn archive(dir: &Path, own: &str) -> PathBuf {
    dir.join(format!("{own}.tar"))
}

/// Where the digest of the archived image is written.
fn noted(dir: &Path, own: &str) -> PathBuf {
    dir.join(format!("{own}.digest"))
}

/// What the configuration says it was made with.
pub fn nonce(image: &Image) -> String {
    image.config().raw()["config"]["Labels"][LABEL].as_str().unwrap().to_owned()
}

/// The files of the image are those that it was made of.
pub fn check_files(image: &Image) {
    let rootfs = image.rootfs().unwrap().read_only().unwrap();
    let (root, depth) = (root(&rootfs), image.diff_ids().len());
    assert_eq!(fs::read_to_string(root.join(NONCE)).unwrap(), nonce(image));
    for number in 1..8 {
        let (old, new) = (format!("usr{number}/link"), format!("grown{number}"));
        if number < depth {
            assert!(!root.join(old).exists());
            assert_eq!(fs::read(root.join(new)).unwrap(), vec![b'y'; 50_000]);
        } else {
            assert_eq!(fs::read(root.join(old)).unwrap(), vec![b'x'; 20_000]);
        }
    }
}

/// Sound, and without anything half done once its garbage is collected.
pub fn check_clean(store: &Store) {
    store.collect_garbage().unwrap();
    let verified = store.verify().unwrap();
    assert!(verified.is_sound(), "{:?}", verified.damage);
    for directory in ["ingest", "leases", "trash"] {
        let left: Vec<_> = fs::read_dir(store.path().join(directory)).unwrap().collect();
        assert!(left.is_empty(), "{directory}: {left:?}");
    }
}
