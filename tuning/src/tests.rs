use super::*;
use std::path::Path;

/// A host made of files.
struct Host(tempfile::TempDir);

fn host(files: &[(&str, &str)]) -> Host {
    let host = Host(tempfile::tempdir().unwrap());
    for (path, text) in files {
        let path = host.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    host
}

impl Host {
    #[track_caller]
    fn finding(&self, name: &str, connections: u64) -> Finding {
        let wanted = Wanted { connections, disk: None };
        let findings = system_findings(&System::at(self.0.path()), &wanted);
        findings.into_iter().find(|finding| finding.name == name).expect("looked at")
    }
}

const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 524288               files\n\
                      Max locked memory         unlimited            unlimited            bytes\n";

#[test]
fn what_the_host_hides_is_not_guessed() {
    let host = host(&[]);
    let wanted = Wanted { connections: 1, disk: None };
    for finding in system_findings(&System::at(host.0.path()), &wanted) {
        assert_eq!(finding.verdict, Verdict::NotAvailable, "{}", finding.name);
        assert_eq!((finding.measured.as_str(), finding.mend), ("not available here", None));
    }
}

#[test]
fn too_few_open_files_stand_in_the_way_and_the_command_fits_the_hard_limit() {
    let host = host(&[("proc/self/limits", LIMITS)]);
    assert_eq!(host.finding("open files", 768).verdict, Verdict::Fine);
    let short = host.finding("open files", 769);
    assert_eq!(short.verdict, Verdict::Blocks);
    assert_eq!(short.measured, "soft 1024, hard 524288");
    assert_eq!(short.mend.as_deref(), Some("ulimit -n 1025 before the server starts"));
    let root = host.finding("open files", 1_000_000).mend.unwrap();
    assert!(root.starts_with("as root: ulimit -n 1000256"), "{root}");
    assert_eq!(host.finding("locked memory", 1).measured, "unlimited");
}

#[test]
fn a_disabled_io_uring_stands_in_the_way() {
    let verdict = |value: &str| {
        let host = host(&[("proc/sys/kernel/io_uring_disabled", value)]);
        host.finding("kernel.io_uring_disabled", 1).verdict
    };
    assert_eq!(verdict("0\n"), Verdict::Fine);
    assert_eq!(verdict("1\n"), Verdict::Advice);
    assert_eq!(verdict("2\n"), Verdict::Blocks);
}

#[test]
fn kernels_are_told_apart_by_number_not_by_letter() {
    let verdict = |release: &str| {
        let host = host(&[("proc/sys/kernel/osrelease", release)]);
        host.finding("kernel version", 1).verdict
    };
    assert_eq!(verdict("6.18.44-fc-v669"), Verdict::Fine);
    assert_eq!(verdict("6.1.0-13-amd64"), Verdict::Fine);
    assert_eq!(verdict("5.15.0-91-generic"), Verdict::Advice);
    assert_eq!(verdict("10.0"), Verdict::Fine);
}

#[test]
fn memory_is_reckoned_from_the_connections() {
    let host = host(&[("proc/meminfo", "MemTotal: 99 kB\nMemAvailable:    1048576 kB\n")]);
    assert_eq!(host.finding("available memory (MiB)", 100_000).verdict, Verdict::Fine);
    assert_eq!(host.finding("available memory (MiB)", 1_000_000).verdict, Verdict::Blocks);
}

#[test]
fn tcp_memory_is_judged_by_its_high_mark() {
    let host = host(&[("proc/sys/net/ipv4/tcp_mem", "10\t20\t1000\n")]);
    assert_eq!(host.finding("net.ipv4.tcp_mem (high)", 3_000).verdict, Verdict::Fine);
    assert_eq!(host.finding("net.ipv4.tcp_mem (high)", 4_000).verdict, Verdict::Advice);
}

#[test]
fn a_quota_below_the_cpus_is_told_in_cpus() {
    let host = host(&[
        ("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-1,4\n"),
        ("proc/self/cgroup", "0::/app\n"),
        ("sys/fs/cgroup/app/cpu.max", "150000 100000\n"),
    ]);
    let system = System::at(host.0.path());
    assert_eq!(system.cpus_allowed(), [0, 1, 4]);
    let quota = host.finding("CPU quota", 1);
    assert_eq!((quota.verdict, quota.measured.as_str()), (Verdict::Advice, "1.50 CPUs"));
    assert_eq!(host.finding("CPUs allowed", 1).verdict, Verdict::Fine);
}

#[test]
fn an_unlimited_group_and_no_swap_are_fine() {
    let host = host(&[
        ("sys/fs/cgroup/cpu.max", "max 100000\n"),
        ("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n"),
        ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
    ]);
    for name in ["CPU quota", "swap", "transparent huge pages"] {
        assert_eq!(host.finding(name, 1).verdict, Verdict::Fine, "{name}");
    }
}

#[test]
fn the_disk_is_measured_where_the_folder_will_be_and_nothing_is_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let finding = disk::finding(&folder.path().join("not/yet"));
    assert!(finding.measured.contains(" µs, longest of 16 "), "{}", finding.measured);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_folder_that_cannot_be_written_stands_in_the_way() {
    let finding = disk::finding(Path::new("/proc"));
    assert_eq!(finding.verdict, Verdict::Blocks);
    assert!(finding.measured.starts_with("cannot write in /proc: "), "{}", finding.measured);
}

#[test]
fn the_most_urgent_comes_first() {
    let findings = findings(&Wanted { connections: 1, disk: None });
    assert!(findings.is_sorted_by_key(|finding| finding.verdict));
    assert!(findings.iter().any(|finding| finding.name == "io_uring"));
}
