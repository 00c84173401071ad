use super::*;

/// Each setting once: its variable with a value, and the same as flags.
const EACH: &[(&str, &str, &[&str])] = &[
    ("NICMATRIX_PROFILE", "full", &["--profile", "full"]),
    (
        "NICMATRIX_MATRIX",
        "other.toml",
        &["--matrix", "other.toml"],
    ),
    (
        "NICMATRIX_QEMU",
        "/usr/qemu:new=build/qemu:default,trixie",
        &[
            "--qemu",
            "/usr/qemu",
            "--qemu",
            "new=build/qemu",
            "--qemu",
            "default,trixie",
        ],
    ),
    (
        "NICMATRIX_FIRMWARE",
        "/usr:/etc",
        &["--firmware", "/usr", "--firmware", "/etc"],
    ),
    ("NICMATRIX_ACCEL", "tcg", &["--accel", "tcg"]),
    ("NICMATRIX_HOST", "lab", &["--host", "lab"]),
    (
        "NICMATRIX_ALLOW_MODULE_RELOAD",
        "1",
        &["--allow-module-reload"],
    ),
    ("NICMATRIX_BOOT", "1", &["--boot"]),
    ("NICMATRIX_FAULTS", "1", &["--faults"]),
    ("NICMATRIX_SHARD", "2/3", &["--shard", "2/3"]),
    (
        "NICMATRIX_DURATIONS",
        "durations.json",
        &["--durations", "durations.json"],
    ),
    ("NICMATRIX_NIC", "e1000,virtio", &["--nic", "e1000,virtio"]),
    ("NICMATRIX_GUEST", "rhel9", &["--guest", "rhel9"]),
    ("NICMATRIX_BACKEND", "tap", &["--backend", "tap"]),
    (
        "NICMATRIX_CASE",
        "pxe,driver",
        &["--case", "pxe", "--case", "driver"],
    ),
    (
        "NICMATRIX_FILTER",
        "pxe::virtio,driver::",
        &["--filter", "pxe::virtio,driver::"],
    ),
    (
        "NICMATRIX_SKIP",
        "netperf,pxe",
        &["--skip", "netperf", "--skip", "pxe"],
    ),
    ("NICMATRIX_EXACT", "1", &["--exact"]),
    ("NICMATRIX_RETRIES", "2", &["--retries", "2"]),
    ("NICMATRIX_CONFIRM", "5", &["--confirm", "5"]),
    (
        "NICMATRIX_FLAKY_RESULT",
        "pass",
        &["--flaky-result", "pass"],
    ),
    ("NICMATRIX_JUNIT", "junit.xml", &["--junit", "junit.xml"]),
    (
        "NICMATRIX_MESSAGE_FORMAT",
        "json",
        &["--message-format", "json"],
    ),
    ("NICMATRIX_STRICT", "1", &["--strict"]),
    ("NICMATRIX_SHELL", "1", &["--shell"]),
    ("NICMATRIX_TABLE", "1", &["--table"]),
    ("NICMATRIX_SHOW", "1", &["--show"]),
    ("NICMATRIX_DIR", "work", &["--dir", "work"]),
];

fn from(variables: &[(&str, &str)]) -> Result<Flags, BadSetting> {
    let owned = variables.iter().map(|(n, v)| ((*n).into(), (*v).into()));
    Flags::from_variables(&owned.collect())
}

fn flags(words: &[&str]) -> Flags {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    parse(&command(), &words).unwrap()
}

#[test]
fn each_setting_is_the_same_as_a_variable_as_a_flag_and_in_the_one_value() {
    for (variable, value, words) in EACH {
        let set = from(&[(variable, value)]).unwrap();
        assert_ne!(set, Flags::default(), "{variable}");
        assert_eq!(set, flags(words), "{variable}");
        let all = set.to_json().unwrap();
        assert_eq!(from(&[(ALL, &all)]).unwrap(), set, "{variable}");
    }
    let command = command();
    let known = command.get_arguments().filter_map(Arg::get_long);
    let known: Vec<String> = known.map(variable).collect();
    let each: Vec<&str> = EACH.iter().map(|(variable, ..)| *variable).collect();
    assert_eq!(each, known, "EACH lists every setting");
}

