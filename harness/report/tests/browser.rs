//! The HTML report in a real browser.

mod chromium;
mod sample;

use chromium::Browser;
use report::events::Outcome;
use report::html::{self, Earlier};
use sample::{FAILED, Log, failed, night};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The run with that event log.
fn read(log: &Path) -> html::Run {
    let dir = log.parent().unwrap().to_owned();
    html::Run::new(&report::log::read(log).unwrap(), dir)
}

/// The page of a night in which everything happened.
fn page(dir: &Path) -> PathBuf {
    let (log, earlier) = night(dir, true);
    let file = dir.join(html::FILE);
    html::write(&read(&log), &earlier, &file).unwrap();
    file
}

/// How many elements are on the page and not hidden.
fn shown(browser: &mut Browser, selector: &str) -> i64 {
    let count = format!(
        "[...document.querySelectorAll({})].filter((node) => !node.closest('[hidden]')).length",
        json!(selector)
    );
    browser.eval(&count).as_i64().unwrap()
}

fn text(browser: &mut Browser, selector: &str) -> String {
    let text = browser.eval(&format!(
        "document.querySelector({}).textContent",
        json!(selector)
    ));
    text.as_str().unwrap().to_owned()
}

fn hash(browser: &mut Browser) -> String {
    browser.eval("location.hash").as_str().unwrap().to_owned()
}

#[test]
fn it_requests_nothing_and_complains_of_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = page(dir.path());
    let mut browser = Browser::start();
    browser.open(&file, "");
    browser.eval("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))");
    assert_eq!(browser.requests(), [format!("file://{}", file.display())]);
    assert_eq!(browser.complaints(), Vec::<&Value>::new());
    let size = std::fs::metadata(&file).unwrap().len();
    assert!(size < 700 * 1024, "{size} bytes for 336 trials");

    // Both would be seen: the policy's word, and without the policy the request.
    let image = "<img src=\"http://127.0.0.1:9/x.png\">";
    let text = std::fs::read_to_string(&file).unwrap();
    let told = dir.path().join("told.html");
    std::fs::write(&told, text.replace("<main>", &format!("<main>{image}"))).unwrap();
    browser.open(&told, "");
    assert!(!browser.complaints().is_empty());
    std::fs::write(&told, format!("<!DOCTYPE html>{image}")).unwrap();
    browser.open(&told, "");
    assert_eq!(browser.requests().len(), 2);
}

#[test]
fn without_data_it_is_small() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::new(dir.path()).write(true);
    let page = html::render(&read(&log), &Earlier::default());
    assert!(page.len() < 40 * 1024, "{} bytes", page.len());
}

#[test]
fn the_verdict_comes_first_and_the_same_words_are_one_finding() {
    let dir = tempfile::tempdir().unwrap();
    let mut browser = Browser::start();
    browser.open(&page(dir.path()), "");
    assert_eq!(
        text(&mut browser, "h1"),
        "FAIL 3 trials failed for 1 cause, 1 trial broken, 1 trial flaky"
    );
    assert_eq!(shown(&mut browser, ".finding"), 3);
    let finding = text(&mut browser, "#finding-1");
    for words in [
        "operstate of eth0 is not \"down\"",
        "3 trials in the same words",
        "every guest",
        "NIC e1000e; passed on rtl8139, e1000, virtio",
        "QEMU default; passed on trixie",
        "ethtool: Link detected: yes",
        "cargo xtask repro 'link_status::e1000e::rhel6::tap'",
        "NIC Link is Up 1000 Mbps",
        "{\"execute\":\"set_link\"",
        "-device e1000e,netdev=net0",
        "30 earlier nights, failed in 1",
    ] {
        assert!(finding.contains(words), "{words:?} is not in: {finding}");
    }
    let link = browser.eval("document.querySelector('.files a[href$=\"tap.pcap\"]').href");
    let file = link.as_str().unwrap().strip_prefix("file://").unwrap();
    assert!(Path::new(file).exists(), "{file}");
    let all = text(&mut browser, "main");
    for words in [
        "rtl8139 has none of the offloads",
        "a QEMU before 10 loses the guest's VLAN filter",
        "https://bugs.example.org/1707646",
        "below the band of 30 nights",
        "1 figure outside of the band",
        "816bc8039190ae438d89be17fae4f822ae5ac43b",
        "at most 4 at a time",
    ] {
        assert!(all.contains(words), "{words:?} is not on the page");
    }
    let bars = shown(&mut browser, ".timeline rect");
    assert_eq!(bars, 360 - 6, "a bar for each trial that ran");
}

