use super::*;
use crate::debian::folder::{Current, current_file, make_current, publish, remove_leftovers};
use nix::fcntl::{Flock, FlockArg};
use std::cell::RefCell;
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// An image directory with small made-up files, as a build leaves it.
fn made_up(images: &Path, fingerprint: &str, recipe: &str) -> PathBuf {
    let dir = images.join("0123");
    fs::create_dir_all(&dir).unwrap();
    for (name, text) in [
        (VMLINUX, "kernel"),
        (BZIMAGE, "bz"),
        (INITRD, "initramfs"),
        (PACKED_INITRD, "packed"),
        ("host/netserver", "serves"),
    ] {
        fs::create_dir_all(dir.join(HOST_PROGRAMS)).unwrap();
        fs::write(dir.join(name), text).unwrap();
    }
    let image = GuestImage {
        vmlinux: Some("/built/elsewhere/vmlinux".into()),
        bzimage: "/built/elsewhere/bzImage".into(),
        initrd: "/built/elsewhere/initrd".into(),
        packed_initrd: "/built/elsewhere/initrd.zst".into(),
        lab_initrd: None,
        host_programs: None,
        kernel_release: "6.1.0-1-amd64".into(),
        packages: vec!["dash=0.5".into()],
        hash: "0123".into(),
    };
    seal(&dir, image, 5).unwrap();
    let current = Current {
        fingerprint: fingerprint.into(),
        recipe: recipe.into(),
        hash: "0123".into(),
    };
    write_json(&current_file(images, None, recipe), &current).unwrap();
    dir
}

#[test]
fn a_cached_image_is_found_where_it_lies_now() {
    let images = tempfile::tempdir().unwrap();
    let dir = made_up(images.path(), "lists", "recipe");
    let image = cached(images.path(), None, "recipe", "lists", &|said| {
        panic!("{said}")
    })
    .unwrap();
    assert_eq!(image.vmlinux, Some(dir.join(VMLINUX)));
    assert_eq!(image.kernel(), dir.join(VMLINUX));
    assert_eq!(image.initrd, dir.join(INITRD));
    assert_eq!(image.packed_initrd, dir.join(PACKED_INITRD));
    assert!(cached(images.path(), None, "recipe", "newer lists", &|_| ()).is_none());
}

#[test]
fn a_kernel_without_pvh_boots_as_bzimage() {
    let images = tempfile::tempdir().unwrap();
    let dir = made_up(images.path(), "lists", "recipe");
    let image = load(&dir).unwrap();
    fs::remove_file(dir.join(VMLINUX)).unwrap();
    seal(&dir, image, 5).unwrap();
    let image = load(&dir).unwrap();
    assert_eq!(image.vmlinux, None);
    assert_eq!(image.kernel(), dir.join(BZIMAGE));
}

#[test]
fn damage_is_noticed_and_said() {
    for (name, what) in [
        (INITRD, "its initrd was altered"),
        ("host/netserver", "its host/netserver was altered"),
        (MANIFEST, "is not as it was written"),
    ] {
        let images = tempfile::tempdir().unwrap();
        let dir = made_up(images.path(), "lists", "recipe");
        // As long as before.
        let mut bytes = fs::read(dir.join(name)).unwrap();
        bytes[0] ^= 1;
        fs::write(dir.join(name), bytes).unwrap();
        let said = RefCell::new(String::new());
        let note = |text: &str| said.borrow_mut().push_str(text);
        assert!(cached(images.path(), None, "recipe", "lists", &note).is_none());
        assert!(said.borrow().contains(what), "{}", said.borrow());
        fs::remove_file(dir.join(name)).unwrap();
        assert!(
            cached(images.path(), None, "recipe", "lists", &|_| ()).is_none(),
            "{name} missing"
        );
    }
}

#[test]
fn without_lists_the_last_image_of_this_recipe_and_suite_serves() {
    let images = tempfile::tempdir().unwrap();
    made_up(images.path(), "lists", "recipe");
    assert!(last(images.path(), None, "another recipe").is_none());
    assert!(last(images.path(), Some("sid"), "recipe").is_none());
    let image = last(images.path(), None, "recipe").unwrap();
    assert_eq!(image.kernel_release, "6.1.0-1-amd64");
    assert_eq!(userspace(&image).unwrap(), 5);
}