#[test]
fn each_setting_says_what_it_is_and_the_defaults_are_those_that_hold() {
    let command = command();
    let help = |flag: &str| {
        let mut all = command.get_arguments();
        let argument = all.find(|a| a.get_long() == Some(flag)).unwrap();
        argument.get_help().unwrap().to_string()
    };
    for argument in command.get_arguments() {
        assert!(help(argument.get_long().unwrap()).len() > 20, "{argument}");
    }
    for (flag, default) in [
        ("profile", DEFAULT_PROFILE),
        ("matrix", DEFAULT_MATRIX),
        ("dir", DEFAULT_DIR),
    ] {
        let text = help(flag);
        assert!(text.ends_with(&format!("[default: {default}]")), "{text}");
    }
}

#[test]
fn nothing_given_is_nothing_set() {
    let empty = [
        ("NICMATRIX_PROFILE", ""),
        ("NICMATRIX_BOOT", "0"),
        (ALL, ""),
    ];
    assert_eq!(from(&empty).unwrap(), Flags::default());
    let others = [
        ("PATH", "/bin"),
        (RUN, "1"),
        (ROOT, "/"),
        ("NICMATRIX_IMAGE_RHEL6", "rhel6.qcow2"),
    ];
    assert_eq!(from(&others).unwrap(), Flags::default());
    assert!(Conditions::default().as_flags().is_empty());
}