#[test]
fn filters_leave_what_matches_and_are_in_the_address() {
    let dir = tempfile::tempdir().unwrap();
    let file = page(dir.path());
    let mut browser = Browser::start();
    browser.open(&file, "");
    assert_eq!(shown(&mut browser, "#trials-table tbody tr"), 360);
    browser.click("[data-filter='nic=e1000e']");
    assert_eq!(hash(&mut browser), "#nic=e1000e");
    assert_eq!(shown(&mut browser, "#trials-table tbody tr"), 12 * 3 * 2);
    assert_eq!(text(&mut browser, "#status"), "72 of 360 trials");
    assert_eq!(shown(&mut browser, ".finding"), 1);
    assert_eq!(
        shown(&mut browser, ".reasons li"),
        0,
        "nothing of it is known, fixed or skipped"
    );
    // The grid: of four NICs one is left, and of two backends one.
    assert_eq!(shown(&mut browser, ".grid thead tr:first-child .group"), 1);
    assert_eq!(shown(&mut browser, ".grid"), 1);
    browser.click("[data-filter='verdict=FAIL']");
    browser.click("[data-filter='guest=rhel9']");
    assert_eq!(hash(&mut browser), "#verdict=FAIL&nic=e1000e&guest=rhel9");
    assert_eq!(shown(&mut browser, "#trials-table tbody tr"), 1);
    assert_eq!(shown(&mut browser, "details.trial"), 1);
    assert_eq!(shown(&mut browser, ".grid tbody tr"), 1);

    // The address brings it back, whatever else stands there.
    let mut again = |address: &str| {
        browser.open(&file, address);
        let pressed = shown(&mut browser, "[aria-pressed=true]");
        (shown(&mut browser, "#trials-table tbody tr"), pressed)
    };
    assert_eq!(again("#verdict=FAIL&nic=e1000e&guest=rhel9"), (1, 3));
    assert_eq!(again("#qemu=trixie&backend=vhost"), (12 * 3, 2));
    assert_eq!(again("#verdict=FAIL,flaky"), (4, 2));
    assert_eq!(again("#nic=nosuch&x=%ZZ"), (360, 0));
    assert_eq!(again("#backend=vhost&verdict=known"), (1, 2));
    assert_eq!(shown(&mut browser, ".reasons li"), 1);
    assert_eq!(text(&mut browser, "#known .count"), "1");
    assert_eq!(shown(&mut browser, "#skipped"), 0);
    browser.click("[data-filter='verdict=known']");
    browser.click("[data-filter='backend=vhost']");
    assert_eq!(text(&mut browser, "#known .count"), "2");
    browser.click("[data-filter='nic=virtio']");
    browser.click("#clear");
    assert_eq!(shown(&mut browser, "#trials-table tbody tr"), 360);
    assert_eq!(hash(&mut browser), "");
}

#[test]
fn a_trial_has_an_address() {
    let dir = tempfile::tempdir().unwrap();
    let file = page(dir.path());
    let mut browser = Browser::start();
    let is_open = |browser: &mut Browser, trial: &str| {
        browser.eval(&format!(
            "document.getElementById('{trial}').closest('details').open"
        ))
    };
    let other = "link_status::e1000e::rhel10::tap";
    browser.open(&file, &format!("#{other}"));
    assert_eq!(is_open(&mut browser, other), true);
    browser.open(&file, &format!("#nic=e1000e&at={other}"));
    assert_eq!(is_open(&mut browser, other), true);
    assert_eq!(shown(&mut browser, "#trials-table tbody tr"), 72);
    // A trial that passed is in the list, which is folded.
    let passed = "driver::virtio::rhel9::vhost::trixie";
    browser.open(&file, "");
    assert_eq!(is_open(&mut browser, passed), false);
    // So wide that no cell has to be scrolled out from below the names of the cases.
    browser.resize(1920, 1000, false);
    browser.click(".grid td.failed a");
    assert_eq!(hash(&mut browser), format!("#{FAILED}"));
    browser.click(".grid tbody tr td.passed");
    assert_eq!(hash(&mut browser), "#hotplug_qmp::rtl8139::rhel6::tap");
    assert_eq!(is_open(&mut browser, passed), true);
    let went_back = "new Promise((done) => { addEventListener('popstate', () => setTimeout(done)); history.back() })";
    browser.eval(went_back);
    assert_eq!(hash(&mut browser), format!("#{FAILED}"));
}

