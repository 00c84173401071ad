use super::*;
use std::cell::Cell;

const KEY: &str = "0123456789abcdef0123456789abcdef";

struct Fixture {
    directory: tempfile::TempDir,
    made: Cell<u32>,
    disposable: bool,
}

impl Fixture {
    fn new() -> Fixture {
        Fixture {
            directory: tempfile::tempdir().unwrap(),
            made: Cell::new(0),
            disposable: false,
        }
    }

    fn store(&self) -> Store {
        let directory = self.directory.path().join("checkpoints");
        match self.disposable {
            false => Store::new(directory),
            true => Store::disposable(directory),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory
            .path()
            .join("checkpoints")
            .join(KEY)
            .join(name)
    }

    /// Gets it; what was said meanwhile.
    fn get(&self) -> (Checkpoint, String) {
        let said = std::cell::RefCell::new(String::new());
        let say = |line: &str| *said.borrow_mut() += line;
        let got = self
            .store()
            .get(KEY, "rhel9 with e1000 up", &say, |directory| {
                self.made.set(self.made.get() + 1);
                fs::write(directory.join(STATE), "devices")?;
                fs::write(directory.join(RAM), "memory")?;
                Ok(Ok(Mode::Mapped))
            });
        (got.unwrap().unwrap(), said.into_inner())
    }
}

#[test]
fn what_is_kept_is_found_and_what_is_missing_or_altered_is_not_made() {
    let f = Fixture::new();
    assert!(f.store().kept(KEY).unwrap().is_none());
    drop(f.get());
    let kept = f.store().kept(KEY).unwrap().unwrap();
    assert_eq!(fs::read_to_string(kept.ram()).unwrap(), "memory");
    drop(kept);
    fs::write(f.file(RAM), "altered").unwrap();
    assert!(f.store().kept(KEY).unwrap().is_none());
    assert_eq!(f.made.get(), 1);
}

#[test]
fn it_is_made_once_and_then_found() {
    let f = Fixture::new();
    let (first, _) = f.get();
    assert_eq!(fs::read_to_string(first.ram()).unwrap(), "memory");
    drop(first);
    let (again, said) = f.get();
    assert_eq!(
        (again.mode, said.as_str(), f.made.get()),
        (Mode::Mapped, "", 1)
    );
    // It may be restored by many at once.
    let (third, _) = f.get();
    assert_eq!(third.state(), again.state());
}

#[test]
fn a_file_that_was_cut_or_altered_is_noticed_and_said() {
    for damage in ["mem", "MEMORY"] {
        let f = Fixture::new();
        drop(f.get());
        fs::write(f.file(RAM), damage).unwrap();
        let (checkpoint, said) = f.get();
        assert!(
            said.contains("rhel9 with e1000 up cannot be used (its ram was altered"),
            "{said}"
        );
        assert_eq!(fs::read_to_string(checkpoint.ram()).unwrap(), "memory");
        assert_eq!(f.made.get(), 2);
    }
}

#[test]
fn an_altered_file_with_its_old_time_is_noticed_too() {
    let f = Fixture::new();
    drop(f.get());
    let time = fs::metadata(f.file(RAM)).unwrap().modified().unwrap();
    fs::write(f.file(RAM), "mEmory").unwrap();
    let file = File::options().append(true).open(f.file(RAM)).unwrap();
    file.set_modified(time).unwrap();
    assert!(f.get().1.contains("its ram was altered"));
}

#[test]
fn a_copy_with_the_same_content_is_as_good() {
    let f = Fixture::new();
    drop(f.get());
    fs::remove_file(f.file(RAM)).unwrap();
    fs::write(f.file(RAM), "memory").unwrap();
    assert_eq!((f.get().1.as_str(), f.made.get()), ("", 1));
}

#[test]
fn a_disposable_store_finds_its_own_and_takes_no_copy() {
    let f = Fixture {
        disposable: true,
        ..Fixture::new()
    };
    drop(f.get());
    assert_eq!((f.get().1.as_str(), f.made.get()), ("", 1));
    fs::remove_file(f.file(RAM)).unwrap();
    fs::write(f.file(RAM), "memory").unwrap();
    let (_, said) = f.get();
    assert!(said.contains("altered"), "{said}");
    assert_eq!(f.made.get(), 2);
}

#[test]
fn a_missing_file_or_manifest_is_made_again() {
    for name in [STATE, MANIFEST] {
        let f = Fixture::new();
        drop(f.get());
        fs::remove_file(f.file(name)).unwrap();
        drop(f.get());
        assert_eq!(f.made.get(), 2, "{name}");
    }
}

#[test]
fn what_a_killed_run_left_is_not_used() {
    let f = Fixture::new();
    let half = f.store().directory.join(format!("{BUILDING}{KEY}"));
    fs::create_dir_all(&half).unwrap();
    fs::write(half.join(RAM), "hal").unwrap();
    assert_eq!(f.store().list()[0].what, "half-made");
    let (checkpoint, _) = f.get();
    assert_eq!(fs::read_to_string(checkpoint.ram()).unwrap(), "memory");
    assert!(!half.exists());
}

#[test]
fn a_refusal_is_remembered_and_explained() {
    let f = Fixture::new();
    for _ in 0..2 {
        let refused = f.store().get(KEY, "rhel9", &|_| (), |directory| {
            f.made.set(f.made.get() + 1);
            fs::write(directory.join(RAM), "memory")?;
            Ok(Err("this QEMU does not migrate".into()))
        });
        assert_eq!(
            refused.unwrap().err().unwrap(),
            "this QEMU does not migrate"
        );
    }
    assert_eq!(f.made.get(), 1);
    assert!(!f.file(RAM).exists());
    let listed = &f.store().list()[0].what;
    assert_eq!(listed, "none of rhel9: this QEMU does not migrate");
}

#[test]
fn trouble_of_the_host_is_not_remembered() {
    let f = Fixture::new();
    let failed = f
        .store()
        .get(KEY, "rhel9", &|_| (), |_| anyhow::bail!("no tun"));
    assert!(failed.is_err());
    drop(f.get());
    assert_eq!(f.made.get(), 1);
}

#[test]
fn whoever_comes_while_it_is_made_waits_and_makes_none() {
    let f = Fixture::new();
    let store = f.store();
    let made = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let got = store.get(KEY, "rhel9", &|_| (), |directory| {
                    made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    // Long enough for the others to come.
                    std::thread::sleep(Duration::from_millis(50));
                    fs::write(directory.join(STATE), "all")?;
                    Ok(Ok(Mode::Streamed))
                });
                assert!(got.unwrap().is_ok());
            });
        }
    });
    assert_eq!(made.into_inner(), 1);
}

