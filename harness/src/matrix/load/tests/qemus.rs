//! `[qemu.*]`, their axis, and profiles that are like others.

use super::*;
use crate::matrix::schema::Profile;

#[test]
fn qemus_are_tables_and_an_axis() {
    let tables = "[qemu.own]\nbinary = \"/bin/sh\"\nfirmware = [\"/usr\"]\n\
                  [qemu.next]\nsuite = \"trixie-backports\"\n[nics.e1000]";
    let with = |axis: &str| {
        let text = GOOD.replacen("[nics.e1000]", tables, 1);
        text.replacen("[axes]", &format!("[axes]\n{axis}"), 1)
    };
    let matrix = parsed(&with("qemu = [\"default\", \"next\"]")).unwrap();
    assert_eq!(matrix.axes.qemu, ["default", "next"]);
    let suite = QemuSource::Suite("trixie-backports".into());
    assert_eq!(matrix.qemus["next"], suite);
    let own = QemuSource::Binary {
        program: "/bin/sh".into(),
        firmware: vec!["/usr".into()],
    };
    assert_eq!(matrix.qemus["own"], own);
    assert_eq!(parsed(GOOD).unwrap().axes.qemu, ["default"]);
    let unknown = parsed(&with("qemu = [\"nxet\"]")).unwrap_err().to_string();
    insta::assert_snapshot!(unknown, @"m.toml:3: [axes]: unknown QEMU `nxet`, did you mean `next`? (allowed: default, next, own): there is no [qemu.nxet] table");
    let qemu = |lines: &str| complaint("[nics.e1000]", &format!("{lines}\n[nics.e1000]"));
    let all = [
        qemu("[qemu.default]\nsuite = \"trixie\""),
        qemu("[qemu.a]"),
        qemu("[qemu.a]\nsuite = \"trixie\"\nbinary = \"/bin/sh\""),
        qemu("[qemu.a]\nsuite = \"../x\""),
        qemu("[qemu.a]\nbinary = \"/nowhere\""),
        qemu("[qemu.a]\nbinary = \"/bin/sh\"\nfirmware = [\"/nowhere\"]"),
        qemu("[qemu.a]\nsuit = \"trixie\""),
    ];
    insta::assert_snapshot!(all.join("\n"), @r"
    m.toml:8: [qemu.default]: that is the name of the QEMU of this machine or of --qemu PATH: give this one another
    m.toml:8: [qemu.a]: it needs `binary`, a QEMU's program, or `suite`, a suite of Debian whose QEMU is fetched
    m.toml:9: [qemu.a]: `suite` cannot be combined with `binary`
    m.toml:9: [qemu.a]: `suite` is the name of a suite of Debian, such as trixie-backports: letters, digits, `-` and `.`
    m.toml:9: [qemu.a]: `binary`: there is no file /nowhere
    m.toml:10: [qemu.a]: `firmware`: there is no directory /nowhere
    m.toml:8: [qemu.a]: it needs `binary`, a QEMU's program, or `suite`, a suite of Debian whose QEMU is fetched
    m.toml:9: [qemu.a]: unknown key `suit`, did you mean `suite`? (allowed: binary, firmware, suite)
    ");
}

#[test]
fn qemus_of_the_command_line_join_the_axis_or_choose_on_it() {
    let text = GOOD.replacen(
        "[nics.e1000]",
        "[qemu.next]\nsuite = \"sid\"\n[nics.e1000]",
        1,
    );
    let axis = |added: &[&str], chosen: &[&str]| {
        let mut matrix = parsed(&text).unwrap();
        let added: Vec<_> = added
            .iter()
            .map(|n| ((*n).to_owned(), "/q".into()))
            .collect();
        let chosen: Vec<_> = chosen.iter().map(|n| (*n).to_owned()).collect();
        let used = matrix.use_qemus(&added, &chosen).map_err(|e| e.to_string());
        used.map(|()| matrix.axes.qemu.join(" "))
    };
    assert_eq!(axis(&[], &[]).unwrap(), "default");
    assert_eq!(axis(&["mine"], &[]).unwrap(), "default mine");
    assert_eq!(axis(&[], &["next"]).unwrap(), "next");
    assert_eq!(axis(&["mine"], &["next", "mine"]).unwrap(), "next mine");
    let taken = axis(&["next"], &[]).unwrap_err();
    assert_eq!(
        taken,
        "there is a QEMU `next` already: give the added one another name"
    );
    insta::assert_snapshot!(axis(&[], &["nxt"]).unwrap_err(), @"--qemu (NICMATRIX_QEMU): unknown QEMU `nxt`, did you mean `next`? (allowed: default, next), neither a name of the matrix file nor a program on PATH");
}

#[test]
fn a_profile_may_be_like_another() {
    let with = |lines: &str| format!("{GOOD}\n[profiles.more]\n{lines}");
    let matrix = parsed(&with(
        "like = \"smoke\"\nping_count = 9\nnics = [\"virtio\"]",
    ))
    .unwrap();
    let (smoke, more) = (&matrix.profiles["smoke"], &matrix.profiles["more"]);
    let expected = Profile {
        ping_count: 9,
        nics: Some(vec!["virtio".into()]),
        ..smoke.clone()
    };
    assert_eq!(*more, expected);
    let all = [
        "like = \"smok\"",
        "like = \"more\"",
        "like = \"smoke\"\nping_count = 0",
    ]
    .map(|lines| parsed(&with(lines)).unwrap_err().to_string());
    insta::assert_snapshot!(all.join("\n"), @r"
    m.toml:56: [profiles.more]: `like`: unknown profile `smok`, did you mean `smoke`? (allowed: smoke); it must stand by itself
    m.toml:56: [profiles.more]: `like`: unknown profile `more`, did you mean `smoke`? (allowed: smoke); it must stand by itself
    m.toml:57: [profiles.more]: `ping_count` is 0, allowed are 1 to 1000000
    ");
}
