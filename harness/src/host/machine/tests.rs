use super::*;
use std::path::PathBuf;
use std::process::Command;

/// Names the file to which the process that [`tells_what_there_is`] is writes.
const TOLD_IN: &str = "NICMATRIX_TEST_TOLD_IN";

fn groups(root: &Path, first_version: bool, files: &[(&str, &str)]) -> Groups {
    for (file, text) in files {
        let file = root.join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    Groups {
        first_version,
        directories: vec![root.join("a/b"), root.join("a"), root.to_owned()],
    }
}

#[test]
fn free_memory_is_read() {
    let text = "MemTotal:       24683520 kB\nMemFree:  1 kB\nMemAvailable:   24275968 kB\n";
    assert_eq!(mib(text, "MemAvailable:"), Some(23707));
    assert_eq!(mib("MemTotal: 1 kB\n", "MemAvailable:"), None);
    let spare = spare();
    assert!(spare.processors > 0 && spare.descriptors > 0 && spare.tasks > 0);
    assert!(machine_mib() > 0);
}

#[test]
fn the_tightest_group_of_the_second_version_counts() {
    let root = tempfile::tempdir().unwrap();
    let groups = groups(
        root.path(),
        false,
        &[
            ("a/b/memory.max", "max\n"),
            ("a/b/memory.current", "1\n"),
            ("a/b/memory.stat", ""),
            ("a/memory.max", "1073741824\n"),
            ("a/memory.current", "943718400\n"),
            (
                "a/memory.stat",
                "anon 7\ninactive_file 104857600\nactive_file 419430400\n",
            ),
            ("a/b/cpu.max", "max 100000\n"),
            ("a/cpu.max", "50000 100000\n"),
            ("cpu.max", "150000 100000\n"),
            ("a/pids.max", "100\n"),
            ("a/pids.current", "30\n"),
        ],
    );
    assert_eq!(memory_left(&groups), Some(1024 - 900 + 500));
    assert_eq!(quota(&groups), Some(0.5));
    assert_eq!(tasks_left(&groups), Some(70));
}

#[test]
fn the_tightest_group_of_the_first_version_counts() {
    let root = tempfile::tempdir().unwrap();
    let groups = groups(
        root.path(),
        true,
        &[
            ("a/b/memory.limit_in_bytes", "9223372036854771712\n"),
            ("a/b/memory.usage_in_bytes", "1\n"),
            ("a/b/memory.stat", ""),
            ("memory.limit_in_bytes", "2147483648\n"),
            ("memory.usage_in_bytes", "1073741824\n"),
            (
                "memory.stat",
                "inactive_file 5\ntotal_inactive_file 536870912\n",
            ),
            ("a/b/cpu.cfs_quota_us", "-1\n"),
            ("a/b/cpu.cfs_period_us", "100000\n"),
            ("a/cpu.cfs_quota_us", "100000\n"),
            ("a/cpu.cfs_period_us", "100000\n"),
        ],
    );
    assert_eq!(memory_left(&groups), Some(1536));
    assert_eq!(quota(&groups), Some(1.0));
    assert_eq!(tasks_left(&groups), None);
}

#[test]
fn without_groups_nothing_limits() {
    let none = Groups::default();
    assert_eq!(
        (memory_left(&none), quota(&none), tasks_left(&none)),
        (None, None, None)
    );
}

/// Writes what there is to a file, where one is named; else there is nothing to see.
#[test]
fn tells_what_there_is() {
    if let Some(file) = std::env::var_os(TOLD_IN) {
        raise_descriptors();
        let Need {
            processors,
            memory_mib,
            tasks,
            descriptors,
        } = spare();
        let told = format!("{processors} {memory_mib} {tasks} {descriptors}");
        fs::write(file, told).unwrap();
    }
}

/// A group of this test below this process's own, removed when it is dropped.
struct Made(PathBuf);

impl Made {
    /// With these files; why it cannot be made, where that is so.
    fn below(controller: &str, files: &[(&str, &str)]) -> Result<Made, String> {
        let own = cgroup::of_process(controller).directories;
        let own = own
            .first()
            .ok_or(format!("there are no groups for {controller}"))?;
        let made = Made(own.join(format!("nicmatrix-test-{}", std::process::id())));
        fs::create_dir(&made.0).map_err(|error| format!("{}: {error}", made.0.display()))?;
        for (file, text) in files {
            let file = made.0.join(file);
            fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        }
        Ok(made)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // A process leaves its group a moment after it was waited for.
        while fs::remove_dir(&self.0).is_err_and(|e| e.raw_os_error() == Some(16)) {
            std::thread::yield_now();
        }
    }
}

/// What a process sees that `before` (shell commands) has put under limits.
fn seen(before: &str) -> [u64; 4] {
    let told = tempfile::NamedTempFile::new().unwrap();
    let test = "host::machine::tests::tells_what_there_is";
    let this = std::env::current_exe().unwrap();
    let script = format!("{before}\nexec \"$0\" --exact {test} >/dev/null");
    let mut command = Command::new("sh");
    command.args(["-ec", &script]).arg(this);
    command.env(TOLD_IN, told.path());
    assert!(command.status().unwrap().success());
    let told = fs::read_to_string(told.path()).unwrap();
    let mut numbers = told.split(' ').map(|number| number.parse().unwrap());
    [(); 4].map(|()| numbers.next().unwrap())
}

#[test]
fn a_real_group_limits_what_there_is() {
    let first_version = |controller| cgroup::of_process(controller).first_version;
    let limits = [
        match first_version("cpu") {
            true => ("cpu", "cpu.cfs_quota_us", "50000"),
            false => ("cpu", "cpu.max", "50000 100000"),
        },
        match first_version("memory") {
            true => ("memory", "memory.limit_in_bytes", "1073741824"),
            false => ("memory", "memory.max", "1073741824"),
        },
        ("pids", "pids.max", "200"),
    ];
    for (index, (controller, file, limit)) in limits.into_iter().enumerate() {
        let made = match Made::below(controller, &[(file, limit)]) {
            Ok(made) => made,
            Err(why) => {
                report::errln!("skipped: no group with a limit of {controller} can be made: {why}");
                continue;
            }
        };
        let procs = made.0.join("cgroup.procs");
        let seen = seen(&format!("echo $$ >{}", procs.display()))[index];
        let most = match controller {
            "cpu" => (f64::from(PROCESSOR) * READY / 2.0) as u64,
            "memory" => 1024,
            _ => 200,
        };
        assert!(seen <= most && seen >= most / 2, "{controller}: {seen}");
    }
}

#[test]
fn the_soft_limit_of_descriptors_is_raised_to_the_hard_one_within_reason() {
    let own = u64::from(OWN_DESCRIPTORS);
    assert_eq!(seen("ulimit -Sn 100; ulimit -Hn 500")[3], 500 - own);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert_eq!(seen("ulimit -Sn 100")[3], hard.min(DESCRIPTORS) - own);
}