#[test]
fn keys_search_and_go_from_failure_to_failure() {
    let dir = tempfile::tempdir().unwrap();
    let mut browser = Browser::start();
    browser.open(&page(dir.path()), "");
    let focused = |browser: &mut Browser| {
        let trial = browser.eval(
            "document.activeElement.closest('details.trial')?.id ?? document.activeElement.id",
        );
        trial.as_str().unwrap().to_owned()
    };
    browser.press("j");
    assert_eq!(focused(&mut browser), FAILED);
    browser.press("j");
    assert_eq!(focused(&mut browser), "link_status::e1000e::rhel9::tap");
    browser.press("k");
    assert_eq!(focused(&mut browser), FAILED);
    assert_eq!(hash(&mut browser), format!("#{FAILED}"));
    let outline = browser.eval("getComputedStyle(document.activeElement).outlineStyle");
    assert_eq!(outline, "solid", "the focus is seen");

    browser.press("/");
    assert_eq!(focused(&mut browser), "search");
    for key in "Mac_Change virtio".chars() {
        browser.press(&key.to_string());
    }
    assert_eq!(text(&mut browser, "#status"), "12 of 360 trials");
    assert_eq!(shown(&mut browser, ".finding"), 0);
    browser.press("Escape");
    browser.press("x");
    assert_eq!(shown(&mut browser, ".finding"), 3);
    // By Tab and Enter alone.
    browser.eval("document.querySelector('[data-filter=\"nic=virtio\"]').previousSibling.focus()");
    browser.press("Tab");
    browser.press("Enter");
    assert_eq!(hash(&mut browser), "#nic=virtio");
}

#[test]
fn it_reads_without_scripts() {
    let dir = tempfile::tempdir().unwrap();
    let file = page(dir.path());
    let mut browser = Browser::start();
    browser.call(
        "Emulation.setScriptExecutionDisabled",
        json!({"value": true}),
    );
    browser.open(&file, "");
    assert_eq!(
        shown(&mut browser, "#filters"),
        0,
        "what would do nothing is not there"
    );
    let all = text(&mut browser, "body");
    for words in [
        "3 trials failed",
        "operstate of eth0",
        "cargo xtask repro",
        "netperf_host",
        "AMD EPYC",
    ] {
        assert!(all.contains(words), "{words:?} is not on the page");
    }
    let log = "#finding-1 details.log";
    assert_eq!(
        browser.eval(&format!("document.querySelector('{log}').open")),
        false
    );
    browser.click(&format!("{log} summary"));
    assert_eq!(
        browser.eval(&format!("document.querySelector('{log}').open")),
        true
    );
    browser.click(".grid td.failed a");
    assert_eq!(hash(&mut browser), format!("#{FAILED}"));
}

/// What is wider than the window, with all of the page unfolded.
const TOO_WIDE: &str = "(() => {
    for (const details of document.querySelectorAll('details')) details.open = true;
    return document.documentElement.scrollWidth - document.documentElement.clientWidth;
})()";

#[test]
fn it_fits_a_desktop_and_a_phone() {
    let dir = tempfile::tempdir().unwrap();
    let file = page(dir.path());
    let mut browser = Browser::start();
    for (width, height, mobile) in [(1280, 900, false), (390, 844, true), (320, 568, true)] {
        browser.resize(width, height, mobile);
        browser.open(&file, "");
        assert_eq!(browser.eval(TOO_WIDE), 0, "at a width of {width}");
        assert_eq!(browser.eval("innerWidth"), width, "nothing zoomed out");
    }
    // A table that does not scroll by itself would be seen.
    browser.eval("document.querySelectorAll('.scroll').forEach((node) => { node.style.overflow = 'visible' })");
    assert!(browser.eval(TOO_WIDE).as_i64() > Some(100));
}