#[test]
fn what_is_in_use_is_not_cleared() {
    let f = Fixture::new();
    let (held, _) = f.get();
    let (gone, kept) = f.store().clear().unwrap();
    assert_eq!((gone.len(), kept.len()), (0, 1));
    assert_eq!(kept[0].what, "rhel9 with e1000 up");
    drop(held);
    let (gone, kept) = f.store().clear().unwrap();
    assert_eq!((gone.len(), kept.len()), (1, 0));
    assert!(!f.file(RAM).exists() && f.store().list().is_empty());
}

#[test]
fn the_longest_unused_go_until_there_is_room_on_the_disk_and_its_share_is_kept() {
    const MADE: u64 = 64 << 10;
    let large = Disk {
        size: 1 << 40,
        free: ROOM,
    };
    let crowded = |lacks| Disk {
        free: ROOM - lacks,
        ..large
    };
    let small = Disk {
        size: 2 * MADE * SHARE,
        ..large
    };
    // The disk, and how many of four go: the last is the newest, and the second is in use.
    for (disk, gone) in [
        (large, &[][..]),
        (crowded(1), &["0"]),
        (crowded(MADE + 1), &["0", "2"]),
        (crowded(ROOM), &["0", "2"]),
        (small, &["0", "2"]),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().to_owned());
        let keys = ["0", "1", "2", "3"];
        let mut held = None;
        for (age, key) in keys.iter().enumerate() {
            // Not by `get`, which looks at the disk that is there.
            let made = store.make(key, key, |directory| {
                fs::write(directory.join(STATE), vec![1; MADE as usize - 4096])?;
                Ok(Ok(Mode::Streamed))
            });
            made.unwrap();
            let lock = store.lock(key, FlockArg::LockShared).unwrap();
            let used = UNIX_EPOCH + Duration::from_secs(age as u64);
            lock.set_modified(used).unwrap();
            if *key == "1" {
                held = Some(lock);
            }
        }
        store.evict("3", disk);
        let left = keys
            .iter()
            .filter(|key| !directory.path().join(key).exists());
        assert_eq!(left.copied().collect::<Vec<_>>(), gone);
        drop(held);
    }
}

#[test]
fn a_refusal_of_long_ago_or_of_the_future_lapses() {
    let f = Fixture::new();
    let refuse = || {
        let refused = f.store().get(KEY, "rhel9", &|_| (), |_| {
            f.made.set(f.made.get() + 1);
            Ok(Err("no memory".into()))
        });
        assert!(refused.unwrap().is_err());
    };
    refuse();
    for (at, made) in [
        (now() - 60, 1),
        (now() - REFUSAL_HOLDS.as_secs() - 1, 2),
        (now() + 3600, 3),
    ] {
        let manifest = Manifest {
            what: "rhel9".into(),
            outcome: Outcome::Refused {
                why: "no memory".into(),
                unix_time: at,
            },
        };
        json::write_whole(&f.file(MANIFEST), &manifest).unwrap();
        refuse();
        assert_eq!(f.made.get(), made, "{at}");
    }
}
