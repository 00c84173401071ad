use super::*;

#[test]
fn the_hash_keeps_its_parts_apart() {
    assert_ne!(digest(["ab", "c"]), digest(["a", "bc"]));
    assert_ne!(digest(["a"]), digest(["a", ""]));
    assert_eq!(digest(["a"]).len(), 32);
}

#[test]
fn each_suite_has_a_recipe_of_its_own() {
    assert_ne!(recipe(None), recipe(Some("bullseye")));
    assert_ne!(recipe(Some("sid")), recipe(Some("bullseye")));
}

#[test]
fn what_the_network_refused_is_a_skip_and_trouble_here_is_not() {
    let refused = unavailable(
        "sid",
        anyhow::anyhow!("`apt-get` ended with 100: E: no route; E: and more"),
    );
    let Skip(why) = refused.downcast().unwrap();
    assert_eq!(
        why,
        "the kernel of Debian sid cannot be fetched: `apt-get` ended with 100: E: no route"
    );
    let trouble = CannotRun("cannot write to /x".into());
    assert!(unavailable("sid", trouble.into()).is::<CannotRun>());
}