/// The least contrast of words on their ground, by the WCAG's formula.
const CONTRAST: &str = "(() => {
    const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
    const light = (colour) => {
        const [r, g, b] = colour.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (node) => {
        const colour = rgb(getComputedStyle(node).backgroundColor);
        return colour.length === 4 && colour[3] === 0 ? ground(node.parentElement) : colour;
    };
    let least = [99];
    for (const node of document.querySelectorAll('.word, .grid td, .quiet, a, h1, button, pre, .warning, .count')) {
        const [one, two] = [light(rgb(getComputedStyle(node).color)), light(ground(node))].sort((a, b) => b - a);
        const ratio = (one + 0.05) / (two + 0.05);
        if (ratio < least[0]) least = [ratio, node.className, node.textContent.slice(0, 40)];
    }
    return least;
})()";

#[test]
fn it_is_read_in_light_and_in_the_dark() {
    let dir = tempfile::tempdir().unwrap();
    let file = page(dir.path());
    let mut browser = Browser::start();
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        browser.scheme(scheme);
        browser.open(&file, "");
        let least = browser.eval(CONTRAST);
        assert!(least[0].as_f64() >= Some(4.5), "{scheme}: {least}");
        grounds.push(browser.eval("getComputedStyle(document.body).backgroundColor"));
    }
    assert_ne!(grounds[0], grounds[1]);
    browser.call("Emulation.setEmulatedMedia", json!({"media": "print"}));
    assert_eq!(
        browser.eval("getComputedStyle(document.querySelector('nav')).display"),
        "none"
    );
}

#[test]
fn a_run_that_was_cut_off_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (log, earlier) = night(dir.path(), false);
    let file = dir.path().join("cut.html");
    html::write(&read(&log), &earlier, &file).unwrap();
    let mut browser = Browser::start();
    browser.open(&file, "");
    assert!(text(&mut browser, "h1").starts_with("cut off"));
    assert_eq!(
        text(&mut browser, ".warning"),
        "This run was cut off: its log has no end, or the run still goes on. 362 trials: 360 ended, \
         1 cut off while running, 1 not begun."
    );
    assert!(text(&mut browser, "#not-run").contains("multiqueue::virtio::rhel10::tap"));
}

#[test]
fn what_a_guest_said_is_text() {
    let dir = tempfile::tempdir().unwrap();
    let script = "</script></style></pre><script>window.hit = 1</script><img src=x onerror='window.hit = 2'>";
    let name = format!("driver::{script}::rhel9::tap");
    let mut log = Log::new(dir.path());
    let line = "x".repeat(10 << 20);
    log.left(
        &name,
        "serial.log",
        &format!("begin {line} the end {script}\u{1b}[31mred\u{1b}[0m\u{202e}gnp.exe\n"),
    );
    let message =
        format!("the guest said {script} \u{1b}[2J\u{202e}\u{2067}first\n{script}\n{line}");
    log.ended(&name, 2.0, failed(&message), |end| {
        end.notes = vec![script.into(), line.clone()];
        end.reproduce = format!("cargo xtask repro '{script}'");
        end.host = Some(script.into());
        end.start = Some(script.into());
    });
    let reason = format!("{script}{line}");
    log.ended("vlan::a::b::c", 0.0, Outcome::Skipped { reason }, |_| {});
    let events = log.write(true);
    let file = dir.path().join("hostile.html");
    html::write(&read(&events), &Earlier::default(), &file).unwrap();
    let size = std::fs::metadata(&file).unwrap().len();
    assert!(size < 300 * 1024, "{size} bytes");

    let mut browser = Browser::start();
    browser.open(&file, "");
    assert_eq!(browser.eval("window.hit ?? 'none'"), "none");
    assert_eq!(browser.complaints(), Vec::<&Value>::new());
    assert_eq!(browser.requests().len(), 1);
    let finding = text(&mut browser, "#finding-1");
    for words in [
        format!("the guest said {script}").as_str(),
        "U+202EU+2067first",
        "10.0 MiB more of this line left out",
        "the last 16.0 KiB of 10.0 MiB",
        "redU+202Egnp.exe",
    ] {
        assert!(finding.contains(words), "{words:?} is not on the page");
    }
    assert_eq!(shown(&mut browser, "img"), 0);
    // The script that filters knows the name as it is.
    browser.eval("document.querySelector(\"[data-filter^='nic=<']\").click()");
    assert_eq!(text(&mut browser, "#status"), "1 of 2 trials");
    let address = hash(&mut browser);
    browser.open(&file, &address);
    assert_eq!(text(&mut browser, "#status"), "1 of 2 trials");
}