#[test]
fn publishing_replaces_a_damaged_image() {
    let images = tempfile::tempdir().unwrap();
    let dir = made_up(images.path(), "lists", "recipe");
    fs::write(dir.join(INITRD), "").unwrap();
    let built = tempfile::tempdir_in(images.path()).unwrap();
    fs::write(built.path().join(INITRD), "new").unwrap();
    publish(built.path(), &dir).unwrap();
    assert_eq!(fs::read_to_string(dir.join(INITRD)).unwrap(), "new");
}

#[test]
fn one_image_a_kernel_is_kept_and_one_other() {
    let images = tempfile::tempdir().unwrap();
    let dir = made_up(images.path(), "lists", "recipe");
    let year_2000 = SystemTime::UNIX_EPOCH + Duration::from_secs(946_684_800);
    for (age, name) in ["younger", "older", "oldest", "bullseye's"]
        .iter()
        .enumerate()
    {
        let path = images.path().join(name);
        fs::create_dir(&path).unwrap();
        fs::copy(dir.join(MANIFEST), path.join(MANIFEST)).unwrap();
        let time = year_2000 - Duration::from_secs(age as u64);
        File::open(&path).unwrap().set_modified(time).unwrap();
    }
    let current = Current {
        fingerprint: "lists".into(),
        recipe: "recipe".into(),
        hash: "bullseye's".into(),
    };
    let scratch = tempfile::tempdir_in(images.path()).unwrap();
    make_current(
        images.path(),
        Some("bullseye"),
        scratch.path(),
        MANIFEST,
        &current,
    )
    .unwrap();
    let kept = |name: &str| images.path().join(name).exists();
    assert!(kept("0123") && kept("bullseye's") && kept("younger"));
    assert!(!kept("older") && !kept("oldest"));
}

#[test]
fn a_killed_build_is_cleared_away() {
    let images = tempfile::tempdir().unwrap();
    let dir = made_up(images.path(), "lists", "recipe");
    fs::create_dir_all(images.path().join(".build-abc/root")).unwrap();
    remove_leftovers(images.path());
    assert!(!images.path().join(".build-abc").exists());
    assert!(load(&dir).is_ok());
}

#[test]
fn builds_of_two_states_leave_each_other_what_they_use() {
    let images = tempfile::tempdir().unwrap();
    let dir = made_up(images.path(), "lists", "recipe");
    let year_2000 = SystemTime::UNIX_EPOCH + Duration::from_secs(946_684_800);
    for (age, name) in ["others", "younger", "held", "free"].iter().enumerate() {
        let path = images.path().join(name);
        fs::create_dir(&path).unwrap();
        fs::copy(dir.join(MANIFEST), path.join(MANIFEST)).unwrap();
        let time = year_2000 - Duration::from_secs(age as u64);
        File::open(&path).unwrap().set_modified(time).unwrap();
    }
    let held = File::open(images.path().join("held")).unwrap();
    let held = Flock::lock(held, FlockArg::LockShared).unwrap();
    let scratch = tempfile::tempdir_in(images.path()).unwrap();
    let becomes_current = |recipe: &str, hash: &str| {
        let current = Current {
            fingerprint: "lists".into(),
            recipe: recipe.into(),
            hash: hash.into(),
        };
        make_current(images.path(), None, scratch.path(), MANIFEST, &current).unwrap();
    };
    let kept = |name: &str| images.path().join(name).exists();
    becomes_current("other-recipe", "others");
    assert!(kept("0123") && kept("others") && kept("younger") && kept("held"));
    assert!(!kept("free"));
    assert!(cached(images.path(), None, "recipe", "lists", &|_| ()).is_some());
    // A build that has asked for nothing for long, and a process that has ended.
    let file = File::open(current_file(images.path(), None, "other-recipe")).unwrap();
    file.set_modified(year_2000).unwrap();
    drop(held);
    becomes_current("recipe", "0123");
    assert!(kept("0123") && kept("others") && !kept("younger") && !kept("held"));
}

#[test]
fn an_image_that_lacks_what_a_mirror_did_not_give_serves_but_is_not_current() {
    let images = tempfile::tempdir().unwrap();
    made_up(images.path(), "", "recipe");
    assert!(cached(images.path(), None, "recipe", "lists", &|_| ()).is_none());
    assert!(last(images.path(), None, "recipe").is_some());
}
