//! A headless Chromium, spoken to over its DevTools pipe: messages of JSON, each with a NUL after it. A crate
//! for it would bring an async runtime and a WebSocket; these tests need five commands.

use anyhow::{Context, Result, bail};
use base64::Engine;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How long an answer may take: with hours of load around it a browser is slow, but not dead.
const PATIENCE: Duration = Duration::from_secs(120);

/// Starts the first browser there is: Debian's, or Google's, which GitHub's machines have. It reads from
/// descriptor 3 and writes to 4.
const START: &str = r#"for browser in chromium google-chrome; do
    command -v $browser >/dev/null && exec $browser "$@" 3<&0 4>&1 </dev/null >/dev/null
done"#;

/// A browser with one page.
pub struct Browser {
    child: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    calls: u64,
    session: Option<String>,
    events: Vec<Value>,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Panics where Chromium is not installed: a test without it has shown nothing.
    pub fn start() -> Browser {
        Browser::try_start().unwrap_or_else(|error| panic!("{error:#}"))
    }

    fn try_start() -> Result<Browser> {
        let profile = tempfile::tempdir()?;
        let mut child = Command::new("sh")
            .args(["-c", START, "sh"])
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
            ])
            .args([
                "--remote-debugging-pipe",
                "--no-first-run",
                "--hide-scrollbars",
            ])
            .args(["--disable-background-networking", "--disable-extensions"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .env("HOME", profile.path())
            // Killed, it leaves its sockets where this says.
            .env("TMPDIR", profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let to = child.stdin.take().context("no pipe to it")?;
        let answers = BufReader::new(child.stdout.take().context("no pipe from it")?);
        let (sender, from) = channel();
        std::thread::spawn(move || {
            for message in answers.split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&message).unwrap_or(Value::Null);
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let mut browser = Browser {
            child,
            to,
            from,
            calls: 0,
            session: None,
            events: Vec::new(),
            _profile: profile,
        };
        let target = browser
            .try_call("Target.createTarget", json!({"url": "about:blank"}))
            .context(
                "chromium does not start; `cargo xtask test` installs it, by hand: \
             apt-get install -y --no-install-recommends chromium",
            )?;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.try_call("Target.attachToTarget", attach)?;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Network", "Log", "Runtime"] {
            browser.try_call(&format!("{domain}.enable"), json!({}))?;
        }
        Ok(browser)
    }

    /// Calls a method of the DevTools protocol.
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.try_call(method, parameters)
            .unwrap_or_else(|error| panic!("{method}: {error:#}"))
    }

    fn try_call(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.calls += 1;
        let mut message = json!({"id": self.calls, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.to.write_all(format!("{message}\0").as_bytes())?;
        let until = Instant::now() + PATIENCE;
        loop {
            let message = self.next(until)?;
            if message["id"] != json!(self.calls) {
                self.events.push(message);
                continue;
            }
            if !message["error"].is_null() {
                bail!("{}", message["error"]);
            }
            return Ok(message["result"].clone());
        }
    }

    fn next(&mut self, until: Instant) -> Result<Value> {
        let left = until.saturating_duration_since(Instant::now());
        self.from
            .recv_timeout(left)
            .context("the browser ended, or did not answer in time")
    }

    /// Opens a file at a place of it, "" or "#…", and waits until it is loaded.
    pub fn open(&mut self, file: &Path, place: &str) {
        // Another place of the page that is open would load nothing.
        self.load("about:blank");
        self.events.clear();
        self.load(&format!("file://{}{place}", file.display()));
    }

    fn load(&mut self, url: &str) {
        self.events
            .retain(|event| event["method"] != "Page.loadEventFired");
        self.call("Page.navigate", json!({"url": url}));
        let until = Instant::now() + PATIENCE;
        while self.named("Page.loadEventFired").is_empty() {
            let event = self
                .next(until)
                .unwrap_or_else(|error| panic!("{url}: {error:#}"));
            self.events.push(event);
        }
    }

    /// The parameters of the events of that name since the page was opened.
    pub fn named(&self, method: &str) -> Vec<&Value> {
        let named = self.events.iter().filter(|event| event["method"] == method);
        named.map(|event| &event["params"]).collect()
    }

    /// What the page asked for since it was opened, itself included.
    pub fn requests(&self) -> Vec<&str> {
        let requests = self.named("Network.requestWillBeSent");
        requests
            .into_iter()
            .filter_map(|r| r["request"]["url"].as_str())
            .collect()
    }

    /// What the page's script, or its policy, complained about.
    pub fn complaints(&self) -> Vec<&Value> {
        let mut all = self.named("Runtime.exceptionThrown");
        all.extend(self.named("Log.entryAdded"));
        all
    }

    /// What a JavaScript expression comes to in the page.
    pub fn eval(&mut self, expression: &str) -> Value {
        let call = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", call);
        assert!(
            answer["exceptionDetails"].is_null(),
            "{expression}: {answer}"
        );
        answer["result"]["value"].clone()
    }

    /// Presses a key: a character, or a key's name.
    pub fn press(&mut self, key: &str) {
        let mut down = json!({"type": "keyDown", "key": key});
        match key {
            "Tab" => down["windowsVirtualKeyCode"] = json!(9),
            "Enter" => {
                down["windowsVirtualKeyCode"] = json!(13);
                down["text"] = json!("\r");
            }
            key if key.chars().count() == 1 => down["text"] = json!(key),
            _ => {}
        }
        self.call("Input.dispatchKeyEvent", down);
        self.call(
            "Input.dispatchKeyEvent",
            json!({"type": "keyUp", "key": key}),
        );
    }

    /// Clicks in the middle of the first element that the selector names.
    pub fn click(&mut self, selector: &str) {
        let place = self.eval(&format!(
            "(() => {{ const node = document.querySelector({}); node.scrollIntoView({{block: 'center'}}); \
             const box = node.getBoundingClientRect(); \
             return [box.x + Math.min(box.width / 2, 40), box.y + box.height / 2]; }})()",
            json!(selector)
        ));
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({"type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    /// Makes the window so large, a phone's where `mobile`.
    pub fn resize(&mut self, width: u32, height: u32, mobile: bool) {
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile});
        self.call("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// Emulates a colour scheme, "light" or "dark".
    pub fn scheme(&mut self, scheme: &str) {
        let feature = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": feature}));
    }

    /// Writes what the window shows to a WebP file.
    pub fn picture(&mut self, file: &Path) {
        let picture = self.call(
            "Page.captureScreenshot",
            json!({"format": "webp", "quality": 75}),
        );
        let bytes =
            base64::prelude::BASE64_STANDARD.decode(picture["data"].as_str().expect("data"));
        std::fs::write(file, bytes.expect("base64")).expect("written");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its other processes end with it. What fails here fails as it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