/// What a page may take of a processor until it is open, seconds. It is of the processor's time and not of the
/// clock, so that a loaded machine changes little.
const OPEN: f64 = 2.0;

#[test]
fn ten_thousand_trials_open_in_two_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::new(dir.path());
    for case in 0..100 {
        for cell in 0..100 {
            let (nic, guest, qemu) = (cell / 20, cell / 4 % 5, cell % 4);
            let name = format!("case_{case}::nic{nic}::rhel{guest}::tap::qemu{qemu}");
            let outcome = match (case * 7 + cell * 3) % 97 {
                0 => failed(&format!(
                    "it lost {cell} of 1000 frames in case_{case}\n{}",
                    "facts\n".repeat(40)
                )),
                1..5 => Outcome::Skipped {
                    reason: format!("nic{nic} has none of it"),
                },
                _ => Outcome::Passed,
            };
            log.ended(&name, 2.0 + (cell % 9) as f64, outcome, |_| {});
        }
    }
    let (mut earlier, events) = (Earlier::default(), log.write(true));
    let night = report::html::PastNight {
        unix_time: 1_795_000_000,
        verdict: report::past::Verdict::Passed,
    };
    let run = read(&events);
    for trial in &run.results.trials {
        let nights = vec![night.clone(); 30];
        earlier
            .past
            .insert(trial.name().to_owned(), report::html::Past { nights });
    }
    let file = dir.path().join("large.html");
    html::write(&run, &earlier, &file).unwrap();
    let size = std::fs::metadata(&file).unwrap().len();
    assert!(size < 6 << 20, "{size} bytes");

    let mut browser = Browser::start();
    browser.call("Performance.enable", json!({"timeDomain": "threadTicks"}));
    let spent = |browser: &mut Browser| {
        browser.eval("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))");
        let metrics = browser.call("Performance.getMetrics", json!({}));
        let mut metrics = metrics["metrics"].as_array().unwrap().iter();
        metrics
            .find(|metric| metric["name"] == "TaskDuration")
            .unwrap()["value"]
            .as_f64()
            .unwrap()
    };
    browser.open(&file, "");
    let open = spent(&mut browser);
    browser.click("[data-filter='nic=nic3']");
    browser.click("[data-filter='verdict=FAIL']");
    let filtered = spent(&mut browser) - open;
    browser.eval("document.getElementById('all').open = true");
    let told = format!("{size} bytes, {open:.2} s to open, {filtered:.2} s for two filters");
    assert!(open > 0.01 && open < OPEN, "{told}");
    assert!(filtered < OPEN, "{told}");
    let failures = shown(&mut browser, "#trials-table tbody tr");
    assert_eq!(
        text(&mut browser, "#status"),
        format!("{failures} of 10000 trials")
    );
}

/// The picture in README: `cargo test -p report --test browser -- --ignored` makes it again.
#[test]
#[ignore = "it writes docs/report.webp"]
fn picture() {
    let dir = tempfile::tempdir().unwrap();
    let file = page(dir.path());
    let mut browser = Browser::start();
    browser.scheme("light");
    browser.resize(1060, 1310, false);
    browser.open(&file, "");
    browser.eval("document.querySelector('details.trial').open = false");
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    browser.picture(&docs.join("report.webp"));
}