#[test]
fn bad_values_are_said_with_what_is_allowed() {
    let all: String = [
        ("NICMATRIX_ACCEL", "kmv"),
        ("NICMATRIX_ACCEL", "xen"),
        ("NICMATRIX_HOST", "lap"),
        ("NICMATRIX_RETRIES", "-1"),
        ("NICMATRIX_SHARD", "0/3"),
        ("NICMATRIX_SHARD", "4/3"),
        ("NICMATRIX_SHARD", "1"),
        ("NICMATRIX_FAULTS", "yes"),
        ("NICMATRIX_ALLOW_MODULE_RELOAD", "vhost_net"),
        ("NICMATRIX_PROFLIE", "full"),
        ("NICMATRIX_ZZZ", "1"),
        (ALL, "--boot"),
        (ALL, r#"{"conditions":{"profil":"full"}}"#),
        (ALL, r#"{"selection":{"shard":[0,3]}}"#),
    ]
    .map(|(name, value)| match from(&[(name, value)]) {
        Ok(flags) => panic!("{name}={value} was taken: {flags:?}"),
        Err(error) => format!("{error}\n"),
    })
    .concat();
    insta::assert_snapshot!(all, @r"
    NICMATRIX_ACCEL: unknown value `kmv`, did you mean `kvm`? (allowed: auto, kvm, tcg)
    NICMATRIX_ACCEL: unknown value `xen` (allowed: auto, kvm, tcg)
    NICMATRIX_HOST: unknown value `lap`, did you mean `lab`? (allowed: auto, direct, lab)
    NICMATRIX_RETRIES is `-1`, expected a whole number, 0 or more
    NICMATRIX_SHARD is `0/3`, expected K/N, the K-th of N parts, with K from 1 to N
    NICMATRIX_SHARD is `4/3`, expected K/N, the K-th of N parts, with K from 1 to N
    NICMATRIX_SHARD is `1`, expected K/N, the K-th of N parts, with K from 1 to N
    NICMATRIX_FAULTS is `yes`, expected 0 or 1
    NICMATRIX_ALLOW_MODULE_RELOAD is `vhost_net`, expected 0 or 1
    NICMATRIX_PROFLIE: unknown setting `PROFLIE`, did you mean `PROFILE`? (allowed: PROFILE, MATRIX, QEMU, FIRMWARE, ACCEL, HOST, ALLOW_MODULE_RELOAD, BOOT, FAULTS, SHARD, DURATIONS, NIC, GUEST, BACKEND, CASE, FILTER, SKIP, EXACT, RETRIES, CONFIRM, FLAKY_RESULT, JUNIT, MESSAGE_FORMAT, STRICT, SHELL, TABLE, SHOW, DIR)
    NICMATRIX_ZZZ: unknown setting `ZZZ` (allowed: PROFILE, MATRIX, QEMU, FIRMWARE, ACCEL, HOST, ALLOW_MODULE_RELOAD, BOOT, FAULTS, SHARD, DURATIONS, NIC, GUEST, BACKEND, CASE, FILTER, SKIP, EXACT, RETRIES, CONFIRM, FLAKY_RESULT, JUNIT, MESSAGE_FORMAT, STRICT, SHELL, TABLE, SHOW, DIR)
    NICMATRIX_SETTINGS is not understood: invalid number at line 1 column 2
    NICMATRIX_SETTINGS is not understood: unknown field `profil`, expected one of `profile`, `matrix`, `qemu`, `firmware`, `accel`, `host`, `allow_module_reload`, `boot` at line 1 column 23
    NICMATRIX_SETTINGS is not understood: expected K/N, the K-th of N parts, with K from 1 to N at line 1 column 28
    ");
}

#[test]
fn a_flag_wins_over_a_variable_and_the_one_value_over_single_ones() {
    let variables = from(&[("NICMATRIX_PROFILE", "soak"), ("NICMATRIX_BOOT", "1")]).unwrap();
    let merged = flags(&["--profile", "full"]).or(&variables).unwrap();
    assert_eq!(merged, flags(&["--profile", "full", "--boot"]));
    let firmware = flags(&["--firmware", "/usr"]);
    let merged = firmware.or(&flags(&["--firmware", "/etc"])).unwrap();
    assert_eq!(merged, firmware);
    assert_eq!(Flags::default().or(&firmware).unwrap(), firmware);

    let all = firmware.to_json().unwrap();
    let both = from(&[(ALL, &all), ("NICMATRIX_PROFILE", "full")]).unwrap();
    assert_eq!(both, firmware);
}

#[test]
fn paths_are_meant_from_where_the_user_is() {
    let seen = |words: &[&str]| flags(words).meant_from(Path::new("/home/u"));
    for (given, meant) in [
        (["--qemu", "build/qemu"], "/home/u/build/qemu"),
        (["--qemu", "./qemu"], "/home/u/./qemu"),
        (["--qemu", "/opt/qemu"], "/opt/qemu"),
        (["--qemu", "qemu-kvm"], "qemu-kvm"),
        (["--qemu", "new=build/qemu"], "new=/home/u/build/qemu"),
        (["--qemu", "new=qemu-kvm"], "new=qemu-kvm"),
        (["--matrix", "m.toml"], "/home/u/m.toml"),
        (["--durations", "d.json"], "/home/u/d.json"),
        (["--firmware", "pc-bios"], "/home/u/pc-bios"),
        (["--junit", "j.xml"], "/home/u/j.xml"),
        (["--dir", "d"], "/home/u/d"),
    ] {
        assert_eq!(seen(&given), flags(&[given[0], meant]), "{given:?}");
    }
}

#[test]
fn conditions_become_the_flags_that_they_were() {
    let words = [
        "--profile",
        "full",
        "--firmware",
        "/a b",
        "--firmware",
        "/etc",
        "--accel",
        "kvm",
        "--boot",
    ];
    let rendered = flags(&words).conditions.as_flags().into_iter();
    let rendered: Vec<String> = rendered
        .flat_map(|(flag, value)| std::iter::once(flag).chain(value))
        .collect();
    assert_eq!(rendered, words);
}

#[test]
fn conditions_are_recorded_and_what_a_newer_version_recorded_is_named() {
    let words = [
        "--profile",
        "full",
        "--qemu",
        "new=/q",
        "--accel",
        "kvm",
        "--boot",
    ];
    let conditions = flags(&words).conditions;
    let mut recorded = conditions.recorded().unwrap();
    let text = serde_json::to_string(&recorded).unwrap();
    let expected = r#"{"accel":"kvm","boot":true,"profile":"full","qemu":["new=/q"]}"#;
    assert_eq!(text, expected);
    let back = Conditions::of_recorded(&recorded);
    assert_eq!(back, (conditions.clone(), Vec::new()));
    recorded.insert("numa".into(), 2.into());
    recorded.insert("host".into(), "cloud".into());
    let (known, unknown) = Conditions::of_recorded(&recorded);
    assert_eq!(
        (known, unknown),
        (conditions, vec!["host".to_owned(), "numa".to_owned()])
    );
    assert!(Conditions::default().recorded().unwrap().is_empty());
}

#[test]
fn the_matrix_file_has_the_same_words_for_hosts() {
    let words = HostChoice::WORDS.iter().map(|(word, host)| {
        assert_eq!(HostChoice::from_str(word, false).as_ref(), Ok(host));
        *host
    });
    assert_eq!(words.collect::<Vec<_>>(), HostChoice::value_variants());
}
