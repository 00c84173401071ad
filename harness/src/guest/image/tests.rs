use super::*;

#[test]
fn each_suite_has_a_recipe_of_its_own() {
    assert_ne!(recipe(None), recipe(Some("bullseye")));
    assert_ne!(recipe(Some("sid")), recipe(Some("bullseye")));
}
