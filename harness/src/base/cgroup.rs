//! Where this process stands in the kernel's groups of processes (cgroups(7)), of version 1 or 2.

use std::fs;
use std::path::{Path, PathBuf};

/// The group of this process that has a controller, and all above it that can be seen, the innermost first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Groups {
    /// Whether they are of version 1, which calls some files otherwise.
    pub first_version: bool,
    /// Their directories.
    pub directories: Vec<PathBuf>,
}

/// Those for `controller`: "memory", "cpu", "pids". None where no such hierarchy is mounted.
pub fn of_process(controller: &str) -> Groups {
    let read = |file| fs::read_to_string(file).unwrap_or_default();
    find(
        &read("/proc/self/cgroup"),
        &read("/proc/self/mountinfo"),
        controller,
    )
}

/// From /proc/self/cgroup and /proc/self/mountinfo (proc(5)).
fn find(cgroups: &str, mounts: &str, controller: &str) -> Groups {
    let has = |list: &str| list.split(',').any(|one| one == controller);
    let mut second = Groups::default();
    for line in cgroups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let first_version = has(controllers);
        if !first_version && !controllers.is_empty() {
            continue;
        }
        let is_it = |kind: &str, options: &str| match first_version {
            true => kind == "cgroup" && has(options),
            false => kind == "cgroup2",
        };
        let Some(directories) = (mounts.lines()).find_map(|mount| below(mount, path, &is_it))
        else {
            continue;
        };
        let groups = Groups {
            first_version,
            directories,
        };
        // A controller that a hierarchy of version 1 has is none of version 2's.
        match first_version {
            true => return groups,
            false => second = groups,
        }
    }
    second
}

/// The directories from that of the group `path` up to the mount point, where this mount is the one.
fn below(mount: &str, path: &str, is_it: &dyn Fn(&str, &str) -> bool) -> Option<Vec<PathBuf>> {
    let (about, of_kind) = mount.split_once(" - ")?;
    let mut of_kind = of_kind.split(' ');
    let (kind, options) = (of_kind.next()?, of_kind.nth(1)?);
    if !is_it(kind, options) {
        return None;
    }
    let mut about = about.split(' ').skip(3);
    let (root, point) = (about.next()?, Path::new(about.next()?));
    // A group that the mount does not reach, as of a container with the host's names, is its root.
    let inside = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
    let above = inside.ancestors().filter(|above| *above != Path::new(""));
    let below_point = above.map(|above| point.join(above));
    Some(below_point.chain([point.to_owned()]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 25 0:26 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw
31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 25 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
";

    fn shown(groups: &Groups) -> Vec<String> {
        let directories = groups.directories.iter();
        directories.map(|d| d.display().to_string()).collect()
    }

    #[test]
    fn groups_of_both_versions_are_found_with_all_above() {
        let cgroups = "4:memory:/a/b\n3:cpu,cpuacct:/\n0::/user.slice\n";
        let memory = find(cgroups, HYBRID, "memory");
        assert!(memory.first_version);
        let root = "/sys/fs/cgroup/memory";
        let above = [format!("{root}/a/b"), format!("{root}/a"), root.to_owned()];
        assert_eq!(shown(&memory), above);
        let cpu = find(cgroups, HYBRID, "cpu");
        assert_eq!(shown(&cpu), ["/sys/fs/cgroup/cpu,cpuacct"]);
        let pids = find(cgroups, HYBRID, "pids");
        let root = "/sys/fs/cgroup/unified";
        assert_eq!(shown(&pids), [&format!("{root}/user.slice"), root]);
        assert!(!pids.first_version);
        assert_eq!(find(cgroups, "", "memory"), Groups::default());
    }

    #[test]
    fn in_a_container_the_mounts_root_is_not_the_hierarchys() {
        let mounts = "9 8 0:9 /docker/1 /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        let of = |path: &str| shown(&find(&format!("0::{path}"), mounts, "cpu"));
        assert_eq!(of("/docker/1/x"), ["/sys/fs/cgroup/x", "/sys/fs/cgroup"]);
        assert_eq!(of("/"), ["/sys/fs/cgroup"]);
    }
}
