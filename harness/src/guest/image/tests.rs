use super::*;
use std::cell::RefCell;

/// An image directory with small made-up files, as a build leaves it.
fn made_up(images: &Path, fingerprint: &str, recipe: &str) -> PathBuf {
    let dir = images.join("0123");
    fs::create_dir_all(&dir).unwrap();
    for (name, text) in [(VMLINUX, "kernel"), (BZIMAGE, "bz"), (INITRD, "initramfs")] {
        fs::write(dir.join(name), text).unwrap();
    }
    let image = GuestImage {
        vmlinux: Some("/built/elsewhere/vmlinux".into()),
        bzimage: "/built/elsewhere/bzImage".into(),
        initrd: "/built/elsewhere/initrd".into(),
        kernel_release: "6.1.0-1-amd64".into(),
        packages: vec!["dash=0.5".into()],
        hash: "0123".into(),
    };
    seal(&dir, image).unwrap();
    let current = Current {
        fingerprint: fingerprint.into(),
        recipe: recipe.into(),
        hash: "0123".into(),
    };
    write_json(&images.join(CURRENT), &current).unwrap();
    dir
}

#[test]
fn a_cached_image_is_found_where_it_lies_now() {
    let images = tempfile::tempdir().unwrap();
    let dir = made_up(images.path(), "lists", "recipe");
    let image = cached(images.path(), "lists", &|said| panic!("{said}")).unwrap();
    assert_eq!(image.vmlinux, Some(dir.join(VMLINUX)));
    assert_eq!(image.kernel(), dir.join(VMLINUX));
    assert_eq!(image.initrd, dir.join(INITRD));
    assert!(cached(images.path(), "newer lists", &|_| ()).is_none());
}

#[test]
fn a_kernel_without_pvh_boots_as_bzimage() {
    let images = tempfile::tempdir().unwrap();
    let dir = made_up(images.path(), "lists", "recipe");
    let image = load(&dir).unwrap();
    fs::remove_file(dir.join(VMLINUX)).unwrap();
    seal(&dir, image).unwrap();
    let image = load(&dir).unwrap();
    assert_eq!(image.vmlinux, None);
    assert_eq!(image.kernel(), dir.join(BZIMAGE));
}

#[test]
fn damage_is_noticed_and_said() {
    for (name, what) in [
        (INITRD, "has 4 bytes in place of 9"),
        (MANIFEST, "is not as it was written"),
    ] {
        let images = tempfile::tempdir().unwrap();
        let dir = made_up(images.path(), "lists", "recipe");
        fs::write(dir.join(name), "{\"a\"").unwrap();
        let said = RefCell::new(String::new());
        let note = |text: &str| said.borrow_mut().push_str(text);
        assert!(cached(images.path(), "lists", &note).is_none());
        assert!(said.borrow().contains(what), "{}", said.borrow());
        fs::remove_file(dir.join(name)).unwrap();
        assert!(
            cached(images.path(), "lists", &|_| ()).is_none(),
            "{name} missing"
        );
    }
}

#[test]
fn without_lists_the_last_image_of_this_recipe_serves() {
    let images = tempfile::tempdir().unwrap();
    made_up(images.path(), "lists", "recipe");
    let said = RefCell::new(String::new());
    let note = |text: &str| said.borrow_mut().push_str(text);
    assert!(last_built(images.path(), "another recipe", &note).is_none());
    assert_eq!(*said.borrow(), "");
    assert!(last_built(images.path(), "recipe", &note).is_some());
    assert!(said.borrow().contains("6.1.0-1-amd64"));
}

#[test]
fn the_hash_keeps_its_parts_apart() {
    assert_ne!(digest(["ab", "c"]), digest(["a", "bc"]));
    assert_ne!(digest(["a"]), digest(["a", ""]));
    assert_eq!(digest(["a"]).len(), 32);
}

#[test]
fn publishing_replaces_a_damaged_image_and_keeps_one_other() {
    let images = tempfile::tempdir().unwrap();
    let dir = made_up(images.path(), "lists", "recipe");
    fs::write(dir.join(INITRD), "").unwrap();
    let built = tempfile::tempdir_in(images.path()).unwrap();
    for old in ["oldest", "older"] {
        let old = images.path().join(old);
        fs::create_dir(&old).unwrap();
        fs::copy(dir.join(MANIFEST), old.join(MANIFEST)).unwrap();
    }
    let year_2000 = std::time::UNIX_EPOCH + std::time::Duration::from_secs(946_684_800);
    File::open(images.path().join("oldest"))
        .unwrap()
        .set_modified(year_2000)
        .unwrap();
    fs::write(built.path().join(INITRD), "new").unwrap();
    publish(built.path(), &dir).unwrap();
    assert_eq!(fs::read_to_string(dir.join(INITRD)).unwrap(), "new");
    assert!(images.path().join("older").exists());
    assert!(!images.path().join("oldest").exists());
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
